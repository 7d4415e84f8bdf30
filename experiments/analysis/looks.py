"""Looks before all seeds are trained: at which level each is judged, so that all of them together keep the run's.

Who tests after 6, 12 and 24 seeds, and stops where p is below 0.05, is wrong more often than in 5% of the runs without
a difference. So the level is spent over the looks. After the share t = n / n_max of the seeds, Lan & DeMets' function

    spent(t) = 4 - 4 Φ(z / sqrt(t)),    z the 1 - alpha / 4 quantile of the normal distribution,

of alpha is spent: 2 - 2 Φ(z / sqrt(t)) of alpha / 2 on each side. It resembles O'Brien & Fleming's bounds: little is
spent early, so that the last look costs little. Of what each look spends follows its bound c_k,

    P(|Z_1| < c_1, ..., |Z_(k-1)| < c_(k-1), |Z_k| >= c_k) = spent(t_k) - spent(t_(k-1)),

where there is no difference. There Z_k sqrt(t_k) is a sum of independent normal increments of variances t_k - t_(k-1),
so that its density where no bound was crossed follows from that of the look before, by an integral (Armitage, McPherson
& Rowe). The nominal level of look k is the two-sided p of c_k. How many looks there are must be declared; how far apart
they are may be chosen at will, but not by the values seen.

**Student's t.** The bounds are those of a known variance, and the p values those of t tests. At a look alone these have
just the nominal level, with any number of seeds. Looks are correlated a little less than with a known variance, since
each estimates its own, so that together they reject more often. Simulated with normal seeds and alpha = 0.05 (standard
error 0.0002 or less), the level of a whole run is

    looks at    12, 24    6, 12, 24    4, 8, 12, 16, 20, 24    6, 12     3, 6, 12
    level       0.0505    0.0505       0.0524                  0.0512    0.0512

and with alpha = 0.005 and looks at 6, 12 and 24 it is 0.00504. It is not corrected: intervals are less exact than that.

**Equivalence, and families.** The nominal level of a look is also that of each one-sided test of TOST, and it is what
Holm's method divides among contrasts. Neither is exact, since bounds of another alpha have another shape. Simulated
with a known variance, a false "equivalent" at a difference of the margin has probability 0.050 with looks at 6, 12 and
24, and 0.048 with 4, 8, ..., 24; K times the level of each of K = 20 contrasts is 0.050 and 0.056.

**Very early looks.** Levels fall fast as t does: 1.5e-5 for t = 1/4, 1e-10 for t = 1/8. No look spends less than
`FLOOR`, so that levels stay numbers that a p value can be compared with; what that adds is taken off the next look. A
test with few degrees of freedom does not get there: such a look never ends a run, and costs nothing either.

References:
  Armitage, McPherson & Rowe 1969, "Repeated significance tests on accumulating data", JRSS A 132.
  O'Brien & Fleming 1979, "A multiple testing procedure for clinical trials", Biometrics 35.
  Lan & DeMets 1983, "Discrete sequential boundaries for clinical trials", Biometrika 70.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]
FLOOR = 1e-10
"""The least that a look spends."""
NODES_PER_SD = 8
"""Nodes of the integral for each standard deviation of an increment; see `_nodes`."""
MOST_NODES = 1500


class Look(NamedTuple):
    """A number of seeds at which the run may end, and the level at which it is judged there."""

    seeds: int
    alpha: float
    """Nominal: a two-sided test at this look alone would have this level."""


def schedule(looks: Sequence[int], seeds: int, alpha: float) -> list[Look]:
    """The nominal level of each look.

    Args:
      looks: growing numbers of seeds, the last one being `seeds`; () for a single look at the end.
      seeds: n_max, of the whole run.
      alpha: probability that a two-sided test finds a difference at any look where there is none.

    Returns:
      One look for each number; a single one has `alpha` itself.

    Raises:
      ValueError: looks that do not grow to `seeds`.

    Example:
      >>> [(look.seeds, f"{look.alpha:.2g}") for look in schedule((6, 12, 24), 24, 0.05)]
      [(6, '1.5e-05'), (12, '0.003'), (24, '0.049')]
    """
    numbers = tuple(looks) or (seeds,)
    if list(numbers) != sorted(set(numbers)) or numbers[0] < 1 or numbers[-1] != seeds:
        raise ValueError(f"looks are {numbers} of {seeds} seeds; give growing numbers from 1 up that end with {seeds}")
    if len(numbers) == 1:
        return [Look(seeds, alpha)]
    levels = [float(2 * scipy.stats.norm.sf(c)) for c in bounds([n / seeds for n in numbers], alpha)]
    return [Look(n, level) for n, level in zip(numbers, levels, strict=True)]


def spent(share: float, alpha: float) -> float:
    """How much of alpha is spent after this share of the seeds, 0 < share <= 1."""
    return float(4 * scipy.stats.norm.sf(scipy.stats.norm.isf(alpha / 4) / np.sqrt(share)))


def bounds(shares: Sequence[float], alpha: float) -> list[float]:
    """c_k: the bound of |Z| at each look, after growing shares of the seeds, the last one being 1."""
    found: list[float] = []
    nodes, weights = np.zeros(1), np.ones(1)  # S_0 is 0
    used, before = 0.0, 0.0
    for k, share in enumerate(shares):
        spend = max(spent(share, alpha) - used, FLOOR)
        sd = np.sqrt(share - before)
        bound = _bound(nodes, weights, float(sd), spend)
        found.append(bound / np.sqrt(share))
        used, before = used + spend, share
        if k + 1 < len(shares):
            following = float(np.sqrt(shares[k + 1] - share))
            to, lengths = _nodes(bound, float(min(sd, following)))
            density = scipy.stats.norm.pdf((to[:, None] - nodes) / sd) / sd @ weights
            nodes, weights = to, lengths * density
    return found


def _bound(nodes: Floats, weights: Floats, sd: float, spend: float) -> float:
    """The b with P(|S_k| >= b, no bound crossed before) = spend.

    Args:
      nodes, weights: S_(k-1), and how probable it is that it is there and no bound was crossed.
      sd: of the increment.
      spend: above 0.
    """

    def too_much(b: float) -> float:
        crossed = 2 * scipy.stats.norm.sf((b - nodes) / sd) @ weights  # on both sides alike
        return float(np.log(crossed) - np.log(spend))

    return float(brentq(too_much, 0.0, np.abs(nodes).max() + 10 * sd, xtol=1e-12))  # type: ignore[arg-type]


def _nodes(bound: float, sd: float) -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss & Legendre on [-bound, bound], for a function that changes over a length of `sd`."""
    count = int(np.clip(NODES_PER_SD * 2 * bound / sd, 64, MOST_NODES))
    x, w = _legendre(-(-count // 64) * 64)
    return bound * x, bound * w


_legendre = cache(np.polynomial.legendre.leggauss)  # most looks are as far apart as others
