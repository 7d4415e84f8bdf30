"""Tables of the results: turns result.json into cells of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.config import Config
from experiments.formatting import number, p_text, signed
from experiments.report.table import Table

NOTHING = "n/a"
METRIC = {
    "test_accuracy": "test accuracy (%)",
    "test_accuracy_population": "test accuracy, population statistics (%)",
    "test_accuracy_batch": "test accuracy, batch statistics (%)",
}
STATISTICS = {"test_accuracy": "running", "test_accuracy_population": "population", "test_accuracy_batch": "batch"}


def arms(config: Config, result: Mapping[str, Any], counts: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per arm; `counts` is the content of arms.json."""
    short = arms_in_short(config, result)
    level, seen = f"{100 * (1 - config.analysis.alpha):g}%", result["arms"]
    extra: dict[str, list[str]] = {}
    extra["max stable rate"] = [_stable(config, arm) for arm in seen]
    for metric, name in STATISTICS.items():
        if metric != result["metric"] and any(arm[metric] for arm in seen):
            extra[f"{name} (%)"] = [number(arm[metric]["mean"]) if arm[metric] else NOTHING for arm in seen]
    for key, name in (("parameters", "parameters"), ("multiply_adds", "multiply-adds")):
        found = [counts.get(f"{arm['treatment']}/{arm['context']}", {}).get(key) for arm in seen]
        if any(count is not None for count in found):
            extra[name] = [NOTHING if count is None else f"{count:,}" for count in found]
    extra["test loss"] = [NOTHING if arm["test_loss"] is None else number(arm["test_loss"], 3) for arm in seen]
    extra["diverged"] = [str(arm["diverged"]) for arm in seen]
    header = [*short.header[:4], f"{level} CI of the mean", *short.header[4:], *extra]
    rows = [
        [*cells[:4], interval(arm["ci"]), *cells[4:], *(column[k] for column in extra.values())]
        for k, (cells, arm) in enumerate(zip(short.rows, seen, strict=True))
    ]
    return Table(header, rows, 2)


def arms_in_short(config: Config, result: Mapping[str, Any]) -> Table:
    """The columns of `arms` that fit into 80 characters, for a terminal."""
    header = ["context", "treatment", METRIC[result["metric"]], "sd", "n", "rate"]
    decays, on_norms = config.sweep.weight_decays, config.sweep.decay_scale_bias
    header += ["decay"] * bool(decays) + ["on norms"] * bool(on_norms) + ["edge"]
    rows = []
    for arm in result["arms"]:
        edges = [arm["edge"], arm["weight_decay_edge"] and f"{arm['weight_decay_edge']} decay"]
        rows.append(
            [
                *(arm["context"], arm["treatment"], number(arm["mean"]), number(arm["sd"]), str(arm["n"])),
                f"{arm['learning_rate']:g}",
                *([f"{arm['weight_decay']:g}"] if decays else []),
                *(["yes" if arm["decay_scale_bias"] else "no"] if on_norms else []),
                ", ".join(edge for edge in edges if edge),
            ]
        )
    return Table(header, rows, 2)


def comparisons(config: Config, result: Mapping[str, Any]) -> Table:
    power = next((row["power"]["power"] for row in result["comparisons"]), 0)
    level, margin = f"{100 * (1 - config.analysis.alpha):g}%", f"{config.analysis.margin_pp:g}"
    header = [
        *("context", "a - b", "difference (pp)", f"{level} CI", "p", "p, Holm", "p, permutation"),
        *(f"{level} CI, bootstrap BCa", f"{level} CI, Welch", "sd", "correlation", "n", "p, TOST"),
        *(f"seen with {100 * power:g}% power (pp)", f"n to see {margin} pp", f"n to show ±{margin} pp"),
    ]
    rows = []
    for row in result["comparisons"]:
        seen = row["power"]["detectable"]
        rows.append(
            [
                row["context"],
                f"{row['a']} - {row['b']}{'' if row['paired'] else ' (unpaired)'}",
                signed(row["difference"]),
                NOTHING if row["no_spread"] else interval(row["ci"]),
                *(_p(row[key]) for key in ("p", "holm_p", "permutation_p")),
                NOTHING if row["no_spread"] or row["bootstrap_ci"] is None else interval(row["bootstrap_ci"]),
                interval(row["welch_ci"]),
                number(row["sd"]),
                NOTHING if row["correlation"] is None else signed(row["correlation"]),
                str(row["n"]),
                _p(row["tost_p"]),
                NOTHING if seen is None else number(seen),
                *(_count(row, row["power"][key]) for key in ("n_to_detect", "n_to_show_equivalence")),
            ]
        )
    return Table(header, rows, 2)


def published(config: Config, result: Mapping[str, Any]) -> Table:
    level = f"{100 * (1 - config.analysis.alpha):g}%"
    header = ["context", "a - b", "source", "published (pp)", "their n", "ours (pp)", f"{level} CI", "our n"]
    header += ["sign", "size", "verdict"]
    rows = [
        [
            *(row["context"], f"{row['a']} - {row['b']}", row["source"]),
            *(signed(row["published"]), str(row["published_n"]), signed(row["difference"])),
            NOTHING if row["no_spread"] else interval(row["ci"]),
            str(row["n"]),
            *(row["sign"] or NOTHING, row["size"] or NOTHING, row["verdict"]),
        ]
        for row in result["published"]
    ]
    return Table(header, rows, 3)


def tuning(result: Mapping[str, Any]) -> Table:
    """Mean final validation accuracy at each rate and decay; [ ] marks the chosen point, x one with a diverged seed."""
    points = [point for arm in result["arms"] for point in arm["grid"]]
    rates = list(dict.fromkeys(point["learning_rate"] for point in points))
    varied = {key: len({p[key] for p in points}) > 1 for key in ("weight_decay", "decay_scale_bias")}
    header = ["context", "treatment"]
    header += ["decay"] * varied["weight_decay"] + ["on norms"] * varied["decay_scale_bias"]
    rows = []
    for arm in result["arms"]:
        lines: dict[tuple[float, bool], list[str]] = {}
        for point in arm["grid"]:
            cell = number(point["mean"], 1) + (" x" if point["diverged"] else "")
            chosen = all(point[key] == arm[key] for key in ("learning_rate", *varied))
            line = lines.setdefault((point["weight_decay"], point["decay_scale_bias"]), [])
            line.append(f"[{cell}]" if chosen else cell)
        for (decay, on_norms), cells in lines.items():
            names = [f"{decay:g}"] * varied["weight_decay"]
            names += ["yes" if on_norms else "no"] * varied["decay_scale_bias"]
            rows.append([arm["context"], arm["treatment"], *names, *cells])
    return Table([*header, *(f"{rate:g}" for rate in rates)], rows, len(header))


def speed(treatments: Sequence[str], found: Mapping[str, tuple[int, Mapping[str, int]]]) -> Table:
    """The steps after which each treatment first reaches the accuracy; `found` is what `probed.first_seen` returned."""
    rows = [
        [context, f"{accuracy}", *(f"{steps[t]:,}" if t in steps else NOTHING for t in treatments)]
        for context, (accuracy, steps) in found.items()
    ]
    return Table(["context", "accuracy (%)", *treatments], rows, 1)


def by_statistics(config: Config, result: Mapping[str, Any]) -> Table:
    """Each difference with running, population and batch statistics at test, and its change from running statistics."""
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
    """The step at which evaluation trainings diverged; arms without a diverged training have no row."""
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


def mean_logit(result: Mapping[str, Any]) -> Table:
    """‖∂ mean(logit 0) / ∂W‖² of each layer after the last step, averaged over the probed seeds."""
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


def _stable(config: Config, arm: Mapping[str, Any]) -> str:
    rate = arm["max_stable_rate"]
    if rate is None:
        return "none"
    return f"≥ {rate:g}" if rate == config.sweep.learning_rates[-1] else f"{rate:g}"


def _count(row: Mapping[str, Any], n: int | None) -> str:
    return f"{n:,}" if n is not None else NOTHING if row["power"]["detectable"] is None else "too many"


def interval(ci: list[float]) -> str:
    return f"[{number(ci[0])}, {number(ci[1])}]"


def _p(p: float) -> str:
    return p_text(p).removeprefix("p ").removeprefix("= ")


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return number(values[0])
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}"
