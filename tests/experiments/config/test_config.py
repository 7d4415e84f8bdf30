"""A bad config is refused in one line that says what to do; a good one survives the round trip through JSON."""

import dataclasses
import json

import pytest
from helpers import ROOT

from experiments.config import (
    AnalysisConfig,
    Arm,
    Config,
    ConfigError,
    Contrast,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Published,
    SweepConfig,
    TrainingConfig,
    from_json,
    load,
    to_json,
    vary,
)

CONFIGS = sorted(ROOT.glob("configs/*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_committed_config_loads_states_its_question_and_survives_json(path):
    config = load(path)
    assert config.name == path.stem
    assert config.question.endswith((".", "?", ")"))
    assert from_json(to_json(config)) == config


def test_the_digits_config_is_the_declared_ablation():
    config = load(CONFIGS[0].parent / "digits_placement.py")
    assert config.arms == tuple(Arm(p, a) for a in ("relu", "tanh", "sigmoid") for p in ("none", "before", "after"))
    assert config.model.hidden == (100, 100, 100)
    assert config.training.batch_size == 60
    assert len(config.sweep.learning_rates) >= 7
    assert config.sweep.seeds >= 12
    ratios = [b / a for a, b in zip(config.sweep.learning_rates, config.sweep.learning_rates[1:], strict=False)]
    assert ratios == [2.0] * len(ratios)


def test_every_seed_is_one_of_the_arms_own_and_the_grid_grows_by_the_same_factor():
    config = Config(name="x", sweep=SweepConfig(first_seed=7, seeds=5))
    assert config.seeds(config.arms[0]) == tuple(range(7, 12))
    sweep = SweepConfig(lowest_learning_rate=0.1, learning_rate_factor=3.0, learning_rate_points=4)
    assert sweep.extended(1, 2) == pytest.approx([0.1 * 3.0**k for k in range(-1, 6)])
    assert sweep.extended(2, 2)[2:-2] == sweep.learning_rates, "a rate has the same bits however far the grid grows"


def test_epochs_become_steps_without_the_incomplete_batch_and_a_batch_larger_than_the_data_is_refused():
    config = Config(name="x", training=TrainingConfig(batch_size=60))
    setup = config.setup(config.arms[0])
    assert setup.steps_per_epoch(1078) == 17
    assert setup.steps_per_epoch(60) == 1
    with pytest.raises(ConfigError, match=r"batch_size is 60, but digits has only 59 .* at most 59"):
        setup.steps_per_epoch(59)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: SweepConfig(learning_rate_points=1), r"points is 1: a grid of one point .* use 7 or more"),
        (lambda: SweepConfig(seeds=1), r"seeds is 1: a spread needs at least 2 seeds; use 12"),
        (lambda: SweepConfig(looks=(6, 10)), r"looks is \(6, 10\); use growing .* end with sweep.seeds \(12\)"),
        (lambda: SweepConfig(looks=(12, 6, 12)), r"use growing numbers of seeds"),
        (lambda: SweepConfig(looks=(1, 12)), r"from 2 up"),
        (lambda: SweepConfig(learning_rate_extension=-1), r"extension is -1; use 0"),
        (lambda: SweepConfig(lowest_learning_rate=2e-30), r"3 more at either end goes from 1e-31"),
        (lambda: Published("relu: after - before", 1.0, "Doe", n=1, sd=0.3), r"^Doe has sd 0.3 of n = 1 trainings"),
        (lambda: Published("relu: after - before", 1.0, "Doe", n=0), r"published n is 0 \(Doe\)"),
        (lambda: Contrast("x", 3), r"Contrast"),
        (
            lambda: AnalysisConfig(contrasts=(("after", "before"),)),
            r"is \('after', 'before'\); .*; pairs of .* to analysis.pairs",
        ),
        (lambda: SweepConfig(learning_rate_factor=1.0), r"factor is 1.0; use a value above 1"),
        (lambda: SweepConfig(lowest_learning_rate=0.0), r"lowest_learning_rate is 0.0; use a positive"),
        (lambda: TrainingConfig(epochs=0), r"epochs is 0; use at least 1"),
        (lambda: TrainingConfig(batch_size=1), r"batch_size is 1; batch norm needs at least 2"),
        (lambda: ModelConfig(hidden=()), r"hidden is \(\); use at least one positive width"),
        (lambda: ModelConfig(momentum=1.0), r"momentum is 1.0; use a value in \[0, 1\)"),
        (lambda: OptimizerConfig(weight_decay=-1e-4), r"weight_decay is -0.0001; use 0 or more"),
        (lambda: DataConfig(test_fraction=0.9, validation_fraction=0.1), r"is 1, which leaves nothing to train on"),
        (lambda: DataConfig(test_fraction=1.5), r"test_fraction is 1.5; use a share between 0 and 1"),
        (lambda: AnalysisConfig(margin_pp=0.0), r"margin_pp is 0.0; use a positive margin"),
        (lambda: AnalysisConfig(alpha=0.0), r"alpha is 0.0; use a level such as 0.05"),
        (lambda: Config(name="a/b"), r"name is 'a/b'; use letters"),
        (lambda: SweepConfig(weight_decays=(5e-4, 0.0)), r"weight_decays is .*; use growing values from 0 up"),
        (lambda: SweepConfig(weight_decays=(-1.0, 0.0)), r"weight_decays is .*; use growing values from 0 up"),
        (lambda: SweepConfig(decay_scale_bias=(True, True)), r"one appears twice; use \(False, True\)"),
        (
            lambda: OptimizerConfig(name="adam", nesterov=True),
            r"nesterov is on, but optimizer.name is 'adam'; use sgd",
        ),
        (lambda: OptimizerConfig(milestones=(0.75, 0.5)), r"milestones is .*; use growing shares"),
        (
            lambda: ModelConfig(unit="original"),
            r"model.unit is 'original', but mlp has none; leave it out, or set model.network to",
        ),
        (lambda: ModelConfig(network="cnn9", hidden=(7,)), r"model.hidden is \(7,\), but cnn9 has none"),
        (lambda: ModelConfig(padding="valid"), r"padding is 'valid', but an mlp has no convolutions"),
        (lambda: ModelConfig(norm="layer_norm", virtual_batch_size=4), r"but layer_norm has no batches"),
        (lambda: ModelConfig(renorm_ramp=(9, 5)), r"renorm_ramp is \(9, 5\); use \(first step, last step\)"),
        (lambda: DataConfig(name="cifar"), r"data.name is 'cifar'; .*did you mean 'cifar10'"),
        (lambda: Config(name="x", placements=()), r"are all empty; use at least one treatment"),
        (lambda: Config(name="x", activations=()), r"activations is empty; use at least one"),
        (lambda: Config(name="x", activations=("relu", "relu")), r"one appears twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_out_of_range_is_refused_with_the_remedy(build, words):
    with pytest.raises(ConfigError, match=words) as refused:
        build()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("CONFIG = Config(name='x', activations=('rellu',))", "'rellu'.*did you mean 'relu'?"),
        ("CONFIG = Config(name='x', placements=('befor',))", "'befor'.*did you mean 'before'?"),
        ("CONFIG = Config(nme='x')", "no field 'nme'; did you mean 'name'?"),
        ("CONFIG = Config(name='x', training=TrainingConfig(epoch=3))", "no field 'epoch'; did you mean 'epochs'?"),
        ("CONFIG = Config(name='x', training=TrainingConfig(epochs='20'))", "epochs is '20'; .*valid integer"),
        ("CONFIG = Config(name='x', training=3)", "training is 3; .* TrainingConfig"),
        ("CONFIG = Config()", "needs the field 'name'"),
        ("CONFIG = Config(name='x', training=TrainingConfig(epochs=0))", "epochs is 0; use at least 1"),
        ("x = 1", "defines no CONFIG; write CONFIG = Config"),
        ("CONFIG = Confg(name='x')", "NameError: name 'Confg' is not defined"),
        ("CONFIG = Config(", r"SyntaxError: .*\(mine.py, line 2\)$"),
        ("CONFIG = 3", "has CONFIG = 3, which is no Config; write CONFIG = Config"),
        ("CONFIG = Config(name='x', activations=('relu'))", r"activations is 'relu'; .* comma, as in activations=\("),
    ],
)
def test_a_wrong_config_file_is_refused_in_one_line_that_names_the_file(tmp_path, source, words):
    path = tmp_path / "mine.py"
    path.write_text("from experiments.config import Config, TrainingConfig\n" + source)
    with pytest.raises(ConfigError, match=words) as refused:
        load(path)
    assert "mine.py" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_config_that_is_not_there_is_refused_with_the_nearest_that_is():
    with pytest.raises(ConfigError, match=r"did you mean .*digits_placement\.py"):
        load(CONFIGS[0].parent / "digit_placement.py")
    with pytest.raises(ConfigError, match=r"no config at .*zzz.*; give the path of a config"):
        load(CONFIGS[0].parent / "zzz.py")


def test_unknown_fields_in_json_are_refused_with_the_nearest_name():
    values = to_json(Config(name="x"))
    values["training"]["epoch"] = values["training"].pop("epochs")
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        from_json(values)


# Treatments and contexts.

FINAL = vary("before + final norm", {"model.placement": "before", "model.final_norm": True})
WIDE, LONG = (
    vary("width 2", {"model.width": 2.0}),
    vary("long", {"training.epochs": 50, "optimizer.milestones": (0.6, 0.9)}),
)


def test_pairs_are_those_whose_treatments_are_trained():
    config = Config(name="x", placements=("none", "after"))
    assert config.pairs == (("after", "none"),)
    assert dataclasses.replace(config, placements=("both",)).pairs == ()
    named = AnalysisConfig(pairs=((FINAL.name, "before"), ("after", "before")))
    assert Config(name="x", placements=("before",), treatments=(FINAL,), analysis=named).pairs == (
        (FINAL.name, "before"),
    )


def test_a_treatment_that_nothing_compares_is_compared_with_the_first():
    config = Config(name="x", placements=("before", "after"), treatments=(FINAL, vary("wide", {"model.width": 2.0})))
    assert config.pairs == (("after", "before"), (FINAL.name, "before"), ("wide", "before"))
    declared = Contrast("wide - final", {"wide/relu": 1, f"{FINAL.name}/relu": -1})
    asked = dataclasses.replace(config, analysis=AnalysisConfig(contrasts=(declared,)))
    assert asked.pairs == (("after", "before"),)
    own = dataclasses.replace(config, placements=(), treatments=(vary("a", {}), vary("b", {"model.width": 2.0})))
    assert own.pairs == (("b", "a"),)


def test_the_contrasts_of_a_config_are_declared_ones_then_differences_then_interactions():
    crossed = {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1}
    config = Config(
        name="x",
        placements=("before", "after"),
        activations=("relu", "tanh", "elu"),
        analysis=AnalysisConfig(contrasts=(Contrast("crossed", crossed),)),
    )
    found = config.contrasts
    assert [q.name for q in found[:4]] == ["crossed", *(f"{c}: after - before" for c in ("relu", "tanh", "elu"))]
    assert [q.primary for q in found] == [True] * 4 + [False] * 2
    again = dataclasses.replace(
        config,
        placements=(),
        treatments=(vary("a", {}), vary("b", {}, 100)),
        analysis=AnalysisConfig(pairs=(("a", "b"),)),
    )
    assert [q.same_arm for q in again.contrasts] == [True] * 3, "equal settings, disjoint seeds"
    declared = Contrast("twice", {"a/relu": 1, "b/relu": -1})
    alone = dataclasses.replace(again, analysis=AnalysisConfig(contrasts=(declared,)))
    assert [q.same_arm for q in alone.contrasts] == [True], "also where no pair asks for it"
    with pytest.raises(ConfigError, match=r"no arm of the run.*did you mean 'after/relu'"):
        dataclasses.replace(
            config, analysis=AnalysisConfig(contrasts=(Contrast("x", {"aftr/relu": 1, "before/relu": -1}),))
        )


def test_arms_are_all_treatments_in_all_contexts_with_those_of_one_context_side_by_side():
    config = Config(
        name="x", placements=("before",), treatments=(FINAL,), activations=("relu", "tanh"), contexts=(WIDE, LONG)
    )
    assert [str(arm) for arm in config.arms] == [
        f"{treatment}/{context}"
        for context in ("relu, width 2", "relu, long", "tanh, width 2", "tanh, long")
        for treatment in ("before", "before + final norm")
    ]
    alone = dataclasses.replace(config, activations=("elu",))
    assert {arm.context for arm in alone.arms} == {"width 2", "long"}  # with one activation, its name is left out
    assert {alone.setup(arm).model.activation for arm in alone.arms} == {"elu"}


def test_an_arm_is_the_common_config_but_for_what_its_treatment_and_its_context_set():
    config = Config(name="x", placements=("none",), treatments=(FINAL,), activations=("tanh",), contexts=(WIDE, LONG))
    setup = config.setup(Arm(FINAL.name, "long"))
    model = dataclasses.replace(config.model, placement="before", final_norm=True, activation="tanh")
    assert (setup.model, setup.data, setup.probes) == (model, config.data, config.probes)
    assert setup.training == dataclasses.replace(config.training, epochs=50)
    assert setup.optimizer == dataclasses.replace(config.optimizer, milestones=(0.6, 0.9))
    assert config.setup(Arm("none", "width 2")).model.width == 2.0


def test_differences_are_every_field_in_which_arms_differ_and_no_other():
    config = Config(name="x", placements=("before",), treatments=(FINAL,), activations=("relu",), contexts=(WIDE, LONG))
    found = config.differences()
    assert found.keys() == {"model.final_norm", "model.width", "training.epochs", "optimizer.milestones"}
    assert {arm for arm, value in found["model.final_norm"].items() if value} == {
        arm for arm in config.arms if arm.treatment == FINAL.name
    }
    assert {arm.context: value for arm, value in found["training.epochs"].items()} == {"width 2": 20, "long": 50}
    assert Config(name="x", placements=("before",), activations=("relu",)).differences() == {}


def test_units_are_treatments_of_residual_networks():
    model = ModelConfig(network="resnet", depth=8)
    config = Config(name="x", placements=(), units=("original", "full_preactivation"), model=model)
    assert [config.setup(arm).model.unit for arm in config.arms[:2]] == ["original", "full_preactivation"]


def test_a_treatment_may_have_seeds_of_its_own():
    again = vary("again", {"model.placement": "before"}, first_seed=100)
    config = Config(name="x", treatments=(again,), sweep=SweepConfig(seeds=3))
    assert config.seeds(Arm("again", "relu")) == (100, 101, 102)
    assert config.seeds(Arm("before", "relu")) == (0, 1, 2)
    with pytest.raises(ConfigError, match=r"'again' 100 to 299, which overlap.*set first_seed to 300 or more"):
        dataclasses.replace(config, sweep=SweepConfig(seeds=200, learning_rate_points=2))
    assert config.setup(Arm("again", "relu")) == config.setup(Arm("before", "relu"))


def test_settings_of_every_kind_survive_json():
    config = Config(
        name="x",
        treatments=(
            FINAL,
            vary("again", {"model.placement": "before"}, first_seed=100),
            vary(
                "many",
                {"model.use_bias": None, "model.momentum": 0.5, "model.hidden": (3, 5), "model.renorm_ramp": (0, 7)},
            ),
        ),
        contexts=(LONG, vary("halves", {"optimizer.milestones": (0.25, 0.5)})),
        sweep=SweepConfig(weight_decays=(0.0, 1e-4), decay_scale_bias=(False, True)),
        analysis=AnalysisConfig(published=(Published("tanh, long: after - before", 7.4, "a paper", n=3, sd=0.4),)),
    )
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


RESNET = ModelConfig(network="resnet", depth=8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"treatments": (vary("before", {}),)}, r"treatments has the name 'before' twice; use each name once"),
        ({"contexts": (WIDE, WIDE)}, r"contexts has the name 'relu, width 2' twice"),
        (
            {"treatments": (vary("t", {"model.actvation": "elu"}),)},
            r"sets 'model.actvation', which .*did you mean 'model.act",
        ),
        ({"treatments": (vary("t", {"data.name": "mnist"}),)}, r"setting 't' sets 'data.name', which an arm cannot"),
        (
            {"treatments": (vary("t", {"model.width": -1.0}),)},
            r"^arm t/relu: model.width is -1.0; use a positive factor",
        ),
        ({"treatments": (vary("t", {"model.width": "wide"}),)}, r"^arm t/relu: ModelConfig.width is 'wide'"),
        ({"treatments": (vary("t", {"model.norm": "layernorm"}),)}, r"'layernorm'.*did you mean 'layer_norm'"),
        (
            {"treatments": (vary("t", {"model.width": 3.0}),), "contexts": (WIDE,)},
            r"'t' and context .* both set model.width",
        ),
        ({"treatments": (vary("t", {"model.activation": "elu"}),)}, r"treatment 't' and context 'relu' both set"),
        (
            {"model": ModelConfig(placement="after")},
            r"placement is 'after', but every arm .*; change placements inst",
        ),
        (
            {"model": ModelConfig(activation="elu")},
            r"activation is 'elu', but every arm .*; change activations inst",
        ),
        ({"model": RESNET}, r"sets a placement, but resnet has residual units instead; set placements=\(\) and"),
        ({"model": RESNET, "placements": (), "treatments": (WIDE,)}, r"names no residual unit; set units="),
        ({"placements": (), "units": ("original",)}, r"model.unit is 'original', but mlp has none"),
        ({"analysis": AnalysisConfig(pairs=(("afer", "none"),))}, r"names 'afer', .*did you mean 'after'"),
        (
            {"analysis": AnalysisConfig(published=(Published("tan: after - none", 1.0, "s"),))},
            r"'tan: after - none', .*did you mean 'tanh: after - none'",
        ),
        (
            {"analysis": AnalysisConfig(published=(Published("tanh: both - none", 1.0, "s"),))},
            r"published names the contrast 'tanh: both - none'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictions_are_refused_in_one_line_that_says_what_to_write(changes, words):
    with pytest.raises(ConfigError, match=words) as refused:
        Config(name="x", **changes)
    assert "\n" not in str(refused.value)


def test_a_common_value_that_some_arm_keeps_is_no_contradiction():
    config = Config(name="x", placements=(), treatments=(WIDE, vary("plain", {})), model=ModelConfig(placement="after"))
    assert {config.setup(arm).model.placement for arm in config.arms} == {"after"}


def test_seeds_of_its_own_are_a_treatments_not_a_contexts():
    with pytest.raises(ConfigError, match="context 'again' has first_seed 7, but seeds belong to treatments"):
        Config(name="x", contexts=(vary("again", {}, first_seed=7), vary("once", {})))
