"""Two arms over the same seeds: how large the difference is, how sure it is, and what may be said about it.

Pure functions of numbers; every statistic is scipy's or statsmodels'. Accuracies are in percent, their differences in
percentage points (pp), and standard deviations are sample standard deviations (ddof = 1).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, ttost_paired

from experiments.formats import number, p_text, signed

Finding = Literal["different", "different_within_margin", "equivalent", "inconclusive"]
Interval = tuple[float, float]

# Two accuracies closer than this are equal: float32 rounding stays below it, and one example of a million above.
DIGITS = 4
RESOLUTION_PP = 10.0**-DIGITS


class Comparison(NamedTuple):
    """Paired comparison of two arms, a - b, over the seeds that both were trained with."""

    n: int
    """Number of pairs."""
    difference: float
    """Mean of a - b, pp."""
    sd: float
    """Sample standard deviation of the differences, pp."""
    ci: Interval
    """Paired t interval of the difference, pp; covers 1 - alpha."""
    p: float
    """Paired t test, two-sided, not adjusted for other comparisons."""
    welch_ci: Interval
    """Unpaired interval of the difference (Welch 1947), pp: what the same numbers say when pairing is ignored."""
    correlation: float | None
    """Realised correlation of the two arms over seeds; None for fewer than 3 pairs or a constant arm."""
    permutation_p: float
    """Sign-flip permutation test of the mean difference, two-sided; exact where 2^n <= resamples."""
    bootstrap_ci: Interval | None
    """BCa bootstrap interval of the mean difference (Efron 1987), pp; None where it is not defined."""
    tost_p: float
    """Two one-sided paired t tests (Schuirmann 1987) of |difference| < margin: the larger p of the two."""
    no_spread: bool
    """All differences are equal: a t test has nothing to estimate its error from, so `p` and `tost_p` come from sign
    flips and the intervals have no width."""


class Contrast(NamedTuple):
    """A comparison, named, and judged within its family of activations."""

    activation: str
    a: str
    b: str
    comparison: Comparison
    holm_p: float
    """`comparison.p` after Holm's (1979) correction over the family."""
    family: int
    """How many activations the same pair (a, b) is compared for."""
    margin_pp: float
    alpha: float


def compare(a: ArrayLike, b: ArrayLike, *, margin_pp: float, alpha: float, resamples: int) -> Comparison:
    """Compares two arms over the same seeds.

    Args:
      a, b: accuracies, [n] with n >= 2, percent; element i of both comes from the same seed.
      margin_pp: equivalence margin, pp, declared before the numbers were seen.
      alpha: level; intervals cover 1 - alpha.
      resamples: of the bootstrap and of the permutation test, both with a fixed seed.

    Raises:
      ValueError: a and b are not two sequences of one length of at least 2.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size < 2:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}; give two paired sequences of one length, at least 2")
    d = a - b
    n, mean = d.size, float(d.mean())
    no_spread = bool(np.ptp(d) < RESOLUTION_PP)
    if no_spread:
        sd, ci, bootstrap_ci = 0.0, (mean, mean), (mean, mean)
        p = _sign_flip(d, "two-sided", resamples)
        tost_p = max(_sign_flip(d + margin_pp, "greater", resamples), _sign_flip(d - margin_pp, "less", resamples))
    else:
        test = scipy.stats.ttest_rel(a, b)
        interval = test.confidence_interval(1 - alpha)
        sd, ci, p = float(d.std(ddof=1)), (float(interval.low), float(interval.high)), float(test.pvalue)
        bootstrap_ci = _bca(d, alpha, resamples)
        tost_p = float(ttost_paired(a, b, -margin_pp, margin_pp)[0])
    constant_a, constant_b = (bool(np.ptp(x) < RESOLUTION_PP) for x in (a, b))
    welch_ci = (mean, mean)
    if not (constant_a and constant_b):
        low, high = np.asarray(CompareMeans.from_data(a, b).tconfint_diff(alpha=alpha, usevar="unequal"))
        welch_ci = (float(low), float(high))
    correlation = None if n < 3 or constant_a or constant_b else float(np.corrcoef(a, b)[0, 1])
    permutation_p = _sign_flip(d, "two-sided", resamples)
    return Comparison(n, mean, sd, ci, p, welch_ci, correlation, permutation_p, bootstrap_ci, tost_p, no_spread)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values that hold the family-wise error rate (Holm 1979), in the order given."""
    return np.asarray(multipletests(p_values, method="holm")[1]).tolist()


def finding(contrast: Contrast) -> Finding:
    """What the two tests say together; an absent difference is never concluded from a large p alone."""
    equivalent = contrast.comparison.tost_p < contrast.alpha
    if contrast.holm_p < contrast.alpha:
        return "different_within_margin" if equivalent else "different"
    return "equivalent" if equivalent else "inconclusive"


def verdict(contrast: Contrast) -> str:
    """`finding` in words."""
    c, margin = contrast.comparison, f"±{contrast.margin_pp:g} pp"
    better = f"{contrast.a if c.difference > 0 else contrast.b} is better by {abs(c.difference):.2f} pp"
    tost = f"TOST {p_text(c.tost_p)}"
    match finding(contrast):
        case "different":
            return better
        case "different_within_margin":
            return f"{better}, detected yet within the margin of {margin} ({tost})"
        case "equivalent":
            return f"equivalent within {margin} ({tost})"
        case "inconclusive":
            return f"no detectable difference; equivalence at {margin} not shown ({tost})"


def sentence(contrast: Contrast) -> str:
    """The whole result of one comparison, ready to be quoted."""
    c = contrast.comparison
    if c.no_spread:
        interval, test = f"all {c.n} differences equal, so no interval", "sign-flip"
    else:
        interval, test = f"{100 * (1 - contrast.alpha):g}% CI [{number(c.ci[0])}, {number(c.ci[1])}]", "paired"
    adjusted = f" after Holm over {contrast.family}" if contrast.family > 1 else ""
    return (
        f"{contrast.activation}: {contrast.a} - {contrast.b} = {signed(c.difference)} pp, {interval}, "
        f"{test} {p_text(contrast.holm_p)}{adjusted}, n = {c.n}: {verdict(contrast)}"
    )


def _sign_flip(d: NDArray[np.float64], alternative: str, resamples: int) -> float:
    test = scipy.stats.permutation_test(
        (d,),
        # Rounded, so that sums that are equal count as ties whatever order they were added in.
        lambda x, axis: np.round(np.mean(x, axis=axis), DIGITS),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        alternative=alternative,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def _bca(d: NDArray[np.float64], alpha: float, resamples: int) -> Interval | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # answered by None
        ci = scipy.stats.bootstrap(
            (d,),
            np.mean,
            n_resamples=resamples,
            confidence_level=1 - alpha,
            method="BCa",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return (float(ci.low), float(ci.high)) if np.isfinite([ci.low, ci.high]).all() else None
