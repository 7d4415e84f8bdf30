"""Batch renormalization: its equations, and the limits at which it equals batch norm or inference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx, serialization
from helpers import SPREAD, assert_close, batch, case, case64, mask, statistics, tree_close

import jbn
import jbn.linen
import jbn.nnx

pytestmark = pytest.mark.usefixtures("strict")
MASKS = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])


def renorm_twin(x, scale, bias, stats, r_max, d_max, epsilon=1e-5, keep=None):
    """The paper's algorithm in plain jax.numpy, last axis only."""
    mean = jnp.mean(x, 0, where=keep)
    var = jnp.mean((x - mean[None]) ** 2, 0, where=keep)
    sigma_b, sigma = jnp.sqrt(var + epsilon), jnp.sqrt(stats.var + epsilon)
    r = jax.lax.stop_gradient(jnp.clip(sigma_b / sigma, 1 / r_max, r_max))
    d = jax.lax.stop_gradient(jnp.clip((mean - stats.mean) / sigma, -d_max, d_max))
    return ((x - mean[None]) / sigma_b[None] * r[None] + d[None]) * scale[None] + bias[None]


@MASKS
@pytest.mark.parametrize(("r_max", "d_max"), [(1.0, 0.0), (1.5, 0.4), (3.0, 5.0), (1e6, 1e6)])
def test_renorm_and_its_gradients_are_those_of_the_papers_algorithm(x64, r_max, d_max, masked):
    *args, dy = case64((13, 3))
    keep = mask((13, 3)) if masked else None
    stats = statistics("float64")

    def ours(x, scale, bias):
        return jbn.batch_renorm(x, scale, bias, stats, train=True, r_max=r_max, d_max=d_max, where=keep)[0]

    def twin(x, scale, bias):
        return renorm_twin(x, scale, bias, stats, r_max, d_max, keep=keep)

    both = (jax.jit(lambda *a, f=f: (lambda y, pull: (y, *pull(dy)))(*jax.vjp(f, *a)))(*args) for f in (ours, twin))
    jax.tree.map(functools.partial(assert_close, tolerance=1e-11), *both)


def test_renorm_with_its_limits_closed_is_batch_norm():
    x, scale, bias, _ = case()
    args = x, scale, bias, statistics()
    renorm = jbn.batch_renorm(*args, train=True, r_max=1.0, d_max=0.0)
    tree_close(renorm, jbn.batch_norm(*args, train=True), 3e-7)


def test_renorm_with_its_limits_wide_is_inference_and_moves_the_statistics():
    x, scale, bias, _ = case()
    args = x, scale, bias, statistics()
    y, stats, _ = jbn.batch_renorm(*args, train=True, r_max=1e6, d_max=1e6)
    assert_close(y, jbn.batch_norm(*args, train=False)[0], 3e-6)
    tree_close(stats, jbn.batch_norm(*args, train=True)[1], 3e-7)


def test_renorm_keeps_a_large_mean():
    x, scale, bias, _ = case((257, 3), mean=1e4)
    stats = jbn.BatchStats(jnp.mean(x, 0) + 0.125, jnp.ones(3))
    y = jbn.batch_renorm(x, scale, bias, stats, train=True, r_max=1e6, d_max=1e6)[0]
    assert_close(y, reference.normalize(x, stats.mean, stats.var, scale, bias), 2e-5)


def test_renorm_of_virtual_batches_corrects_each():
    x, scale, bias, _ = case((9, 3))
    stats = statistics()
    f = functools.partial(jbn.batch_renorm, train=True, r_max=1.5, d_max=0.4)
    y = f(x, scale, bias, stats, virtual_batch_size=3)[0]
    for i in (0, 3, 6):
        assert_close(y[i : i + 3], f(x[i : i + 3], scale, bias, stats)[0], 2e-6)
    assert_close(f(x.T, scale, bias, stats, axis=0, virtual_batch_size=3)[0].T, y, 2e-6)


@pytest.mark.parametrize("how", SPREAD)
def test_renorm_over_devices_is_that_of_one(how):
    x, scale, bias, _ = case((4, 5, 3))
    f = functools.partial(jbn.batch_renorm, train=True, r_max=1.5, d_max=0.4)
    y = SPREAD[how](lambda x: f(x, scale, bias, statistics(), axis_name="d")[0], 4)(x)
    assert_close(y, f(x, scale, bias, statistics())[0], 5e-6)


def test_a_ramp_opens_with_the_updates_and_survives_a_checkpoint():
    x = batch((8, 3))
    ramps = {
        "r_max": jbn.renorm_ramp(3.0, start=1, end=3, initial=1.0),
        "d_max": jbn.renorm_ramp(5.0, start=1, end=2, initial=0.0),
    }
    layer = jbn.linen.BatchRenorm(use_running_average=False, momentum=0.5, **ramps)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        variables = layer.init(jax.random.key(0), x)
        assert variables["batch_stats"]["step"] == 0
        for limits in ((1.0, 0.0), (1.0, 0.0), (2.0, 5.0), (3.0, 5.0)):
            y, updates = layer.apply(variables, x, mutable=["batch_stats"])
            state = variables["batch_stats"]
            stats = jbn.BatchStats(state["mean"], state["var"])
            assert_close(y, renorm_twin(x, jnp.ones(3), jnp.zeros(3), stats, *limits), 5e-6)
            variables |= serialization.from_bytes(updates, serialization.to_bytes(updates))
        assert variables["batch_stats"]["step"] == 4


@pytest.mark.parametrize("shell", ["linen", "nnx"])
def test_at_inference_a_ramp_needs_no_step_and_renorm_is_batch_norm(shell):
    x = batch((8, 3))
    ramps = {"r_max": lambda step: 1.0 + step, "d_max": lambda step: 1.0 * step}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if shell == "linen":
            stats = {"mean": jnp.full(3, 2.0), "var": jnp.full(3, 4.0)}  # as in a checkpoint of Flax
            layer = jbn.linen.BatchRenorm(use_running_average=True, epsilon=0.0, **ramps)
            y = layer.apply({"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}, "batch_stats": stats}, x)
        else:
            layer = jbn.nnx.BatchRenorm(3, use_running_average=True, epsilon=0.0, rngs=nnx.Rngs(0), **ramps)
            layer.mean[...], layer.var[...] = jnp.full(3, 2.0), jnp.full(3, 4.0)
            y = layer(x)
        assert_close(y, (np.asarray(x, np.float64) - 2) / 2, 1e-6)


def test_nothing_seen_is_nothing_to_correct():
    x, scale, bias, _ = case((5, 3))
    y, stats, _ = jbn.batch_renorm(x, scale, bias, statistics(), train=True, where=jnp.zeros((5, 3), bool))
    assert np.isfinite(y).all()
    jax.tree.map(np.testing.assert_array_equal, stats, statistics())


def test_renorm_corrects_its_own_call_and_no_batch_norm_within_the_activation():
    x, stats = batch((13, 3)), statistics()
    inner = lambda h: jbn.batch_norm(h, None, None, None, train=True)[0]  # noqa: E731
    within = jbn.batch_renorm(x, None, None, stats, train=True, activation=inner)[0]
    assert_close(within, inner(jbn.batch_renorm(x, None, None, stats, train=True)[0]), 3e-6)
