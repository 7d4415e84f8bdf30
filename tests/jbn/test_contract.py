"""The contract: every face of every variant equals the float64 oracle under every transformation.

    FACES x VARIANTS x TRANSFORMS

A cell checks y, the new running statistics, the gradients of x, scale and bias, and y at inference, all from one call
of one function. A new variant (or face, or transformation) joins all cells with one entry in its table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from faces import FACES, SHAPE
from helpers import affine, assert_close, batch, mask, mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

LAYERS, DEVICES = 2, 4
MOMENTUM, TOLERANCE = 0.75, 3e-6


class Inputs(NamedTuple):
    """One batch [devices, *SHAPE] and its layer [features]. `keep` is None if there is no mask."""

    x: Any
    keep: Any
    dy: Any
    scale: Any
    bias: Any
    mean: Any
    var: Any


class Results(NamedTuple):
    """The results for a whole batch; y, dx and inference have the shape of `x`, the others are [features]."""

    y: Any
    mean: Any
    var: Any
    dx: Any
    dscale: Any
    dbias: Any
    inference: Any


# Variants: options, the mask's shape, and what the oracle makes of a batch


def in_groups(size: int) -> Callable[..., Any]:
    """Normalizes in groups of `size` examples; group i consists of the i-th groups of all devices."""

    def training(given: Inputs):
        parts, n = [], given.x.shape[1]
        for group in (slice(at, at + size) for at in range(0, n, size)):
            x, keep, dy = (a[:, group] for a in given[:3])
            mean, var, _ = reference.moments(x, where=keep)
            grads = reference.backward(x, dy, given.scale, where=keep)
            parts.append((reference.normalize(x, mean, var, given.scale, given.bias), *grads))
        y, dx, dscale, dbias = zip(*parts, strict=True)
        return np.concatenate(y, 1), np.concatenate(dx, 1), sum(dscale), sum(dbias)

    return training


whole = in_groups(DEVICES * SHAPE[0])


RENORM = {"r_max": 1.5, "d_max": 0.4}


def corrections(given: Inputs, epsilon=1e-5):
    """r and d of batch renormalization, and bias + scale * d, which is its output at padding."""
    mean, var, _ = reference.moments(given.x, where=given.keep)
    sigma = np.sqrt(given.var + epsilon)
    r = np.clip(np.sqrt(var + epsilon) / sigma, 1 / RENORM["r_max"], RENORM["r_max"])
    d = np.clip((mean - given.mean) / sigma, -RENORM["d_max"], RENORM["d_max"])
    return r, d, given.bias + given.scale * d


def renormalized(given: Inputs):
    """The gradient treats r and d as constants."""
    r, d, bias = corrections(given)
    y, dx, dscale, dbias = whole(given._replace(scale=given.scale * r, bias=bias))
    return y, dx, dscale * r + dbias * d, dbias


@dataclass(frozen=True)
class Variant:
    """What the oracle needs to know of a variant.

    `training` maps Inputs of one batch, finite and in float64, to y, dx, dscale and dbias. `padding` maps the same to
    the output at padding that is not finite.
    """

    options: dict[str, Any] = field(default_factory=dict)
    mask: tuple[int, ...] | None = None
    synchronized: bool = False
    training: Callable[..., Any] = whole
    padding: Callable[..., Any] = lambda given: given.bias


ROWS, ELEMENTS, GHOST = (SHAPE[0], 1, 1), SHAPE, {"virtual_batch_size": 3}
VARIANTS = {
    "plain": Variant(),
    "masked": Variant(mask=ROWS),
    "ghost": Variant(GHOST, training=in_groups(3)),
    "ghost+masked": Variant(GHOST, mask=ELEMENTS, training=in_groups(3)),
    "sync": Variant(synchronized=True),
    "sync+masked": Variant(mask=ELEMENTS, synchronized=True),
    "sync+ghost": Variant(GHOST, synchronized=True, training=in_groups(3)),
    "renorm": Variant(RENORM, training=renormalized),
    "sync+masked+renorm": Variant(RENORM, ELEMENTS, True, renormalized, lambda given: corrections(given)[2]),
}


def inputs(variant: Variant) -> Inputs:
    """Batches [layers, devices, ...] of mean about ±50, with NaN in some of the padding.

    With a mask, device 2 of layer 0 and the second group of device 0 are all padding. The cotangent is 0 only at NaN.
    """
    shape = (LAYERS, DEVICES, *SHAPE)
    layers = [layer(seed) for seed in range(LAYERS)]
    x, dy = batch(shape, mean=50.0), batch(shape, seed=5, mean=0.5)
    keep = None
    if variant.mask is not None:
        keep = mask((LAYERS, DEVICES, *variant.mask))
        keep[0, 2] = keep[:, 0, 3:] = False
        junk = ~keep & mask(shape, seed=7, share=0.3)
        junk[0, 2] = junk[:, 0, 3:] = True
        x, dy, keep = jnp.where(junk, jnp.nan, x), jnp.where(junk, 0, dy), jnp.asarray(keep)
    return Inputs(x, keep, dy, *map(jnp.stack, zip(*layers, strict=True)))


def layer(seed: int) -> tuple[jax.Array, ...]:
    """scale, bias and running statistics; the means are near those of the batch, 45, -50 and 55."""
    scale, bias = affine(SHAPE, seed=seed)
    return scale, bias, jnp.asarray([45.5, -49.5, 55.5]) + bias, 1 + scale**2


def oracle(variant: Variant, given: Inputs) -> Results:
    """The results for one batch [devices, *SHAPE]. Only padding is NaN: its output is bias, and it affects nothing."""
    junk = np.isnan(given.x)
    keep = np.broadcast_to(True if given.keep is None else given.keep, junk.shape)
    given = Inputs(*(a if a is None else reference.wide(a) for a in given))
    given = given._replace(x=np.where(junk, 0, given.x), keep=keep)
    y, dx, dscale, dbias = variant.training(given)
    mean, var, count = reference.moments(given.x, where=keep)
    old = given.mean, given.var
    new = (np.where(count, reference.ema(o, [v], MOMENTUM), o) for o, v in zip(old, (mean, var), strict=True))
    inference = reference.normalize(given.x, *old, given.scale, given.bias)
    y, inference = np.where(junk, variant.padding(given), y), np.where(junk, given.bias, inference)
    return Results(y, *new, dx, dscale, dbias, inference)


# Transformations: step, variant, inputs [layers, devices, ...] -> the batches that were formed, and their results


def take(given: Inputs, where) -> Inputs:
    """Selects devices of layers; the first index also selects the layers' parameters and statistics."""
    spread = (None if a is None else a[where] for a in given[:3])
    return Inputs(*spread, *(a[where[0] if isinstance(where, tuple) else where] for a in given[3:]))


def as_batch(given: Inputs) -> Inputs:
    """Adds the axis of devices to the inputs of one device."""
    return Inputs(*(None if a is None else a[None] for a in given[:3]), *given[3:])


def over_devices(step):
    return jax.vmap(step, (Inputs(0, 0, 0, None, None, None, None),), axis_name="d")


def alone(transform, step, variant, given):
    if variant.synchronized:
        return [take(given, 0)], transform(over_devices(step))(take(given, 0))
    return [as_batch(take(given, (0, 0)))], transform(step)(take(given, (0, 0)))


def vmap(step, variant, given):
    """Independent layers, each with its own batch."""
    if variant.synchronized:
        return [take(given, i) for i in range(LAYERS)], jax.jit(jax.vmap(over_devices(step)))(given)
    first = Inputs(*(None if a is None else a[:, 0] for a in given[:3]), *given[3:])
    return [as_batch(take(given, (i, 0))) for i in range(LAYERS)], jax.jit(jax.vmap(step))(first)


def shard_map(step, variant, given):
    """One replicated layer. Without synchronization, each device is a batch. Gradients are summed over devices."""

    def device(block):
        out = step(Inputs(*(None if a is None else a[0] for a in block[:3]), *block[3:]))
        own = {"y": out.y[None], "dx": out.dx[None], "inference": out.inference[None]}
        if not variant.synchronized:
            own |= {"mean": out.mean[None], "var": out.var[None]}
        return out._replace(**own)

    stats = P() if variant.synchronized else P("d")
    spread = jax.shard_map(
        device,
        mesh=mesh(d=DEVICES),
        in_specs=(Inputs(P("d"), P("d"), P("d"), P(), P(), P(), P()),),
        out_specs=Results(P("d"), stats, stats, P("d"), P(), P(), P("d")),
    )
    one = take(given, 0)
    batches = [one] if variant.synchronized else [as_batch(take(given, (0, i))) for i in range(DEVICES)]
    return batches, jax.jit(spread)(one)


def sharded_jit(step, variant, given, at=None):
    """jit treats the batches of all devices as one batch."""
    one, at = take(given, 0), at or mesh(d=DEVICES)
    flat = Inputs(*(None if a is None else a.reshape(-1, *a.shape[2:]) for a in one[:3]), *one[3:])
    specs = Inputs(P("d"), P("d"), P("d"), P(), P(), P(), P())
    placed = (None if a is None else jax.device_put(a, NamedSharding(at, s)) for a, s in zip(flat, specs, strict=True))
    return [as_batch(flat)], jax.jit(step)(Inputs(*placed))


TRANSFORMS = {
    "eager": functools.partial(alone, lambda f: f),
    "jit": functools.partial(alone, jax.jit),
    "vmap": vmap,
    "shard_map": shard_map,
    "sharded jit": sharded_jit,
}


# The law


def step_of(face, variant: Variant):
    """One training step and one inference of a layer: Inputs -> Results."""
    options = variant.options | {"momentum": MOMENTUM} | ({"axis_name": "d"} if variant.synchronized else {})
    train, infer = face(options, True), face(options, False)

    def step(given: Inputs) -> Results:
        x, keep, dy, scale, bias, *old = given

        def forward(x, scale, bias):
            y, *stats = train(x, keep, scale, bias, *old)
            return y, stats

        y, pull, stats = jax.vjp(forward, x, scale, bias, has_aux=True)
        return Results(y, *stats, *pull(dy), infer(x, keep, scale, bias, *old)[0])

    return step


def assert_lawful(variant: Variant, batches: list[Inputs], got: Results) -> None:
    want = Results(*map(np.stack, zip(*(oracle(variant, b) for b in batches), strict=True)))
    n = len(batches)
    for name in ("y", "dx", "inference"):
        exact = getattr(want, name)
        assert_close(np.reshape(getattr(got, name), exact.shape), exact, TOLERANCE, axis=-1)
    for name in ("mean", "var"):  # on every device
        value = np.reshape(getattr(got, name), (n, -1, SHAPE[-1]))
        assert_close(value, np.broadcast_to(getattr(want, name)[:, None], value.shape), TOLERANCE, axis=-1)
    for name in ("dscale", "dbias"):  # each device's part, or already the sum over all
        value, exact = getattr(got, name), getattr(want, name)
        if value.ndim == 1:
            assert_close(value, exact.sum(0), TOLERANCE)
        else:
            assert_close(value.reshape(n, -1, SHAPE[-1]).sum(1), exact, TOLERANCE)


def marks_of(face, variant, transform):
    """Eager synchronization compiles each operation. Modules call the function, so only the function always runs."""
    slow = transform == "eager" and VARIANTS[variant].synchronized and face != "functional"
    return [pytest.mark.long] if slow else []


CELLS = [
    pytest.param(face, variant, transform, id=f"{face}-{variant}-{transform}", marks=marks_of(face, variant, transform))
    for face in FACES
    for variant in VARIANTS
    for transform in TRANSFORMS
    if not (VARIANTS[variant].synchronized and transform == "sharded jit")
]


@pytest.mark.parametrize(("face", "variant", "transform"), CELLS)
def test_every_face_in_every_variant_under_every_transformation_is_the_oracle(face, variant, transform):
    variant = VARIANTS[variant]
    step = step_of(FACES[face], variant)
    assert_lawful(variant, *TRANSFORMS[transform](step, variant, inputs(variant)))


@pytest.mark.parametrize("variant", ["plain", "masked"])
def test_a_mesh_with_explicit_axes_is_the_oracle(variant):
    variant = VARIANTS[variant]
    explicit = jax.make_mesh((DEVICES,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(explicit):
        batches, got = sharded_jit(step_of(FACES["functional"], variant), variant, inputs(variant), explicit)
    assert jax.typeof(got.y).sharding.spec == P("d", None, None)
    assert_lawful(variant, batches, got)
