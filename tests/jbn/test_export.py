"""jax.export: a step lowers for CPU, GPU and TPU, and the artifact gives the results of the direct call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from faces import FACES
from helpers import affine, assert_close, batch, mask, normalized
from jax import export

import jbn

PLATFORMS = ["cpu", "cuda", "tpu"]
SHAPE = (8, 3)
OPTIONS = {
    "plain": {},
    "masked": {"masked": True},
    "ghost": {"virtual_batch_size": 3, "ragged_groups": "exact"},
    "activation": {"activation": jax.nn.gelu},
    "activation-first": {"activation": jax.nn.gelu, "placement": "after"},
    "bfloat16": {"dtype": jnp.bfloat16},
}


def step_of(face, train, masked=False, **options):
    """The exported training step: y, the running statistics, and the gradients of x, scale and bias."""
    apply = FACES[face](options, train)

    def step(x, scale, bias, mean, var, keep, dy):
        def forward(x, scale, bias):
            y, *stats = apply(x, keep if masked else None, scale, bias, mean, var)
            return y, stats

        y, pull, stats = jax.vjp(forward, x, scale, bias, has_aux=True)
        return (y, *stats, *pull(dy.astype(y.dtype)))

    return jax.jit(step, keep_unused=True)


def inputs(shape=SHAPE, dtype="float32"):
    scale, bias = affine(shape)
    keep = jnp.asarray(mask((shape[0], 1)))
    x, dy = batch(shape, dtype=dtype, mean=50.0), batch(shape, seed=5, mean=0.5)
    return x, scale, bias, jnp.asarray([45.5, -49.5, 55.5]), jnp.full(shape[-1], 2.0), keep, dy


def assert_same_numbers(call, step, given) -> None:
    for got, want in zip(call(*given), step(*given), strict=True):
        assert got.dtype == want.dtype
        assert_close(got.astype(jnp.float32), want.astype(jnp.float32), 1e-6 if want.dtype == "float32" else 2.0**-8)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("face", FACES)
def test_a_step_lowers_for_every_platform_and_the_artifact_gives_its_numbers(face, options, train):
    given = inputs(dtype="bfloat16" if options == "bfloat16" else "float32")
    step = step_of(face, train, **OPTIONS[options])
    artifact = export.export(step, platforms=PLATFORMS)(*given)
    assert artifact.platforms == tuple(PLATFORMS)
    assert_same_numbers(artifact.call, step, given)


@pytest.mark.parametrize("options", ["plain", "masked", "activation", "bfloat16"])
def test_one_artifact_serves_every_batch_size(options):
    step, scope = step_of("functional", True, **OPTIONS[options]), export.SymbolicScope()
    sizes = {0: "b, 3", 5: "b, 1", 6: "b, 3"}
    shapes = [
        jax.ShapeDtypeStruct(export.symbolic_shape(sizes[i], scope=scope) if i in sizes else a.shape, a.dtype)
        for i, a in enumerate(inputs())
    ]
    artifact = export.export(step, platforms=PLATFORMS)(*shapes)
    for n in (2, 7, 33):
        given = inputs((n, 3))
        assert_same_numbers(artifact.call, step, given)
        mean, _, _ = reference.moments(given[0], where=given[5] if options == "masked" else None)
        assert_close(artifact.call(*given)[1], 0.99 * reference.wide(given[3]) + 0.01 * mean, 1e-6)


@pytest.fixture(scope="module")
def flatbuffers():
    """jax.export serializes with flatbuffers, which does not come with jax."""
    return pytest.importorskip("flatbuffers")


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("face", FACES)
def test_an_artifact_survives_the_disk(flatbuffers, face, train):
    given, step = inputs(), step_of(face, train, masked=True, virtual_batch_size=4)
    written = export.export(step, platforms=PLATFORMS)(*given).serialize()
    assert_same_numbers(export.deserialize(written).call, step, given)


def test_the_derivatives_survive_the_disk(flatbuffers):
    x, scale, bias, *_, dy = inputs()
    written = export.export(jax.jit(normalized), platforms=PLATFORMS)(x, scale, bias).serialize(vjp_order=1)
    grads = jax.vjp(export.deserialize(written).call, x, scale, bias)[1](dy)
    for got, exact in zip(grads, reference.backward(x, dy, scale), strict=True):
        assert_close(got, exact, 1e-5)


def test_a_step_that_takes_and_returns_records_survives_the_disk(flatbuffers):
    x, stats = jnp.arange(12.0).reshape(4, 3) ** 2, jbn.init_stats(3, debias=True)

    def step(x, stats):
        return jbn.batch_norm(x, None, None, stats, train=True, debias=True)

    artifact = export.export(jax.jit(step))(x, stats).serialize()
    got, want = export.deserialize(artifact).call(x, stats), step(x, stats)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_one_artifact_serves_every_number_of_virtual_batches():
    batches, features = export.symbolic_shape("4*k, 3")

    def step(x):
        return normalized(x, None, None, virtual_batch_size=4)

    artifact = export.export(jax.jit(step))(jax.ShapeDtypeStruct((batches, features), jnp.float32))
    for k in (1, 2, 5):
        x = batch((4 * k, 3))
        np.testing.assert_allclose(artifact.call(x), step(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("flags", [None, "b, 3", "1, 3"])
def test_one_artifact_serves_every_batch_size_in_virtual_batches_the_last_smaller(flags):
    """What the refusal recommends."""
    scope = export.SymbolicScope()
    x = jax.ShapeDtypeStruct(export.symbolic_shape("b, 3", scope=scope), jnp.float32)
    with pytest.raises(
        ValueError, match=r"virtual_batch_size=3 does not divide the batch of b .* ragged_groups='exact'"
    ):
        export.export(jax.jit(lambda x: normalized(x, None, None, virtual_batch_size=3)))(x)

    def step(x, scale, bias, dy, keep):
        def forward(x, scale, bias):
            ghost = dict(virtual_batch_size=3, ragged_groups="exact", where=keep)
            y, stats, _ = jbn.batch_norm(x, scale, bias, jbn.init_stats(3), train=True, **ghost)
            return y, stats

        y, pull, stats = jax.vjp(forward, x, scale, bias, has_aux=True)
        return y, stats.mean, stats.var, *pull(dy)

    keep = None if flags is None else jax.ShapeDtypeStruct(export.symbolic_shape(flags, scope=scope), jnp.bool_)
    artifact = export.export(jax.jit(step))(x, jnp.ones(3), jnp.ones(3), x, keep)
    for n in (2, 8):
        keep = None if flags is None else mask(tuple(n if size == "b" else int(size) for size in flags.split(", ")))
        given = (batch((n, 3)), *affine((n, 3)), batch((n, 3), seed=5), keep)
        assert_same_numbers(artifact.call, jax.jit(step), given)


@pytest.mark.parametrize("shape", [(8, 5), (64, 40), (1024, 40)], ids=["few", "small", "large"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-13)])
def test_one_artifact_serves_every_number_of_lanes(x64, shape, dtype, tolerance):
    """Under vmap the size of each lane is known, and the number of lanes is a symbol.

    dy contains a multiple of x. Otherwise the terms of dscale, Σ dy·(x - mean)/σ, would cancel to a 60th of their size,
    and two programs that round in different orders would differ by 60 roundings, 3.6e-6 in float32, with neither wrong.
    """

    def step(x, scale, bias, dy):
        def forward(x, scale, bias):
            return jax.vmap(lambda x: jbn.batch_norm(x, scale, bias, None, train=True)[0])(x)

        y, pull = jax.vjp(forward, x, scale, bias)
        return y, *pull(dy)

    lanes = jax.ShapeDtypeStruct((*export.symbolic_shape("k"), *shape), dtype)
    features = jax.ShapeDtypeStruct(shape[-1:], dtype)
    artifact = export.export(jax.jit(step))(lanes, features, features, lanes)
    for k in (1, 3):
        x, dy = batch((k, *shape), dtype=dtype, mean=50.0), batch((k, *shape), dtype=dtype, seed=5, mean=0.5)
        given = x, *affine(shape, dtype=dtype), dy + 0.4 * jax.nn.standardize(x, axis=1)
        for got, want in zip(artifact.call(*given), jax.jit(step)(*given), strict=True):
            assert_close(got, want, tolerance)
