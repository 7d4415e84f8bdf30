"""experiments.report.settings: every difference of the arms, and every setting that has an effect."""

from dataclasses import replace
from typing import get_args

import synthetic

from experiments.config import (
    Arm,
    Contrast,
    DataConfig,
    ModelConfig,
    ProbesConfig,
    Published,
    to_json,
    vary,
)
from experiments.report import settings
from experiments.vocabulary import UNITS
from jbn.placement import ORDER, Placement

CONFIG = synthetic.CONFIG


def test_the_orders_are_those_of_the_library():
    every = replace(CONFIG, placements=get_args(Placement))
    for placement, _, order in settings.orders(every).rows:
        steps = order.split(" → ")
        assert tuple("layer" if step == "linear" else step for step in steps) == ORDER[placement]
        assert steps.count("linear") == steps.count("activation") == 1
        assert steps.count("norm") == synthetic.NORMS.get(placement, 1)
    model = ModelConfig(network="resnet", depth=8)
    units = replace(CONFIG, placements=(), units=tuple(UNITS), model=model)
    assert {unit: tuple(order.split(" → ")) for unit, _, order in settings.orders(units).rows} == dict(UNITS)


def test_only_orders_that_occur_are_listed():
    assert [row[0] for row in settings.orders(CONFIG).rows] == ["none", "before", "after"]
    model = ModelConfig(network="resnet", depth=8)
    units = replace(CONFIG, placements=(), units=("original", "full_preactivation"), model=model)
    assert settings.orders(units).rows == [
        ["original", "residual unit", "layer → norm → activation → layer → norm → add → activation"],
        ["full_preactivation", "residual unit", "norm → activation → layer → norm → activation → layer → add"],
    ]
    same = replace(CONFIG, placements=("before",), treatments=(vary("wide", {"model.width": 2.0}),))
    assert [row[0] for row in settings.orders(same).rows] == ["before"]


def test_the_differences_of_treatments_and_of_contexts_have_a_table_each():
    config = replace(
        CONFIG,
        placements=("before",),
        treatments=(
            vary("final", {"model.placement": "after", "model.final_norm": True}),
            vary("again", {"model.placement": "before"}, first_seed=100),
        ),
        contexts=(vary("short", {"training.epochs": 5}), vary("long", {"training.epochs": 50})),
    )
    found = settings.differences(config)
    assert found["treatment"].header == ["treatment", "model.placement", "model.final_norm", "seeds"]
    assert found["treatment"].rows == [
        ["before", "before", "no", "0 to 5"],
        ["final", "after", "yes", "0 to 5"],
        ["again", "before", "no", "100 to 105"],
    ]  # fmt: skip
    assert found["context"].header == ["context", "model.activation", "training.epochs"]
    assert found["context"].rows[:3] == [
        ["relu, short", "relu", "5"], ["relu, long", "relu", "50"], ["tanh, short", "tanh", "5"]
    ]  # fmt: skip
    alone = replace(CONFIG, placements=("before",), activations=("relu",))
    assert settings.differences(alone) == {}


def test_every_field_of_the_configs_differences_is_a_column_of_one_table():
    config = replace(CONFIG, treatments=(vary("x", {"model.width": 2.0, "optimizer.nesterov": True}),))
    shown = {column for table in settings.differences(config).values() for column in table.header[1:]}
    assert shown == set(config.differences())


def test_parameters_that_differ_within_a_context_are_noted_once_for_contexts_alike():
    counts = {str(arm): {"parameters": 100 if arm.treatment == "none" else 120} for arm in CONFIG.arms}
    assert settings.parameter_notes(CONFIG, counts) == [
        "relu, tanh and sigmoid: 100 parameters: none",
        "relu, tanh and sigmoid: 120 parameters: before and after",
    ]
    counts[str(Arm("after", "tanh"))]["parameters"] = 130
    assert [note.split(":")[0] for note in settings.parameter_notes(CONFIG, counts)] == [
        *["relu and sigmoid"] * 2,
        *["tanh"] * 3,
    ]
    assert settings.parameter_notes(CONFIG, {}) == []
    assert settings.parameter_notes(CONFIG, {str(arm): {"parameters": 7} for arm in CONFIG.arms}) == []


def shown(config):
    return dict(settings.setup(config).rows)


def test_the_setup_lists_what_can_have_an_effect_and_no_more():
    plain = shown(CONFIG)
    assert {"model.hidden", "model.norm", "optimizer.schedule", "data.test_fraction", "probes.examples"} <= set(plain)
    idle = {"model.init_std", "model.r_max", "model.groups", "model.unit", "optimizer.growth", "optimizer.milestones"}
    set_by_arms = {"model.placement", "model.activation"}
    assert not (idle | set_by_arms | {"units", "writers", "training.keep_checkpoints"}) & set(plain)
    cnn = shown(replace(CONFIG, model=ModelConfig(network="vgg16"), data=DataConfig(name="cifar10")))
    assert "model.pooling" in cnn and not {"model.hidden", "data.test_fraction"} & set(cnn)
    renorm = (vary("renorm", {"model.norm": "batch_renorm"}), vary("normal", {"model.init": "normal"}))
    assert {"model.r_max", "model.init_std"} <= set(shown(replace(CONFIG, treatments=renorm)))
    rates = tuple(vary(s, {"optimizer.schedule": s}) for s in ("constant", "step"))
    in_contexts = shown(replace(CONFIG, contexts=rates))
    assert "optimizer.schedule" not in in_contexts and "optimizer.milestones" in in_contexts
    tuned = shown(replace(CONFIG, sweep=replace(CONFIG.sweep, weight_decays=(0.0, 1e-4))))
    assert "optimizer.weight_decay" not in tuned and tuned["sweep.weight_decays"] == "0, 0.0001"
    assert "probes.examples" not in shown(replace(CONFIG, probes=ProbesConfig(seeds=0)))


def test_what_the_setup_leaves_out_or_lists_is_a_field_of_the_config():
    fields = {path for path, _ in settings._flat(to_json(CONFIG))}
    assert {path for path in settings.USED if not path.endswith("*")} <= fields


def test_numbers_of_the_setup_are_short_and_contrasts_are_read_as_they_are_written():
    entry = Published("relu: after - none", 98.70 - 99.35, "A", n=3)
    weights = {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1}
    analysis = replace(CONFIG.analysis, published=(entry,), contrasts=(Contrast("both", weights, margin_pp=0.5),))
    found = shown(replace(CONFIG, analysis=analysis))
    assert "difference=-0.65," in found["analysis.published"]
    assert found["analysis.contrasts"] == (
        "both (after/relu: 1, before/relu: -1, after/tanh: -1, before/tanh: 1, primary=yes, margin_pp=0.5)"
    )
