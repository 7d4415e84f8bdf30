"""All contestants on all inputs, and a summary of the ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.speed import limits
from benchmarks.speed.cases import MODES, SUMMED, Case, Mode
from benchmarks.speed.contestants import JAX_PEERS, TORCH, calls
from benchmarks.timing import Timed, interleaved

Row = dict[str, Any]


def rows_of(case: Case, repeats: int, *, compiled: bool, gpu: bool, modes: Sequence[Mode] = MODES) -> list[Row]:
    """One row a mode: milliseconds of each contestant and of the limit, all from the same rounds."""
    bandwidth, found = limits.Bandwidth(case.bytes).calls, []
    for mode in modes:
        contestants = calls(case, mode, compiled=compiled and mode.startswith("forward+backward"), gpu=gpu)
        times = interleaved({**contestants, **bandwidth}, repeats)
        found.append(_row(case, mode, list(contestants), times))
    return found


def _row(case: Case, mode: Mode, names: list[str], times: dict[str, Timed]) -> Row:
    limit = limits.limit_seconds(mode, times)
    ours = times["jbn"].median
    return {
        "network": case.network,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "option": case.option,
        "mode": mode,
        "megabytes": round(case.bytes / 1e6, 2),
        "limit_milliseconds": round(1e3 * limit, 5),
        "bandwidth_gigabytes_per_second": {
            k: round(v, 1) for k, v in limits.gigabytes_per_second(case.bytes, times).items()
        },
        "milliseconds": {name: round(1e3 * times[name].median, 5) for name in names},
        "quartiles": {name: [round(1e3 * t, 5) for t in times[name][1:3]] for name in names},
        **ratios({name: times[name].median for name in names}, ours, limit),
    }


def ratios(times: dict[str, float], ours: float, limit: float) -> dict[str, float | None]:
    """jbn's time over that of others; None where none of these is installed."""

    def over(names: Iterable[str]) -> float | None:
        found = [times[name] for name in names if name in times]
        return ours / min(found) if found else None

    return {
        "vs_linen": over(["flax linen"]),
        "vs_best_jax": over(JAX_PEERS),
        "vs_torch": over(TORCH),
        "vs_limit": ours / limit,
        "vs_multiply_add": over(["multiply-add"]),
    }


def summary(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Geometric means over the plain inputs, for each mode; and the worst ratio to the best JAX peer."""
    found: dict[str, dict[str, float | None]] = {}
    for short, mode in SUMMED.items():
        some = [row for row in rows if row["mode"] == mode and row["option"] == "plain"]
        found[short] = {
            key: geometric_mean(row[key] for row in some)
            for key in ("vs_linen", "vs_best_jax", "vs_torch", "vs_limit", "vs_multiply_add")
        }
        worst = [row["vs_best_jax"] for row in some if row["vs_best_jax"] is not None]
        found[short]["worst_vs_best_jax"] = max(worst) if worst else None
        for dtype in sorted({row["dtype"] for row in some}):
            part = [row for row in some if row["dtype"] == dtype]
            found[f"{short}_{dtype}"] = {
                key: geometric_mean(row[key] for row in part)
                for key in ("vs_linen", "vs_best_jax", "vs_torch", "vs_limit", "vs_multiply_add")
            }
    return found


def geometric_mean(values: Iterable[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return math.exp(statistics.fmean(map(math.log, there))) if there else None


def measure(
    cases: Sequence[Case], repeats: int, *, compiled: Callable[[Case], bool], gpu: bool, tell: Callable[[str], None]
) -> list[Row]:
    rows: list[Row] = []
    for case in cases:
        tell(str(case))
        modes = MODES if case.option == "plain" else ("forward+backward",)
        rows += rows_of(case, repeats, compiled=compiled(case), gpu=gpu, modes=modes)
    return rows
