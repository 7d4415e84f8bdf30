"""The contrasts of a run judged together, so that many questions do not find a difference by chance.

The family is all primary contrasts of the run. Over it, Holm's (1979) method adjusts the p values of differences, and
once more those of equivalence (two one-sided t tests, Schuirmann 1987, at each contrast's margin): among the true
statements "no difference" one is rejected with probability alpha at most, and so it is with "a difference beyond the
margin": each kind has a level of its own, so a false statement of either kind is made in 2 alpha of runs at most.
Secondary contrasts keep their p values, and are worded as explorations. A/A tests are no questions, since their answer
is known; they are outside of the family, too.

**The margin of an interaction is that of a simple contrast**, unless its own is declared. Two differences that both lie
within ±m may be 2 m apart, so 2 m would be the width at which "within the margin in both" and "no interaction" agree.
But with 2 m a run in which one side leads by m here and the other side by m there would show "no interaction", though
the better side changes. A margin says how many pp matter to a reader, and these are as many when the context changes.
The same margin is the stricter choice: who wants a wider one must declare it before the run.

Simultaneous intervals cover all contrasts of the family at once with probability 1 - alpha. Each is Student's interval
at a common level p*: the alpha quantile of the smallest p value over the family where no contrast differs from 0. Its
distribution is simulated for normal seeds with the correlation that the seeds' parts in the contrasts have (contrasts
that share arms, or seeds, go up and down together). So p* lies between alpha / K (Bonferroni) and alpha: for one
contrast it is alpha, for K independent ones Šidák's 1 - (1 - alpha)^(1/K). Intervals for new data use the same p*, as
if contrasts were as correlated over examples as they are over seeds. Holm's method steps down and simultaneous
intervals do not, so a difference that Holm shows may have a simultaneous interval that just reaches 0.

References:
  Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.
  Hothorn, Bretz & Westfall 2008, "Simultaneous inference in general parametric models", Biometrical Journal 50.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from experiments.analysis.bagging import Bagged, Estimate, equivalence_p
from experiments.analysis.comparison import RESOLUTION_PP, Interval, holm
from experiments.config import Arm, Question

Floats = NDArray[np.float64]
SpeaksOf = Literal["new seeds", "new seeds and splits", "new data, too"]
DRAWS = 20_000


class Judged(NamedTuple):
    """A contrast with its estimate, and what the family makes of it."""

    contrast: Question
    estimate: Estimate
    speaks_of: SpeaksOf
    """What the interval, and with it p, takes as drawn anew."""
    alpha: float
    margin_pp: float
    family: int
    """How many contrasts p values are adjusted over; 1 for a secondary contrast and for an A/A test."""
    adjusted_p: float
    tost_p: float
    """Of equivalence within the margin, not adjusted."""
    adjusted_tost_p: float
    simultaneous_ci: Interval | None
    """Covers, with those of the rest of the family, 1 - alpha; None outside of the family."""
    equivalence_ci: Interval
    """Covers 1 - 2 alpha: it lies within the margin where `tost_p` is below alpha."""
    at_end: tuple[tuple[Arm, float], ...] = ()
    """Arms of the contrast that choose an end of their grid in too many bags, with the share of these bags."""


def judge(
    contrasts: Sequence[Question],
    estimates: Sequence[Estimate],
    *,
    margin_pp: float,
    alpha: float,
    single_level: float | None = None,
    speaks_of: SpeaksOf = "new seeds",
    end_shares: Mapping[Arm, float] | None = None,
    most_at_end: float = 0.05,
) -> list[Judged]:
    """Judges contrasts as one family.

    Args:
      contrasts, estimates: one estimate each, in the same order.
      margin_pp: equivalence margin of contrasts that declare none, pp; declared before the run.
      alpha: of the family.
      single_level: p* of the simultaneous intervals, from `single_level`; None for Bonferroni's alpha / K.
      speaks_of: what the estimates take as drawn anew.
      end_shares: share of the bags that choose an end of the grid, by arm.
      most_at_end: an arm is at the end of its grid from this share on.
    """
    if len(contrasts) != len(estimates):
        raise ValueError(f"{len(contrasts)} contrasts and {len(estimates)} estimates; give one estimate for each")
    inside = [k for k, c in enumerate(contrasts) if c.primary and not c.same_arm]
    margins = [margin_pp if c.margin_pp is None else c.margin_pp for c in contrasts]
    p = [e.p for e in estimates]
    tost = [equivalence_p(e, margin) for e, margin in zip(estimates, margins, strict=True)]
    adjusted_p, adjusted_tost = p.copy(), tost.copy()
    if inside:
        for raw, adjusted in ((p, adjusted_p), (tost, adjusted_tost)):
            for k, value in zip(inside, holm([raw[k] for k in inside]), strict=True):
                adjusted[k] = value
    level = alpha / max(1, len(inside)) if single_level is None else single_level
    ends = {arm: share for arm, share in (end_shares or {}).items() if share >= most_at_end}
    return [
        Judged(
            c,
            e,
            speaks_of,
            alpha,
            margins[k],
            len(inside) if k in inside else 1,
            adjusted_p[k],
            tost[k],
            adjusted_tost[k],
            interval(e, level) if k in inside else None,
            interval(e, 2 * alpha),
            tuple((arm, ends[arm]) for arm in c.weights if arm in ends),
        )
        for k, (c, e) in enumerate(zip(contrasts, estimates, strict=True))
    ]


def interval(estimate: Estimate, alpha: float) -> Interval:
    """Student's interval of an estimate; covers 1 - alpha."""
    half = 0.0 if estimate.exact else float(scipy.stats.t.ppf(1 - alpha / 2, estimate.df)) * estimate.se
    return estimate.estimate - half, estimate.estimate + half


def parts(bagged: Bagged[Arm], contrasts: Sequence[Question]) -> list[Floats]:
    """Each seed's part in each contrast of the family `[seeds, contrasts]`, for each set of seeds."""
    family = [c for c in contrasts if c.primary and not c.same_arm]
    return [
        np.transpose(
            [
                np.sum(
                    [w * bagged.arms[a].values for a, w in c.weights.items() if bagged.arms[a].seeds == seeds], axis=0
                )
                * np.ones(len(seeds))
                for c in family
            ]
        ).reshape(len(seeds), len(family))
        for seeds in bagged.counts
    ]


def single_level(by_seeds: Sequence[Floats], alpha: float, draws: int = DRAWS) -> float:
    """p*: the level at which single intervals, all at once, cover 1 - alpha.

    Args:
      by_seeds: for each set of seeds, values `[seeds, contrasts]` of which a contrast's estimate is the mean, or the
        sum of the means. Where all values of a contrast are equal, it cannot be missed and takes no part.
      alpha: for all contrasts together.
      draws: of the simulation, with a fixed seed.

    Raises:
      ValueError: values that are not `[seeds, contrasts]` with one number of contrasts.
    """
    if len({np.shape(x)[1:] for x in by_seeds}) != 1 or np.ndim(by_seeds[0]) != 2:
        raise ValueError(f"values have shapes {[np.shape(x) for x in by_seeds]}; give [seeds, contrasts] of each")
    centred = [x - x.mean(axis=0) for x in by_seeds]
    moves = np.max([np.ptp(x, axis=0) for x in by_seeds], axis=0) >= RESOLUTION_PP
    if not moves.any():
        return alpha
    rng = np.random.default_rng(0)
    # Normal values with the covariance of the seeds' parts, of as many seeds: mean and variance of each contrast.
    factors = [_factor(x[:, moves]) for x in centred]
    smallest = []
    for start in range(0, draws, 1000):
        count = min(1000, draws - start)
        mean, variance, variances = 0.0, 0.0, []
        for x, factor in zip(centred, factors, strict=True):
            n = len(x)
            values = rng.standard_normal((count * n, len(factor))) @ factor
            values = values.reshape(count, n, -1)
            mean = mean + values.mean(axis=1)
            variances.append((values.var(axis=1, ddof=1) / n, n))
            variance = variance + variances[-1][0]
        df = np.asarray(variance) ** 2 / sum(v**2 / (n - 1) for v, n in variances)
        t = np.abs(mean) / np.sqrt(variance)
        smallest.append((2 * scipy.stats.t.sf(t, df)).min(axis=1))
    found = float(np.quantile(np.concatenate(smallest), alpha))
    return min(max(found, alpha / int(moves.sum())), alpha)


def _factor(centred: Floats) -> Floats:
    """F `[rank, contrasts]` with F'F the covariance; at most as many rows as there are contrasts."""
    _, scale, rows = np.linalg.svd(centred / np.sqrt(len(centred) - 1), full_matrices=False)
    return scale[:, None] * rows
