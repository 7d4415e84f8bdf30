"""A config is refused in one line that says what to write; a good one survives the way through JSON."""

import dataclasses
from pathlib import Path

import pytest

from experiments.config import (
    AnalysisConfig,
    Arm,
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    SweepConfig,
    TrainingConfig,
    from_json,
    load,
    to_json,
)

CONFIGS = sorted(Path(__file__).parent.parent.glob("configs/*.py"))


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
    assert len(config.sweep.evaluation) >= 10
    ratios = [b / a for a, b in zip(config.sweep.learning_rates, config.sweep.learning_rates[1:], strict=False)]
    assert ratios == [2.0] * len(ratios)


def test_tuning_and_evaluation_seeds_never_overlap_and_every_seed_is_used_once():
    sweep = SweepConfig(first_seed=7, tuning_seeds=3, evaluation_seeds=5)
    assert sweep.tuning + sweep.evaluation == tuple(range(7, 15))


def test_epochs_become_steps_without_the_incomplete_batch_and_a_batch_larger_than_the_data_is_refused():
    config = Config(name="x", training=TrainingConfig(batch_size=60))
    assert config.steps_per_epoch(1078) == 17
    assert config.steps_per_epoch(60) == 1
    with pytest.raises(ConfigError, match=r"batch_size is 60, but digits has only 59 .* at most 59"):
        config.steps_per_epoch(59)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: SweepConfig(learning_rate_points=1), r"points is 1: a grid of one point .* write 7 or more"),
        (lambda: SweepConfig(evaluation_seeds=1), r"evaluation_seeds is 1: a spread needs at least 2 seeds; write 10"),
        (lambda: SweepConfig(learning_rate_factor=1.0), r"factor is 1.0; write a value above 1"),
        (lambda: SweepConfig(lowest_learning_rate=0.0), r"lowest_learning_rate is 0.0; write a positive"),
        (lambda: TrainingConfig(epochs=0), r"epochs is 0; write at least 1"),
        (lambda: TrainingConfig(batch_size=1), r"batch_size is 1; batch norm needs at least 2"),
        (lambda: ModelConfig(hidden=()), r"hidden is \(\); write at least one positive width"),
        (lambda: ModelConfig(momentum=1.0), r"momentum is 1.0; write a value in \[0, 1\)"),
        (lambda: OptimizerConfig(weight_decay=-1e-4), r"weight_decay is -0.0001; write 0 or more"),
        (lambda: DataConfig(test_fraction=0.9, validation_fraction=0.1), r"is 1, which leaves nothing to train on"),
        (lambda: DataConfig(test_fraction=1.5), r"test_fraction is 1.5; write a share between 0 and 1"),
        (lambda: AnalysisConfig(margin_pp=0.0), r"margin_pp is 0.0; write a positive margin"),
        (lambda: AnalysisConfig(alpha=0.0), r"alpha is 0.0; write a level such as 0.05"),
        (lambda: Config(name="a/b"), r"name is 'a/b'; write letters"),
        (lambda: Config(name="x", placements=()), r"placements is empty; write at least one"),
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
        ("CONFIG = Config(name='x', training=TrainingConfig(epochs=0))", "epochs is 0; write at least 1"),
        ("x = 1", "defines no CONFIG; write CONFIG = Config"),
        ("CONFIG = Confg(name='x')", "NameError: name 'Confg' is not defined"),
        ("CONFIG = Config(", "SyntaxError"),
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
    with pytest.raises(ConfigError, match=r"no config at .*zzz.*; write the path of a config"):
        load(CONFIGS[0].parent / "zzz.py")


def test_unknown_fields_in_json_are_refused_with_the_nearest_name():
    values = to_json(Config(name="x"))
    values["training"]["epoch"] = values["training"].pop("epochs")
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        from_json(values)


def test_contrasts_are_those_whose_placements_are_trained():
    config = Config(name="x", placements=("none", "after"))
    assert config.contrasts == (("after", "none"),)
    assert dataclasses.replace(config, placements=("both",)).contrasts == ()
