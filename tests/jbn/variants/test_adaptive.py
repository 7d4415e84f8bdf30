"""Adaptive batch norm: the blend of running statistics and those of the test batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from helpers import assert_close, batch, case, case64, mask, mesh, poison, statistics
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jbn
import jbn.linen
import jbn.nnx

pytestmark = pytest.mark.usefixtures("strict")
MASKS = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])


@MASKS
@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_adaptive_normalizes_by_the_blend(weight, masked):
    x, scale, bias, _ = case((13, 3), mean=1e3)
    stats = jbn.BatchStats(jnp.mean(x, 0) + 1.5, jnp.asarray([4.0, 0.25, 1.0]))
    keep = mask((13, 3)) if masked else None
    given = x if keep is None else poison(x, keep)
    y, test = jbn.adaptive_batch_norm(given, scale, bias, stats, source_weight=weight, where=keep)
    mean, var, _ = reference.moments(x, where=keep)
    source = reference.wide(stats.mean), reference.wide(stats.var)
    blend = weight * source[0] + (1 - weight) * mean, weight * source[1] + (1 - weight) * var
    exact = reference.normalize(x, *blend, scale, bias)
    keep = True if keep is None else keep
    assert_close(jnp.where(keep, y, 0), np.where(keep, exact, 0), 1e-4)
    np.testing.assert_allclose(test.var, var, rtol=1e-5)


def test_adaptive_is_inference_at_weight_1_and_training_at_0():
    x, scale, bias, _ = case()
    args = x, scale, bias, statistics()
    for weight, train in ((1.0, False), (0.0, True)):
        y, _ = jbn.adaptive_batch_norm(*args, source_weight=weight)
        assert_close(y, jbn.batch_norm(*args, train=train)[0], 1e-6)


@pytest.mark.parametrize("placement", ["before", "after"])
@pytest.mark.parametrize("face", ["linen", "nnx"])
def test_an_adaptive_layer_takes_an_activation_on_either_side(face, placement):
    x, options = batch((13, 3)), dict(use_running_average=True, source_weight=0.25)
    if face == "linen":
        layer = jbn.linen.AdaptiveBatchNorm(**options)
        variables = layer.init(jax.random.key(0), x)
        call = lambda x, **more: layer.apply(variables, x, **more)  # noqa: E731
    else:
        call = jbn.nnx.AdaptiveBatchNorm(3, rngs=nnx.Rngs(0), **options)
    apart = jax.nn.silu(call(x)) if placement == "before" else call(jax.nn.silu(x))
    assert_close(call(x, activation=jax.nn.silu, placement=placement), apart, 1e-6)


def test_adaptive_lets_gradients_through_the_test_batchs_statistics(x64):
    *args, _ = case64((5, 2), mean=0.5)
    stats = jbn.BatchStats(jnp.asarray([0.5, -1.0]), jnp.asarray([1.5, 0.5]))
    f = lambda *a: jbn.adaptive_batch_norm(*a, stats, source_weight=0.3)[0]  # noqa: E731
    check_grads(f, args, order=2, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


def test_adaptive_over_devices_is_that_of_one_and_a_masked_feature_falls_back_to_the_source():
    x, scale, bias, _ = case((4, 5, 3))
    keep = jnp.ones((4, 5, 3), bool).at[..., 1].set(False)

    def device(x, keep):
        options = {"source_weight": 0.25, "where": keep[0], "axis_name": "d"}
        return jbn.adaptive_batch_norm(x[0], scale, bias, statistics(), **options)[0][None]

    y = jax.jit(jax.shard_map(device, mesh=mesh(d=4), in_specs=P("d"), out_specs=P("d")))(x, keep)
    whole = jbn.adaptive_batch_norm(x, scale, bias, statistics(), source_weight=0.25)[0]
    source = jbn.batch_norm(x, scale, bias, statistics(), train=False)[0]
    assert_close(y, jnp.where(keep, whole, source), 2e-6)


@pytest.mark.parametrize("face", ["function", "linen", "nnx"])
@pytest.mark.parametrize(("shape", "axis"), [((1, 3), -1), ((1, 1, 1, 3), -1), ((1, 3, 1, 1), 1)], ids=str)
@pytest.mark.parametrize("weight", [0, 0.0, np.float32(0), jnp.float32(0)], ids=["int", "float", "numpy", "jax"])
def test_adaptive_refuses_one_value_by_itself_as_training_does(weight, shape, axis, face):
    x = batch((1, 3)).reshape(shape)

    def call(weight):
        options = {"source_weight": weight, "axis": axis}
        if face == "function":
            return jbn.adaptive_batch_norm(x, None, None, statistics(), **options)[0]
        options |= {"use_running_average": True}
        stats = {"mean": statistics().mean, "var": statistics().var}
        if face == "linen":
            layer = jbn.linen.AdaptiveBatchNorm(use_scale=False, use_bias=False, **options)
            return layer.apply({"batch_stats": stats}, x)
        layer = jbn.nnx.AdaptiveBatchNorm(3, rngs=nnx.Rngs(0), **options)
        layer.mean[...], layer.var[...] = stats["mean"], stats["var"]
        return layer(x)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        says = r"has 1 value per feature, and source_weight=0 takes .* pass a larger batch, .* or source_weight=N"
        with pytest.raises(ValueError, match=says):
            call(weight)
        for w in (0.25, 1.0):  # the blend of Schneider et al. and inference work with one example
            exact = (1 - w) * np.asarray(batch((1, 3))) + w * np.asarray(statistics().mean)
            exact = (np.asarray(batch((1, 3)), np.float64) - exact) / np.sqrt(w * np.asarray(statistics().var) + 1e-5)
            assert_close(call(w).ravel(), exact.ravel(), 3e-6)


def test_adaptive_of_one_value_that_only_the_call_can_tell_falls_back_to_the_source():
    """With a mask or a traced weight, the error cannot be raised."""
    x, scale, bias, _ = case((5, 3))
    args, keep = (scale, bias, statistics()), jnp.arange(5)[:, None] == 2
    source = jbn.batch_norm(x, *args, train=False)[0]
    assert_close(jbn.adaptive_batch_norm(x, *args, where=keep)[0][2], source[2], 2e-6)
    one = jax.jit(lambda w: jbn.adaptive_batch_norm(x[:1], *args, source_weight=w)[0])
    assert_close(one(0.0), source[:1], 2e-6)
    assert_close(one(0.5), jbn.adaptive_batch_norm(x[:1], *args, source_weight=0.5)[0], 2e-6)
