"""Tables of what else a run answers: differences by the statistics at test, divergence, and the loss surface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.config import Config
from experiments.formatting import number, signed
from experiments.tables import NOTHING, STATISTICS, interval
from experiments.typeset import Table


def by_statistics(config: Config, result: Mapping[str, Any]) -> Table:
    """Each difference by running, population and batch statistics, and how far that is from the one by running ones."""
    level = f"{100 * (1 - config.analysis.alpha):g}%"
    rows = [
        [
            *(row["context"], f"{row['a']} - {row['b']}", STATISTICS[entry["metric"]]),
            *(signed(entry["difference"]), interval(entry["ci"])),
            *(
                (signed(entry["change"]["difference"]), interval(entry["change"]["ci"]))
                if entry["change"]
                else (NOTHING, NOTHING)
            ),
        ]
        for row in result["comparisons"]
        for entry in row["by_statistics"]
    ]
    header = ["context", "a - b", "statistics", "difference (pp)", f"{level} CI", "change (pp)", f"{level} CI of it"]
    return Table(header, rows, 3)


def divergence(result: Mapping[str, Any]) -> Table:
    """At which step evaluation trainings diverged; only arms of which some did."""
    rows = []
    for arm in result["arms"]:
        steps = [step for step in arm["diverged_at"] if step is not None]
        if steps:
            ends = [f"{value:,.0f}" for value in (np.median(steps), min(steps), max(steps))]
            rows.append([arm["context"], arm["treatment"], f"{len(steps)} of {arm['n']}", *ends])
    return Table(["context", "treatment", "diverged", "median step", "first", "last"], rows, 2)


def sharpness(result: Mapping[str, Any]) -> Table:
    """The largest eigenvalue of the Hessian after the last step, with statistics of the batch and with frozen ones."""
    rows = []
    for arm in result["arms"]:
        found = [end["eigenvalues"] for end in arm["end"] if end["eigenvalues"]]
        if found:
            cells = [_spread([values[kind][0] for values in found]) for kind in ("batch", "frozen")]
            rows.append([arm["context"], arm["treatment"], *cells, str(len(found))])
    return Table(["context", "treatment", "batch statistics", "frozen statistics", "n"], rows, 2)


def mean_logit(result: Mapping[str, Any]) -> Table:
    """‖∂ mean(logit 0) / ∂W‖² of each layer after the last step, mean over the seeds that were probed."""
    header, rows = ["context", "layer"], {}
    for arm in result["arms"]:
        found = [end["mean_logit"] for end in arm["end"] if end["mean_logit"]]
        for kind in ("batch", "frozen") if found else ():
            column = f"{arm['treatment']}, {kind}"
            header += [column] * (column not in header)
            for layer in found[0][kind]:
                value = np.mean([values[kind][layer] for values in found])
                rows.setdefault((arm["context"], layer), {})[column] = f"{value:.3g}"
    return Table(header, [[*key, *(cells.get(name, NOTHING) for name in header[2:])] for key, cells in rows.items()], 2)


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return number(values[0])
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}"
