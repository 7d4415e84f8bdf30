"""experiments.comparison and experiments.stats: textbook values, laws, and what may be concluded from what."""

import itertools
import json
import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import synthetic

from experiments import stats
from experiments.comparison import Contrast, compare, finding, holm, sentence, verdict
from experiments.config import Arm, ConfigError, SweepConfig
from experiments.formats import number, p_text, signed

OPTIONS = {"margin_pp": 1.0, "alpha": 0.05, "resamples": 1999}
# Hours of sleep gained under two drugs, ten patients: Cushny and Peebles (1905), the example of Student (1908).
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
# Accuracies of 450 test examples: many ties, unequal spreads.
A = 100 * np.array([441, 439, 442, 438, 441, 440, 437, 443]) / 450
B = 100 * np.array([438, 439, 436, 438, 437, 431, 436, 440]) / 450


def contrast(difference: float, spread: float, n: int = 12, **changes) -> Contrast:
    noise = np.resize([-1.0, 0.0, 2.0, -1.5, 0.5], n)
    noise = spread * (noise - noise.mean()) / noise.std()
    c = compare(90 + difference + noise, np.full(n, 90.0), **OPTIONS)
    return Contrast("relu", "after", "before", c, c.p, 1, 1.0, 0.05)._replace(**changes)


def test_paired_and_welch_equal_the_published_values_of_students_sleep_data():
    c = compare(DRUG_2, DRUG_1, **OPTIONS)
    assert c.n == 10
    assert c.difference == pytest.approx(1.58)
    assert c.p == pytest.approx(0.002833, abs=5e-7)
    assert c.ci == pytest.approx((0.7001142, 2.4598858), abs=5e-8)
    assert c.welch_ci == pytest.approx((-0.2054832, 3.3654832), abs=5e-8)
    assert c.correlation == pytest.approx(0.7951702, abs=5e-8)
    assert c.sd == pytest.approx(1.229995, abs=5e-7)  # ddof = 1


def test_tost_is_the_larger_of_two_one_sided_t_tests():
    d = A - B
    lower = scipy.stats.ttest_1samp(d, -1.0, alternative="greater").pvalue
    upper = scipy.stats.ttest_1samp(d, 1.0, alternative="less").pvalue
    assert compare(A, B, **OPTIONS).tost_p == pytest.approx(max(lower, upper), rel=1e-12)


def test_bootstrap_interval_is_near_the_t_interval_when_the_data_are_near_normal():
    d = scipy.stats.norm.ppf((np.arange(40) + 0.5) / 40)
    c = compare(90 + d, np.full(40, 90.0), **OPTIONS)
    assert c.bootstrap_ci == pytest.approx(c.ci, abs=0.04)


@pytest.mark.parametrize("n", [4, 7])
def test_permutation_p_equals_enumeration_of_all_signs(n):
    d = (A - B)[-n:]
    means = [abs(np.mean(d * signs)) for signs in itertools.product([-1, 1], repeat=n)]
    expected = sum(mean >= abs(d.mean()) - 1e-9 for mean in means) / 2**n
    assert compare(A[-n:], B[-n:], **OPTIONS).permutation_p == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_permutation_p_counts_ties_however_the_sums_are_rounded(dtype):
    # The correct answers of 450 add up to the same for both arms; the accuracies miss that by rounding errors.
    a, b = np.array([[441, 440, 429, 432, 440, 436], [437, 425, 428, 442, 441, 445]]) / 4.5
    assert compare(a.astype(dtype), b.astype(dtype), **OPTIONS).permutation_p == 1


def test_the_same_number_of_examples_is_the_same_difference_in_float32():
    correct = np.array([437, 441, 429, 444])
    better, base = ((100 * (correct + more) / 450).astype(np.float32) for more in (3, 0))
    c = compare(better, base, **OPTIONS)
    assert c.no_spread and c.difference == pytest.approx(300 / 450, abs=1e-5)


def test_swapping_the_arms_flips_the_signs_and_keeps_the_p_values():
    ab, ba = compare(A, B, **OPTIONS), compare(B, A, **OPTIONS)
    assert ba.difference == -ab.difference
    assert ba.ci == pytest.approx((-ab.ci[1], -ab.ci[0]))
    assert ba.welch_ci == pytest.approx((-ab.welch_ci[1], -ab.welch_ci[0]))
    assert ba.bootstrap_ci == pytest.approx((-ab.bootstrap_ci[1], -ab.bootstrap_ci[0]), abs=0.02)  # other resamples
    assert (ba.p, ba.permutation_p, ba.tost_p, ba.correlation) == pytest.approx(
        (ab.p, ab.permutation_p, ab.tost_p, ab.correlation)
    )


def test_what_all_arms_share_in_a_seed_cancels_from_everything_paired():
    seed_effect = np.array([5, -3, 8, 1, -9, 2, 0, -4.0])
    plain, shifted = compare(A, B, **OPTIONS), compare(A + seed_effect, B + seed_effect, **OPTIONS)
    for field in ("difference", "sd", "ci", "p", "permutation_p", "bootstrap_ci", "tost_p"):
        assert getattr(shifted, field) == pytest.approx(getattr(plain, field)), field
    assert np.diff(shifted.welch_ci) > 4 * np.diff(plain.welch_ci)  # the unpaired interval must see it
    assert shifted.correlation > 0.9


def test_under_the_null_the_tests_err_as_often_as_they_say():
    rng = np.random.default_rng(0)
    comparisons = [compare(*rng.normal(90, 1, (2, 10)), margin_pp=1, alpha=0.1, resamples=99) for _ in range(400)]
    for rate in (
        np.mean([c.p < 0.1 for c in comparisons]),
        np.mean([c.permutation_p <= 0.1 for c in comparisons]),
        np.mean([not c.ci[0] < 0 < c.ci[1] for c in comparisons]),
        np.mean([not c.welch_ci[0] < 0 < c.welch_ci[1] for c in comparisons]),
    ):
        assert 0.1 - 0.045 < rate < 0.1 + 0.045  # three standard errors


def test_at_the_margin_equivalence_is_claimed_no_more_often_than_alpha():
    rng = np.random.default_rng(1)
    p = [compare(90 + rng.normal(1, 1, 10), np.full(10, 90), **OPTIONS | {"resamples": 99}).tost_p for _ in range(400)]
    assert 0.05 - 0.033 < np.mean(np.array(p) < 0.05) < 0.05 + 0.033


@pytest.mark.parametrize("n", [2, 3, 8])
def test_equal_differences_claim_no_more_than_sign_flips_can_show(n):
    base = 97 + 0.3 * np.arange(n)
    same, better = compare(base, base, **OPTIONS), compare(base + 0.2, base, **OPTIONS)
    assert same.no_spread and better.no_spread
    assert (same.difference, same.sd, same.ci, same.p, same.permutation_p) == (0, 0, (0, 0), 1, 1)
    assert better.p == better.permutation_p == 2 / 2**n
    assert same.tost_p == better.tost_p == 1 / 2**n
    far = compare(base + 3, base, **OPTIONS)
    assert far.tost_p == 1


def test_equal_differences_give_no_interval_in_words():
    text = sentence(Contrast("relu", "after", "before", compare([91, 92.0], [90, 91.0], **OPTIONS), 0.5, 1, 1.0, 0.05))
    assert "all 2 differences equal, so no interval" in text and "CI" not in text
    assert text.endswith("no detectable difference; equivalence at ±1 pp not shown (TOST p > 0.99)")


def test_a_constant_arm_has_no_correlation_and_still_an_interval():
    c = compare([90.0, 91, 92, 95], [90.0] * 4, **OPTIONS)
    assert c.correlation is None and not c.no_spread
    assert c.welch_ci == pytest.approx(c.ci)  # the constant arm adds no variance and no degrees of freedom


@pytest.mark.parametrize("pair", [([1.0], [1.0]), ([1.0, 2.0], [1.0, 2.0, 3.0]), ([[1.0, 2.0]], [[1.0, 2.0]])])
def test_unpaired_or_too_few_values_are_refused(pair):
    with pytest.raises(ValueError, match="two paired sequences of one length, at least 2"):
        compare(*pair, **OPTIONS)


def test_holm_equals_its_stepwise_definition():
    rng = np.random.default_rng(2)
    for p in [[0.01, 0.04, 0.03], [0.2], [0.5, 0.5], *rng.random((3, 5)).tolist()]:
        order, m, running, expected = np.argsort(p), len(p), 0.0, [0.0] * len(p)
        for rank, index in enumerate(order):
            running = max(running, min(1.0, (m - rank) * p[index]))
            expected[index] = running
        assert holm(p) == pytest.approx(expected)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@pytest.mark.parametrize(
    ("difference", "spread", "kind", "words"),
    [
        (3.0, 0.5, "different", "after is better by 3.00 pp"),
        (-3.0, 0.5, "different", "before is better by 3.00 pp"),
        (0.4, 0.1, "different_within_margin", "after is better by 0.40 pp, detected yet within the margin of ±1 pp"),
        (0.05, 0.3, "equivalent", "equivalent within ±1 pp (TOST p < 0.001)"),
        (0.2, 4.0, "inconclusive", "no detectable difference; equivalence at ±1 pp not shown (TOST p = 0.26)"),
    ],
)
def test_verdict(difference, spread, kind, words):
    c = contrast(difference, spread)
    assert finding(c) == kind
    assert verdict(c).startswith(words)
    assert sentence(c).endswith(verdict(c))


def test_verdict_uses_the_adjusted_p():
    assert finding(contrast(3.0, 0.5, holm_p=0.06)) == "inconclusive"


def test_sentence():
    c = compare(DRUG_2, DRUG_1, **OPTIONS)
    assert sentence(Contrast("tanh", "after", "before", c, 0.0085, 3, 1.0, 0.05)) == (
        "tanh: after - before = +1.58 pp, 95% CI [0.70, 2.46], paired p = 0.0085 after Holm over 3, n = 10: "
        "after is better by 1.58 pp"
    )


def test_no_number_is_printed_as_an_impossible_one():
    assert [p_text(p) for p in (0, 1e-9, 0.00099, 0.0312, 0.0496, 0.31, 1)] == [
        "p < 0.001", "p < 0.001", "p < 0.001", "p = 0.031", "p = 0.0496", "p = 0.31", "p > 0.99"
    ]  # fmt: skip
    assert (number(-0.001), signed(-0.001), signed(0.001), signed(-0.4)) == ("0.00", "0.00", "0.00", "-0.40")


# From records to a result.

CONFIG = synthetic.CONFIG
ARM = Arm("before", "relu")


def tuning(rate_index: int, accuracy: float, loss: float | None, seed: int) -> dict:
    return {
        "phase": "tune", "placement": "before", "activation": "relu", "seed": seed, "diverged": loss is None,
        "learning_rate": CONFIG.sweep.learning_rates[rate_index],
        "val_accuracy": [0.99, accuracy], "val_loss": [9, loss],
    }  # fmt: skip


def choice_of(values: list[list[tuple[float, float | None]]]) -> stats.Choice:
    """The choice of one arm whose rates end at `values`: [rate][seed](accuracy, loss)."""
    config = replace(CONFIG, placements=("before",), activations=("relu",))
    records = [tuning(i, *value, seed) for i, row in enumerate(values) for seed, value in enumerate(row)]
    return stats.choose(config, records)[ARM]


def rates(*rows: tuple[float, float | None]) -> list[list[tuple[float, float | None]]]:
    return [[row, row] for row in rows]


def test_choose_takes_the_highest_mean_final_validation_accuracy():
    choice = choice_of([[(0.9, 1), (0.8, 1)], [(0.7, 1), (0.9, 1)], [(0.99, 1), (0.1, 1)], *rates((0.8, 1), (0.8, 0))])
    assert (choice.grid_index, choice.learning_rate, choice.edge) == (0, CONFIG.sweep.learning_rates[0], "lowest")
    first = choice.curve[0]
    assert first["values"] == [90, 80]
    assert (first["mean"], first["sd"]) == pytest.approx((85, math.sqrt(50)))


def test_choose_breaks_a_tie_by_validation_loss_even_if_the_means_round_differently():
    # Of 269 validation examples, 232 + 268 and 231 + 269 are as many, but not as floating-point means.
    higher, lower = [(232 / 269, 2.0), (268 / 269, 2.0)], [(231 / 269, 1.0), (269 / 269, 2.0)]
    assert np.mean([100 * v for v, _ in higher]) > np.mean([100 * v for v, _ in lower])
    for tied, best in ([higher, lower], 1), ([lower, higher], 0):
        assert choice_of([*tied, *rates((0.5, 0), (0.5, 0), (0.5, 0))]).grid_index == best


def test_choose_puts_a_diverged_loss_last_and_the_lower_rate_first():
    assert choice_of(rates((0.1, 1), (0.5, None), (0.5, 7), (0.5, 7), (0.5, None))).grid_index == 2
    assert choice_of(rates(*[(0.1, None)] * 5)).grid_index == 0


@pytest.mark.parametrize(("best", "edge"), [(0, "lowest"), (1, None), (3, None), (4, "highest")])
def test_choose_says_when_the_optimum_lies_at_an_end_of_the_grid(best, edge):
    assert choice_of(rates(*[(0.9 if i == best else 0.5, 1) for i in range(5)])).edge == edge


def test_choose_reads_nothing_but_tuning_records():
    records = synthetic.records(CONFIG)
    assert stats.choose(CONFIG, records) == stats.choose(CONFIG, [r for r in records if r["phase"] == "tune"])


def test_a_missing_or_repeated_record_is_refused_in_one_line():
    records = synthetic.records(CONFIG)
    with pytest.raises(ConfigError, match=r"^1 of 90 tune records are missing.*none/relu at .* with seed 0; [^\n]*$"):
        stats.choose(CONFIG, records[1:])
    with pytest.raises(ConfigError, match=r"^1 of 54 evaluate records are missing.*after/sigmoid at .* with seed 7;"):
        stats.summarize(CONFIG, records[:-1])
    with pytest.raises(ConfigError, match=r"^the tune records hold none/relu at .* twice; delete one"):
        stats.choose(CONFIG, [*records, records[0]])


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
        (r["placement"], r["seed"]): 100 * r["test_accuracy"]
        for r in records
        if r["phase"] == "evaluate" and r["activation"] == "tanh"
    }
    after, before = (np.array([by_seed[p, seed] for seed in CONFIG.sweep.evaluation]) for p in ("after", "before"))
    arm = next(a for a in result["arms"] if (a["placement"], a["activation"]) == ("after", "tanh"))
    assert arm["test_accuracy"] == after.tolist() and arm["seeds"] == list(CONFIG.sweep.evaluation)
    assert (arm["mean"], arm["sd"]) == pytest.approx((after.mean(), after.std(ddof=1)))
    assert np.mean(arm["ci"]) == pytest.approx(arm["mean"])
    assert arm["ci"][1] - arm["mean"] == pytest.approx(scipy.stats.t.ppf(0.975, 5) * after.std(ddof=1) / np.sqrt(6))
    rows = [row for row in result["comparisons"] if (row["a"], row["b"]) == ("after", "before")]
    row = next(row for row in rows if row["activation"] == "tanh")
    assert row["p"] == pytest.approx(scipy.stats.ttest_rel(after, before).pvalue)
    assert [r["holm_p"] for r in rows] == holm([r["p"] for r in rows])  # one family: this pair, over the activations
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
            end = grid[0] if wanted[r["placement"]] == "lowest" else grid[-1]
            r["val_accuracy"][-1] = 0.9 if r["learning_rate"] == end else 0.5
        else:
            r["learning_rate"] = grid[0] if wanted[r["placement"]] == "lowest" else grid[-1]
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
        assert new[0] < grid[0] or "lowest" not in ends  # the flags of either warning serve both
        assert new[-1] > grid[-1] or "highest" not in ends
        assert f"at the {end} rate of the grid" in warning


def test_diverged_evaluations_and_few_seeds_are_warned_of():
    records = synthetic.records(CONFIG)
    records[-1] |= {"diverged": True, "test_loss": None}
    result = stats.summarize(CONFIG, records)
    assert any(w.startswith("1 of 6 evaluation trainings of after/sigmoid diverged") for w in result["warnings"])
    assert any(w.startswith("only 6 evaluation seeds") for w in result["warnings"])
    assert (result["arms"][-1]["diverged"], result["arms"][-1]["test_loss"]) == (1, None)
    sweep = SweepConfig(learning_rate_points=5, lowest_learning_rate=2.0**-4, tuning_seeds=2, evaluation_seeds=10)
    many = replace(CONFIG, sweep=sweep, placements=("after",), activations=("relu",))
    assert stats.summarize(many, synthetic.records(many))["warnings"] == []
