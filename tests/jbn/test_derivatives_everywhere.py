"""Every kind of derivative up to third order, along every path through jbn.batch_norm, against plain float64 code.

test_batch_norm_gradients.py tests the first two orders of the plain and masked paths; this file tests the other paths
and the third order. JAX differentiates both sides of each comparison; the reference is written out in textbook form.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, case64, mask, mesh, normalized, poison
from jax.sharding import PartitionSpec as P
from quick_compile import quick_options

import jbn

pytestmark = pytest.mark.usefixtures("strict", "x64")
TOLERANCE, N = 1e-11, 12
ROWS, ELEMENTS = mask((N, 1), seed=3), mask((N, 2), seed=3)
EMPTY = ELEMENTS & (np.arange(N)[:, None] // 4 != 1)  # nothing counts on device 1 of 3
RUNNING = np.array([2.5, -3.5]), np.array([0.5, 2.0])


# The reference: the textbook formula, last axis only


def affine(x, mean, var, scale, bias):
    return (x - mean) / jnp.sqrt(var + 1e-5) * scale[None] + bias[None]


def whole(x, scale, bias, where=None):
    mean = jnp.mean(x, 0, where=where, keepdims=True)
    return affine(x, mean, jnp.mean((x - mean) ** 2, 0, where=where, keepdims=True), scale, bias)


def split(*rows: tuple[int, ...], where=None) -> Callable[..., jax.Array]:
    """Each tuple (start, stop, start, stop, ...) selects the rows of a separate batch."""

    def twin(x, scale, bias):
        y = jnp.zeros_like(x)
        for ends in rows:
            r = np.concatenate([np.arange(*pair) for pair in zip(ends[::2], ends[1::2], strict=True)])
            y = y.at[r].set(whole(x[r], scale, bias, None if where is None else where[r]))
        return y

    return twin


def by_running(x, scale, bias):
    mean, var = (jnp.asarray(a)[None] for a in RUNNING)
    return affine(x, mean, var, scale, bias)


but_for_device_1 = functools.partial(whole, where=EMPTY)


def frozen_parameters(x, scale, bias):
    return whole(x, *jax.lax.stop_gradient((scale, bias)))


# Ours


def by_jbn(**options):
    return functools.partial(normalized, **options)


def inference(x, scale, bias, **options):
    stats = jbn.BatchStats(*(jnp.asarray(a) for a in RUNNING))
    return jbn.batch_norm(x, scale, bias, stats, train=False, **options)[0]


def spread(sizes: dict[str, int], where=None, **options):
    """Splits the batch over devices by nested vmaps, with the first name outermost."""

    def ours(x, scale, bias):
        device = lambda x, where: normalized(x, scale, bias, where=where, axis_name=tuple(sizes), **options)  # noqa: E731
        for name in reversed(sizes):
            device = jax.vmap(device, axis_name=name)
        blocks = lambda a: None if a is None else jnp.asarray(a).reshape(*sizes.values(), -1, a.shape[-1])  # noqa: E731
        return device(blocks(x), blocks(where)).reshape(x.shape)

    return ours


def poisoned(x, scale, bias, **options):
    return normalized(poison(x, ROWS), scale, bias, where=jnp.asarray(ROWS), **options)


def unpoisoned(x, scale, bias):
    """The output at padding is bias, which is a constant there."""
    return jnp.where(ROWS, whole(x, scale, bias, where=ROWS), jax.lax.stop_gradient(bias)[None])


def over_batches(f):
    """Splits the batch into two by vmap."""
    return lambda x, *p: jax.vmap(f, (0, None, None))(x.reshape(2, -1, x.shape[-1]), *p).reshape(x.shape)


def residual(f, scan: bool):
    """Two layers of the same width, by scan or one after another."""

    def apply(x, scale, bias):
        layer = lambda x, p: (x + jnp.tanh(f(x, *p)), None)  # noqa: E731
        if scan:
            return jax.lax.scan(layer, x, (jnp.stack([scale, scale / 2]), jnp.stack([bias, bias / 2])))[0]
        return layer(layer(x, (scale, bias))[0], (scale / 2, bias / 2))[0]

    return apply


class Path(NamedTuple):
    ours: Callable[..., jax.Array]
    twin: Callable[..., jax.Array]


PATHS = {
    "plain": Path(normalized, whole),
    "vmap": Path(over_batches(normalized), split((0, 6), (6, 12))),
    "scan": Path(residual(normalized, scan=True), residual(whole, scan=False)),
    "remat": Path(jax.checkpoint(normalized), whole),
    "masked": Path(by_jbn(where=ELEMENTS), functools.partial(whole, where=ELEMENTS)),
    "masked, NaN in padding": Path(poisoned, unpoisoned),
    "ghost": Path(by_jbn(virtual_batch_size=4), split((0, 4), (4, 8), (8, 12))),
    "ghost, ragged": Path(by_jbn(virtual_batch_size=7, ragged_groups="exact"), split((0, 7), (7, 12))),
    "ghost, masked": Path(by_jbn(virtual_batch_size=6, where=ROWS), split((0, 6), (6, 12), where=ROWS)),
    "synchronized": Path(spread({"d": 3}), whole),
    "synchronized, an empty device": Path(spread({"d": 3}, where=EMPTY), but_for_device_1),
    "synchronized, ghost": Path(
        spread({"d": 2}, virtual_batch_size=4, ragged_groups="exact"), split((0, 4, 6, 10), (4, 6, 10, 12))
    ),
    "index groups": Path(spread({"d": 3}, axis_index_groups=[[0, 2], [1]]), split((0, 4, 8, 12), (4, 8))),
    "two axis names": Path(spread({"a": 3, "b": 2}), whole),
    "inference": Path(inference, by_running),
    "frozen parameters": Path(by_jbn(trainable=False), frozen_parameters),
    "tanh after the norm": Path(by_jbn(activation=jnp.tanh), lambda *a: jnp.tanh(whole(*a))),
    "gelu after the norm": Path(by_jbn(activation=jax.nn.gelu), lambda *a: jax.nn.gelu(whole(*a))),
    "norm after tanh": Path(by_jbn(activation=jnp.tanh, placement="after"), lambda x, *p: whole(jnp.tanh(x), *p)),
    "norm after tanh, NaN in padding": Path(
        functools.partial(poisoned, activation=jnp.tanh, placement="after"),
        lambda x, *p: whole(jnp.where(ROWS, jnp.tanh(x), 0), *p, where=ROWS),  # tanh(0) there
    ),
    "norm after gelu": Path(by_jbn(activation=jax.nn.gelu, placement="after"), lambda x, *p: whole(jax.nn.gelu(x), *p)),
    "norm after gelu, frozen": Path(
        functools.partial(inference, activation=jax.nn.gelu, placement="after"),
        lambda x, *p: by_running(jax.nn.gelu(x), *p),
    ),
}


# The derivatives


def derivatives(f, u, v, dy) -> dict[str, list[Callable[..., object]]]:
    """Derivatives of f, or of the scalar Σ dy·sin(f), by name, each computed in every possible way."""
    wrt = (0, 1, 2)
    grad = jax.grad(lambda *a: jnp.sum(dy * jnp.sin(f(*a))), wrt)
    inner = lambda a, b: sum(jnp.vdot(p, q) for p, q in zip(a, b, strict=True))  # noqa: E731
    hvp = lambda *a: jax.jvp(grad, a, u)[1]  # noqa: E731
    return {
        "value, tangent": [lambda *a: jax.jvp(f, a, u)],
        "cotangent": [lambda *a: jax.vjp(f, *a)[1](dy)],
        "Jacobian": [jax.jacrev(f, wrt), jax.jacfwd(f, wrt)],
        "Hessian · u": [hvp, jax.grad(lambda *a: inner(grad(*a), u), wrt)],
        "third · u · v": [lambda *a: jax.jvp(hvp, a, v)[1], jax.grad(lambda *a: inner(hvp(*a), v), wrt)],
    }


@functools.cache
def values(f, ways: int):
    """Every derivative, computed in the first `ways` ways; cached, because many paths share one reference."""
    *args, dy = case64((N, 2), mean=0.5)
    u, v = (jax.tree.map(lambda a: jnp.sin(k * a + k), tuple(args)) for k in (3, 5))  # noqa: B023
    named = derivatives(f, u, v, dy).items()

    def all_at_once(*args):
        return {name: [way(*args) for way in each[:ways]] for name, each in named}

    # These tests are about tracing, and compiling takes three quarters of their time, so it uses the quick options.
    return jax.jit(all_at_once, compiler_options=quick_options())(*args)


def compare(path: Path) -> None:
    ours, twins = values(path.ours, 2), values(path.twin, 1)
    for name, (want,) in twins.items():
        for got in ours[name]:
            jax.tree.map(functools.partial(assert_close, tolerance=TOLERANCE), got, want)


@pytest.mark.parametrize("path", PATHS)
def test_every_derivative_equals_that_of_the_plain_twin(path):
    compare(PATHS[path])


@pytest.mark.parametrize("where", [None, EMPTY], ids=["synchronized", "an empty device"])
def test_every_derivative_across_a_mesh_equals_that_of_the_plain_twin(where):
    def ours(x, scale, bias):
        keep = None if where is None else jnp.asarray(where)
        device = lambda x, where, *p: normalized(x, *p, where=where, axis_name="d")  # noqa: E731
        specs = (P("d"), P("d"), P(), P())
        return jax.shard_map(device, mesh=mesh(d=3), in_specs=specs, out_specs=P("d"))(x, keep, scale, bias)

    compare(Path(ours, whole if where is None else but_for_device_1))
