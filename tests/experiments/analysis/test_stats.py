"""experiments.analysis.stats: from records to a result, and the warnings in it."""

import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import synthetic

from experiments.analysis import stats, tuning
from experiments.analysis.comparison import compare, holm
from experiments.config import Arm, ConfigError, Published, SweepConfig, vary

CONFIG = synthetic.CONFIG


def test_summarize_does_not_depend_on_the_order_of_records_and_is_json():
    records = synthetic.records(CONFIG)
    shuffled = random.Random(0).sample(records, len(records))
    result = stats.summarize(CONFIG, records)
    assert stats.summarize(CONFIG, shuffled) == result
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_summarize_compares_the_test_accuracies_of_the_evaluation_seeds_in_percent():
    records = synthetic.records(CONFIG)
    result = stats.summarize(CONFIG, records)
    by_seed = {
        (r["treatment"], r["seed"]): 100 * r["test_accuracy"]
        for r in records
        if r["phase"] == "evaluate" and r["context"] == "tanh"
    }
    after, before = (np.array([by_seed[p, seed] for seed in CONFIG.sweep.evaluation()]) for p in ("after", "before"))
    arm = next(a for a in result["arms"] if (a["treatment"], a["context"]) == ("after", "tanh"))
    assert arm["values"] == after.tolist() and arm["seeds"] == list(CONFIG.sweep.evaluation())
    assert (arm["mean"], arm["sd"]) == pytest.approx((after.mean(), after.std(ddof=1)))
    assert np.mean(arm["ci"]) == pytest.approx(arm["mean"])
    assert arm["ci"][1] - arm["mean"] == pytest.approx(scipy.stats.t.ppf(0.975, 5) * after.std(ddof=1) / np.sqrt(6))
    rows = [row for row in result["comparisons"] if (row["a"], row["b"]) == ("after", "before")]
    row = next(row for row in rows if row["context"] == "tanh")
    assert row["p"] == pytest.approx(scipy.stats.ttest_rel(after, before).pvalue)
    assert [r["holm_p"] for r in rows] == holm([r["p"] for r in rows])  # one family is this pair over all contexts
    assert row["family"] == 3


def test_only_contrasts_between_trained_placements_are_made():
    config = replace(CONFIG, placements=("none", "before"))
    result = stats.summarize(config, synthetic.records(config))
    assert {(row["a"], row["b"]) for row in result["comparisons"]} == {("before", "none")}
    alone = replace(CONFIG, placements=("after",))
    assert stats.summarize(alone, synthetic.records(alone))["comparisons"] == []


@pytest.mark.parametrize("ends", [["lowest"], ["highest"], ["lowest", "highest"]])
def test_the_flags_that_a_warning_recommends_extend_the_grid_at_that_end(ends):
    config = replace(CONFIG, placements=("none", "before"), activations=("relu",))
    records = synthetic.records(config)
    wanted = {"none": ends[0], "before": ends[-1]}
    grid = config.sweep.learning_rates
    for r in records:
        if r["phase"] == "tune":
            end = grid[0] if wanted[r["treatment"]] == "lowest" else grid[-1]
            r["val_accuracy"][-1] = 0.9 if r["learning_rate"] == end else 0.5
        else:
            r["learning_rate"] = grid[0] if wanted[r["treatment"]] == "lowest" else grid[-1]
    found = [w for w in stats.summarize(config, records)["warnings"] if w.startswith("the optimum of ")]
    assert len(found) == len(ends)
    for warning, end in zip(found, ends, strict=True):
        flags = dict(re.findall(r"--sweep\.([\w-]+) (\S+)", warning))
        new = replace(
            config.sweep,
            learning_rate_points=int(flags["learning-rate-points"]),
            lowest_learning_rate=float(flags.get("lowest-learning-rate", config.sweep.lowest_learning_rate)),
        ).learning_rates
        assert set(grid) < set(new)
        assert new[0] < grid[0] or "lowest" not in ends  # following either warning extends both ends
        assert new[-1] > grid[-1] or "highest" not in ends
        assert f"at the {end} rate of the grid" in warning


def test_diverged_evaluations_and_few_seeds_are_warned_of():
    records = synthetic.records(CONFIG)
    records[-1] |= {"diverged": 0, "test_loss": None}
    result = stats.summarize(CONFIG, records)
    assert any(w.startswith("1 of 6 evaluation trainings of after/sigmoid diverged") for w in result["warnings"])
    assert any(w.startswith("only 6 evaluation seeds") for w in result["warnings"])
    assert (result["arms"][-1]["diverged"], result["arms"][-1]["test_loss"]) == (1, None)
    sweep = SweepConfig(learning_rate_points=7, lowest_learning_rate=2.0**-4, tuning_seeds=3, evaluation_seeds=10)
    many = replace(CONFIG, sweep=sweep, placements=("after",), activations=("relu",))
    assert stats.summarize(many, synthetic.records(many))["warnings"] == []


def test_weight_decays_at_the_ends_of_the_list_are_warned_of_with_a_longer_list():
    sweep = replace(CONFIG.sweep, weight_decays=(1e-4, 5e-4))
    config = replace(CONFIG, placements=("none", "before"), activations=("relu",), sweep=sweep)
    records = synthetic.records(config)
    best = {"none": 1e-4, "before": 5e-4}
    for r in records:
        if r["phase"] == "tune":
            r["val_accuracy"][-1] -= 0.05 * (r["weight_decay"] != best[r["treatment"]])
        else:
            r["weight_decay"] = best[r["treatment"]]
    choices = tuning.choose(config, records)
    for r in records:
        if r["phase"] == "evaluate":
            r["learning_rate"] = choices[Arm(r["treatment"], "relu")].learning_rate
    result = stats.summarize(config, records)
    found = [w for w in result["warnings"] if "weight decay tried" in w]
    assert [w.split(" lies")[0] for w in found] == ["the optimum of none/relu", "the optimum of before/relu"]
    for warning in found:
        assert warning.endswith("add to the list: --sweep.weight-decays 0.0 0.0001 0.0005 0.0025")
        longer = [float(word) for word in warning.split("--sweep.weight-decays ")[1].split()]
        assert replace(sweep, weight_decays=tuple(longer)).weight_decays[1:3] == sweep.weight_decays
    assert [arm["weight_decay_edge"] for arm in result["arms"]] == ["lowest", "highest"]


# Which accuracy is compared.


@pytest.mark.parametrize("metric", stats.METRICS)
def test_the_metric_of_the_config_is_compared_and_all_three_are_kept(metric):
    config = replace(CONFIG, analysis=replace(CONFIG.analysis, metric=metric))
    records = synthetic.records(config)
    result = stats.summarize(config, records)
    arm = next(a for a in result["arms"] if (a["treatment"], a["context"]) == ("after", "tanh"))
    runs = [r for r in records if (r["phase"], r["treatment"], r["context"]) == ("evaluate", "after", "tanh")]
    for name in stats.METRICS:
        values = np.array([100 * r[name] for r in runs])
        assert arm[name]["values"] == values.tolist()
        assert (arm[name]["mean"], arm[name]["sd"]) == pytest.approx((values.mean(), values.std(ddof=1)))
    assert (result["metric"], arm["values"], arm["ci"]) == (metric, arm[metric]["values"], arm[metric]["ci"])
    assert len({arm[name]["mean"] for name in stats.METRICS}) == 3


def test_a_network_without_norms_has_no_statistics_to_exchange_and_counts_with_its_test_accuracy():
    config = replace(CONFIG, analysis=replace(CONFIG.analysis, metric="test_accuracy_population"))
    arm = stats.summarize(config, synthetic.records(config))["arms"][0]
    assert (arm["treatment"], arm["test_accuracy_population"]) == ("none", None)
    assert arm["values"] == arm["test_accuracy"]["values"]


def test_a_metric_that_only_some_records_hold_is_refused_in_one_line():
    config = replace(CONFIG, analysis=replace(CONFIG.analysis, metric="test_accuracy_population"))
    records = synthetic.records(config)
    records[-1]["test_accuracy_population"] = None
    words = "^analysis.metric is 'test_accuracy_population', which the training of after/sigmoid with seed 7 lacks; "
    with pytest.raises(ConfigError, match=f"{words}choose another"):
        stats.summarize(config, records)
    assert stats.summarize(CONFIG, records)["arms"][-1]["test_accuracy_population"] is None


# Arms with their own seeds.


def with_again(first_seed: int | None, **changes):
    again = vary("before again", {"model.placement": "before"}, first_seed=first_seed)
    contrasts = (("before again", "before"), ("after", "before again"), ("after", "before"))
    return replace(CONFIG, treatments=(again,), analysis=replace(CONFIG.analysis, contrasts=contrasts), **changes)


def test_arms_with_other_seeds_are_compared_unpaired_and_the_others_paired():
    config = with_again(100)
    records = synthetic.records(config)
    rows = stats.summarize(config, records)["comparisons"]
    assert {(row["a"], row["b"]): row["paired"] for row in rows} == {
        ("before again", "before"): False, ("after", "before again"): False, ("after", "before"): True
    }  # fmt: skip
    row = next(row for row in rows if (row["a"], row["context"]) == ("before again", "tanh"))
    a, b = ([100 * r["test_accuracy"] for r in records if (r["phase"], r["treatment"], r["context"])
             == ("evaluate", name, "tanh")] for name in ("before again", "before"))  # fmt: skip
    expected = compare(a, b, margin_pp=1.0, alpha=0.05, resamples=199, paired=False)
    assert (row["ci"], row["p"]) == (list(expected.ci), expected.p)
    assert row["power"]["n_to_detect"] > 2


def test_the_same_settings_with_other_seeds_are_an_a_a_test():
    config = with_again(100)
    rows = stats.summarize(config, synthetic.records(config))["comparisons"]
    assert [row["same_arm"] for row in rows] == [True] * 3 + [False] * 6
    assert all("the same arm twice, with disjoint seeds" in row["sentence"] for row in rows[:3])
    assert stats.same_arm(config, "before", "before again") and not stats.same_arm(config, "after", "before")
    with pytest.raises(ConfigError, match="train identically with the same seeds"):  # nothing would be tested
        with_again(None)
    assert not stats.same_arm(with_again(7), "before again", "before")  # the last seed of one is the first of the other
    other = replace(
        CONFIG, treatments=(vary("wide", {"model.placement": "before", "model.width": 2.0}, first_seed=100),)
    )
    assert not stats.same_arm(other, "wide", "before")


def test_an_a_a_test_that_fails_is_warned_of():
    config = with_again(100, activations=("relu",))
    records = synthetic.records(config)
    assert not any("A/A" in w for w in stats.summarize(config, records)["warnings"])
    for r in records:
        if (r["phase"], r["treatment"]) == ("evaluate", "before again"):
            r["test_accuracy"] -= 0.05
    result = stats.summarize(config, records)
    assert any(
        w.startswith("the A/A test of before again and before finds a difference in relu") for w in result["warnings"]
    )
    assert result["comparisons"][0]["finding"] == "same_arm_differs"
    assert result["comparisons"][0]["verdict"].endswith("interval covers 0: no")


@pytest.mark.parametrize(("first_seed", "overlap"), [(1, True), (7, True), (8, False), (100, False)])
def test_seeds_in_common_but_not_the_same_are_warned_of(first_seed, overlap):
    config = with_again(first_seed, activations=("relu",))  # the other arms use 0 to 7
    warnings = stats.summarize(config, synthetic.records(config))["warnings"]
    found = [w for w in warnings if "seeds in common" in w]
    assert len(found) == (2 if overlap else 0)
    for warning in found:
        first = int(re.search(r"first_seed of (\d+)", warning)[1])  # type: ignore[index]
        assert first > max(config.seeds(Arm("before again", "relu"))[1] + config.seeds(Arm("before", "relu"))[1])


# Published differences.


def test_published_differences_are_judged_by_the_comparison_of_the_same_arms_in_their_context():
    published = (
        Published("after", "none", "relu", 2.0, "a paper", n=3),
        Published("none", "after", "relu", 2.0, "its opposite"),
        Published("before", "after", "tanh", -0.5, "no declared contrast"),
    )
    config = replace(CONFIG, analysis=replace(CONFIG.analysis, contrasts=(("after", "none"),), published=published))
    result = stats.summarize(config, synthetic.records(config))
    first, opposite, undeclared = result["published"]
    row = result["comparisons"][0]
    assert (row["context"], first["difference"], first["ci"]) == ("relu", row["difference"], row["ci"])
    assert (first["verdict"], opposite["verdict"]) == ("reproduced", "not reproduced")
    assert opposite["difference"] == pytest.approx(-first["difference"])
    means = {(a["treatment"], a["context"]): a["mean"] for a in result["arms"]}
    assert undeclared["difference"] == pytest.approx(means["before", "tanh"] - means["after", "tanh"])
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize(
    ("seeds", "points", "said"),
    [
        (3, 7, None),
        (1, 7, "with 1 tuning seed \\("),
        (3, 4, "with 4 learning rates"),
        (2, 4, "2 tuning seeds and 4 learn"),
    ],
)
def test_a_search_with_few_rates_or_seeds_is_warned_of(seeds, points, said):
    sweep = replace(CONFIG.sweep, tuning_seeds=seeds, learning_rate_points=points, evaluation_seeds=10)
    config = replace(CONFIG, sweep=sweep, placements=("after",), activations=("relu",))
    found = " ".join(stats.summarize(config, synthetic.records(config))["warnings"])
    assert re.search(said, found) if said else "the rates were chosen" not in found


@pytest.mark.parametrize(("n", "said"), [(5, True), (6, False)])
def test_a_permutation_test_that_cannot_reach_the_level_is_warned_of(n, said):
    config = replace(CONFIG, sweep=replace(CONFIG.sweep, evaluation_seeds=n))
    found = stats.summarize(config, synthetic.records(config))["warnings"]
    assert any("5 pairs the permutation test's p cannot fall below 0.0625" in w for w in found) == said


def test_differences_by_kind_of_statistics_and_what_running_ones_do_to_them():
    records = synthetic.records(CONFIG)
    by_seed = {(r["treatment"], r["seed"]): r for r in records if r["phase"] == "evaluate" and r["context"] == "relu"}
    row = next(
        r for r in stats.summarize(CONFIG, records)["comparisons"] if (r["a"], r["b"], r["context"])
        == ("after", "before", "relu")
    )  # fmt: skip
    found = {entry["metric"]: entry for entry in row["by_statistics"]}
    assert list(found) == list(stats.METRICS) and found["test_accuracy"]["change"] is None
    assert found["test_accuracy"]["difference"] == pytest.approx(row["difference"])
    assert found["test_accuracy"]["ci"] == pytest.approx(row["ci"])
    after, before = (
        {m: np.array([100 * by_seed[p, s][m] for s in CONFIG.sweep.evaluation()]) for m in stats.METRICS}
        for p in ("after", "before")
    )
    change = (
        after["test_accuracy_population"]
        - before["test_accuracy_population"]
        - (after["test_accuracy"] - before["test_accuracy"])
    )
    entry = found["test_accuracy_population"]["change"]
    assert entry["difference"] == pytest.approx(change.mean())
    half = scipy.stats.t.ppf(0.975, len(change) - 1) * change.std(ddof=1) / np.sqrt(len(change))
    assert entry["ci"] == pytest.approx([change.mean() - half, change.mean() + half])
    none = next(r for r in stats.summarize(CONFIG, records)["comparisons"] if r["b"] == "none")
    assert none["by_statistics"] == []  # a network without norms has no statistics to replace


def test_an_arm_keeps_its_validation_curve_and_where_its_trainings_diverged():
    records = synthetic.records(CONFIG)
    for r in records:
        if (r["phase"], r["treatment"], r["context"], r["seed"]) == (
            *("evaluate", "after", "tanh"), CONFIG.sweep.evaluation()[1]
        ):  # fmt: skip
            r["diverged"] = 7
    arm = next(
        a for a in stats.summarize(CONFIG, records)["arms"] if (a["treatment"], a["context"]) == ("after", "tanh")
    )
    runs = [r for r in records if (r["phase"], r["treatment"], r["context"]) == ("evaluate", "after", "tanh")]
    assert arm["diverged_at"][:3] == [None, 7, None]
    accuracy = 100 * np.array([r["val_accuracy"] for r in sorted(runs, key=lambda r: r["seed"])])
    assert arm["validation_curve"]["steps"] == runs[0]["steps"]
    assert arm["validation_curve"]["mean"] == pytest.approx(accuracy.mean(0), abs=1e-4)
    assert arm["validation_curve"]["sd"] == pytest.approx(accuracy.std(0, ddof=1), abs=1e-4)
