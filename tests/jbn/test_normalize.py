"""jbn.normalize: y = (x - mean) / sqrt(var + epsilon) · scale + bias, with given statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import linen as nn
from helpers import LAYOUTS, affine, assert_close, batch, mask, poison, ulps

import jbn

pytestmark = pytest.mark.usefixtures("strict")


def given(shape, axis=-1, dtype="float32", mean=3.0):
    """x and statistics that are close to its own, but not equal to them."""
    m, v, _ = reference.moments(batch(shape, axis, mean=mean, seed=9), axis)
    return batch(shape, axis, dtype, mean=mean), jnp.asarray(m, "float32"), jnp.asarray(v + 0.1, "float32")


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_normalize_equals_the_oracle(shape, axis):
    x, mean, var = given(shape, axis)
    scale, bias = affine(shape, axis)
    for s, b in ((scale, bias), (None, bias), (scale, None), (None, None)):
        y = jbn.normalize(x, mean, var, s, b, axis=axis, epsilon=1e-3)
        assert_close(y, reference.normalize(x, mean, var, s, b, 1e-3, axis), axis=axis)


def test_epsilon_is_added_to_the_variance():
    x, mean = jnp.asarray([[1.0], [4.0]]), jnp.asarray([1.0])
    np.testing.assert_allclose(jbn.normalize(x, mean, jnp.asarray([5.0]), epsilon=4.0), [[0.0], [1.0]], rtol=1e-6)


def test_epsilon_may_be_traced_and_differentiated():
    x, mean, var = given((64, 3))
    y, dy = jax.jit(lambda epsilon: jax.jvp(lambda e: jbn.normalize(x, mean, var, epsilon=e), [epsilon], [1.0]))(0.5)
    np.testing.assert_allclose(y, jbn.normalize(x, mean, var, epsilon=0.5), rtol=1e-6)
    np.testing.assert_allclose(dy, -0.5 * y / (var[None] + 0.5), rtol=1e-5)


@pytest.mark.parametrize("mean", [1e4, -1e6])
def test_a_large_mean_cancels_exactly(mean):
    x, m, v = given((333, 3), mean=mean)
    scale, bias = affine((333, 3))
    y = jax.jit(jbn.normalize)(x, m, v, scale, bias)
    assert_close(y, reference.normalize(x, m, v, scale, bias), axis=-1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once_at_the_end(dtype):
    x, mean, var = given((333, 3), dtype=dtype)
    scale, bias = affine((333, 3))
    y = jax.jit(jbn.normalize)(x, mean, var, scale, bias)
    assert y.dtype == dtype
    assert ulps(y, reference.normalize(x.astype(jnp.float32), mean, var, scale, bias)) <= 0.51


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_statistics_in_half_precision_are_used_in_float32(dtype):
    x, mean, var = given((333, 3))
    mean, var = mean.astype(dtype), var.astype(dtype)
    exact = reference.normalize(x, mean.astype(jnp.float32), var.astype(jnp.float32))
    assert_close(jbn.normalize(x, mean, var), exact, axis=-1)


@pytest.mark.parametrize("given_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_decides_the_result_and_nothing_else(given_dtype, dtype):
    x, mean, var = given((13, 3), dtype=given_dtype)
    y = jbn.normalize(x, mean, var, dtype=dtype)
    assert y.dtype == dtype
    assert ulps(y, reference.normalize(x.astype(jnp.float32), mean, var)) <= (16 if dtype == "float32" else 0.51)


def test_float64_stays_float64_to_the_last_digits(x64):
    x, mean, var = given((333, 3), dtype="float64", mean=1e4)
    mean, var = mean.astype(jnp.float64), var.astype(jnp.float64)
    y = jbn.normalize(x, mean, var)
    assert_close(y, reference.normalize(x, mean, var), 1e-12, axis=-1)


def test_float32_statistics_do_not_narrow_float64_input(x64):
    x, mean, var = given((333, 3), dtype="float64")
    assert_close(jbn.normalize(x, mean, var), reference.normalize(x, mean, var), axis=-1)


def test_complex_input_is_normalized_by_a_real_variance():
    x = batch((333, 3), dtype="complex64", mean=100.0)
    mean, var, _ = reference.moments(x)
    mean, var = jnp.asarray(mean, "complex64"), jnp.asarray(var, "float32")
    scale, bias = affine((333, 3), dtype="complex64")
    y = jbn.normalize(x, mean, var, scale, bias)
    assert_close(y, reference.normalize(x, mean, var, scale, bias), axis=-1)


# Padding


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_junk_in_padding_comes_out_as_bias_and_nowhere_else(junk):
    x, mean, var = given((13, 3))
    scale, bias = affine((13, 3))
    keep = mask((13, 3))
    y = jbn.normalize(poison(x, keep, junk), mean, var, scale, bias, where=keep)
    np.testing.assert_array_equal(y, jnp.where(keep, jbn.normalize(x, mean, var, scale, bias), bias[None]))


def test_finite_padding_is_normalized_like_all_else_as_in_flax():
    x, keep = batch((13, 3)), mask((13, 1))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        layer = nn.BatchNorm(use_running_average=False, use_fast_variance=False)
        theirs, _ = layer.init_with_output(jax.random.key(0), x, mask=jnp.asarray(keep))
    m = jbn.moments(x, where=keep)
    np.testing.assert_allclose(jbn.normalize(x, m.mean, m.var, where=keep), theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e38])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_junk_in_padding_reaches_no_gradient(junk, transform):
    x, mean, var = given((13, 3))
    scale, bias = affine((13, 3))
    keep, weight = mask((13, 3)), batch((13, 3), seed=5)

    def loss(x, mean, var, scale, bias, where):
        y = jbn.normalize(x, mean, var, scale, bias, where=where)
        return jnp.sum(jnp.where(where, y * weight, 0))

    grads = transform(jax.grad(loss, argnums=range(5)))(poison(x, keep, junk), mean, var, scale, bias, keep)
    clean = jax.grad(loss, argnums=range(5))(jnp.where(keep, x, 0), mean, var, scale, bias, keep)
    for got, want in zip(grads, clean, strict=True):
        assert_close(got, want, axis=-1, factor=3)


@pytest.mark.parametrize("junk", [np.nan, np.inf])
def test_junk_in_padding_reaches_no_gradient_even_when_the_loss_reads_the_padding(junk):
    x, mean, var = given((13, 3))
    scale, bias = affine((13, 3))
    keep, dy = mask((13, 3)), batch((13, 3), seed=5)

    def loss(x, mean, var, scale, bias):
        return jnp.sum(dy * jbn.normalize(x, mean, var, scale, bias, where=keep))

    dx, dmean, dvar, dscale, dbias = jax.grad(loss, argnums=range(5))(poison(x, keep, junk), mean, var, scale, bias)
    r = 1 / np.sqrt(reference.wide(var) + 1e-5)
    d, kept = np.where(keep, reference.wide(x) - reference.wide(mean), 0), np.where(keep, reference.wide(dy), 0)
    assert_close(dx, kept * reference.wide(scale) * r, axis=-1)
    assert_close(dmean, -(kept.sum(0) * reference.wide(scale) * r), 1e-5)
    assert_close(dvar, -0.5 * (kept * d).sum(0) * reference.wide(scale) * r**3, 1e-5)
    assert_close(dscale, (kept * d).sum(0) * r, 1e-5)
    assert_close(dbias, kept.sum(0), 1e-5)  # the output at padding is a constant


@pytest.mark.parametrize("name", ["mean", "var", "scale", "bias"])
def test_a_statistic_of_another_shape_is_refused_with_a_remedy(name):
    values = dict.fromkeys(("mean", "var", "scale", "bias"), jnp.ones(3)) | {name: jnp.ones(4)}
    says = (
        rf"{name} has shape \(4,\), but axis=1 of an input of shape \(5, 3, 7\) has the feature shape \(3,\); "
        rf"pass a {name} of that shape"
    )
    with pytest.raises(ValueError, match=says):
        jbn.normalize(jnp.ones((5, 3, 7)), **values, axis=1)


def test_integers_are_refused_because_the_result_would_be_truncated():
    with pytest.raises(ValueError, match=r"x has dtype int32; .*pass x\.astype\(jnp\.float32\)"):
        jbn.normalize(jnp.arange(6).reshape(3, 2), jnp.zeros(2), jnp.ones(2))
