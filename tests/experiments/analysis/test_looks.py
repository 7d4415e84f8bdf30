"""experiments.analysis.looks: published bounds, the level of whole runs by simulation, and very early looks."""

import numpy as np
import pytest
import scipy.stats

from experiments.analysis.looks import FLOOR, Look, bounds, schedule, spent


@pytest.mark.parametrize(
    ("shares", "published"),
    [
        # Lan & DeMets's approximation of O'Brien & Fleming's bounds, alpha = 0.05, two-sided: e.g. ldbounds (Casper &
        # Perez), and Proschan, Lan & Wittes 2006, "Statistical monitoring of clinical trials".
        ([1 / 2, 1], [2.963, 1.969]),
        ([1 / 3, 2 / 3, 1], [3.710, 2.511, 1.993]),
        ([0.25, 0.5, 0.75, 1], [4.333, 2.963, 2.359, 2.014]),
        ([0.2, 0.4, 0.6, 0.8, 1], [4.877, 3.357, 2.680, 2.290, 2.031]),
    ],
)
def test_bounds_are_the_published_ones(shares, published):
    np.testing.assert_allclose(bounds(shares, 0.05), published, atol=6e-4)


@pytest.mark.parametrize("alpha", [0.3, 0.05, 1e-6])
def test_a_single_look_has_the_level_of_the_run_and_spends_it(alpha):
    assert schedule((), 12, alpha) == schedule((12,), 12, alpha) == [Look(12, alpha)]
    assert spent(1.0, alpha) == pytest.approx(alpha, rel=1e-12)
    assert 2 * scipy.stats.norm.sf(bounds([1.0], alpha)[0]) == pytest.approx(alpha, rel=1e-9)


@pytest.mark.parametrize(
    ("looks", "alpha"), [((6, 12, 24), 0.05), ((2, 3, 10), 0.4), ((23, 24), 0.2), ((10, 11, 12, 13, 50, 51), 0.1)]
)
def test_of_runs_without_a_difference_alpha_are_ended_by_a_bound(looks, alpha):
    shares = np.array(looks) / looks[-1]
    increments = np.random.default_rng(0).standard_normal((500_000, len(looks)))
    z = (increments * np.sqrt(np.diff(shares, prepend=0))).cumsum(axis=1) / np.sqrt(shares)
    crossed = (np.abs(z) >= bounds(shares, alpha)).cumsum(axis=1) > 0
    for share, of_runs in zip(shares, crossed.mean(axis=0), strict=True):
        expected = spent(share, alpha)
        assert abs(of_runs - expected) < 4 * np.sqrt(expected * (1 - expected) / 500_000)
    assert 0.5 * alpha < crossed[:, -1].mean() < 1.5 * alpha


def test_levels_grow_and_the_last_one_is_less_than_that_of_the_run():
    levels = [look.alpha for look in schedule((6, 12, 18, 24), 24, 0.05)]
    assert levels == sorted(levels) and levels[-1] < 0.05 < sum(levels)


@pytest.mark.parametrize(("looks", "high"), [((6, 12, 24), 0.0515), ((3, 6, 12), 0.0525)])
def test_t_tests_at_the_nominal_levels_keep_that_of_the_run_nearly(looks, high):
    rng, runs = np.random.default_rng(0), 200_000
    seeds = rng.standard_normal((runs, looks[-1]))
    ended = np.zeros(runs, bool)
    for look in schedule(looks, looks[-1], 0.05):
        seen = seeds[:, : look.seeds]
        t = seen.mean(axis=1) / seen.std(axis=1, ddof=1) * np.sqrt(look.seeds)
        ended |= 2 * scipy.stats.t.sf(np.abs(t), look.seeds - 1) < look.alpha
    assert 0.0495 < ended.mean() < high, "and every look at 0.05 would end 10% of the runs"


@pytest.mark.parametrize(
    ("looks", "high"), [((6, 12, 24), 0.051), ((12, 30, 60), 0.0515), ((4, 8, 12, 16, 20, 24), 0.056)]
)
@pytest.mark.parametrize("family", [1, 9])
def test_equivalence_and_families_keep_the_level_of_the_run_nearly(looks, high, family):
    """One-sided at the nominal levels, as TOST is, at a true difference of the margin; and divided as by Holm."""
    n, levels = np.array(looks), np.array([look.alpha for look in schedule(looks, looks[-1], 0.05)])
    increments = np.random.default_rng(0).standard_normal((500_000, len(n)))
    z = (increments * np.sqrt(np.diff(n, prepend=0))).cumsum(axis=1) / np.sqrt(n)
    of_each = (scipy.stats.norm.sf(z) < levels / family).any(axis=1).mean()
    twice = (2 * scipy.stats.norm.sf(np.abs(z)) < levels / family).any(axis=1).mean()
    assert 0.046 < family * of_each < high + 0.002 and 0.048 < family * twice < high + 0.002


def test_a_very_early_look_spends_next_to_nothing_and_never_less_than_the_floor():
    first, second, last = schedule((2, 3, 100), 100, 0.05)
    assert first.alpha == pytest.approx(FLOOR, rel=1e-6) and second.alpha == pytest.approx(FLOOR, rel=0.1)
    assert last.alpha == pytest.approx(0.05, rel=1e-6)
    assert schedule((2, 100), 100, 1e-6)[-1].alpha == pytest.approx(1e-6 - FLOOR, rel=1e-6)


@pytest.mark.parametrize(("looks", "seeds"), [((6, 12), 24), ((12, 6), 6), ((6, 6, 12), 12), ((0, 12), 12)])
def test_looks_that_do_not_grow_to_the_seeds_are_refused(looks, seeds):
    with pytest.raises(ValueError, match=rf"give growing numbers from 1 up that end with {seeds}"):
        schedule(looks, seeds, 0.05)
