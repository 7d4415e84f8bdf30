"""experiments.analysis.power: textbook sample sizes, statsmodels, and simulation."""

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from experiments.analysis.power import (
    detectable,
    detection_power,
    equivalence_power,
    n_to_detect,
    n_to_show_equivalence,
    power,
)

ALPHA = {"alpha": 0.05}


@pytest.mark.parametrize(("effect", "n"), [(0.5, 6), (1.0, 10), (1.0, 3), (0.3, 50), (2.0, 2)])
def test_power_of_the_t_tests_equals_statsmodels(effect, n):
    assert detection_power(effect, n, **ALPHA, paired=True) == pytest.approx(
        TTestPower().power(effect, n, 0.05), abs=1e-5
    )
    unpaired = TTestIndPower().power(effect, n, 0.05)
    assert detection_power(effect, n, **ALPHA, paired=False) == pytest.approx(unpaired, abs=1e-5)


@pytest.mark.parametrize(("effect", "unpaired", "paired"), [(0.2, 394, 199), (0.5, 64, 34), (0.8, 26, 15)])
def test_seeds_needed_equal_cohens_table(effect, unpaired, paired):
    # Cohen 1988, table 2.4.1 (393, 64, 26; exactly 394 for the first), and G*Power for paired samples.
    assert n_to_detect(effect, 1.0, **ALPHA, paired=False) == unpaired
    assert n_to_detect(effect, 1.0, **ALPHA, paired=True) == paired


@pytest.mark.parametrize(
    ("sd", "difference", "normal"),
    [(0.15, 0.2, 9), (0.15, 0.1, 35), (0.15, 0.05, 141), (2.0, 2.0, 16), (0.1, 0.1, 16), (0.1, 0.04, 98)],
)
def test_t_tests_need_a_seed_or_two_more_than_the_normal_theory_says(sd, difference, normal):
    # The figures that the standard for placement ablations quotes: 2·(1.96 + 0.84)²·sd²/difference², rounded.
    assert round(2 * (1.959964 + 0.841621) ** 2 * (sd / difference) ** 2) == normal
    assert 1 <= n_to_detect(difference, sd, **ALPHA, paired=False) - normal <= 2  # type: ignore[operator]


@pytest.mark.parametrize("paired", [True, False])
def test_the_detectable_difference_needs_just_as_many_seeds_as_there_were(paired):
    for n in (2, 3, 8, 24):
        seen = detectable(n, 0.7, **ALPHA, paired=paired)
        assert n_to_detect(seen * 1.0001, 0.7, **ALPHA, paired=paired) == n
        assert seen > 2 * 0.7 / np.sqrt(n)


@pytest.mark.parametrize(("n", "margin", "paired"), [(5, 1.5, True), (12, 1.0, True), (12, 1.2, False)])
def test_the_power_of_tost_is_the_share_of_simulated_runs_that_show_equivalence(n, margin, paired):
    rng, runs = np.random.default_rng(0), 20_000
    a, b = rng.normal(90, 1 / np.sqrt(1 + paired), (2, runs, n))  # if paired, the differences have sd 1
    test = scipy.stats.ttest_rel if paired else scipy.stats.ttest_ind
    above, below = test(a, b - margin, axis=1, alternative="greater"), test(a, b + margin, axis=1, alternative="less")
    share = (np.maximum(above.pvalue, below.pvalue) < 0.05).mean()
    expected = equivalence_power(margin, n, alpha=0.05, paired=paired)
    assert 0.2 < expected < 0.95  # otherwise any number of seeds would pass
    assert abs(share - expected) < 3.5 * np.sqrt(expected * (1 - expected) / runs)


def test_equivalence_needs_no_fewer_seeds_than_the_normal_theory_and_few_more():
    # Chow, Shao & Wang: 2·(z_0.95 + z_0.9)²·sd²/margin² for two groups.
    for ratio in (0.2, 0.5, 1.0):
        normal = 2 * (1.644854 + 1.281552) ** 2 / ratio**2
        assert 0 <= n_to_show_equivalence(ratio, 1.0, **ALPHA, paired=False) - normal < 3  # type: ignore[operator]


def test_power_of_a_contrast_takes_its_n_its_sd_and_its_pairing():
    options = {"margin_pp": 0.5, "alpha": 0.05}
    found = power(10, 0.4, **options, paired=True)
    assert found.power == 0.8
    assert found.detectable == detectable(10, 0.4, **ALPHA, paired=True)
    assert found.n_to_detect == n_to_detect(0.5, 0.4, **ALPHA, paired=True)
    assert found.n_to_show_equivalence == n_to_show_equivalence(0.5, 0.4, **ALPHA, paired=True)
    apart = power(10, 0.4, **options, paired=False)
    assert apart.n_to_detect == n_to_detect(0.5, 0.4, **ALPHA, paired=False) > found.n_to_detect  # type: ignore


def test_without_spread_there_is_nothing_to_reckon_with_and_some_questions_take_too_many_seeds():
    assert power(12, 0.0, margin_pp=1, alpha=0.05, paired=True)[1:] == (None, None, None)
    assert n_to_detect(1e-4, 1.0, **ALPHA, paired=True) is None
    assert n_to_detect(100.0, 1.0, **ALPHA, paired=True) == 2
