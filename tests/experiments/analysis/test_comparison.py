"""experiments.analysis.comparison and verdict: textbook values, laws, and which results allow which verdict."""

import itertools

import numpy as np
import pytest
import scipy.stats

from experiments.analysis.comparison import compare, holm
from experiments.analysis.verdict import Contrast, finding, sentence, verdict
from experiments.formatting import number, p_text, signed

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


# In both orders, because only the end of the margin that is nearer to the difference decides.
BOTH_WAYS = pytest.mark.parametrize(("a", "b"), [(A, B), (B, A)], ids=["better", "worse"])


@BOTH_WAYS
def test_tost_is_the_larger_of_two_one_sided_t_tests(a, b):
    d = a - b
    lower = scipy.stats.ttest_1samp(d, -1.0, alternative="greater").pvalue
    upper = scipy.stats.ttest_1samp(d, 1.0, alternative="less").pvalue
    assert compare(a, b, **OPTIONS).tost_p == pytest.approx(max(lower, upper), rel=1e-12)


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
    # Both arms have equally many correct answers of 450; the sums of their accuracies differ by rounding errors.
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
def test_sequences_of_two_lengths_or_of_one_value_are_refused(pair):
    with pytest.raises(ValueError, match="two sequences of one length, at least 2"):
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


# Unpaired.


def test_welch_is_the_headline_of_unpaired_arms_and_equals_the_published_values_of_students_sleep_data():
    c = compare(DRUG_2, DRUG_1, **OPTIONS, paired=False)
    assert c.p == pytest.approx(0.07939414, abs=5e-9)  # R: t.test(extra ~ group)
    assert c.ci == c.welch_ci == pytest.approx((-0.2054832, 3.3654832), abs=5e-8)
    assert c.sd == pytest.approx(np.sqrt((np.var(DRUG_1, ddof=1) + np.var(DRUG_2, ddof=1)) / 2))
    assert (c.paired, c.correlation, c.n) == (False, None, 10)


def test_unpaired_statistics_do_not_depend_on_the_order_of_either_arm():
    exact = OPTIONS | {"resamples": 12870, "paired": False}
    c, shuffled = (compare(a, B, **exact) for a in (A, A[[3, 1, 7, 0, 2, 6, 5, 4]]))
    for field in ("difference", "sd", "ci", "p", "permutation_p", "tost_p"):
        assert getattr(shuffled, field) == pytest.approx(getattr(c, field)), field
    assert shuffled.bootstrap_ci == pytest.approx(c.bootstrap_ci, abs=0.07)  # other resamples, in steps of 1/36
    assert compare(A[::-1], B, **OPTIONS).sd != pytest.approx(compare(A, B, **OPTIONS).sd)  # paired intervals do


def test_unpaired_permutation_p_equals_enumeration_of_all_assignments():
    a, b = A[:4], B[:4]
    both, total = np.concatenate([a, b]), 0
    for chosen in itertools.combinations(range(8), 4):
        rest = np.setdiff1d(np.arange(8), chosen)
        total += abs(both[[*chosen]].mean() - both[rest].mean()) >= abs(a.mean() - b.mean()) - 1e-9
    assert compare(a, b, **OPTIONS, paired=False).permutation_p == pytest.approx(total / 70)


@BOTH_WAYS
def test_unpaired_tost_is_the_larger_of_two_one_sided_welch_tests(a, b):
    lower = scipy.stats.ttest_ind(a + 1, b, equal_var=False, alternative="greater").pvalue
    upper = scipy.stats.ttest_ind(a - 1, b, equal_var=False, alternative="less").pvalue
    assert compare(a, b, **OPTIONS, paired=False).tost_p == pytest.approx(max(lower, upper), rel=1e-12)


def test_two_constant_unpaired_arms_claim_no_more_than_permutations_can_show():
    same, better, far = (compare([v] * 4, [90.0] * 4, **OPTIONS, paired=False) for v in (90.0, 90.5, 93.0))
    assert same.no_spread and (same.p, same.ci) == (1, (0, 0))
    assert better.p == better.permutation_p == pytest.approx(2 / 70)
    assert (same.tost_p, better.tost_p) == pytest.approx((1 / 70, 1 / 70)) and far.tost_p == 1


def test_a_sentence_says_that_arms_are_unpaired_and_why():
    c = compare(DRUG_2, DRUG_1, **OPTIONS, paired=False)
    assert sentence(Contrast("tanh", "after", "before", c, 0.16, 2, 1.0, 0.05)) == (
        "tanh: after - before = +1.58 pp, 95% CI [-0.21, 3.37] (Welch: other seeds, so not paired), unpaired p = 0.16 "
        "after Holm over 2, n = 10 an arm: no detectable difference; equivalence at ±1 pp not shown (TOST p = 0.75)"
    )


@pytest.mark.parametrize(("shift", "covers"), [(0.0, "yes"), (0.3, "yes"), (2.0, "no"), (-2.0, "no")])
def test_an_a_a_test_says_whether_its_interval_covers_0_and_nothing_about_better(shift, covers):
    c = compare(A - A.mean() + 97 + shift, B - B.mean() + 97, **OPTIONS, paired=False)
    same = Contrast("relu", "again", "before", c, c.p, 1, 1.0, 0.05, same_arm=True)
    assert verdict(same) == (
        f"the same arm twice, with disjoint seeds: difference {signed(shift)} pp, interval covers 0: {covers}"
    )
    assert finding(same) == ("same_arm_agrees" if covers == "yes" else "same_arm_differs")
    assert sentence(same).endswith(verdict(same)) and "better" not in sentence(same)


def test_two_constant_arms_of_an_a_a_test_agree_when_they_are_equal():
    equal, apart = (compare([v] * 3, [90.0] * 3, **OPTIONS, paired=False) for v in (90.0, 91.0))
    same = [Contrast("relu", "again", "before", c, c.p, 1, 1.0, 0.05, same_arm=True) for c in (equal, apart)]
    assert [finding(c) for c in same] == ["same_arm_agrees", "same_arm_differs"]
    assert "both arms constant, so no interval" in sentence(same[0])
