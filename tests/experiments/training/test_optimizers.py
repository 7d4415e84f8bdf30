"""experiments.training.optimizers: optimizers follow torch, schedules follow the config."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.config import (
    ModelConfig,
    OptimizerConfig,
)
from experiments.networks.build import build
from experiments.training.optimizers import Tuned, optimizer, schedule


def by_hand(name, gradients, decayed, rate=0.5, decay=0.1, start=2.0, shape=lambda t: 1.0, nesterov=False):
    """The values of one parameter under torch's optimizers, written out."""
    p, v, m, s, path = start, 0.0, 0.0, 0.0, []
    for t, g in enumerate(gradients):
        d = decay if decayed else 0.0
        if name == "sgd":
            g = g + d * p
            v = 0.9 * v + g
            step = g + 0.9 * v if nesterov else v
        else:
            g = g + d * p if name == "adam" else g
            m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g * g
            step = m / (1 - 0.9 ** (t + 1)) / (math.sqrt(s / (1 - 0.999 ** (t + 1))) + 1e-8)
            step += d * p if name == "adamw" else 0
        p = p - rate * shape(t) * step
        path.append(p)
    return path


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(("name", "nesterov"), [("sgd", False), ("sgd", True), ("adam", False), ("adamw", False)])
def test_optimizers_are_torchs_and_decay_kernels_and_norms_only_if_so_decided(name, nesterov, norms):
    config = OptimizerConfig(name=name, nesterov=nesterov, schedule="constant")
    params = {"block": {"layer": {"kernel": 2.0, "bias": 2.0}, "norm": {"scale": 2.0, "bias": 2.0}}}
    params = jax.tree.map(jnp.float32, params)
    tx = optimizer(config, Tuned(jnp.float32(0.5), jnp.float32(0.1), jnp.array(norms)), 6)
    gradients = np.random.default_rng(0).normal(size=6).tolist()
    decayed, plain = (by_hand(name, gradients, on, nesterov=nesterov) for on in (True, False))

    @jax.jit
    def step(params, state, g):
        updates, state = tx.update(jax.tree.map(lambda p: g.astype(p.dtype), params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for t, g in enumerate(gradients):
        params, state = step(params, state, jnp.float32(g))
        block = params["block"]
        assert float(block["layer"]["kernel"]) == pytest.approx(decayed[t], rel=1e-4, abs=1e-4)
        assert float(block["layer"]["bias"]) == pytest.approx(plain[t], rel=1e-4, abs=1e-4)
        assert float(block["norm"]["scale"]) == pytest.approx((decayed if norms else plain)[t], rel=1e-4, abs=1e-4)


def test_biases_of_norms_may_move_faster_and_norms_alone_may_move():
    params = {
        "layer": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
        "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
    }
    ones, tuned = jax.tree.map(jnp.ones_like, params), Tuned(0.5, 0.0, False)

    def moves(**options):
        tx = optimizer(OptimizerConfig(momentum=0.0, schedule="constant", **options), tuned, 1)
        return jax.tree.map(lambda u: float(-u[0]), tx.update(ones, tx.init(params), params)[0])

    assert moves(norm_bias_rate=64.0) == {"layer": {"kernel": 0.5, "bias": 0.5}, "norm": {"scale": 0.5, "bias": 32.0}}
    assert moves(trains="norm") == {"layer": {"kernel": 0, "bias": 0}, "norm": {"scale": 0.5, "bias": 0.5}}


def test_the_norms_of_airbench94_have_a_bias_alone_and_its_whitening_is_no_norm():
    model = build(ModelConfig(network="airbench94", width=1 / 16), 10, train=True)
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    params = jax.tree.map(lambda a: jnp.ones(a.shape), jax.eval_shape(model.init, jax.random.key(0), x)["params"])
    config = OptimizerConfig(momentum=0.0, schedule="constant", norm_bias_rate=64.0)
    tx = optimizer(config, Tuned(0.5, 0.0, False), 1, model, x)
    updates, _ = tx.update(params, tx.init(params), params)
    rates = {tuple(k.key for k in path): float(-u.ravel()[0]) for path, u in jax.tree.leaves_with_path(updates)}
    assert rates[("block_0", "layer", "bias")] == 0.5
    assert {path[-2:] for path, rate in rates.items() if rate == 32.0} == {("norm", "bias")}
    assert sum(rate == 32.0 for rate in rates.values()) == 6


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, {0: 1, 50: 1, 99: 1}),
        ({"schedule": "cosine"}, {0: 1, 50: 0.5, 75: 0.5 * (1 + math.cos(0.75 * math.pi)), 100: 0}),
        ({"schedule": "step"}, {0: 1, 49: 1, 51: 0.1, 74: 0.1, 76: 0.01, 99: 0.01}),
        ({"schedule": "triangle", "warmup": 0.2}, {0: 0, 10: 0.5, 20: 1, 60: 0.5, 100: 0}),
        ({"schedule": "onecycle"}, {0: 1 / 25, 25: 1, 100: 1e-5}),
        ({"schedule": "exponential", "growth": 16.0}, {0: 1, 25: 2, 50: 4, 100: 16}),
    ],
)
def test_schedules_are_what_the_config_says_of_them(options, expected):
    shape = schedule(OptimizerConfig(**options), 100)
    for step, value in expected.items():
        assert float(shape(jnp.int32(step))) == pytest.approx(value, rel=1e-4, abs=1e-7), step
