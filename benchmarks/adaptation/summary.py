"""Mean and standard deviation over seeds, and 95% t intervals of paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from benchmarks.adaptation.corruptions import SHIFTS

Scores = Mapping[str, Sequence[float]]
"""Accuracies in percent, one for each seed, by "a | b | ..."."""
CORRUPTED = tuple(name for name in SHIFTS if name != "clean")
MEAN = "corrupted"
"""In the place of a shift: the mean over all but the clean images, of each seed."""


class Difference(NamedTuple):
    """Of two accuracies of the same seeds, in percentage points, with its 95% t interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:.1f}, {self.high:.1f}]"


def of(scores: Scores, pattern: str, shift: str) -> np.ndarray:
    """Scores of each seed; `pattern` has {} where the shift stands."""
    if shift != MEAN:
        return np.asarray(scores[pattern.format(shift)])
    return np.mean([scores[pattern.format(name)] for name in CORRUPTED], axis=0)


def spread(values: np.ndarray) -> str:
    """Mean ± standard deviation over seeds."""
    deviation = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{deviation}"


def difference(values: np.ndarray, base: np.ndarray) -> Difference:
    """Of the two, seed by seed; with a single seed, the interval is unbounded."""
    paired = values - base
    if len(paired) < 2:
        return Difference(float(paired.mean()), -math.inf, math.inf)
    half = scipy.stats.t.ppf(0.975, len(paired) - 1) * paired.std(ddof=1) / math.sqrt(len(paired))
    return Difference(*(float(paired.mean() + sign * half) for sign in (0, -1, 1)))
