"""jbn.init_stats and jbn.update_stats: how running statistics follow the batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import linen as nn
from helpers import batch

import jbn
from jbn import _running_stats

pytestmark = pytest.mark.usefixtures("strict")
HALF = ["float16", "bfloat16"]


def stream(k: int, dtype="float32") -> list[jbn.Moments]:
    """k batches with different moments."""
    return [jbn.moments(batch((11, 3), dtype=dtype, mean=3.0 + 40 * i, seed=i)) for i in range(k)]


def follow(stats, batches, momentum):
    for m in batches:
        stats = jbn.update_stats(stats, m, momentum=momentum)
    return stats


def assert_close(stats: jbn.BatchStats, mean, var, rtol) -> None:
    """Compares the mean relative to its largest entry, and each variance relative to itself."""
    np.testing.assert_allclose(stats.mean, mean, rtol=rtol, atol=rtol * np.abs(mean).max())
    np.testing.assert_allclose(stats.var, var, rtol=rtol)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("k", [0, 1, 2, 17])
def test_running_statistics_are_the_closed_form_of_the_moving_average(k, momentum):
    batches = stream(k)
    stats = follow(jbn.init_stats(3), batches, momentum)
    mean = reference.ema(np.zeros(3), [m.mean for m in batches], momentum)
    var = reference.ema(np.ones(3), [m.var for m in batches], momentum)
    assert_close(stats, mean, var, rtol=1.2e-7 * (k + 1))  # one rounding per step


def test_running_statistics_of_equal_batches_arrive_at_the_batch_and_stay():
    m = stream(2)[1]
    arrived, _ = jax.lax.scan(lambda s, _: (jbn.update_stats(s, m, momentum=0.9), None), jbn.init_stats(3), length=500)
    assert_close(arrived, m.mean, m.var, rtol=1e-6)
    assert_close(jbn.update_stats(arrived, m, momentum=0.9), arrived.mean, arrived.var, rtol=1e-7)


@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.999])
def test_one_step_equals_flax_to_the_last_bit_or_one(momentum):
    x = batch((11, 3))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        layer = nn.BatchNorm(use_running_average=False, momentum=momentum, use_fast_variance=False)
        start = {"batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}
        params = {"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
        _, theirs = layer.apply(params | start, x, mutable=["batch_stats"])
    ours = jbn.update_stats(jbn.init_stats(3), jbn.moments(x), momentum=momentum)
    # 1 ulp for the average itself and 1 for the moments, which come from another algorithm.
    np.testing.assert_array_max_ulp(np.asarray(ours.mean), np.asarray(theirs["batch_stats"]["mean"]), maxulp=2)
    np.testing.assert_array_max_ulp(np.asarray(ours.var), np.asarray(theirs["batch_stats"]["var"]), maxulp=2)


def test_momentum_may_be_traced():
    m, stats = stream(1)[0], jbn.BatchStats(jnp.full(3, 5.0), jnp.full(3, 7.0))
    momenta = jnp.asarray([0.0, 0.9, 1.0])
    many = jax.jit(jax.vmap(lambda mo: jbn.update_stats(stats, m, momentum=mo)))(momenta)
    for i, momentum in enumerate([0.0, 0.9, 1.0]):
        mean, var = (reference.ema(s, [v], momentum) for s, v in zip(stats[:2], m[:2], strict=True))
        assert_close(jbn.BatchStats(many.mean[i], many.var[i]), mean, var, rtol=1e-6)


@pytest.mark.parametrize("dtype", [*HALF, "float32"])
@pytest.mark.parametrize("input_dtype", [*HALF, "float32", "float64"])
def test_a_scan_carries_the_statistics_in_their_own_dtype(x64, dtype, input_dtype):
    m = jbn.moments(batch((11, 3), dtype=input_dtype))
    stats, _ = jax.lax.scan(
        lambda s, _: (jbn.update_stats(s, m, momentum=0.5), None), jbn.init_stats(3, dtype=dtype), length=2
    )
    assert stats.mean.dtype == stats.var.dtype == dtype
    roundings = 2 * float(jnp.finfo(dtype).eps)
    assert_close(jax.tree.map(lambda a: a.astype(jnp.float32), stats), 0.75 * m.mean, 0.25 + 0.75 * m.var, roundings)


def test_statistics_of_complex_input_have_a_real_variance():
    stats, m = jbn.init_stats(3, dtype="complex64"), jbn.moments(batch((11, 3), dtype="complex64"))
    stats = jbn.update_stats(stats, m, momentum=0.75)
    assert stats.var.dtype == "float32"
    np.testing.assert_allclose(stats.mean, 0.25 * m.mean, rtol=1e-6)
    np.testing.assert_allclose(stats.var, 0.75 + 0.25 * m.var, rtol=1e-6)


def test_nothing_seen_changes_nothing():
    stats = follow(jbn.init_stats(3), stream(2), 0.9)
    nothing = jbn.moments(jnp.full((5, 3), jnp.nan), where=jnp.zeros((5, 1), bool))
    jax.tree.map(np.testing.assert_array_equal, jbn.update_stats(stats, nothing, momentum=0.9), stats)


def test_a_feature_that_was_not_seen_keeps_its_statistics_while_others_move():
    keep = jnp.ones((11, 3), bool).at[:, 1].set(False)
    x, stats = batch((11, 3)), follow(jbn.init_stats(3), stream(2), 0.9)
    new = jbn.update_stats(stats, jbn.moments(x, where=keep), momentum=0.9)
    seen = jbn.update_stats(stats, jbn.moments(x), momentum=0.9)
    for got, old, moved in zip(new[:2], stats[:2], seen[:2], strict=True):
        np.testing.assert_allclose(got, [moved[0], old[1], moved[2]], rtol=1e-6)


@pytest.mark.parametrize("features", [3, (3,), (2, 3), [2, 3], ()])
def test_statistics_start_at_mean_0_and_variance_1_of_the_feature_shape(features):
    stats = jbn.init_stats(features)
    np.testing.assert_array_equal(stats.mean, np.zeros(features))
    np.testing.assert_array_equal(stats.var, np.ones(features))


@pytest.mark.parametrize("dtype", [*HALF, "float32"])
def test_drift_is_the_distance_in_running_standard_deviations(dtype):
    stats = jbn.BatchStats(jnp.asarray([1.0, -2.0], dtype), jnp.asarray([4.0, 0.0], dtype))
    m = jbn.Moments(jnp.asarray([7.0, -2.25]), jnp.asarray([1.0, 1.0]), jnp.asarray(5.0))
    np.testing.assert_allclose(_running_stats.drift(stats, m, epsilon=0.0625), [6 / np.sqrt(4.0625), 1.0], rtol=1e-6)


def test_statistics_of_other_features_are_refused_with_a_remedy():
    says = r"running statistics have the feature shape \(4,\), the batch's moments \(3,\); pass .*jbn\.init_stats\("
    with pytest.raises(ValueError, match=says):
        jbn.update_stats(jbn.init_stats(4), stream(1)[0])
