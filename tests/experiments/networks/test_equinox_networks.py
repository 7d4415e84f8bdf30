"""An Equinox module in the laboratory: it trains as the same network in linen, and what it cannot give is refused."""

import math
from functools import partial

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from followed import CLASSES, DATA, config_of, followed, initial_params, setup_of, transposed
from small_arms import SCAN, lane, one_split

from experiments.config import ConfigError, OptimizerConfig
from experiments.networks import multiply_adds, parameter_count
from experiments.networks.build import build
from experiments.training.fingerprint import describe
from experiments.training.loop import train_arm
from experiments.training.observe import layer_names, observe
from experiments.training.optimizers import Tuned
from experiments.training.step import init, train_step

ADAM = OptimizerConfig(name="adamw")
NAMED, CONVERTED = "own_equinox:OneExample", "own_equinox:ConvertedExample"


@pytest.mark.parametrize(
    ("optimizer", "fields"),
    [
        (OptimizerConfig(), {}),
        (OptimizerConfig(), {"placement": "both", "norm": "batch_renorm", "renorm_ramp": (0, 4), "momentum": 0.5}),
        (OptimizerConfig(trains="norm"), {"placement": "after", "virtual_batch_size": 5}),
        (OptimizerConfig(norm_bias_rate=4.0), {"placement": "pre_linear", "norm": "group_norm", "groups": 1}),
        (ADAM, {"norm": "layer_norm", "epsilon": 1e-3}),
        (ADAM, {"placement": "none"}),
    ],
    ids=["sgd", "renorm", "only norms", "groups", "layers", "none"],
)  # fmt: skip
def test_a_network_trains_as_in_linen(optimizer, fields):
    expected, found = (followed(name, optimizer, **fields) for name in ("Linen", NAMED))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float(np.abs(expected[0][0] - expected[0][-1])) > 1e-3, "it has trained"


def test_a_converted_network_trains_as_in_linen_and_debiases_as_equinox_does():
    fields = {"momentum": 0.5, "virtual_batch_size": 5}
    (losses, state, population, tests), found = (
        followed(name, OptimizerConfig(), **fields) for name in ("Linen", CONVERTED)
    )
    chex.assert_trees_all_close(found[0], losses, rtol=1e-5)
    chex.assert_trees_all_close(found[1].params, state.params, rtol=1e-5, atol=1e-5)
    for block, stats in found[1].batch_stats.items():
        (norm,), (expected,) = stats.values(), state.batch_stats[block].values()
        weight = norm["weight"]
        np.testing.assert_allclose(weight, 1 - 0.5**6, rtol=1e-6)
        np.testing.assert_allclose(weight * norm["mean"], expected["mean"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(weight * norm["var"] + 1 - weight, expected["var"], rtol=1e-5)
        for field in ("mean", "var"):
            here, there = found[2][block]["norm"][field], population[block]["norm"][field]
            np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(found[3][1:], tests[1:], rtol=1e-5)


@pytest.mark.parametrize("network", [NAMED, CONVERTED])
@pytest.mark.parametrize(
    "fields", [{"norm": "frozen_batch_norm"}, {"norm_trainable": False}], ids=["frozen", "untrained"]
)
def test_scale_and_bias_of_a_norm_that_is_not_trained_are_constants(network, fields):
    config = config_of(network, **fields)
    setup = config.setup(config.arms[0])
    state = init(setup, CLASSES, jnp.int32(0), DATA.train.x)
    assert set(state.constants["block_0"]["norm"]) == {"scale", "bias"} and set(state.params["block_0"]) == {"layer"}
    step = jax.jit(partial(train_step, setup, CLASSES, 1))
    after, _ = step(state, Tuned(0.1, 0.5, True), jnp.arange(10), DATA.train)
    chex.assert_trees_all_equal(after.constants, state.constants)
    moved = jnp.any(after.batch_stats["block_0"]["norm"]["mean"] != state.batch_stats["block_0"]["norm"]["mean"])
    assert bool(moved) is (fields.get("norm") is None)


def test_what_is_observed_and_counted_is_that_of_linen():
    described = []
    for name, turned in (("Linen", lambda tree: tree), (NAMED, transposed)):
        setup = setup_of(name, OptimizerConfig(), placement="after")
        params = turned(initial_params(placement="after"))
        state = init(setup, CLASSES, jnp.int32(0), DATA.train.x)._replace(params=params)
        seen = jax.jit(partial(observe, setup, CLASSES))(state, DATA.train)
        network = build(setup.model, CLASSES, train=True)
        counts = parameter_count(network, (5,)), multiply_adds(network, (5,))
        described.append((seen, layer_names(setup, CLASSES, state, DATA.train), counts))
    chex.assert_trees_all_close(described[1][0], described[0][0], rtol=1e-5, atol=1e-6)
    assert described[1][1:] == described[0][1:]


def test_a_record_is_that_of_linen_and_lanes_differ():
    source = one_split(DATA)
    config = config_of(NAMED)
    setup = config.setup(config.arms[0])
    first, second = train_arm(setup, source, [lane(0.1, 0), lane(0.1, 1)], SCAN, width=2, probe=True)
    assert first["probes"]["layers"] == ["block_0", "block_1"]
    assert first["probes"]["norms"] == ["block_0/norm", "block_1/norm"]
    assert first["train_loss"] != second["train_loss"] and None not in (
        first["test_loss"],
        first["test_loss_population"],
        first["test_loss_batch"],
    )


class Other(eqx.Module):
    """A network of one layer and of whatever else it is given, which `use` applies."""

    head: eqx.Module
    part: object
    use: object

    def __call__(self, x, state):
        return self.use(self.part, self.head(x), state)


def other(part, use=lambda part, x, state: part(x, state)):
    return lambda classes, input_shape, key: Other(eqx.nn.Linear(math.prod(input_shape), classes, key=key), part, use)


def norm(mode="batch", **options):
    return eqx.nn.BatchNorm(3, "batch", mode=mode, **options)


def test_arrays_that_are_no_parameters_and_modules_without_state_are_taken(monkeypatch):
    def net(classes, input_shape, key):
        return eqx.nn.Sequential([eqx.nn.Linear(5, classes, key=key), eqx.nn.Lambda(jax.nn.relu)])

    def with_positions(classes, input_shape, key):
        return other(jnp.arange(3), lambda part, x, state: (x + part, state))(classes, input_shape, key)

    for function, constants in ((net, 0), (with_positions, 1)):
        monkeypatch.setitem(globals(), "net", function)
        config = config_of(f"{__name__}:net")
        assert describe(config, one_split(DATA))["before/relu"]["parameters"] == 18
        state = init(config.setup(config.arms[0]), CLASSES, jnp.int32(0), DATA.train.x)
        assert (len(jax.tree.leaves(state.constants)), state.batch_stats) == (constants, {})


def test_a_function_may_return_its_state_too(monkeypatch):
    monkeypatch.setitem(globals(), "net", lambda classes, input_shape, key: eqx.nn.make_with_state(
        other(norm()))(classes, input_shape, key))  # fmt: skip
    config = config_of(f"{__name__}:net", momentum=0.5)
    state = init(config.setup(config.arms[0]), CLASSES, jnp.int32(0), DATA.train.x)
    assert set(state.batch_stats["part"]) == {"mean", "var", "weight"}


@pytest.mark.parametrize(
    ("net", "fields", "words"),
    [
        (other(norm()), {"placement": "after"}, r"model\.placement is 'after', but .*:net takes no placement, so"),
        (other(norm()), {"norm": "none"}, r"model\.norm is 'none', but .* can become only batch_norm, batch_renorm"),
        (other(norm("ema")), {}, r"BatchNorm at part of mode 'ema', which trains by moving averages"),
        (other(norm(), lambda part, x, state: part(x, state, inference=False)), {}, r"its running statistics in eva"),
        (other(norm(), lambda part, x, state: part(x, state, inference=True)), {}, r"does not update .* in train"),
        (other(eqx.nn.Dropout(), lambda part, x, state: (part(x), state)), {}, r"RuntimeError: Dropout requires a key"),
        (lambda classes, norm, key: 0, {"norm_bias": False}, r"norm_bias False, but norms of Equinox have both or"),
        (lambda classes, norm, key: 0, {"scale_init": "uniform"}, r"scale_init is 'uniform', but scales of Equinox"),
        (lambda classes, key: jax.nn.relu, {}, r"net takes key and returns a \w+; expected an Equinox module"),
        (lambda classes: eqx.nn.Identity(), {}, r"net returns a Identity; .*of one that takes key, an Equinox module"),
    ],
)  # fmt: skip
def test_what_a_network_cannot_give_is_refused_in_one_line(net, fields, words, monkeypatch):
    monkeypatch.setitem(globals(), "net", net)
    config = config_of(f"{__name__}:net", **fields)
    with pytest.raises(ConfigError, match="arm .*/relu on digits: " + ".*" + words) as refused:
        describe(config, one_split(DATA))
    assert "\n" not in str(refused.value)
