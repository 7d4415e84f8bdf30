"""The smallest difference that a run can detect, and the number of seeds that another run would need.

Both use the run's sample standard deviation in place of the true one, so they are estimates, coarse for few seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from scipy.optimize import brentq

POWER = 0.8
MAX_SEEDS = 10**6
MIDPOINTS = 4000


class Power(NamedTuple):
    """What a run can detect. Without spread, all but `power` are None; so are numbers of seeds above `MAX_SEEDS`."""

    power: float
    """`POWER`."""
    detectable: float | None
    """The smallest true difference, pp, that a t test detects with probability `POWER` at this alpha, n and sd."""
    n_to_detect: int | None
    """Trainings per arm that are needed to detect a true difference as large as the margin."""
    n_to_show_equivalence: int | None
    """Trainings per arm that are needed to show equivalence within the margin if the true difference is 0."""


def power(n: int, sd: float, *, margin_pp: float, alpha: float, paired: bool) -> Power:
    """Power of a contrast, without adjustment for other contrasts.

    Args:
      n: its seeds, at least 2; the same number in each arm.
      sd: sample standard deviation of the seeds' parts in it, pp; where arms have seeds of their own, the root mean
        square of the arms' own. 0 where no seed moves it.
      margin_pp: its equivalence margin, above 0.
      alpha: level of a single test, or of each of the two one-sided ones.
      paired: whether all its arms have the same seeds.
    """
    if sd == 0:
        return Power(POWER, None, None, None)
    return Power(
        POWER,
        detectable(n, sd, alpha=alpha, paired=paired),
        n_to_detect(margin_pp, sd, alpha=alpha, paired=paired),
        n_to_show_equivalence(margin_pp, sd, alpha=alpha, paired=paired),
    )


def detectable(n: int, sd: float, *, alpha: float, paired: bool, power: float = POWER) -> float:
    """The smallest true difference that a two-sided t test detects with this power.

    Args:
      n: number of pairs, or of trainings per unpaired arm, at least 2.
      sd: standard deviation of the differences, or of each unpaired arm.
    """
    high = 1.0
    while detection_power(high, n, alpha=alpha, paired=paired) < power:
        high *= 2
    found = brentq(lambda effect: detection_power(effect, n, alpha=alpha, paired=paired) - power, 0, high)
    return float(found) * sd  # type: ignore[arg-type]


def n_to_detect(difference: float, sd: float, *, alpha: float, paired: bool, power: float = POWER) -> int | None:
    """The fewest pairs, or trainings per unpaired arm, with which a two-sided t test has this power."""
    return _fewest(lambda n: detection_power(difference / sd, n, alpha=alpha, paired=paired), power)


def n_to_show_equivalence(margin: float, sd: float, *, alpha: float, paired: bool, power: float = POWER) -> int | None:
    """The fewest pairs, or trainings per unpaired arm, with which TOST has this power if the true difference is 0."""
    return _fewest(lambda n: equivalence_power(margin / sd, n, alpha=alpha, paired=paired), power)


def detection_power(effect: float, n: int, *, alpha: float, paired: bool) -> float:
    """Probability that a two-sided t test detects a true difference.

    The estimate D is normal around the true difference, its standard error is σ_D·u with ν·u² distributed as χ²_ν, and
    the test succeeds where |D| > t·σ_D·u, t being Student's 1 - alpha/2 quantile:

        power = E_u Φ(effect / σ_D - t·u) + Φ(-effect / σ_D - t·u)

    statsmodels' TTestPower and TTestIndPower compute the same, but return NaN where the power is close to 1.

    Args:
      effect: the true difference in units of the standard deviation of the differences, or of each unpaired arm.
    """
    t, standard_error, u = _student(n, 1 - alpha / 2, paired)
    return float(sum(scipy.stats.norm.cdf(sign * effect / standard_error - t * u).mean() for sign in (1, -1)))


def equivalence_power(margin: float, n: int, *, alpha: float, paired: bool) -> float:
    """Probability that two one-sided t tests show equivalence when the true difference is 0.

    As above, but TOST succeeds where |D| < margin - t·σ_D·u, t being Student's 1 - alpha quantile:

        power = E_u max(0, 2·Φ(margin / σ_D - t·u) - 1)

    Args:
      margin: in units of the standard deviation of the differences, or of each unpaired arm.

    Reference: Phillips 1990, "Power of the two one-sided tests procedure in bioequivalence".
    """
    t, standard_error, u = _student(n, 1 - alpha, paired)
    return float(np.maximum(0, 2 * scipy.stats.norm.cdf(margin / standard_error - t * u) - 1).mean())


def _student(n: int, quantile: float, paired: bool) -> tuple[float, float, NDArray[np.float64]]:
    """Quantile of Student's t, standard error for sd 1, and `MIDPOINTS` equally likely values of u = s / σ."""
    df, variance = (n - 1, 1 / n) if paired else (2 * (n - 1), 2 / n)
    u = np.sqrt(scipy.stats.chi2.ppf((np.arange(MIDPOINTS) + 0.5) / MIDPOINTS, df) / df)
    return float(scipy.stats.t.ppf(quantile, df)), float(np.sqrt(variance)), u


def _fewest(power_of: Callable[[int], float], power: float) -> int | None:
    """The smallest n >= 2 that reaches the power, found by doubling and then bisection; None above `MAX_SEEDS`."""
    high = 2
    while power_of(high) < power:
        if high >= MAX_SEEDS:
            return None
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return max(high, 2)
