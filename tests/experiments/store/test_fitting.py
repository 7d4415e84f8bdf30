"""Records and results that do not belong to their config, or to one another, are refused, and it is said where."""

import json
from dataclasses import replace

import pytest
from folders import CONFIG, EXAMPLES, records, result, run_folder

from experiments.config import ConfigError, vary
from experiments.store import record
from experiments.store.fitting import fit_records, fit_result, fit_right


def only(text):
    return pytest.raises(ValueError, match=f"^{text}$")


def test_what_a_run_leaves_fits():
    made = records()
    probe = {**made[5], "phase": "probe"}
    fit_records(CONFIG, [*made, probe])
    fit_right(CONFIG, [*made, probe], EXAMPLES)
    fit_result(CONFIG, result())
    fit_result(CONFIG, result(seeds=3))  # it ended at an early look


@pytest.mark.parametrize("rate", [0.125, 1.0])
def test_the_grid_may_have_grown_as_far_as_the_config_allows(rate):
    made = [{**records()[0], "learning_rate": rate}]
    fit_records(CONFIG, made)
    narrow = replace(CONFIG, sweep=replace(CONFIG.sweep, learning_rate_extension=0))
    with only(rf"holds a training of none/relu with learning_rate {rate} \(line 1\), which the config has not"):
        fit_records(narrow, made)


@pytest.mark.parametrize(
    ("line", "change", "words"),
    [
        (2, {"treatment": "beside"}, r"holds an arm beside/relu \(line 3\), which the config has not"),
        (0, {"learning_rate": 0.3}, "holds a training of none/relu with learning_rate 0.3 .*"),
        (0, {"weight_decay": 0.25}, "holds a training of none/relu with weight_decay 0.25 .*"),
        (0, {"decay_scale_bias": True}, "holds a training of none/relu with decay_scale_bias True .*"),
        (20, {"seed": 4}, r"holds a training of after/relu with seed 4 \(line 21\), which the config has not"),
        (1, {"steps": [8, 17]}, r"holds trainings of none/relu that differ in their steps \(line 2\)"),
        (1, {"seed": 0}, "holds the training of line 2, of none/relu, twice"),
    ],
)
def test_a_record_that_the_config_does_not_ask_for_is_refused(line, change, words):
    made = records()
    made[line] = made[line] | change
    with only(words):
        fit_records(CONFIG, made)


def test_an_arm_with_seeds_of_its_own_is_held_to_them():
    twice = replace(
        CONFIG, placements=(), analysis=type(CONFIG.analysis)(),
        treatments=(vary("once", {"model.placement": "after"}), vary("again", {"model.placement": "after"}, 100)),
    )  # fmt: skip
    made = {**records()[0], "treatment": "again"}
    fit_records(twice, [made | {"seed": 100}])
    with only("holds a training of again/relu with seed 0 .*"):
        fit_records(twice, [made | {"seed": 0}])


@pytest.mark.parametrize("metric", ["test_accuracy", "test_accuracy_population"])
def test_bits_are_those_of_the_metric_and_of_the_test_accuracy_where_there_is_no_norm(metric):
    fit_right(replace(CONFIG, analysis=replace(CONFIG.analysis, metric=metric)), records(), EXAMPLES)


def test_bits_that_say_another_accuracy_are_refused():
    by_batch = replace(CONFIG, analysis=replace(CONFIG.analysis, metric="test_accuracy_batch"))
    with only(r"holds a training \(line \d+\) of accuracy 0.5 with \d+ of 21 bits of right set"):
        fit_right(by_batch, records(), EXAMPLES)


@pytest.mark.parametrize(
    ("text", "examples", "words"),
    [
        ("????", EXAMPLES, r"holds a training \(line 2\) whose right is no base64"),
        ("oA==", EXAMPLES, r"holds a training \(line 2\) whose right has 1 bytes, but the bits of 21 examples are 3"),
        (None, 400, r"holds a training \(line 1\) whose right has 3 bytes, but the bits of 400 examples are 50"),
        (None, 20, r"holds a training \(line \d+\) (whose right has bits after|of accuracy).*"),
    ],
)
def test_bits_of_other_examples_are_refused(text, examples, words):
    made = records()
    made[1]["right"] = text or made[1]["right"]
    with only(words):
        fit_right(CONFIG, made, examples)


def change(path, value):
    """A function that puts the value at the path, such as "arms.0.n", into a result."""

    def changed(found):
        *to, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        for part in to:
            found = found[part]
        found[last] = value(found[last]) if callable(value) else value

    return changed


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("look/seeds", 5, "is of 5 seeds, and the config has 4"),
        ("look/seeds", 3, "has not the 3 trainings of none/relu that its look has"),
        ("learning_rates", [], "has learning rates that are not those of the config"),
        ("learning_rates", [0.25, 0.3], "has learning rates that are not those of the config"),
        ("arms", lambda rows: rows[::-1], "has arms that are not those of the config"),
        ("arms/1/seeds", [1, 2, 3, 4], "has seeds of after/relu that are not those of the config"),
        ("arms/1/values", [90.0] * 3, "has not one value of after/relu for each of its 4 seeds"),
        ("arms/1/test_accuracy/values", [90.0] * 5, "has not one value of after/relu for each of its 4 seeds"),
        ("arms/1/settings/0/values", [90.0], "has not a value of after/relu for each seed of a setting"),
        ("arms/1/settings/0/seeds", 3, "has not a value of after/relu for each seed of a setting"),
        ("arms/1/settings/0/learning_rate", 1.0, "has a setting of after/relu that is none of the config"),
        ("arms/1/settings/0/weight_decay", 0.5, "has a setting of after/relu twice"),
        ("arms/1/learning_rate", 0.5, "has a choice of after/relu that is none of its settings"),
        ("arms/1/validation_curve/sd", [], "has a curve of after/relu of unequal lengths"),
        ("arms/1/end/0/eigenvalues", {"batch": [1.0]}, "has probes of after/relu that differ in their shapes"),
        ("contrasts", [], "has contrasts that are not those that the config asks"),
        ("contrasts/0/name", "x", "has contrasts that are not those that the config asks"),
        ("contrasts/0/weights", {"before/relu": 1.0}, "has a contrast .* of before/relu, which the config has not"),
        ("contrasts/0/at_end/0/arm", "x", "has a contrast 'relu: after - none' of x, which the config has not"),
        ("contrasts/0/values", [0.5], "has not a value of 'relu: after - none' for each of 4 seeds"),
        ("contrasts/0/intervals", [], "has no interval of 'relu: after - none'"),
        ("published/0/contrast", "x", "has a contrast 'x', which the config does not ask"),
        ("shares/0/contrast", "x", "has a contrast 'x', which the config does not ask"),
        ("race/0/treatment", "x", "has a race of x/relu, which the config has not"),
    ],
)
def test_a_result_that_does_not_belong_to_the_config_is_refused(path, value, words):
    found = result()
    change(path, value)(found)
    with only(words):
        fit_result(CONFIG, found)


def test_a_file_that_fits_badly_is_named_with_the_one_that_it_was_compared_with(tmp_path):
    folder = run_folder(tmp_path / "run")
    data = json.loads((folder / "data.json").read_text())
    record.write_json(folder / "data.json", data | {"test": 400})
    with pytest.raises(ConfigError, match=r"records.jsonl holds .* if .*/data.json was edited, delete it.* otherwise"):
        record.read(folder)
    record.write_json(folder / "data.json", data)
    record.write_json(folder / "result.json", result() | {"contrasts": []})
    with pytest.raises(ConfigError, match=r"result.json has contrasts .*; if .*/config.json was edited, restore it"):
        record.read(folder)
