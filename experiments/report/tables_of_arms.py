"""Tables of the arms: accuracies, the search of their settings, failed trainings, and what was measured inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config import Config
from experiments.formatting import number
from experiments.report.groups import confidence, interval
from experiments.report.table import Table
from experiments.report.tables import NOTHING

if TYPE_CHECKING:  # the figures import matplotlib, which a terminal need not wait for
    from experiments.report.figures.probed import FirstSeen

METRIC = {
    "test_accuracy": "test accuracy ± se (%)",
    "test_accuracy_population": "test accuracy, population statistics, ± se (%)",
    "test_accuracy_batch": "test accuracy, batch statistics, ± se (%)",
}
MAX_RATES = 6
"""Columns of a table of shares; more of them are written below."""
DROPPED = "–"
Arm = Mapping[str, Any]
"""An ArmRow of result.json."""


def arms(config: Config, result: Mapping[str, Any], counts: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per arm; `counts` is the content of arms.json."""
    short, seen = arms_in_short(config, result), result["arms"]
    header = [*short.header[:3], f"{confidence(result)} CI", *short.header[3:]]
    rows = [[*cells[:3], interval(arm["ci"]), *cells[3:]] for cells, arm in zip(short.rows, seen, strict=True)]
    found = [counts.get(f"{arm['treatment']}/{arm['context']}", {}).get("parameters") for arm in seen]
    if any(count is not None for count in found):
        header.append("parameters")
        rows = [[*row, NOTHING if count is None else f"{count:,}"] for row, count in zip(rows, found, strict=True)]
    return Table(header, rows, 2)


def arms_in_short(config: Config, result: Mapping[str, Any]) -> Table:
    """The columns of `arms` that fit into 80 characters, for a terminal."""
    failed = any(_failed(arm) for arm in result["arms"])
    header = ["context", "treatment", METRIC[result["metric"]], "n", *["learned"] * failed, "most chosen rate (bags)"]
    rows = [
        [
            *(arm["context"], arm["treatment"], f"{number(arm['estimate'])} ± {number(arm['se'])}", str(arm["n"])),
            *[f"{arm['learned']['count']} of {arm['learned']['n']}"] * failed,
            f"{setting(config, arm)} ({100 * arm['share']:.0f}%)",
        ]
        for arm in result["arms"]
    ]
    return Table(header, rows, 2)


def setting(config: Config, of: Mapping[str, Any]) -> str:
    """`0.125`; where decays were tuned, `0.125, decay 0.0005, also of the norms`."""
    text = f"{of['learning_rate']:g}"
    if config.sweep.weight_decays:
        text += f", decay {of['weight_decay']:g}"
    if config.sweep.decay_scale_bias:
        text += f", {'also' if of['decay_scale_bias'] else 'not'} of the norms"
    return text


def rates(config: Config, result: Mapping[str, Any]) -> list[Table]:
    """Percent of the bags that choose each rate, and each decay where decays were tuned.

    Rates below and above all that some bag chooses are left out; of many, further ones are in a second table.
    """
    tables = []
    chosen = [p["learning_rate"] for arm in result["arms"] for p in arm["settings"] if p["share"] > 0]
    columns = [rate for rate in result["learning_rates"] if min(chosen) <= rate <= max(chosen)]
    for k in range(0, len(columns), MAX_RATES):
        tables.append(_shares(result, "learning_rate", columns[k : k + MAX_RATES], lambda rate: f"{rate:g}"))
    if config.sweep.weight_decays:
        tables.append(_shares(result, "weight_decay", config.sweep.weight_decays, lambda x: f"decay {x:g}"))
    if len(config.sweep.decay_scale_bias) > 1:
        names = {False: "norms do not decay", True: "norms decay, too"}
        tables.append(_shares(result, "decay_scale_bias", [False, True], names.__getitem__))
    return tables


def race(result: Mapping[str, Any]) -> Table:
    """How many settings of each arm were dropped after the first round; no rows where none was."""
    rows = []
    for arm in result["arms"]:
        dropped = [point for point in arm["settings"] if point["seeds"] < arm["n"]]
        if dropped:
            out = sorted({p["learning_rate"] for p in dropped} - {p["learning_rate"] for p in _left(arm)})
            rates = " ".join(f"{rate:g}" for rate in out) or "none as a whole"
            rows.append([arm["context"], arm["treatment"], f"{len(dropped)} of {len(arm['settings'])}", rates])
    return Table(["context", "treatment", "settings dropped", "rates dropped"], rows, 2, 1)


def learned(result: Mapping[str, Any]) -> Table:
    """How many trainings of each arm learned; no rows where all did."""
    header = ["context", "treatment", "learned", f"{confidence(result)} CI of the share (%)", "chance reaches (%)"]
    header += ["mean of those (%)", "mean of all (%)"]
    rows = []
    for arm in result["arms"] if any(_failed(arm) for arm in result["arms"]) else []:
        of, ci = arm["learned"], [100 * end for end in arm["learned"]["ci"]]
        mean = NOTHING if of["accuracy"] is None else number(of["accuracy"])
        share = [f"{of['count']} of {of['n']}", interval(ci, 0), number(of["limit"], 1)]
        rows.append([arm["context"], arm["treatment"], *share, mean, number(arm["mean"])])
    return Table(header, rows, 2)


def speed(found: Mapping[str, FirstSeen]) -> Table:
    """The steps after which each treatment first reaches the accuracy, the fastest first."""
    rows = [
        [context, f"{accuracy}", treatment, f"{step:,}"]
        for context, (accuracy, steps) in found.items()
        for treatment, step in sorted(steps.items(), key=lambda item: item[1])
    ]
    return Table(["context", "accuracy (%)", "treatment", "steps"], rows, 3)


def divergence(result: Mapping[str, Any]) -> Table:
    """The step at which trainings diverged; arms without a diverged training have no row."""
    rows = []
    for arm in result["arms"]:
        steps = [step for step in arm["diverged_at"] if step is not None]
        if steps:
            ends = [f"{value:,.0f}" for value in (np.median(steps), min(steps), max(steps))]
            rows.append([arm["context"], arm["treatment"], f"{len(steps)} of {arm['n']}", *ends])
    return Table(["context", "treatment", "diverged", "median step", "first", "last"], rows, 2)


def sharpness(result: Mapping[str, Any]) -> Table:
    """The largest eigenvalue of the Hessian after the last step, with batch statistics and with frozen statistics."""
    rows = []
    for arm in result["arms"]:
        found = [end["eigenvalues"] for end in arm["end"] if end["eigenvalues"]]
        if found:
            cells = [_spread([values[kind][0] for values in found]) for kind in ("batch", "frozen")]
            rows.append([arm["context"], arm["treatment"], *cells, str(len(found))])
    return Table(["context", "treatment", "batch statistics", "frozen statistics", "n"], rows, 2)


def mean_logit(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """‖∂ mean(logit 0) / ∂W‖² of each layer after the last step, averaged over the probed seeds; for a CSV file."""
    rows = []
    for arm in result["arms"]:
        found = [end["mean_logit"] for end in arm["end"] if end["mean_logit"]]
        for layer in found[0]["batch"] if found else ():
            means = {kind: float(np.mean([values[kind][layer] for values in found])) for kind in ("batch", "frozen")}
            rows.append({"context": arm["context"], "treatment": arm["treatment"], "layer": layer, **means})
    return rows


def _shares(result: Mapping[str, Any], key: str, columns: Any, name: Callable[[Any], str]) -> Table:
    rows = []
    for arm in result["arms"]:
        left = {point[key] for point in _left(arm)}
        shares = {x: sum(point["share"] for point in arm["settings"] if point[key] == x) for x in columns}
        cells = [f"{100 * share:.0f}" if x in left else DROPPED for x, share in shares.items()]
        rows.append([arm["context"], arm["treatment"], *cells])
    return Table(["context", "treatment", *map(name, columns)], rows, 2)


def _left(arm: Arm) -> list[Mapping[str, Any]]:
    """The settings that were trained with all seeds."""
    return [point for point in arm["settings"] if point["seeds"] == arm["n"]]


def _failed(arm: Arm) -> bool:
    return arm["learned"]["count"] < arm["learned"]["n"]


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return number(values[0])
    mean, sd = float(f"{np.mean(values):.3g}"), float(f"{np.std(values, ddof=1):.2g}")
    return f"{mean:g} ± {sd:g}"  # without an exponent where there is room
