"""Which trainings learned at all, and whether one arm fails more often than another.

A training learned if its test accuracy is beyond chance: more examples right than the upper 99.9% limit of a binomial
with the share of the largest class. A network that gives one class to all examples never exceeds this share, and one
that guesses exceeds the limit once in 1000 times. The rule finds trainings that failed; it does not find poor ones.

A mean over trainings of which some failed mixes two things, and its t interval does not hold: with normal accuracies
(sd 1 pp) and one training in twenty of one arm at chance (85 pp lower), the 95% interval of the difference covers in
23% (5 seeds), 41% (10) and 66% (21) of cases, since a sample without a failure knows nothing of failures. So the
share that learned, and the accuracy among those, stand beside the mean, and a difference in shares is a result of its
own. Several of these are adjusted with `experiments.analysis.comparison.holm`.

References:
  Clopper & Pearson 1934, Biometrika 26; McNemar 1947, Psychometrika 12; Boschloo 1970, Statistica Neerlandica 24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from experiments.analysis.comparison import RESOLUTION_PP, Interval
from experiments.formatting import join, p_text

CHANCE = 0.999


class Learned(NamedTuple):
    """What the trainings of one arm came to."""

    by_seed: tuple[bool, ...]
    count: int
    n: int
    ci: Interval
    """Clopper-Pearson interval of the share that learns, 0 to 1."""
    limit: float
    """Highest accuracy that chance explains, percent."""
    accuracy: float | None
    """Mean test accuracy of those that learned, percent; None where none did."""
    plain_mean: float
    """Mean test accuracy of all trainings, percent."""


class ShareDifference(NamedTuple):
    """Share that learned, a - b."""

    difference: float
    """-1 to 1."""
    p: float
    """Exact, two-sided, not adjusted for other comparisons."""
    test: Literal["McNemar's exact test", "Boschloo's exact test"]


def chance_limit(examples: int, majority_share: float) -> float:
    """Highest test accuracy that chance explains, percent.

    Args:
      examples: of the test set.
      majority_share: of the largest class among them, 0 to 1.

    Raises:
      ValueError: a share outside of (0, 1), or so few examples that chance may get all of them right.
    """
    if not 0 < majority_share < 1:
        raise ValueError(f"majority_share is {majority_share:g}; give the share of the largest class, between 0 and 1")
    right = int(scipy.stats.binom.ppf(CHANCE, examples, majority_share))
    if right >= examples:
        raise ValueError(
            f"with {examples} test examples, {100 * majority_share:.3g}% of one class, guessing may get all right, so "
            "nobody can tell which trainings learned; use more test examples"
        )
    return 100 * right / examples


def learned(accuracies: ArrayLike, *, examples: int, majority_share: float, alpha: float = 0.05) -> Learned:
    """Which trainings of an arm learned.

    Args:
      accuracies: test accuracy by seed, at the arm's most chosen setting, percent; NaN did not learn.
      examples: of the test set.
      majority_share: of the largest class among them, 0 to 1.
      alpha: the interval covers 1 - alpha.
    """
    values = np.asarray(accuracies, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"accuracies has shape {values.shape}; give one for each seed")
    limit = chance_limit(examples, majority_share)
    right = values > limit + RESOLUTION_PP
    interval = scipy.stats.binomtest(int(right.sum()), right.size).proportion_ci(1 - alpha, method="exact")
    return Learned(
        tuple(right.tolist()),
        int(right.sum()),
        right.size,
        (float(interval.low), float(interval.high)),
        limit,
        float(values[right].mean()) if right.any() else None,
        float(values.mean()),
    )


def compare_shares(a: Learned, b: Learned, *, paired: bool) -> ShareDifference:
    """Whether one arm learns more often: McNemar's exact test where arms share their seeds, Boschloo's where not.

    Both hold their level for any n. For arms of one size, Boschloo's p is never above Fisher's.

    Raises:
      ValueError: paired arms of different numbers of seeds.
    """
    difference = a.count / a.n - b.count / b.n
    if not paired:
        if a.count + b.count in (0, a.n + b.n):
            return ShareDifference(difference, 1.0, "Boschloo's exact test")
        table = [[a.count, b.count], [a.n - a.count, b.n - b.count]]
        return ShareDifference(difference, float(scipy.stats.boschloo_exact(table).pvalue), "Boschloo's exact test")
    if a.n != b.n:
        raise ValueError(f"a has {a.n} seeds and b {b.n}; give the same seeds in the same order, or paired=False")
    only_a = sum(x and not y for x, y in zip(a.by_seed, b.by_seed, strict=True))
    only_b = sum(y and not x for x, y in zip(a.by_seed, b.by_seed, strict=True))
    p = float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return ShareDifference(difference, p, "McNemar's exact test")


def shares_sentence(
    names: tuple[str, str],
    a: Learned,
    b: Learned,
    found: ShareDifference,
    adjusted_p: float,
    *,
    family: int = 1,
    alpha: float = 0.05,
) -> str:
    """The counts of both arms, the test, and whether one learns more often.

    Args:
      names, a, b: the arms.
      found: a - b, from `compare_shares`.
      adjusted_p: its p after Holm over the family; what is said rests on this one.
      family: how many differences p values are adjusted over.
      alpha: level of the family.
    """
    more = names[0] if found.difference > 0 else names[1]
    said = f"{more} learns more often" if adjusted_p < alpha else "that one learns more often is not shown"
    shares = [f"{name} learned in {x.count} of {x.n} trainings" for name, x in zip(names, (a, b), strict=True)]
    holm = f" after Holm over {family}" if family > 1 else ""
    return f"{', '.join(shares)} ({found.test}, {p_text(adjusted_p)}{holm}): {said}"


def describe(arm: Learned, alpha: float = 0.05) -> str:
    """`9 of 12 learned (95% CI 43 to 95%), mean of those 94.20%, of all 73.20%`."""
    low, high = (100 * end for end in arm.ci)
    of_those = "" if arm.accuracy is None else f"mean of those {arm.accuracy:.2f}%, "
    share = f"{arm.count} of {arm.n} learned ({100 * (1 - alpha):g}% CI {low:.0f} to {high:.0f}%)"
    return f"{share}, {of_those}of all {arm.plain_mean:.2f}%"


def caution(arms: Mapping[str, Learned]) -> str | None:
    """What a contrast of the means of these arms must say with it; None where every training learned."""
    failed = [f"{x.n - x.count} of {x.n} trainings of {name}" for name, x in arms.items() if x.count < x.n]
    if not failed:
        return None
    limit = max(x.limit for x in arms.values())
    return (
        f"{join(failed)} did not learn (test accuracy of {limit:.1f}% or less, which chance explains), so this is a "
        "difference of means that mix trainings that learned with trainings that failed, and its interval is not to "
        "be relied on; compare the shares that learned, and the accuracy of those"
    )
