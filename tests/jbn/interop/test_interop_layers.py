"""jbn.interop against the real packages: a converted batch norm gives the same outputs and trains the same way."""

import copy
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, batch
from interop_layers import (
    EPSILON,
    MOMENTUM,
    OTHERS,
    SCHEDULE,
    STEPS,
    Equinox,
    Haiku,
    Keras,
    Linen,
    N,
    Nnx,
    Ours,
    Torch,
    assert_same_layer,
    made,
    moved,
)

import jbn
from jbn import interop

# In float64, rounding errors hide no other errors, even at a large mean. But Keras still computes in float32, and Flax
# nnx has float32 statistics.
WIDE = ["torch-cumulative", "haiku-first", "equinox", "jbn-linen"]
CASES = [*((name, "float32", 3.0) for name in OTHERS), *((name, "float64", 100.0) for name in WIDE)]
# Haiku computes E[x²] - E[x]², Keras x/std - mean/std: they lose digits already at mean 3.
ROUNDING = {"haiku": 2e-5, "keras": 1e-5}


@pytest.mark.parametrize(("name", "dtype", "mean"), CASES, ids=["-".join(case[:2]) for case in CASES])
def test_a_layer_goes_over_and_trains_as_before_and_comes_back(name, dtype, mean):
    with jax.enable_x64(dtype == "float64"):
        other, data = made(name, dtype, mean)
        rounding = 1e-9 if dtype == "float64" else ROUNDING.get(name.partition("-")[0], 5e-6)
        layer, test = other.layer(), data.pop()[0]
        kept = copy.deepcopy(layer)
        ours = Ours(layer, other.axis)
        assert_close(ours.evaluate(test), other.evaluate(test), 1e-6)
        for step in data[:STEPS]:
            assert_close(ours.train(*step), other.train(*step), rounding)
        assert_close(ours.evaluate(test), other.evaluate(test), rounding)
        assert_same_layer(ours.layer(), other.layer(), min(rounding, 1e-5))
        jax.tree.map(np.testing.assert_array_equal, kept, layer)  # torch updates in place

        fresh, _ = made(name, dtype, 1.0, warm=1)
        fresh.load(ours.layer())
        assert_close(fresh.evaluate(test), ours.evaluate(test), 1e-6)
        for step in data[:2]:
            assert_close(fresh.train(*step), ours.train(*step), rounding)
        assert_same_layer(fresh.layer(), ours.layer(), min(rounding, 1e-5))


AVERAGES = {
    "moving": interop.Layer(None, None, None, None, None, MOMENTUM, EPSILON),
    "debiased": interop.Layer(None, None, None, None, np.array(4), MOMENTUM, EPSILON, debias=True),
    "debiased-start": interop.Layer(None, None, None, None, np.array(0), MOMENTUM, EPSILON, debias=True),
    "cumulative": interop.Layer(None, None, None, None, np.array(4), None, EPSILON),
    "unbiased": interop.Layer(None, None, None, None, None, MOMENTUM, EPSILON, "unbiased"),
    "schedule": interop.Layer(None, None, None, None, np.array(4), SCHEDULE, EPSILON),
}
RECEIVERS = {
    "torch": (functools.partial(Torch, "BatchNorm1d"), {"eps": EPSILON, "momentum": 1 - MOMENTUM}, ["unbiased"]),
    "keras": (Keras, {"epsilon": EPSILON, "momentum": MOMENTUM}, ["moving"]),
    "haiku": (Haiku, {}, ["moving", "debiased", "debiased-start"]),
    "equinox": (Equinox, {}, ["moving", "debiased"]),
    "equinox-ema": (functools.partial(Equinox, mode="ema"), {}, ["moving"]),
    "flax-linen": (functools.partial(Linen, nn.BatchNorm), {}, ["moving"]),
    "flax-nnx": (functools.partial(Nnx, nnx.BatchNorm), {}, ["moving"]),
}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("receiver", RECEIVERS)
def test_any_average_goes_anywhere_for_inference_and_the_same_average_trains_on(receiver, average):
    make, options, same = RECEIVERS[receiver]
    other = make(dtype="float32", shape=(13, N), **options)
    layer = moved(AVERAGES[average])
    other.load(layer)
    x, target = batch((13, N)), batch((13, N), seed=1)
    ours = Ours(layer, -1)
    assert_close(other.evaluate(x), ours.evaluate(x), 2e-6)
    # The arrays are not shared, because torch updates in place.
    kept = copy.deepcopy(layer)
    other.train(x, target), ours.train(x, target)
    for name in ("scale", "bias", "mean", "var"):
        np.testing.assert_array_equal(getattr(layer, name), getattr(kept, name))
        if average in same and name in ("mean", "var"):
            assert_close(getattr(other.layer(), name), getattr(ours.layer(), name), 1e-5)


def test_an_average_that_is_not_debiased_stays_so_at_any_momentum():
    layer = moved(AVERAGES["moving"]._replace(momentum=0.999999))
    for ema in interop.to_haiku(layer)[1].values():
        assert jnp.float32(layer.momentum) ** ema["counter"] == 0 and ema["counter"] + 2**29 > ema["counter"]
        np.testing.assert_array_equal(ema["hidden"], ema["average"])


def test_a_weight_survives_the_count_to_the_last_bit():
    for momentum in (0.9, 0.999, 0.0):
        weight = np.float32(1 - momentum ** np.array([0, 1, 7, 500, 10**6], np.float64))
        stats = jbn.BatchStats(jnp.zeros(5), jnp.ones(5), weight=jnp.asarray(weight))
        layer = interop.from_jbn(None, None, stats, momentum=momentum, debias=True)
        np.testing.assert_array_equal(interop.to_jbn(layer)[2].weight, weight)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_equinox_states_stay_usable(mode):
    other = Equinox("float32", (13, N), mode=mode)
    net, state = interop.to_equinox(moved(AVERAGES["moving"]), other.net, other.state)
    assert interop.from_equinox(other.net, other.state).mean.max() == 0
    assert interop.from_equinox(net, state).mean.min() > 3


def test_equinox_mode_ema_keeps_a_moving_average():
    """In training, its outputs use the running statistics; no other library does this."""
    other = Equinox("float32", (13, N), mode="ema")
    first = other.layer()
    np.testing.assert_array_equal((first.mean, first.var), ([0] * N, [1] * N))
    x, target = batch((13, N)), batch((13, N), seed=1)
    other.train(x, target)
    ours = Ours(other.layer(), -1)
    other.train(x, target), ours.train(x, target)
    for name in ("mean", "var"):
        assert_close(getattr(ours.layer(), name), getattr(other.layer(), name), 1e-5)


def test_keras_weights_are_read_by_name_or_all_four():
    weights = [np.full(2, v, np.float32) for v in (2, 3, 4, 5)]
    layer = interop.from_keras(weights)
    np.testing.assert_array_equal(np.stack(layer[:4]), np.stack(weights))
    assert layer.options() == jbn.preset("keras") | {"debias": False}
    np.testing.assert_array_equal(list(interop.to_keras(layer).values()), weights)
    assert (
        interop.from_keras(dict(zip(("beta", "moving_mean", "moving_variance"), weights, strict=False))).scale is None
    )
