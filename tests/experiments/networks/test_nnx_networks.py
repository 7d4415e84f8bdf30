"""An nnx module in the laboratory: it trains as the same network in linen, and what it cannot give is refused."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import own_networks
import pytest
from flax import linen, nnx
from followed import CLASSES, DATA, config_of, followed, initial_params, model_of, setup_of
from small_arms import SCAN, TINY, lane, one_split

import jbn.nnx
from experiments import report, sweep
from experiments.config import ConfigError, ModelConfig, OptimizerConfig, vary
from experiments.networks import multiply_adds, parameter_count
from experiments.networks.build import build
from experiments.training.fingerprint import describe
from experiments.training.loop import train_arm
from experiments.training.observe import layer_names, observe
from experiments.training.optimizers import Tuned
from experiments.training.step import init, train_step

ADAM = OptimizerConfig(name="adamw")


@pytest.mark.parametrize(
    ("network", "optimizer", "fields"),
    [
        ("Named", OptimizerConfig(), {"placement": "before"}),
        ("Named", ADAM, {"placement": "both", "norm": "batch_renorm", "renorm_ramp": (0, 4), "momentum": 0.5}),
        ("Named", OptimizerConfig(trains="norm"), {"placement": "after", "virtual_batch_size": 5}),
        ("Named", OptimizerConfig(norm_bias_rate=4.0), {"placement": "pre_linear", "norm": "group_norm", "groups": 1}),
        ("Named", ADAM, {"placement": "none"}),
        ("Converted", OptimizerConfig(), {}),
        ("Converted", OptimizerConfig(norm_bias_rate=4.0), {"norm": "batch_renorm", "momentum": 0.5, "epsilon": 0.1}),
        ("Converted", ADAM, {"virtual_batch_size": 5, "norm_trainable": False}),
        ("Converted", ADAM, {"norm": "frozen_batch_norm"}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_a_network_trains_as_in_linen(network, optimizer, fields):
    expected, found = (followed(name, optimizer, **fields) for name in ("Linen", network))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float(np.abs(expected[0][0] - expected[0][-1])) > 1e-3, "it has trained"


def variables(network, seed=0, shape=(5,), **fields):
    model = build(model_of(network, **fields), CLASSES, train=True)
    return model.init(jax.random.key(seed), jnp.zeros((2, *shape)))


def layers(params):
    return {name: block.get("layer", block) for name, block in params.items()}


def test_initial_weights_are_those_of_the_seed_in_every_arm():
    rngs = nnx.Rngs(3)
    alone = own_networks.Named(CLASSES, jax.nn.relu, lambda features, rngs: lambda x: x, "none", (5,), rngs)
    expected = layers(nnx.to_pure_dict(nnx.state(alone, nnx.Param)))
    for fields in (
        {"placement": "none"},
        {"placement": "both", "scale_init": "uniform"},
        {"placement": "pre_linear", "norm": "layer_norm"},
        {"norm": "group_norm", "groups": 2},
        {"norm": "none"},
    ):
        params = variables("Named", 3, **fields)["params"]
        chex.assert_trees_all_equal(layers(params), expected)
    both = variables("Named", 3, placement="both", scale_init="uniform")["params"]["block_1"]
    assert not np.allclose(both["norm"]["scale"], both["norm_1"]["scale"])
    other = variables("Named", 4)["params"]["head"]["kernel"]
    assert (other != expected["head"]["kernel"]).all()


def test_what_is_observed_and_counted_is_that_of_linen():
    described = {}
    for name in ("Linen", "Named"):
        setup = setup_of(name, OptimizerConfig(), placement="after")
        params = initial_params(placement="after")
        state = init(setup, CLASSES, jnp.int32(0), DATA.train.x)._replace(params=params)
        seen = jax.jit(partial(observe, setup, CLASSES))(state, DATA.train)
        network = build(setup.model, CLASSES, train=True)
        counts = parameter_count(network, (5,)), multiply_adds(network, (5,))
        described[name] = seen, layer_names(setup, CLASSES, state, DATA.train), counts
    chex.assert_trees_all_close(described["Named"][0], described["Linen"][0], rtol=1e-5, atol=1e-6)
    assert described["Named"][1:] == described["Linen"][1:]
    assert described["Named"][1] == (["block_0", "block_1"], ["block_0/norm", "block_1/norm"])


def test_a_run_compares_networks_of_both_libraries_in_one_report(tmp_path):
    networks = {name: {"model.network": f"own_networks:{name}"} for name in ("Linen", "Converted")}
    networks["Converted"]["model.momentum"] = 0.5  # which `convert` gives to the layers
    treatments = tuple(vary(name, values) for name, values in networks.items())
    config = replace(
        TINY,
        placements=(),
        treatments=treatments,
        model=ModelConfig(),
        training=replace(TINY.training, epochs=1),
        sweep=replace(TINY.sweep, seeds=2, learning_rate_points=2),
        probes=replace(TINY.probes, seeds=1),
    )
    run = sweep.run(config, tmp_path / "run")
    report.write(run.folder)
    records = {r["treatment"]: r for r in run.records if r["phase"] == "probe"}
    assert records.keys() == {treatment.name for treatment in treatments}
    linen, converted = (records[name] for name in networks)
    assert converted.keys() == linen.keys() and converted["probes"].keys() == linen["probes"].keys()
    assert converted["probes"]["norms"] == linen["probes"]["norms"] == ["block_0/norm", "block_1/norm"]
    assert all(None not in (r["test_loss"], r["test_loss_population"], r["test_loss_batch"]) for r in records.values())
    assert [(arm["treatment"], arm["n"]) for arm in run.result["arms"]] == [(t.name, 2) for t in treatments]
    page = (tmp_path / "run" / "report.md").read_text()
    assert all(name in page for name in records)


class Other(nnx.Module):
    """A network of one layer and of whatever else `make` gives it, which `use` applies."""

    def __init__(self, features, classes, rngs, make, use):
        self.head, self.part, self.use = nnx.Linear(features, classes, rngs=rngs), make(rngs), use

    def __call__(self, x):
        return self.use(self.part, self.head(x))


def other(make, use=lambda part, x: part(x)):
    return lambda classes, input_shape, rngs: Other(input_shape[0], classes, rngs, make, use)


def counted(part, x):
    part[...] += 1
    return x


def unseeded(classes):
    return Other(5, classes, nnx.Rngs(0), lambda rngs: None, lambda part, x: x)


def flax_norm(rngs):
    return nnx.BatchNorm(3, rngs=rngs)


def test_variables_that_are_neither_parameters_nor_statistics_are_kept_as_they_are(monkeypatch):
    def make(rngs):
        return nnx.List([nnx.Variable(jnp.arange(3.0)), nnx.data(rngs.normal((3,))), nnx.Dropout(0.0, rngs=rngs)])

    monkeypatch.setitem(globals(), "net", other(make, lambda part, x: part[2](x) + part[0] + part[1]))
    config = config_of(f"{__name__}:net")
    assert describe(config, one_split(DATA))["before/relu"]["parameters"] == 18
    setup = config.setup(config.arms[0])
    state = init(setup, CLASSES, jnp.int32(0), DATA.train.x)
    assert {leaf.shape for leaf in jax.tree.leaves(state.constants)} == {(3,)} and not state.batch_stats
    after, _ = jax.jit(partial(train_step, setup, CLASSES, 1))(state, Tuned(0.1, 0, False), jnp.arange(10), DATA.train)
    chex.assert_trees_all_equal(after.constants, state.constants)


def test_an_array_that_is_an_attribute_by_itself_is_kept(monkeypatch):
    class Positions(nnx.Module):
        def __init__(self, rngs):
            self.drawn = rngs.normal((3,))

        def __call__(self, x):
            return x + self.drawn

    monkeypatch.setitem(globals(), "net", other(Positions))
    config = config_of(f"{__name__}:net")
    setup = config.setup(config.arms[0])
    start = jax.jit(lambda seed: init(setup, CLASSES, seed, DATA.train.x).constants)
    assert (start(0)["part"]["drawn"] != start(1)["part"]["drawn"]).all()
    (record,) = train_arm(setup, one_split(DATA), [lane(0.1, 0)], SCAN, width=1)
    assert record["diverged"] is None


@pytest.mark.parametrize(
    ("net", "fields", "words"),
    [
        (other(flax_norm), {"placement": "after"}, r"model\.placement is 'after', but .*:net takes no placement, so"),
        (other(flax_norm), {"norm_bias": False}, r"model\.norm_bias is False, but .* keep their scale and bias, .*"),
        (other(flax_norm), {"norm": "none"}, r"model\.norm is 'none', but .* can become only batch_norm, batch_renorm"),
        (other(lambda rngs: jbn.nnx.BatchNorm(3, rngs=rngs)), {}, r"has a batch norm of jbn at part, .*; make flax"),
        (other(lambda rngs: nnx.relu), {"momentum": 0.5}, r"model\.momentum is 0\.5, but .* has no flax\.nnx"),
        (lambda classes, norm, rngs: other(flax_norm)(classes, (5,), rngs), {}, r"takes norm, but has flax.* at part"),
        (other(lambda rngs: nnx.Dropout(0.5, rngs=rngs)), {}, r"draws random numbers at part/rngs/count, but"),
        (other(lambda rngs: nnx.Cache(jnp.zeros(())), counted), {}, r"changes part, a Cache, when it is called"),
        (other(flax_norm, lambda p, x: p(x, use_running_average=False)), {}, r"its running statistics in evaluation"),
        (other(flax_norm, lambda p, x: p(x, use_running_average=True)), {}, r"does not update .* in training; do not"),
        (unseeded, {}, r"net returns an nnx module, but takes no rngs, so no seed decides about .*; add rngs"),
        (lambda classes, rngs: linen.Dense(classes), {}, r"net takes rngs and returns a Dense; expected an nnx module"),
        (lambda classes: jax.nn.relu, {}, r"net returns a \w+; expected a linen module, or, of a function that takes"),
        (lambda classes, input_shape: None, {}, r"net needs input_shape, .*\(for an nnx module, also of rngs and inp"),
        (lambda classes: linen.Dense(classes), {"epsilon": 0.1}, r"model\.epsilon is 0\.1, but .* takes no norm, so"),
    ],
)  # fmt: skip
def test_what_a_network_cannot_give_is_refused_in_one_line(net, fields, words, monkeypatch):
    monkeypatch.setitem(globals(), "net", net)
    config = config_of(f"{__name__}:net", **fields)
    with pytest.raises(ConfigError, match="arm .*/relu on digits: " + ".*" + words) as refused:
        describe(config, one_split(DATA))
    assert "\n" not in str(refused.value)
