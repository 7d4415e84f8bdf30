"""One lane is one plain training: the same numbers as a Flax and optax loop written without any of this."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.config import Arm, Config, ModelConfig, OptimizerConfig, SweepConfig, TrainingConfig
from experiments.data import Batches, Data, Split, batch_orders, batches
from experiments.lanes import train_arm
from experiments.train import State, evaluate, init, optimizer, probe
from jbn.optim import decay_mask

CONFIG = Config(
    name="x",
    model=ModelConfig(hidden=(9, 8), momentum=0.8),
    training=TrainingConfig(batch_size=10, epochs=3),
    sweep=SweepConfig(evaluation_seeds=4),
)
BEFORE = Arm("before", "tanh")


def make_data(rng=0):
    rng = np.random.default_rng(rng)

    def split(n):
        y = rng.integers(0, 3, n)
        x = rng.normal(0, 1, (n, 5)) + 1.5 * np.eye(3)[y] @ rng.normal(0, 1, (3, 5))
        return Split(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))

    return Data(split(47), split(13), split(23), 3, {})


class Plain(nn.Module):
    """The network of BEFORE in plain Flax, with Flax's own batch norm (its variance is exact enough near mean 0)."""

    @nn.compact
    def __call__(self, x, train):
        for i, width in enumerate((9, 8)):
            x = nn.Dense(width, name=f"dense_{i}")(x)
            x = nn.BatchNorm(not train, momentum=0.8, use_fast_variance=False, name=f"norm_{i}")(x)
            x = jnp.tanh(x)
        return nn.Dense(3, name="head")(x)


def test_a_lane_equals_a_plain_flax_and_optax_loop():
    data, rate, seed = make_data(), 0.3, 5
    lanes = [(0.1, 3), (rate, seed), (0.3, 4)]
    record = train_arm(CONFIG, BEFORE, data, lanes, test=True)[1]

    start = init(CONFIG, BEFORE, 3, (5,), jnp.int32(seed))
    rename = {"block_0": ("dense_0", "norm_0"), "block_1": ("dense_1", "norm_1")}
    params = {"head": start.params["head"]}
    stats = {}
    for block, (dense, norm) in rename.items():
        params |= {dense: start.params[block]["layer"], norm: start.params[block]["norm"]}
        stats |= {norm: start.batch_stats[block]["norm"]}
    order = batch_orders(CONFIG, (seed,), 47)[0]
    tx = optax.sgd(lambda step: rate * 0.5 * (1 + jnp.cos(jnp.pi * step / order[..., 0].size)), momentum=0.9)
    opt = tx.init(params)
    model = Plain()

    @jax.jit
    def step(params, stats, opt, x, y):
        def loss_of(params):
            logits, new = model.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new["batch_stats"]

        (loss, stats_), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_ = tx.update(gradients, opt, params)
        return optax.apply_updates(params, updates), stats_, opt_, loss

    for epoch in range(3):
        losses = []
        for batch in order[epoch]:
            params, stats, opt, loss = step(params, stats, opt, data.train.x[batch], data.train.y[batch])
            losses.append(float(loss))
        assert record["train_loss"][epoch] == pytest.approx(np.mean(losses), rel=1e-4)
        for split, (a, b) in (
            (data.validation, (record["val_loss"][epoch], record["val_accuracy"][epoch])),
            (data.test, (record["test_loss"], record["test_accuracy"])),
        ):
            logits = model.apply({"params": params, "batch_stats": stats}, split.x, False)
            if split is data.validation or epoch == 2:
                loss = optax.softmax_cross_entropy_with_integer_labels(logits, split.y).mean()
                assert a == pytest.approx(float(loss), rel=1e-4)
                assert b == int((logits.argmax(-1) == split.y).sum()) / len(split.y)
    assert record["steps"] == [4, 8, 12]


def test_a_lane_does_not_depend_on_the_lanes_beside_it_not_even_on_a_diverged_one():
    data = make_data()
    alone = train_arm(CONFIG, Arm("none", "relu"), data, [(0.05, 2)], test=False)[0]
    beside = train_arm(CONFIG, Arm("none", "relu"), data, [(1e9, 1), (0.05, 2), (0.2, 2)], test=False)
    assert beside[0]["diverged"] and not math.isfinite(beside[0]["train_loss"][-1])
    assert not beside[1]["diverged"]
    np.testing.assert_allclose(beside[1]["train_loss"], alone["train_loss"], rtol=1e-5)
    np.testing.assert_allclose(beside[1]["val_loss"], alone["val_loss"], rtol=1e-5)


@pytest.mark.parametrize("size", [1, 4, 23, 64])
def test_evaluation_is_exact_whatever_the_batches(size):
    data = make_data()
    state = init(CONFIG, BEFORE, 3, (5,), jnp.int32(0))
    found = evaluate(CONFIG, BEFORE, 3, state, batches(data.test, size))
    whole = Batches(data.test.x[None], data.test.y[None], jnp.ones((1, 23), bool))
    expected = evaluate(CONFIG, BEFORE, 3, state, whole)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    assert int(found.correct) == int(expected.correct)


def test_a_diverged_network_has_no_finite_loss_but_its_accuracy_is_counted():
    data = make_data()
    state = init(CONFIG, BEFORE, 3, (5,), jnp.int32(0))
    state = state._replace(params=jax.tree.map(lambda a: a * jnp.nan, state.params))
    found = evaluate(CONFIG, BEFORE, 3, state, batches(data.test, 8))
    assert math.isnan(found.loss)
    assert int(found.correct) == int((data.test.y == 0).sum())  # the argmax of NaN is class 0


def test_weight_decay_acts_on_kernels_and_on_scale_and_bias_of_norms_only_if_so_decided():
    params = init(CONFIG, Arm("both", "relu"), 3, (5,), jnp.int32(0)).params
    for decay_scale_bias in (False, True):
        mask = decay_mask(params, norms=decay_scale_bias)
        norm = {"scale": decay_scale_bias, "bias": decay_scale_bias}
        block = {"layer": {"kernel": True, "bias": False}, "norm": norm, "norm_1": norm}
        assert mask == {"block_0": block, "block_1": block, "head": {"kernel": True, "bias": False}}


def test_sgd_is_torchs_with_decay_in_the_gradient_and_a_cosine_that_ends_at_zero():
    config = OptimizerConfig(name="sgd", momentum=0.9, weight_decay=0.1, schedule="cosine")
    p, v, rng = 2.0, 0.0, np.random.default_rng(0)
    params = {"head": {"kernel": jnp.array(p)}}
    tx = optimizer(config, jnp.float32(0.5), 4)
    state = tx.init(params)
    for step in range(4):
        g = float(rng.normal())
        rate = 0.5 * (1 + math.cos(math.pi * step / 4)) / 2
        v = 0.9 * v + (g + 0.1 * p)
        p = p - rate * v
        updates, state = tx.update({"head": {"kernel": jnp.array(g, jnp.float32)}}, state, params)
        params = optax.apply_updates(params, updates)
        assert float(params["head"]["kernel"]) == pytest.approx(p, rel=1e-5)
    updates, _ = tx.update({"head": {"kernel": jnp.array(1.0)}}, state, params)
    assert float(updates["head"]["kernel"]) == 0.0


def test_adamw_decays_apart_from_the_gradient():
    config = OptimizerConfig(name="adamw", weight_decay=0.1, schedule="constant")
    params = {"head": {"kernel": jnp.array(2.0), "bias": jnp.array(2.0)}}
    tx = optimizer(config, jnp.float32(0.5), 4)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert float(updates["head"]["kernel"]) == pytest.approx(-0.5 * 0.1 * 2.0)
    assert float(updates["head"]["bias"]) == 0.0


def test_the_probe_measures_the_distance_of_the_running_statistics_from_the_true_ones():
    data = make_data()
    state = init(CONFIG, BEFORE, 3, (5,), jnp.int32(0))
    w = state.params["block_0"]["layer"]
    h = np.asarray(data.train.x, np.float64) @ np.asarray(w["kernel"], np.float64) + np.asarray(w["bias"])
    found = probe(CONFIG, BEFORE, 3, state, data.train.x)
    np.testing.assert_allclose(found.mean_gap[0], (np.abs(h.mean(0)) / np.sqrt(h.var(0) + 1e-5)).mean(), rtol=1e-4)
    np.testing.assert_allclose(found.var_ratio[0], np.median((1 + 1e-5) / (h.var(0) + 1e-5)), rtol=1e-4)
    y = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
    np.testing.assert_allclose(found.activation_inputs[0], y, rtol=1e-3, atol=1e-4)

    stats = {
        "block_0": {"norm": {"mean": jnp.asarray(h.mean(0)), "var": jnp.asarray(h.var(0))}},
        "block_1": state.batch_stats["block_1"],
    }
    stats = jax.tree.map(lambda a: a.astype(jnp.float32), stats)
    known = probe(CONFIG, BEFORE, 3, State(state.params, stats, ()), data.train.x)
    np.testing.assert_allclose(known.mean_gap[0], 0, atol=1e-5)
    np.testing.assert_allclose(known.var_ratio[0], 1, rtol=1e-4)
    assert float(known.scale[0]) == 1.0
