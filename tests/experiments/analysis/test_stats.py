"""experiments.analysis.stats: from the records of a run to its result, and the warnings in it."""

import base64
import dataclasses
import json

import numpy as np
import pytest
import scipy.stats
from simulated import description, peak, simulate

from experiments.analysis.looks import Look
from experiments.analysis.stats import summarize
from experiments.config import (
    AnalysisConfig,
    Config,
    ConfigError,
    Contrast,
    DataConfig,
    Published,
    SweepConfig,
    vary,
)
from experiments.store.validation import fit_result, parse

DEPENDS = Contrast("crossed", {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1})
CONFIG = Config(
    "simulated",
    activations=("relu", "tanh"),
    data=DataConfig(name="mnist"),
    sweep=SweepConfig(lowest_learning_rate=2.0**-6, learning_rate_points=7, seeds=12),
    analysis=AnalysisConfig(
        contrasts=(DEPENDS,), published=(Published("relu: after - before", 2.4, "Doe", n=5, sd=0.3),)
    ),
)
HEIGHTS = {"none/relu": 90, "before/relu": 92, "after/relu": 95, "none/tanh": 90, "before/tanh": 93, "after/tanh": 93}


def truth(arm, setting):
    return HEIGHTS[str(arm)] + peak(0)(arm, setting)


def summary(config=CONFIG, mean=truth, test=1000, **options):
    described = description(config, test)
    return summarize(config, simulate(config, mean, test=test, **options), described)


@pytest.fixture(scope="module")
def result():
    return summary()


def contrast(result, name):
    return next(row for row in result["contrasts"] if row["name"] == name)


def test_a_result_is_what_the_schema_says_and_belongs_to_its_config(result):
    fit_result(CONFIG, parse(json.dumps(result).encode(), "result.json"))
    assert [row["name"] for row in result["contrasts"]] == [question.name for question in CONFIG.contrasts]
    assert result["contrasts"][0]["name"] == "crossed", "what the config declares is answered first"


def test_differences_means_and_interactions_are_near_the_truth(result):
    for row in result["contrasts"]:
        true = sum(weight * HEIGHTS[arm] for arm, weight in row["weights"].items())
        assert abs(row["difference"] - true) < 4.5 * row["se"]
    assert contrast(result, "crossed")["verdict"].startswith("crossed is above 0 by ")
    assert contrast(result, "relu: after - before")["verdict"].startswith("after is better by ")
    assert contrast(result, "tanh: after - before")["finding"] == "equivalent"


def test_the_parts_of_the_seeds_give_the_difference_its_error_and_its_interval(result):
    for row in result["contrasts"]:
        values = np.array(row["values"])
        assert values.mean() == pytest.approx(row["difference"], abs=1e-9)
        se = values.std(ddof=1) / np.sqrt(12)
        of_seeds = row["intervals"][0]
        assert of_seeds["speaks_of"] == "new seeds" and of_seeds["se"] == pytest.approx(se, rel=0.02)
        half = scipy.stats.t.ppf(0.975, 11) * of_seeds["se"]
        assert of_seeds["ci"] == pytest.approx([row["difference"] - half, row["difference"] + half])


def test_the_verdict_rests_on_the_widest_interval(result):
    for row in result["contrasts"]:
        narrow, wide = row["intervals"]
        assert (row["ci"], row["finding"]) == (wide["ci"], wide["finding"])
        assert wide["speaks_of"] == "new data, too"
        assert wide["ci"][0] <= narrow["ci"][0] and wide["ci"][1] >= narrow["ci"][1]


def test_where_each_seed_has_its_own_split_new_data_are_nadeau_and_bengios():
    own = dataclasses.replace(CONFIG, data=DataConfig(), analysis=dataclasses.replace(CONFIG.analysis, published=()))
    for row in summary(own)["contrasts"]:
        narrow, wide = row["intervals"]
        assert narrow["speaks_of"] == "new seeds and splits"
        assert wide["se"] == pytest.approx(narrow["se"] * np.sqrt(1 + 12 * 1000 / 4000))


def test_the_family_is_all_declared_contrasts_and_holm_adjusts_both_tests_over_it(result):
    primary = [row for row in result["contrasts"] if row["primary"]]
    assert len(primary) == 7 and {row["family"] for row in primary} == {7}
    for p, adjusted in (("p", "adjusted_p"), ("tost_p", "adjusted_tost_p")):
        ordered = sorted(primary, key=lambda row: row[p])
        steps = np.minimum(1, np.maximum.accumulate([row[p] * (7 - k) for k, row in enumerate(ordered)]))
        assert [row[adjusted] for row in ordered] == pytest.approx(steps)
    others = [row for row in result["contrasts"] if not row["primary"]]
    assert len(others) == 2 and all(row["family"] == 1 and row["adjusted_p"] == row["p"] for row in others)
    assert all("exploration" in row["sentence"] for row in others)


def test_an_arm_shows_its_settings_its_choice_and_how_it_was_searched(result):
    for arm, race in zip(result["arms"], result["race"], strict=True):
        assert sum(setting["share"] for setting in arm["settings"]) == pytest.approx(1)
        chosen = max(arm["settings"], key=lambda setting: setting["share"])
        assert (arm["learning_rate"], arm["share"]) == (chosen["learning_rate"], chosen["share"])
        assert arm["mean"] == pytest.approx(np.mean(arm["values"])) and len(arm["values"]) == arm["n"] == 12
        assert {s["seeds"] for s in arm["settings"]} == {3, 12}
        assert all(s["share"] == 0 for s in arm["settings"] if s["seeds"] == 3)
        assert len(race["dropped"]) == sum(s["seeds"] == 3 for s in arm["settings"])
        assert abs(arm["estimate"] - HEIGHTS[f"{arm['treatment']}/{arm['context']}"]) < 1


def test_a_published_difference_is_judged_with_the_error_of_both(result):
    (row,) = result["published"]
    assert row["gap"] == pytest.approx(row["difference"] - 2.4)
    assert row["word"] in row["sentence"] and row["prediction_ci"][0] < 2.4 < row["prediction_ci"][1]


def test_the_order_of_the_records_does_not_matter(result):
    records = simulate(CONFIG, truth)
    shuffled = [records[k] for k in np.random.default_rng(0).permutation(len(records))]
    assert summarize(CONFIG, shuffled, description(CONFIG)) == result


def test_trainings_that_failed_are_counted_and_every_contrast_with_them_says_so():
    records = simulate(CONFIG, truth)
    for r in records:
        if (r["treatment"], r["context"]) == ("none", "relu") and r["seed"] in (4, 7):
            bits = np.zeros(125, np.uint8)
            bits[:12] = 255
            r |= {"test_accuracy": 0.096, "right": base64.b64encode(bits.tobytes()).decode()}
    found = summarize(CONFIG, records, description(CONFIG))
    arm = next(a for a in found["arms"] if (a["treatment"], a["context"]) == ("none", "relu"))
    assert (arm["learned"]["count"], arm["learned"]["n"]) == (10, 12)
    assert arm["learned"]["accuracy"] == pytest.approx(90, abs=1) and arm["mean"] < 80
    told = [row["name"] for row in found["contrasts"] if row["caution"]]
    assert told == [row["name"] for row in found["contrasts"] if "none/relu" in row["weights"]] and len(told) == 4
    assert [row["contrast"] for row in found["shares"]] == ["relu: before - none", "relu: after - none"]
    assert found["shares"][0]["difference"] == pytest.approx(2 / 12)
    assert any("none/relu" in warning and "10 of 12 learned" in warning for warning in found["warnings"])


def fails(records, arm, seeds):
    """The arm's trainings with these seeds end at chance."""
    bits = base64.b64encode(np.packbits(np.arange(1000) % 10 == 0).tobytes()).decode()
    for r in records:
        if f"{r['treatment']}/{r['context']}" == arm and r["seed"] in seeds:
            r |= {"test_accuracy": 0.1, "right": bits}
            r |= {name: 0.1 for name in ("test_accuracy_population", "test_accuracy_batch") if r[name] is not None}
    return records


def test_shares_that_learn_are_judged_as_one_family_and_said_so():
    records = fails(simulate(CONFIG, truth), "none/relu", range(6))
    rows = summarize(CONFIG, records, description(CONFIG))["shares"]
    assert [row["p"] for row in rows] == pytest.approx([2**-5] * 2) and [row["adjusted_p"] for row in rows] == [
        2**-4
    ] * 2
    assert all("after Holm over 2" in row["sentence"] and "is not shown" in row["sentence"] for row in rows)
    explored = Contrast("explored", {"after/relu": 1, "none/relu": -1}, primary=False)
    config = dataclasses.replace(CONFIG, analysis=AnalysisConfig(contrasts=(explored,)))
    second, first = summarize(config, records, description(config))["shares"]
    assert first["adjusted_p"] == second["adjusted_p"] == pytest.approx(2**-5)
    assert second["sentence"].startswith("exploration: ") and not first["sentence"].startswith("exploration")


def test_the_interval_of_the_share_that_learns_has_the_confidence_that_the_warning_gives():
    records = fails(simulate(CONFIG, truth), "none/relu", (4, 7))
    config = dataclasses.replace(CONFIG, analysis=AnalysisConfig(alpha=0.01))
    found = summarize(config, records, description(config))
    arm = next(a for a in found["arms"] if (a["treatment"], a["context"]) == ("none", "relu"))
    exact = scipy.stats.binomtest(10, 12).proportion_ci(0.99, method="exact")
    assert arm["learned"]["ci"] == pytest.approx([exact.low, exact.high])
    said = f"10 of 12 learned (99% CI {100 * exact.low:.0f} to {100 * exact.high:.0f}%)"
    assert any(said in warning for warning in found["warnings"])


def test_where_no_seed_moves_a_contrast_other_examples_still_may():
    def record(arm, right):
        bits = base64.b64encode(np.packbits(right).tobytes()).decode()
        return {"treatment": arm, "test_accuracy": float(right.mean()), "right": bits}

    rng, records = np.random.default_rng(0), simulate(CONFIG, truth)
    rights = {arm: rng.random(1000) < share for arm, share in (("after", 0.9), ("before", 0.89), ("none", 0.88))}
    rights["none"] = rights["before"]
    for r in records:
        r |= record(r["treatment"], rights[r["treatment"]])
    found = summarize(CONFIG, records, description(CONFIG))
    same, moved = contrast(found, "relu: before - none"), contrast(found, "relu: after - before")
    assert same["exact"] and same["finding"] == "exactly_equal" and same["speaks_of"] == "new data, too"
    d = 100.0 * rights["after"] - 100.0 * rights["before"]
    assert moved["speaks_of"] == "new data, too" and moved["se"] == pytest.approx(d.std(ddof=1) / np.sqrt(1000))
    assert not moved["exact"] and "moved by neither seed nor bag, 95% CI [" in moved["sentence"]
    assert moved["power"]["detectable"] is None


@pytest.mark.parametrize("weights", [(1, -1, -1, 1), (0.5, -0.5, 0.5, -0.5)])
def test_the_power_of_an_unpaired_contrast_counts_every_arm_and_pairs_those_that_share_seeds(weights):
    arms = ("again/relu", "before/relu", "again/tanh", "before/tanh")
    declared = Contrast("over both", dict(zip(arms, weights, strict=True)))
    config = dataclasses.replace(
        CONFIG,
        placements=("before",),
        treatments=(vary("again", {"model.placement": "before", "model.width": 0.5}, 1000),),
        analysis=AnalysisConfig(pairs=(("again", "before"),), contrasts=(declared,)),
    )
    found = summary(config, peak(92))
    row = contrast(found, "over both")
    # Where n seeds of each of two sets see |difference| = detectable in 80%, their standard error is detectable / 2.9.
    assert row["power"]["detectable"] / row["intervals"][0]["se"] == pytest.approx(2.9, abs=0.15)


def test_an_arm_at_the_end_of_its_grid_is_named_and_its_rival_is_not_called_better():
    config = dataclasses.replace(CONFIG, sweep=dataclasses.replace(CONFIG.sweep, learning_rate_extension=0))

    def beyond(arm, setting):
        return HEIGHTS[str(arm)] + peak(0, rate=8.0 if str(arm) == "before/relu" else 0.1, width=12)(arm, setting)

    found = summary(config, beyond)
    row = contrast(found, "relu: after - before")
    assert row["finding"] == "worse_at_end_of_grid" and row["at_end"][0]["arm"] == "before/relu"
    assert "undecided: after is better by" in row["verdict"]
    assert contrast(found, "relu: before - none")["finding"] == "different", "the better one may sit at its end"
    assert any("before/relu" in w and "highest rate of the grid (1)" in w for w in found["warnings"])


def test_an_aa_test_is_unpaired_and_rests_on_new_seeds():
    twice = Config(
        "twice",
        placements=(),
        treatments=(vary("once", {"model.placement": "before"}), vary("again", {"model.placement": "before"}, 1000)),
        activations=("relu",),
        data=DataConfig(name="mnist"),
        sweep=CONFIG.sweep,
        analysis=AnalysisConfig(pairs=(("again", "once"),)),
    )
    (row,) = summary(twice, peak(95))["contrasts"]
    assert row["same_arm"] and not row["paired"] and row["values"] == [] and row["speaks_of"] == "new seeds"
    assert row["df"] > 12 and row["finding"] == "same_arm_agrees"
    once, again = summary(twice, peak(95))["arms"]
    assert row["se"] == pytest.approx(np.hypot(once["se"], again["se"]))


def test_a_look_is_judged_with_its_seeds_at_its_level():
    config = dataclasses.replace(CONFIG, sweep=dataclasses.replace(CONFIG.sweep, looks=(6, 12)))
    records = simulate(config, truth, seeds=6)
    found = summarize(config, records, description(config), Look(6, 0.003))
    assert found["look"] == {"seeds": 6, "planned": [6, 12], "alpha": 0.003, "undeclared": []}
    row = contrast(found, "relu: after - before")
    half = scipy.stats.t.ppf(1 - 0.003 / 2, 5) * row["intervals"][0]["se"]
    assert row["intervals"][0]["ci"][1] == pytest.approx(row["difference"] + half)
    assert "99.7% CI" in row["sentence"] and any("only 6 seeds" in warning for warning in found["warnings"])


def test_seeds_that_were_added_after_a_result_are_told():
    found = summarize(CONFIG, simulate(CONFIG, truth), description(CONFIG), undeclared=[6])
    assert "finished with 6 seeds before it went on to 12" in found["warnings"][0]


def test_missing_trainings_are_refused():
    records = simulate(CONFIG, truth)
    with pytest.raises(ConfigError, match=r"1 trainings are missing, such as none/relu at rate 0.0156.* with seed 0"):
        summarize(CONFIG, records[1:], description(CONFIG))


def test_statistics_at_test_change_a_difference_as_a_contrast_of_contrasts():
    records = simulate(CONFIG, truth)
    for r in records:
        if r["treatment"] == "after":
            r["test_accuracy_population"] += 0.01
    rows = contrast(summarize(CONFIG, records, description(CONFIG)), "relu: after - before")["by_statistics"]
    change = {row["metric"]: row["change"] for row in rows}
    assert change["test_accuracy"] is None and change["test_accuracy_batch"]["difference"] == pytest.approx(0, abs=1e-9)
    assert change["test_accuracy_population"]["difference"] == pytest.approx(1)
    assert change["test_accuracy_population"]["ci"] == pytest.approx([1, 1])


def test_the_metric_of_the_config_is_compared_and_networks_without_norms_have_but_one():
    by_batch = dataclasses.replace(CONFIG, analysis=AnalysisConfig(metric="test_accuracy_population"))
    records = simulate(by_batch, truth)
    for r in records:
        if r["test_accuracy_population"] is not None:
            r["test_accuracy"] = 0.2
    found = summarize(by_batch, records, description(by_batch))
    assert contrast(found, "relu: after - none")["difference"] == pytest.approx(5, abs=1)


def test_probes_of_a_setting_that_fewer_seeds_chose_do_not_count():
    records = simulate(CONFIG, truth)
    rate = next(a["learning_rate"] for a in summarize(CONFIG, records, description(CONFIG))["arms"])
    other = next(r for r in CONFIG.sweep.learning_rates if r != rate)
    curvature = {"eigenvalues": None, "eigenvalue_residuals": None}
    probed = [
        r | {"phase": "probe", "probes": curvature | {"mean_logit": {"batch": {"layer": r["learning_rate"]}}}}
        for r in records
        if (r["treatment"], r["context"], r["seed"]) == ("none", "relu", 0) and r["learning_rate"] in (rate, other)
    ]
    assert len(probed) == 2
    first = summarize(CONFIG, [*records, *probed], description(CONFIG))["arms"][0]
    assert [end["mean_logit"]["batch"]["layer"] for end in first["end"]] == [rate]
