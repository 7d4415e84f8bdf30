"""Validation accuracy over the grid of learning rates, and which rates the bags choose."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from experiments.config import Config
from experiments.formatting import join
from experiments.palette import GREY, Look, looks
from experiments.report.plotting import (
    COVERED_NOTE,
    WIDTH,
    Drawing,
    Floats,
    accuracy_axis,
    finish,
    handles_of,
    label_left,
    rates_axis,
    span,
    treatments_of,
    widen_covered_lines,
    wrapped,
)

PANEL, STRIP = 2.7, 0.2
"""Inches: the height of a panel, and of a treatment's row in the strip below it."""
FAINT = 0.35
RING: dict[str, Any] = {"ls": "", "marker": "o", "ms": 11, "mfc": "none", "mec": GREY, "mew": 2}
CROSS: dict[str, Any] = {"ls": "", "marker": "x", "ms": 9, "mew": 1.6, "color": GREY}


def learning_rate(config: Config, result: dict[str, Any]) -> Drawing:
    """Validation accuracy against learning rate, over all seeds; below it the bags' choices."""
    treatments, contexts = treatments_of(config)
    figure, panels, strips = _panels(contexts, len(treatments))
    look, rates = looks(treatments), result["learning_rates"]
    rings: Counter[tuple[str, float]] = Counter()
    chosen: dict[str, list[float]] = {treatment: [] for treatment in treatments}
    covered = False
    for row in result["arms"]:
        context, treatment = row["context"], row["treatment"]
        at = (context, row["learning_rate"])
        # Each further ring at the same rate is wider: with nearly the same accuracy, one would hide the other.
        _curve(panels[context], row, look[treatment], RING["ms"] + 5 * rings[at])
        rings[at] += 1
        _shares(strips[context], treatments.index(treatment), by_rate(row), rates, look[treatment])
        chosen[treatment].append(row["learning_rate"])
    for context, axes in panels.items():
        covered |= widen_covered_lines(axes)
        accuracy_axis(axes)
        rates_axis(axes, rates)
        axes.set_xlabel("")
        axes.tick_params(axis="x", labelbottom=False)
        strip = strips[context]
        strip.set_yticks([])
        strip.set_ylim(len(treatments) - 0.5, -0.5)
        strip.grid(visible=False)
        rates_axis(strip, rates)
        strip.set_xlim(rates[0] / 1.5, rates[-1] * 1.5)
    label_left(panels, "validation accuracy (%)")
    label_left(strips, "bags\n(%)")
    dropped = any(point["seeds"] < row["n"] for row in result["arms"] for point in row["settings"])
    handles = [
        *handles_of({t: look[t] for t in treatments}),
        Line2D([], [], label="most chosen", **RING),
    ]
    if any(point["diverged"] for row in result["arms"] for point in row["settings"]):
        handles.append(Line2D([], [], label="a seed diverged", **CROSS))
    handles += [Line2D([], [], color=GREY, alpha=FAINT, marker="o", ms=4, label="dropped early")] * dropped
    decay = (
        ", at the decay that most bags choose" if config.sweep.weight_decays or config.sweep.decay_scale_bias else ""
    )
    race = (
        " Faint: settings that the first round dropped, moved by as much as its seeds differ from all seeds at the "
        "most chosen setting, so that they can be compared."
    ) * dropped
    added = result["added_rates"]
    grown = f" Added to the grid: {join([f'{rate:g}' for rate in added])}." if added else ""
    return finish(
        "learning_rate",
        figure,
        _title(result, chosen),
        f"How sensitive each treatment is to its learning rate. Lines: mean final validation accuracy{decay}, over the "
        f"seeds; bands: lowest to highest seed; the axis is stretched towards 100%.{race} Below: how many percent of "
        "the bags, which draw the seeds with replacement, choose each rate"
        f"{' (at any decay)' if decay else ''}: one dark field means that the optimum is known; several mean that it "
        "is not, and the intervals know of that. Shares at an end of the grid mean that a better rate may lie "
        f"beyond.{grown}{COVERED_NOTE * covered}",
        handles,
    )


def by_rate(row: Mapping[str, Any]) -> dict[float, float]:
    """Share of the bags that choose each rate, whatever the decay."""
    shares: dict[float, float] = {}
    for point in row["settings"]:
        shares[point["learning_rate"]] = shares.get(point["learning_rate"], 0.0) + point["share"]
    return shares


def _panels(contexts: Sequence[str], treatments: int) -> tuple[Figure, dict[str, Axes], dict[str, Axes]]:
    """A panel with a strip below it for each context, at most three in a row."""
    columns = 2 if len(contexts) in (2, 4) else min(3, len(contexts))
    rows, strip = math.ceil(len(contexts) / columns), max(0.3, STRIP * treatments)
    figure = Figure(figsize=(WIDTH if columns > 1 else 6.4, 0.9 + (PANEL + strip + 0.5) * rows), layout="constrained")
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[PANEL, strip] * rows)
    panels, strips = {}, {}
    for k, context in enumerate(contexts):
        row, column = divmod(k, columns)
        panels[context] = figure.add_subplot(grid[2 * row, column])
        strips[context] = figure.add_subplot(grid[2 * row + 1, column], sharex=panels[context])
        panels[context].set_title(wrapped(context, 90 // columns))
    return figure, panels, strips


def _curve(axes: Axes, row: Mapping[str, Any], look: Look, ring: float) -> None:
    """Validation accuracy of one arm at its most chosen decay; settings that were dropped are faint."""
    points = [p for p in row["settings"] if all(p[key] == row[key] for key in ("weight_decay", "decay_scale_bias"))]
    points.sort(key=lambda point: point["learning_rate"])
    chosen = next(point["values"] for point in points if point["learning_rate"] == row["learning_rate"])
    values = [_as_of_all_seeds(np.array(point["values"]), np.array(chosen)) for point in points]
    rates, means = [point["learning_rate"] for point in points], [float(v.mean()) for v in values]
    low, high = ([float(pick(v)) for v in values] for pick in (np.min, np.max))
    whole = np.array([point["seeds"] == row["n"] for point in points])
    axes.fill_between(rates, low, high, color=look.colour, alpha=0.15, lw=0)
    if not whole.all():
        axes.plot(rates, means, **look.line | {"alpha": FAINT, "ms": 4, "lw": 1.2})
    axes.plot(rates, np.where(whole, means, np.nan), **look.line)
    best = rates.index(row["learning_rate"])
    axes.plot(rates[best], means[best], **{**RING, "mec": look.colour, "ms": ring})
    diverged = [(point["learning_rate"], mean) for point, mean in zip(points, means, strict=True) if point["diverged"]]
    if diverged:
        axes.plot(*np.transpose(diverged), **{**CROSS, "color": look.colour})


def _as_of_all_seeds(values: Floats, chosen: Floats) -> Floats:
    """The values of a setting that was dropped, moved by as much as its seeds differ from all at the chosen setting.

    The first seeds may be luckier than the others; compared with these unmoved, a setting that was dropped would look
    better or worse than it was.
    """
    return np.clip(values + chosen.mean() - chosen[: len(values)].mean(), 0, 100)


def _shares(axes: Axes, place: int, shares: Mapping[float, float], rates: Sequence[float], look: Look) -> None:
    """One row of fields, the darker the more bags choose the rate."""
    half = math.sqrt(rates[1] / rates[0]) if len(rates) > 1 else 1.4
    for rate, share in shares.items():
        percent = round(100 * share)
        if share:
            field = (rate / half, place - 0.44), rate * half - rate / half, 0.88
            axes.add_patch(Rectangle(*field, color=look.colour, alpha=0.08 + 0.92 * share, lw=0))
        if percent:
            dark = share > 0.6
            axes.text(
                rate, place, f"{percent}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )


def _title(result: Mapping[str, Any], chosen: Mapping[str, list[float]]) -> str:
    spans = {t: span(rates) for t, rates in chosen.items()}
    if len(spans) > 1 and len(set(spans.values())) == 1:
        best = f"{next(iter(spans.values()))} for every treatment"
    else:
        best = ", ".join(f"{t} {text}".replace(" ", "\N{NO-BREAK SPACE}") for t, text in spans.items())
    shares = [100 * max(by_rate(row).values()) for row in result["arms"]]
    low, high = f"{min(shares):.0f}", f"{max(shares):.0f}"
    return (
        f"Most chosen learning rate: {best}; {low if low == high else f'{low} to {high}'}% of an arm's bags agree on it"
    )
