"""The family: who is in it, what Holm and the simultaneous intervals make of it, and that its level holds."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from experiments.analysis.bagging import Estimate, Scores, bag, contrast
from experiments.analysis.family import interval, judge, parts, single_level
from experiments.config import Arm, Contrast, Question
from experiments.config.contrasts import questions


def contrasts(*asked, **options):
    """All of the questions, interactions that come by themselves among them, as one family."""
    return [question._replace(primary=True) for question in questions(*asked, **options)]


ARMS = [Arm(*names) for names in product(("before", "after"), ("relu", "tanh", "sigmoid"))]
PAIRS = [("after", "before")]


def estimate(difference, se=0.2, n=12, exact=False):
    t = abs(difference) / se
    half = scipy.stats.t.ppf(0.975, n - 1) * se
    p = 2 * scipy.stats.t.sf(t, n - 1)
    return Estimate(difference, se, n - 1, (difference - half, difference + half), p, exact, 0.0, n)


def without_choice(rng, n=8):
    """One network an arm and seed: bags of it are exact, however few."""
    common = rng.normal(0, 1, n)
    x = {arm: common + rng.normal(0, 1, n) for arm in ARMS}
    return bag({arm: Scores(tuple(range(n)), v[:, None], v[:, None]) for arm, v in x.items()}, bags=40)


def simple(*, primary=True, same_arm=False, margin=None):
    weights = {Arm("after", "relu"): 1.0, Arm("before", "relu"): -1.0}
    return Question("relu: after - before", "simple", weights, ("", ""), primary, margin, same_arm)


# Holm.


def test_holm_runs_over_all_primary_contrasts_for_differences_and_for_equivalence():
    found = [estimate(d, se) for d, se in ((0.6, 0.2), (0.1, 0.1), (0.4, 0.18), (-0.2, 0.15))]
    judged = judge([simple()] * 4, found, margin_pp=0.5, alpha=0.05)
    assert [j.family for j in judged] == [4] * 4
    assert [j.adjusted_p for j in judged] == pytest.approx(multipletests([e.p for e in found], method="holm")[1])
    one_sided = [max(scipy.stats.t.sf((0.5 + s * e.estimate) / e.se, 11) for s in (1, -1)) for e in found]
    assert [j.tost_p for j in judged] == pytest.approx(one_sided)
    assert [j.adjusted_tost_p for j in judged] == pytest.approx(multipletests(one_sided, method="holm")[1])
    assert judged[0].adjusted_p > found[0].p and judged[1].adjusted_tost_p > judged[1].tost_p


def test_explorations_and_aa_tests_are_outside_and_cost_nothing():
    found = [estimate(0.5), estimate(0.6), estimate(0.7), estimate(0.4)]
    kinds = [simple(), simple(primary=False), simple(same_arm=True), simple()]
    judged = judge(kinds, found, margin_pp=1, alpha=0.05)
    assert [j.family for j in judged] == [2, 1, 1, 2]
    assert [judged[k].adjusted_p for k in (1, 2)] == [found[k].p for k in (1, 2)]
    assert [judged[k].simultaneous_ci for k in (1, 2)] == [None, None]
    alone = judge([kinds[0], kinds[3]], [found[0], found[3]], margin_pp=1, alpha=0.05)
    assert alone == [judged[0], judged[3]]


def test_a_margin_of_its_own_replaces_that_of_the_run_and_an_interaction_has_that_of_the_run():
    crossed = {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1}
    both = contrasts(ARMS[:2] + ARMS[3:5], PAIRS, [Contrast("x", crossed, margin_pp=2.0)])
    assert [j.margin_pp for j in judge(both, [estimate(0.1)] * 3, margin_pp=1, alpha=0.05)] == [2, 1, 1]
    plain = judge(contrasts(ARMS, PAIRS), [estimate(0.1)] * 6, margin_pp=0.7, alpha=0.05)
    assert {j.margin_pp for j in plain} == {0.7}


def test_the_interval_of_an_equivalence_lies_within_the_margin_where_its_p_is_below_alpha():
    for difference in np.linspace(-0.6, 0.6, 41):
        (judged,) = judge([simple()], [estimate(difference, 0.15)], margin_pp=0.5, alpha=0.05)
        low, high = judged.equivalence_ci
        assert (low > -0.5 and high < 0.5) == (judged.tost_p < 0.05)


def test_an_arm_is_at_the_end_of_its_grid_from_a_share_of_its_bags_on():
    ends = {Arm("after", "relu"): 0.05, Arm("before", "relu"): 0.049, Arm("after", "tanh"): 0.9}
    (judged,) = judge([simple()], [estimate(1)], margin_pp=1, alpha=0.05, end_shares=ends)
    assert judged.at_end == ((Arm("after", "relu"), 0.05),)


def test_as_many_estimates_as_contrasts():
    with pytest.raises(ValueError, match=r"^2 contrasts and 1 estimates"):
        judge([simple()] * 2, [estimate(1)], margin_pp=1, alpha=0.05)


# Simultaneous intervals.


def test_one_contrast_keeps_its_level_and_so_do_copies_of_it():
    x = np.random.default_rng(0).normal(0, 1, (9, 1))
    assert single_level([x], 0.05) == pytest.approx(0.05, abs=0.003)
    assert single_level([np.hstack([x, 2 * x, -x])], 0.05) == pytest.approx(0.05, abs=0.003)
    # The simulation's own error makes no level larger than that of a single interval, nor smaller than Bonferroni's.
    assert all(single_level([x], 0.05, draws) <= 0.05 for draws in range(20, 60))
    apart = np.linalg.qr(np.vstack([np.eye(8), -np.ones(8)]))[0]  # eight contrasts without correlation
    assert all(single_level([apart], 0.05, draws) >= 0.05 / 8 for draws in range(20, 1000, 20))


@pytest.mark.parametrize(("k", "alpha"), [(3, 0.05), (7, 0.1)])
def test_the_level_of_independent_contrasts_is_that_of_sidak(k, alpha):
    x = np.random.default_rng(k).normal(0, 1, (12, k))
    x = np.linalg.qr(x - x.mean(axis=0))[0]
    assert np.corrcoef(x.T) == pytest.approx(np.eye(k), abs=1e-6)
    assert single_level([x], alpha) == pytest.approx(1 - (1 - alpha) ** (1 / k), rel=0.06)


def test_the_level_lies_between_bonferronis_and_the_single_one_and_rises_with_correlation():
    rng = np.random.default_rng(0)
    common, own = rng.normal(0, 1, (12, 1)), rng.normal(0, 1, (12, 6))
    levels = [single_level([r * common + (1 - r) * own], 0.05) for r in (0, 0.7, 0.95)]
    assert 0.05 / 6 <= levels[0] < levels[1] < levels[2] <= 0.05


def test_seeds_of_their_own_are_simulated_as_such():
    """A contrast of two sets of seeds, alone: Welch's test, whose level is nearly right at these sizes."""
    rng = np.random.default_rng(1)
    sets = [rng.normal(0, 1, (9, 1)), rng.normal(0, 3, (14, 1))]
    assert single_level(sets, 0.05) == pytest.approx(0.05, abs=0.004)


def test_what_does_not_move_takes_no_part_in_the_level():
    x = np.random.default_rng(0).normal(0, 1, (9, 2))
    assert single_level([np.hstack([x, np.ones((9, 3))])], 0.05) == single_level([x], 0.05)
    assert single_level([np.ones((9, 3))], 0.05) == 0.05


def test_values_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shapes \[\(3, 2\), \(3, 1\)\]; give \[seeds, contrasts\] of each"):
        single_level([np.ones((3, 2)), np.ones((3, 1))], 0.05)


def test_the_parts_of_seeds_are_what_the_estimates_are_made_of():
    rng = np.random.default_rng(2)
    own = [Arm("again", c) for c in ("relu", "tanh")]
    x = {arm: rng.normal(0, 1, (9 if arm in own else 8, 1)) for arm in ARMS + own}
    bagged = bag(
        {a: Scores(tuple(range(50, 59)) if a in own else tuple(range(8)), v, v) for a, v in x.items()}, bags=60
    )
    asked = contrasts(ARMS + own, [*PAIRS, ("after", "again")])
    by_seeds = parts(bagged, asked)
    assert [p.shape for p in by_seeds] == [(8, 9), (9, 9)]
    estimates = [contrast(bagged, c.weights) for c in asked]
    assert sum(p.mean(axis=0) for p in by_seeds) == pytest.approx([e.estimate for e in estimates])
    variance = sum(p.var(axis=0, ddof=1) / len(p) for p in by_seeds)
    assert np.sqrt(variance) == pytest.approx([e.se for e in estimates])


def of_values(values):
    """The estimates of contrasts that have these values by seed `[seeds, contrasts]`, without a choice."""
    se = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return [estimate(*pair, len(values)) for pair in zip(values.mean(axis=0), se, strict=True)]


def test_simultaneous_intervals_cover_all_contrasts_at_once_where_single_ones_do_not():
    """Three differences and their three interactions, 8 seeds; every true value is 0."""
    rng, asked, repeats = np.random.default_rng(0), contrasts(ARMS, PAIRS), 400
    weights = np.array([[c.weights.get(arm, 0) for c in asked] for arm in ARMS])
    single, joint, false, bonferroni, levels = [], [], [], [], []
    for _ in range(repeats):
        values = rng.normal(0, 1, (8, len(ARMS))) @ weights
        levels.append(single_level([values], 0.05, draws=500))
        judged = judge(asked, of_values(values), margin_pp=1, alpha=0.05, single_level=levels[-1])
        intervals = np.array([[j.estimate.ci, j.simultaneous_ci, interval(j.estimate, 0.05 / 6)] for j in judged])
        covered = ((intervals[..., 0] <= 0) & (intervals[..., 1] >= 0)).all(axis=0)
        for kind, holds in zip((single, joint, bonferroni), covered, strict=True):
            kind.append(holds)
        false.append(any(j.adjusted_p < 0.05 for j in judged))
    assert np.mean(single) < 0.88
    assert 0.93 < np.mean(joint) < 0.98
    assert np.mean(joint) < np.mean(bonferroni)
    assert np.mean(false) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)
    assert 0.05 / 6 < np.mean(levels) < 0.03


def test_equivalence_is_shown_by_chance_in_no_more_than_alpha_of_families():
    """Every difference lies at the margin, the worst case."""
    rng, asked = np.random.default_rng(1), contrasts(ARMS, PAIRS)[:3]
    shown = []
    for _ in range(300):
        estimates = of_values(rng.normal(1.5, np.sqrt(2), (8, 3)))
        judged = judge(asked, estimates, margin_pp=1.5, alpha=0.05)
        shown.append([any(j.tost_p < 0.05 for j in judged), any(j.adjusted_tost_p < 0.05 for j in judged)])
    single, holm = np.mean(shown, axis=0)
    assert holm < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300) < 0.09 < single


def test_bags_are_judged_with_the_simultaneous_level_of_their_own_correlation():
    bagged, asked = without_choice(np.random.default_rng(3)), contrasts(ARMS, PAIRS)
    level, estimates = single_level(parts(bagged, asked), 0.05), [contrast(bagged, q.weights) for q in asked]
    judged = judge(asked, estimates, margin_pp=1, alpha=0.05, single_level=level, speaks_of="new seeds and splits")
    for j in judged:
        assert j.simultaneous_ci == interval(j.estimate, level) and j.speaks_of == "new seeds and splits"
        assert j.simultaneous_ci[0] < j.estimate.ci[0] and j.simultaneous_ci[0] > interval(j.estimate, 0.05 / 6)[0]
