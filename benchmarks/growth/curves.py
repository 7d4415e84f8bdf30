"""A curve: the time of each size, and the slope that says how it grows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.timing import interleaved

Curve = dict[str, Any]
SUPERLINEAR = 1.15


def measured(panel: str, calls: Mapping[tuple[str, int], Callable[[], Any]], repeats: int) -> list[Curve]:
    """The curves of one panel, all points timed in turns; the keys of `calls` are line and size."""
    times = interleaved({f"{line} {n}": call for (line, n), call in calls.items()}, repeats)
    found: dict[str, Curve] = {}
    for line, n in calls:
        t = times[f"{line} {n}"]
        quartiles = [round(1e3 * t.low, 5), round(1e3 * t.high, 5)]
        point = {"size": n, "milliseconds": round(1e3 * t.median, 5), "quartiles": quartiles}
        found.setdefault(line, {"panel": panel, "line": line, "points": []})["points"].append(point)
    return [judged(curve) for curve in found.values()]


def judged(curve: Curve) -> Curve:
    slope = slope_of([p["size"] for p in curve["points"]], [p["milliseconds"] for p in curve["points"]])
    return curve | {"slope": round(slope, 3), "superlinear": slope > SUPERLINEAR}


def slope_of(sizes: Sequence[int], times: Sequence[float]) -> float:
    """Slope of log time against log size by least squares, over the upper half: below, overhead per call hides it."""
    half = min(len(sizes) // 2, len(sizes) - 2)
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])
