"""Which trainings learned, and what is said where some did not."""

from math import comb

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from experiments.analysis.learned import caution, chance_limit, compare_shares, describe, learned, shares_sentence

TEN = {"examples": 10_000, "majority_share": 0.1}


def of(right):
    """An arm that learned with these seeds."""
    return learned(np.where(right, 95.0, 10.0), **TEN)


def test_the_limit_is_the_least_number_of_right_answers_that_guessing_exceeds_once_in_1000_times():
    for examples, share in ((450, 0.102), (60, 0.3), (10_000, 0.1)):
        right = round(chance_limit(examples, share) * examples / 100)
        tail = [scipy.stats.binom.sf(k, examples, share) for k in (right - 1, right)]
        assert tail[0] > 0.001 >= tail[1]


def test_guessing_and_a_constant_answer_are_not_learning_and_what_lies_above_is():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), [59, 41, 45, 45, 45, 45, 45, 45, 40, 40])
    share = 59 / len(labels)
    constant = [100 * np.mean(labels == k) for k in range(10)]
    guesses = [100 * np.mean(labels == rng.integers(0, 10, len(labels))) for _ in range(200)]
    found = learned([*constant, *guesses], examples=len(labels), majority_share=share)
    assert found.count == 0 and found.accuracy is None
    limit = chance_limit(450, share)
    at, above = limit, limit + 100 / 450
    assert learned([at, np.float32(at), above, np.nan], examples=450, majority_share=share).by_seed == (
        False,
        False,
        True,
        False,
    )


def test_rounding_to_float32_does_not_make_chance_a_success():
    for examples in range(100, 400, 7):
        limit = chance_limit(examples, 0.1)
        rounded = [np.float32(limit), np.float32(limit + 100 / examples)]
        assert learned(rounded, examples=examples, majority_share=0.1).by_seed == (False, True)


def test_one_seed_of_ten_at_chance_is_found():
    """Ten trainings of which one ended at 10.0%: the mean tells of neither kind."""
    values = [26.1, 24.8, 27.5, 25.9, 10.0, 28.3, 26.6, 27.0, 25.2, 28.1]
    found = learned(values, examples=2000, majority_share=0.1)
    assert found.by_seed == tuple(v > 20 for v in values) and (found.count, found.n) == (9, 10)
    assert found.accuracy == pytest.approx(np.mean([v for v in values if v > 20]))
    assert found.plain_mean == pytest.approx(np.mean(values))
    assert describe(found) == "9 of 10 learned (95% CI 55 to 100%), mean of those 26.61%, of all 24.95%"


@pytest.mark.parametrize(("count", "n"), [(0, 5), (9, 12), (12, 12), (1, 40)])
def test_the_interval_of_the_share_is_clopper_and_pearsons(count, n):
    found = learned([95.0] * count + [10.0] * (n - count), **TEN, alpha=0.1)
    assert found.ci == pytest.approx(proportion_confint(count, n, alpha=0.1, method="beta"))


# Two arms.


def test_paired_shares_are_compared_by_mcnemars_exact_test():
    a = of([True] * 9 + [False] + [True] * 4)
    b = of([False] * 8 + [True] * 2 + [False] * 2 + [True] * 2)
    table = [[3, 10], [1, 0]]
    found = compare_shares(a, b, paired=True)
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found.p == pytest.approx(2 * (1 + 11) / 2**11)
    assert found.difference == pytest.approx(9 / 14)
    same = compare_shares(a, a, paired=True)
    assert (same.difference, same.p) == (0, 1)


def test_unpaired_shares_are_compared_by_boschloos_test_which_is_below_fishers():
    """By hand: all tables whose one-sided p of Fisher is at most this one's, at the share that makes them likeliest."""
    n = 12
    one_sided = np.array(
        [[scipy.stats.hypergeom.sf(i - 1, 2 * n, i + j, n) for j in range(n + 1)] for i in range(n + 1)]
    )
    ways = np.array([comb(n, k) for k in range(n + 1)], float)
    right = np.add.outer(np.arange(n + 1), np.arange(n + 1))
    for i, j in ((12, 8), (11, 5), (7, 6)):
        extreme = one_sided <= one_sided[i, j] * (1 + 1e-9)
        worst = max(
            (np.outer(ways, ways) * share**right * (1 - share) ** (2 * n - right))[extreme].sum()
            for share in np.linspace(0.01, 0.99, 197)
        )
        a, b = of([True] * i + [False] * (n - i)), of([True] * j + [False] * (n - j))
        found = compare_shares(a, b, paired=False)
        assert found.p == pytest.approx(min(1, 2 * worst), rel=0.01)
        assert found.p < scipy.stats.fisher_exact([[i, j], [n - i, n - j]]).pvalue
        assert found.difference == pytest.approx((i - j) / n)
        assert compare_shares(b, a, paired=False).p == pytest.approx(found.p, rel=0.01)


def test_where_all_or_none_learned_there_is_no_difference():
    for right in (True, False):
        assert compare_shares(of([right] * 5), of([right] * 7), paired=False).p == 1
        assert compare_shares(of([right] * 5), of([right] * 5), paired=True).p == 1


def test_the_exact_tests_hold_their_level():
    rng = np.random.default_rng(0)
    draws = rng.random((2, 300, 12)) < 0.7
    paired = [compare_shares(of(a), of(b), paired=True).p < 0.05 for a, b in zip(*draws, strict=True)]
    assert np.mean(paired) <= 0.05


def test_a_difference_in_shares_is_a_sentence_of_its_own():
    a, b = of([True] * 12), of([True] * 3 + [False] * 9)
    found = compare_shares(a, b, paired=True)
    assert shares_sentence(("after/relu", "none/relu"), a, b, found, found.p) == (
        "after/relu learned in 12 of 12 trainings, none/relu learned in 3 of 12 trainings (McNemar's exact test, "
        "p = 0.0039): after/relu learns more often"
    )
    found = compare_shares(b, a, paired=False)
    assert shares_sentence(("none/relu", "after/relu"), b, a, found, found.p).endswith(": after/relu learns more often")


def test_what_is_said_of_shares_rests_on_the_adjusted_p():
    a, b = of([True] * 12), of([True] * 6 + [False] * 6)
    found = compare_shares(a, b, paired=True)
    assert found.p < 0.05
    assert shares_sentence(("x", "y"), a, b, found, 2 * found.p, family=2).endswith(
        "(McNemar's exact test, p = 0.062 after Holm over 2): that one learns more often is not shown"
    )


# The caution.


def test_a_contrast_over_arms_that_fail_carries_the_caution():
    whole, failing, worse = of([True] * 12), of([True] * 11 + [False]), of([True] * 2 + [False] * 10)
    assert caution({"after/relu": whole, "before/relu": whole}) is None
    said = caution({"after/relu": whole, "before/relu": failing, "none/relu": worse})
    assert said is not None and said.startswith(
        "1 of 12 trainings of before/relu and 10 of 12 trainings of none/relu did not learn (test accuracy of 10.9% or "
        "less, which chance explains)"
    )
    assert "its interval is not to be relied on" in said and "after/relu" not in said


@pytest.mark.parametrize(("n", "said"), [(5, 0.23), (10, 0.41), (21, 0.66)])
def test_a_t_interval_over_trainings_that_fail_covers_as_seldom_as_the_docstring_says(n, said):
    rng, repeats = np.random.default_rng(n), 4000
    a, b = rng.normal(95, 1, (2, repeats, n))
    d = a - (b - 85 * (rng.random((repeats, n)) < 0.05))
    ci = scipy.stats.ttest_1samp(d, 0, axis=1).confidence_interval()
    assert np.mean((ci.low <= 0.05 * 85) & (ci.high >= 0.05 * 85)) == pytest.approx(said, abs=0.025)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chance_limit(3, 0.5), r"^with 3 test examples, 50% of one class, guessing may get all right"),
        (
            lambda: chance_limit(100, 10.0),
            r"^majority_share is 10; give the share of the largest class, between 0 and 1",
        ),
        (lambda: learned([[95.0]], **TEN), r"^accuracies has shape \(1, 1\); give one for each seed"),
        (lambda: learned([], **TEN), r"^accuracies has shape \(0,\)"),
        (lambda: compare_shares(of([True]), of([True, True]), paired=True), r"^a has 1 seeds and b 2; give the same"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
