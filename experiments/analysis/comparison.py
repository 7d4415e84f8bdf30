"""Compares two arms: the size of the difference and its uncertainty. `verdict` says what may be concluded.

Pure functions of numbers; every statistic is scipy's or statsmodels'. Accuracies are in percent, their differences in
percentage points (pp), and standard deviations are sample standard deviations (ddof = 1).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, ttost_ind, ttost_paired

Interval = tuple[float, float]
Floats = NDArray[np.float64]

# Accuracies closer than this count as equal: float32 rounding is smaller, one example in a million is larger.
DIGITS = 4
RESOLUTION_PP = 10.0**-DIGITS


class Comparison(NamedTuple):
    """Comparison of two arms, a - b: paired by seed if both were trained with the same seeds, else unpaired."""

    paired: bool
    """Whether element i of both arms comes from the same seed."""
    n: int
    """Number of pairs, or of trainings per unpaired arm."""
    difference: float
    """Mean of a - b, pp."""
    sd: float
    """Sample standard deviation of the paired differences, pp; unpaired: root mean square of the arms' own."""
    ci: Interval
    """Confidence interval of the difference at level 1 - alpha, pp: paired t, or Welch's (1947)."""
    p: float
    """p of the two-sided t test (paired, or Welch's), not adjusted for other comparisons."""
    welch_ci: Interval
    """Welch's interval, pp: the interval if pairing is ignored."""
    correlation: float | None
    """Sample correlation of the two arms over seeds; None for unpaired arms, fewer than 3 pairs or a constant arm."""
    permutation_p: float
    """p of the two-sided permutation test of the mean difference, which flips signs of the paired differences or swaps
    unpaired trainings between arms; exact if there are at most `resamples` permutations."""
    bootstrap_ci: Interval | None
    """BCa bootstrap interval of the mean difference (Efron 1987), pp; None if it is not defined."""
    tost_p: float
    """Two one-sided t tests (Schuirmann 1987) of |difference| < margin, paired or Welch's: the larger p of the two."""
    no_spread: bool
    """Whether all differences are equal, or both unpaired arms constant. A t test cannot estimate an error then, so `p`
    and `tost_p` come from permutations and `ci` has no width."""


def compare(
    a: ArrayLike, b: ArrayLike, *, margin_pp: float, alpha: float, resamples: int, paired: bool = True
) -> Comparison:
    """Compares two arms.

    Args:
      a, b: accuracies, [n] with n >= 2, percent.
      margin_pp: equivalence margin, pp; declare it before you see the numbers.
      alpha: significance level; intervals have confidence 1 - alpha.
      resamples: number of resamples of the bootstrap and of the permutation test; both use a fixed seed.
      paired: whether element i of a and of b come from the same seed.

    Raises:
      ValueError: a and b are not two sequences of one length of at least 2.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size < 2:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}; give two sequences of one length, at least 2")
    mean = float((a - b).mean())
    constant_a, constant_b = (bool(np.ptp(x) < RESOLUTION_PP) for x in (a, b))
    welch_ci = (mean, mean)
    if not (constant_a and constant_b):
        welch_ci = _interval(CompareMeans.from_data(a, b).tconfint_diff(alpha=alpha, usevar="unequal"))
    correlation = None if not paired or a.size < 3 or constant_a or constant_b else float(np.corrcoef(a, b)[0, 1])

    samples, permutation_type = ((a - b,), "samples") if paired else ((a, b), "independent")

    def permute(shift: float, alternative: str) -> float:
        return _permutation((samples[0] + shift, *samples[1:]), permutation_type, alternative, resamples)

    permutation_p = permute(0.0, "two-sided")
    no_spread = bool(np.ptp(a - b) < RESOLUTION_PP) if paired else constant_a and constant_b
    if no_spread:
        sd, ci, bootstrap_ci, p = 0.0, (mean, mean), (mean, mean), permutation_p
        tost_p = max(permute(margin_pp, "greater"), permute(-margin_pp, "less"))
    elif paired:
        test = scipy.stats.ttest_rel(a, b)
        interval = test.confidence_interval(1 - alpha)
        sd, p, ci = float((a - b).std(ddof=1)), float(test.pvalue), (float(interval.low), float(interval.high))
        bootstrap_ci = _bca(samples, _mean_difference, alpha, resamples)
        tost_p = float(ttost_paired(a, b, -margin_pp, margin_pp)[0])
    else:
        sd, ci = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)), welch_ci
        p = float(CompareMeans.from_data(a, b).ttest_ind(usevar="unequal")[1])
        bootstrap_ci = _bca(samples, _mean_difference, alpha, resamples)
        tost_p = float(ttost_ind(a, b, -margin_pp, margin_pp, usevar="unequal")[0])
    return Comparison(
        paired, a.size, mean, sd, ci, p, welch_ci, correlation, permutation_p, bootstrap_ci, tost_p, no_spread
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted to control the family-wise error rate (Holm 1979), in the order given."""
    return np.asarray(multipletests(p_values, method="holm")[1]).tolist()


def _mean_difference(*samples: Floats, axis: int) -> Floats:
    means = [np.mean(sample, axis=axis) for sample in samples]
    return means[0] if len(means) == 1 else means[0] - means[1]


def _permutation(samples: Sequence[Floats], permutation_type: Any, alternative: Any, resamples: int) -> float:
    test = scipy.stats.permutation_test(
        samples,
        # Rounding makes equal sums tie, in whatever order floating point added them.
        lambda *x, axis: np.round(_mean_difference(*x, axis=axis), DIGITS),
        permutation_type=permutation_type,
        vectorized=True,
        n_resamples=resamples,
        alternative=alternative,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def _bca(samples: Sequence[Floats], statistic: Callable[..., Any], alpha: float, resamples: int) -> Interval | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # the result is None then
        ci = scipy.stats.bootstrap(
            samples,
            statistic,
            n_resamples=resamples,
            confidence_level=1 - alpha,
            method="BCa",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return (float(ci.low), float(ci.high)) if np.isfinite([ci.low, ci.high]).all() else None


def _interval(ends: Any) -> Interval:
    low, high = np.asarray(ends)
    return float(low), float(high)
