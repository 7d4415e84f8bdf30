"""experiments.probes.activations: statistics of activations, against NumPy and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import assert_close, batch

from experiments.probes import activations

CHANNELS = 5
SHAPES = pytest.mark.parametrize("shape", [(13, CHANNELS), (7, 3, 3, CHANNELS)], ids=["dense", "conv"])


def hand_made():
    """Channels: all equally large; one of four; none; between these, and skewed; a constant."""
    return jnp.asarray([[1, 0, 0, -2, 3], [-1, 4, 0, 0, 3], [1, 0, 0, 1, 3], [-1, 0, 0, 1, 3]], jnp.float32)


def flat64(a):
    return reference.wide(a).reshape(-1, a.shape[-1])


def skewness64(a):
    a = flat64(a)
    d = a - a.mean(0)
    return (d**3).mean(0) / np.sqrt((d**2).mean(0)) ** 3


def test_of_a_hand_made_array():
    a = hand_made()
    np.testing.assert_array_equal(activations.saturation(a), [1, 1 / 4, 0, 1 / 2, 1])
    np.testing.assert_array_equal(activations.sparsity(a), [0, 3 / 4, 1, 1 / 2, 0])
    np.testing.assert_array_equal(activations.dead(a), [False, False, True, False, True])
    assert activations.zero_share(a) == np.float32(8 / 20)
    # One of four at 1, the others at 0: a coin of p = 1/4 has (1 - 2p) / √(p(1 - p)).
    np.testing.assert_allclose(activations.skewness(a)[:3], [0, 0.5 / np.sqrt(3 / 16), 0], rtol=1e-6)
    assert activations.skewness(a)[3] < 0 and activations.skewness(a)[4] == 0


@SHAPES
def test_statistics_equal_float64(shape):
    z = batch(shape)
    a = jnp.tanh(z / 3 + 0.3)
    stats = activations.activation_stats(z, a, bounds=(-1.0, 1.0))
    exact = np.abs(flat64(a))
    assert_close(activations.saturation(a), exact.mean(0) / exact.max(0))
    assert_close(stats.saturation, (exact.mean(0) / exact.max(0)).mean())
    assert_close(stats.sparsity, 1 - (exact.mean(0) / exact.max(0)).mean())
    assert_close(stats.skewness, np.abs(skewness64(a)).mean(), 1e-5)
    assert_close(stats.input_skewness, np.abs(skewness64(z)).mean(), 1e-5)
    assert_close(stats.input_mean, flat64(z).mean(0))
    assert_close(stats.input_std, flat64(z).std(0))
    assert stats.saturated_share == np.float32((exact >= 0.9).mean())
    assert activations.activation_stats(z, a).saturated_share is None


@SHAPES
def test_dead_units_of_relu_are_counted_and_nothing_else(shape):
    z = np.array(batch(shape, mean=0))
    z[..., [1, 4]] = -np.abs(z[..., [1, 4]])
    z[..., 3] = -1
    z[(0,) * (z.ndim - 1) + (3,)] = 1e-30  # the unit is active once
    a = jax.nn.relu(z)
    np.testing.assert_array_equal(activations.dead(a), [False, True, False, False, True])
    stats = activations.activation_stats(jnp.asarray(z), a)
    assert_close(stats.dead, 2 / 5)
    assert_close(stats.zero_share, (z <= 0).mean())
    assert activations.saturation(a)[1] == 0 and activations.sparsity(a)[1] == 1


def test_skewness_is_that_of_the_channel_whatever_its_scale_and_shift():
    a = np.random.default_rng(0).exponential(1, (1001, 3)).astype(np.float32)
    exact = skewness64(a)
    for scale, shift in [(1, 0), (-2.0, 0), (2.0**-70, 0), (2.0**100, 0), (1.0, 1e3)]:
        moved = jnp.asarray(scale * a + np.float32(shift), jnp.float32)
        np.testing.assert_allclose(activations.skewness(moved), np.sign(scale) * exact, rtol=2e-3 if shift else 1e-5)
    np.testing.assert_allclose(activations.skewness(jnp.asarray(a + 1e3)), skewness64(a + np.float32(1e3)), rtol=1e-5)


def test_a_constant_channel_has_no_skewness_however_its_mean_rounds():
    constants = np.random.default_rng(0).normal(0, 1e4, 64).astype(np.float32)
    constants[:3] = 0, 1e-20, 3e30
    a = jnp.broadcast_to(constants, (4099, 64))
    # Under jit, sums are computed in another order, which changes these means by roundings.
    np.testing.assert_array_equal(jax.jit(activations.skewness)(a), np.zeros(64))


def test_half_precision_is_accumulated_in_float32():
    a = batch((4099, 3), dtype="bfloat16")
    exact = np.abs(flat64(a.astype(jnp.float32)))
    assert_close(activations.saturation(a), exact.mean(0) / exact.max(0))
    assert_close(activations.skewness(a), skewness64(a.astype(jnp.float32)), 1e-4)


def test_tanh_and_sigmoid_are_saturated_alike():
    z = jnp.linspace(-4, 4, 1001)[:, None]
    share = activations.saturated_share(jnp.tanh(z), (-1.0, 1.0))
    assert share == activations.saturated_share(jax.nn.sigmoid(2 * z), (0.0, 1.0))
    assert_close(share, (np.abs(np.tanh(reference.wide(z))) >= 0.9).mean())
    np.testing.assert_allclose(1 - np.tanh(1.4722) ** 2, 0.19, atol=1e-3)  # as the docstring says
    low_half = activations.saturated_share(jnp.where(z < 0, jnp.tanh(z), 0), (-1.0, 1.0))
    assert_close(2 * low_half, reference.wide(share))  # both bounds count


def test_activation_stats_under_jit_and_vmap_equal_eager():
    z = jnp.stack([batch((7, 3, 3, CHANNELS), seed=seed, mean=seed) for seed in range(3)])
    z = z.at[1, ..., 2].set(-5)
    stats = partial(activations.activation_stats, bounds=(0.0, 6.0))
    eager = [stats(z[i], jax.nn.relu6(z[i])) for i in range(3)]
    mapped = jax.jit(jax.vmap(stats))(z, jax.nn.relu6(z))
    for i in range(3):
        for name, one, expected in zip(eager[i]._fields, [leaf[i] for leaf in mapped], eager[i], strict=True):
            assert one.dtype == jnp.float32, name
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6, err_msg=name)
