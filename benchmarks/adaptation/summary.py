"""Mean and standard deviation over seeds, and 95% t intervals of paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from benchmarks.adaptation.corruptions import SHIFTS
from benchmarks.adaptation.scores import ORDERS, SETTINGS, SOURCE

Scores = Mapping[str, Sequence[float]]
"""Accuracies in percent, one for each seed, by "a | b | ..."."""
CORRUPTED = tuple(name for name in SHIFTS if name != "clean")
MEAN = "corrupted"
"""In the place of a shift: the mean over all but the clean images, of each seed."""
COLUMNS = (*SHIFTS, MEAN)
# Keys of scores, with {} where the shift stands.
BASE = f"any | {{}} | {SOURCE} | any"
RAW = "raw | of the raw weights | {}"


class Difference(NamedTuple):
    """Of two accuracies of the same seeds, in percentage points, with its 95% t interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:.1f}, {self.high:.1f}]"


def of(scores: Scores, key: str, shift: str) -> np.ndarray:
    """Scores of each seed; `key` has {} where the shift stands."""
    if shift != MEAN:
        return np.asarray(scores[key.format(shift)])
    return np.mean([scores[key.format(name)] for name in CORRUPTED], axis=0)


def spread(values: np.ndarray) -> str:
    """Mean ± standard deviation over seeds."""
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def difference(values: np.ndarray, base: np.ndarray) -> Difference:
    """Of the two, seed by seed; of at least two seeds."""
    paired = values - base
    half = scipy.stats.t.ppf(0.975, len(paired) - 1) * paired.std(ddof=1) / math.sqrt(len(paired))
    return Difference(*(float(paired.mean() + sign * half) for sign in (0, -1, 1)))


def adapted(order: str, sizes: Sequence[int]) -> dict[tuple[str, int], str]:
    """The key of each setting's name and batch size."""
    return {(s.name, n): f"{order} | {{}} | {s.name} | {n}" for n in sizes for s in SETTINGS}


def bounded(order: str, sizes: Sequence[int]) -> dict[tuple[str, int], tuple[str, str]]:
    """The keys of each bounded setting, and of the same without the bound."""
    keys, free = adapted(order, sizes), {s.blend: s.name for s in SETTINGS if s.max_drift is None}
    return {
        (s.name, n): (keys[s.name, n], keys[free[s.blend], n])
        for n in sizes
        for s in SETTINGS
        if s.max_drift is not None
    }


def summarized(scores: Mapping[str, Scores], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Every difference of the tables, `[mean, low, high]`, by the keys of both scores and the shift."""
    pairs = [("adaptation", key, BASE) for order in ORDERS for key in adapted(order, sizes).values()]
    pairs += [("adaptation", *pair) for order in ORDERS for pair in bounded(order, sizes).values()]
    pairs += [("averaging", key, RAW) for key in averages(scores["averaging"]).values() if key != RAW]
    pairs += [("averaging", *pair) for pair in compared().values()]
    found = []
    for table, key, base in pairs:
        for shift in COLUMNS:
            one, other = (of(scores[table], k, shift) for k in (key, base))
            gain = [round(value, 3) for value in difference(one, other)]
            found.append({"table": table, "of": key, "minus": base, "shift": shift, "difference": gain})
    return found


def averages(scores: Scores) -> dict[str, str]:
    """The key of each kind of weights and statistics, in words."""
    names = dict.fromkeys(key.rsplit(" | ", 1)[0] for key in scores)
    return {name.replace(" | ", ", "): f"{name} | {{}}" for name in names}


def compared() -> dict[str, tuple[str, str]]:
    """Estimated statistics against the others, under the same weights."""
    return {
        f"{weights}, estimated minus {other}": (f"{weights} | estimated | {{}}", f"{weights} | {other} | {{}}")
        for weights in ("EMA", "SWA")
        for other in ("of the raw weights", "averaged")
    }
