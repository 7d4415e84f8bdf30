"""Backpropagation keeps the input in its own dtype, vectors of one number per feature, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import assert_close, case, case64, mask, normalized, poison

import jbn

ACTIVATIONS = ["relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"]
PLACEMENTS = pytest.mark.parametrize("placement", ["before", "after"])
MASKS = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])


def kept(f, *args) -> list[jax.Array]:
    """The arrays that the backward pass of f keeps."""
    return [a for a in jax.tree.leaves(jax.vjp(f, *args)[1]) if isinstance(a, jax.Array)]


def kept_bytes(f, *args) -> int:
    return sum(a.nbytes for a in kept(f, *args))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@MASKS
def test_batch_norm_keeps_the_input_in_its_own_dtype_and_per_feature_vectors(dtype, masked, train):
    x, scale, bias, _ = case((37, 3), dtype=dtype)
    keep = jnp.asarray(mask((37, 1))) if masked else None

    def f(x, scale, bias):
        return jbn.batch_norm(x, scale, bias, jbn.init_stats(3), train=train, where=keep)[0]

    arrays = kept(f, x, scale, bias)
    assert [a.dtype for a in arrays if a.size >= x.size] == [x.dtype]
    assert all(a.size <= 3 for a in arrays if a.size < x.size and a.dtype != jnp.bool_)
    assert [a.shape for a in arrays if a.dtype == jnp.bool_] == [(37, 1)] * masked


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@PLACEMENTS
def test_with_its_activation_it_keeps_no_more(activation, placement, dtype, train):
    x, scale, bias, _ = case((37, 3), dtype=dtype)
    act = getattr(jax.nn, activation)

    def f(x, scale, bias):
        stats = jbn.init_stats(3)
        return jbn.batch_norm(x, scale, bias, stats, train=train, activation=act, placement=placement)[0]

    arrays = kept(f, x, scale, bias)
    assert [a.dtype for a in arrays if a.size >= x.size] == [x.dtype]
    assert all(a.size <= 3 for a in arrays if a.size < x.size)


def test_flax_keeps_more_than_three_times_the_input_where_we_keep_it_once():
    x, scale, bias, _ = case((1000, 3))
    variables = {"params": {"scale": scale, "bias": bias}}

    def theirs(x):
        layer = nn.BatchNorm(use_running_average=False)
        return jax.nn.relu(layer.apply(variables | {"batch_stats": {}}, x, mutable=["batch_stats"])[0])

    ours = functools.partial(normalized, activation=jax.nn.relu)
    assert kept_bytes(theirs, x) > 3 * x.nbytes
    assert kept_bytes(ours, x, scale, bias) < 1.05 * x.nbytes


def flax(placement, dtype):
    def layer(x, scale, bias):
        module = nn.BatchNorm(use_running_average=False, dtype=dtype)
        norm = lambda x: module.apply({"params": {"scale": scale, "bias": bias}}, x, mutable=["batch_stats"])[0]  # noqa: E731
        return jax.nn.relu(norm(x)) if placement == "before" else norm(jax.nn.relu(x))

    return layer


def temporary_bytes(layer, x, scale, bias, layers=16) -> int:
    """Temporary memory of the compiled gradient of a scan over `layers` residual layers."""
    stacked = [jnp.broadcast_to(p, (layers, *p.shape)) for p in (scale, bias)]

    def loss(x, stacked):
        return jnp.sum(jax.lax.scan(lambda x, p: (x + layer(x, *p), None), x, stacked)[0])

    return jax.jit(jax.grad(loss, argnums=1)).lower(x, stacked).compile().memory_analysis().temp_size_in_bytes


@PLACEMENTS
def test_a_scan_over_16_layers_keeps_one_input_a_layer(placement):
    x, scale, bias, _ = case((4096, 8))
    f = functools.partial(normalized, activation=jax.nn.relu, placement=placement)
    least = temporary_bytes(lambda x, scale, bias: x * scale.reshape(1, -1), x, scale, bias)  # keeps only x
    ours, theirs = (temporary_bytes(layer, x, scale, bias) for layer in (f, flax(placement, "float32")))
    assert ours < least + 1.5 * x.nbytes
    assert theirs > 1.9 * ours


@PLACEMENTS
def test_a_scan_over_16_layers_in_half_precision_keeps_less_than_flax(placement):
    """On a CPU, XLA also stores the half-precision stack of any scan in float32, even for the smallest of layers."""
    x, scale, bias, _ = case((4096, 8), dtype="bfloat16")
    f = functools.partial(normalized, activation=jax.nn.relu, placement=placement)
    ours, theirs = (temporary_bytes(layer, x, scale, bias) for layer in (f, flax(placement, "bfloat16")))
    assert theirs > 1.5 * ours


# An activation within the layer equals an activation after or before the layer


@pytest.mark.parametrize("activation", ACTIVATIONS)
@PLACEMENTS
@MASKS
def test_the_activation_within_is_the_activation_beside(x64, activation, placement, masked):
    *args, dy = case64((13, 3))
    act = getattr(jax.nn, activation)
    keep = mask((13, 3)) if masked else None

    def beside(x, scale, bias):
        f = functools.partial(normalized, scale=scale, bias=bias, where=keep)
        return act(f(x)) if placement == "before" else f(act(x))

    within = functools.partial(normalized, where=keep, activation=act, placement=placement)
    ours, theirs = (
        jax.jit(lambda *a, f=f: (lambda y, pull: (y, *pull(dy)))(*jax.vjp(f, *a)))(*args) for f in (within, beside)
    )
    jax.tree.map(functools.partial(assert_close, tolerance=1e-12), ours, theirs)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e38])
@PLACEMENTS
def test_junk_in_padding_reaches_no_gradient_through_the_activation(junk, activation, placement, train):
    """The derivative of gelu and silu at a huge number is NaN, and 0 · NaN is NaN."""
    x, scale, bias, dy = case((13, 3))
    keep = mask((13, 3))
    dy = jnp.where(keep, dy, 0)

    @jax.jit
    def f(x):
        options = {"where": keep, "activation": getattr(jax.nn, activation), "placement": placement}
        norm = lambda *a: jbn.batch_norm(*a, jbn.init_stats(3), train=train, **options)[0]  # noqa: E731
        y, pull = jax.vjp(norm, x, scale, bias)
        return jnp.where(keep, y, 0), *pull(dy)

    for got, want in zip(f(poison(x, keep, junk)), f(poison(x, keep, 0.0)), strict=True):
        assert_close(
            jnp.where(keep, got, 0) if got.ndim == 2 else got, want if got.ndim == 1 else jnp.where(keep, want, 0)
        )


@PLACEMENTS
def test_the_statistics_are_those_of_what_is_normalized(placement):
    x, _, _, _ = case((13, 3))
    options = {"activation": jax.nn.relu, "placement": placement, "momentum": 0.0}
    given = x if placement == "before" else jax.nn.relu(x)
    for switches in ({"train": True}, {"train": False, "update": True}):
        stats = jbn.batch_norm(x, None, None, jbn.init_stats(3), **switches, **options)[1]
        np.testing.assert_allclose(stats.mean, jnp.mean(given, 0), rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(stats.var, jnp.var(given, 0), rtol=1e-5, atol=1e-6)


@PLACEMENTS
def test_half_precision_rounds_once(placement):
    x, scale, bias, _ = case((37, 3), dtype="bfloat16")
    f = functools.partial(normalized, activation=jax.nn.gelu, placement=placement)
    y, exact = f(x, scale, bias), f(x.astype(jnp.float32), scale, bias)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))
