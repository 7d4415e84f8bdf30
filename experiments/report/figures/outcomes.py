"""Test accuracy, learning curves, and validation accuracy over the grid of learning rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from experiments.config import Arm, Config
from experiments.formatting import number, signed
from experiments.palette import GREY, looks
from experiments.report.figures.probed import MAX_MARKS, Record, evenly_spaced, first_seen, select
from experiments.report.plotting import (
    COVERED_NOTE,
    Drawing,
    accuracy_axis,
    array,
    by_treatment,
    finish,
    handles_of,
    label_left,
    mark,
    panels_of,
    rates_axis,
    span,
    steps_axis,
    treatments_of,
    widen_covered_lines,
)

STATISTICS: dict[str, tuple[str, Any]] = {
    "test_accuracy": ("running statistics", "full"),
    "test_accuracy_population": ("statistics of the training set", "none"),
    "test_accuracy_batch": ("statistics of each test batch", "left"),
}


def accuracy(config: Config, result: dict[str, Any]) -> Drawing:
    """Test accuracy (the config's metric) of every evaluation seed, with mean and confidence interval."""
    treatments, contexts = treatments_of(config)
    figure, panels, along_y = by_treatment(contexts, treatments, "test accuracy (%)")
    look = looks(treatments)
    rows = {(row["context"], row["treatment"]): row for row in result["arms"]}
    for context, axes in panels.items():
        for place, treatment in enumerate(treatments):
            row = rows[context, treatment]
            values = row["values"]
            offsets = np.linspace(-0.3, 0.1, len(values))  # one offset per seed, the same in every arm
            shade = look[treatment]
            style: dict[str, Any] = {"color": shade.colour, "marker": shade.marker, "along_y": along_y}
            mark(axes, place + offsets, values, ls="", ms=4, alpha=0.5, mew=0, **style)
            error = np.abs(np.subtract(row["ci"], row["mean"]))[:, None]
            mark(axes, place + 0.27, row["mean"], error, capsize=4, lw=1.8, ms=7, **style)
    best, worst = (pick(result["arms"], key=lambda row: row["mean"]) for pick in (max, min))
    lowest, highest = (f"{number(r['mean'])}% ({Arm(r['treatment'], r['context'])})" for r in (worst, best))
    title = f"Mean test accuracy: {f'from {lowest} to {highest}' if len(rows) > 1 else highest}"
    level = f"{100 * (1 - config.analysis.alpha):g}%"
    way = "downwards" if along_y else "from left to right"
    handles = [
        Line2D([], [], color=GREY, marker="o", ls="", ms=4, alpha=0.5, mew=0, label="one evaluation seed"),
        Line2D([], [], color=GREY, marker="o", ms=7, label=f"mean and {level} t interval of the mean"),
    ]
    return finish(
        "accuracy",
        figure,
        title,
        f"Small marks are trainings from different seeds, in the same order {way} for every treatment; "
        f"the large mark is their mean with its {level} interval. Measured with "
        f"{STATISTICS[result['metric']][0]}. Higher is better. Every panel has its own scale. Overlapping intervals do "
        "not show that two treatments are equal: the comparisons do.",
        handles,
    )


def statistics_at_test(config: Config, result: dict[str, Any]) -> Drawing:
    """Test accuracy of the same trained networks with running, population and batch statistics."""
    treatments, contexts = treatments_of(config)
    figure, panels, along_y = by_treatment(contexts, treatments, "test accuracy (%)")
    look = looks(treatments)
    most, where = 0.0, ""
    for row in result["arms"]:
        axes, place = panels[row["context"]], treatments.index(row["treatment"])
        shade = look[row["treatment"]]
        for offset, (metric, (_, fill)) in zip((-0.22, 0.0, 0.22), STATISTICS.items(), strict=True):
            found = row[metric]
            if not found:
                continue
            error = np.abs(np.subtract(found["ci"], found["mean"]))[:, None]
            mark(
                axes, place + offset, found["mean"], error, along_y=along_y, color=shade.colour, marker="o", ms=7.5,
                capsize=3, lw=1.5, fillstyle=fill, mfc="white" if fill == "none" else shade.colour,
                markerfacecoloralt="white",
            )  # fmt: skip
            gap = found["mean"] - row["test_accuracy"]["mean"]
            if abs(gap) > abs(most):
                most, where = (
                    gap,
                    f"{STATISTICS[metric][0]} instead of running ones ({row['treatment']}/{row['context']})",
                )
    title = "Which statistics the norms use at test time makes no difference"
    if where:
        title = f"Statistics at test time change the mean accuracy by {signed(most)} pp at most: {where}"
    handles = [
        Line2D(
            [], [], color=GREY, marker="o", ls="", ms=7.5, label=name,
            fillstyle=fill, mfc="white" if fill == "none" else GREY, markerfacecoloralt="white",
        )
        for name, fill in STATISTICS.values()
    ]  # fmt: skip
    level = f"{100 * (1 - config.analysis.alpha):g}%"
    return finish(
        "statistics_at_test",
        figure,
        title,
        "The same trained networks, their norms fed with three kinds of statistics: running ones, those of the whole "
        "training set at the final weights, and each test batch's own. Where the first two differ, the running "
        "statistics lag behind or are noisy; where the third is lower, a test batch is too small to tell them. "
        f"Means over the evaluation seeds with {level} intervals; networks without norms have one value.",
        handles,
    )


def learning_curves(config: Config, records: Sequence[Record], data: dict[str, Any]) -> Drawing:
    """Validation accuracy against optimizer step, over the evaluation seeds."""
    treatments, contexts = treatments_of(config)
    figure, panels = panels_of(contexts, height=3.4)
    look = looks(treatments)
    covered = False
    for context, axes in panels.items():
        for treatment in treatments:
            runs = select(records, "evaluate", treatment, context)
            steps = runs[0]["steps"]
            values = 100 * array([run["val_accuracy"] for run in runs])
            low, high = np.percentile(values, [10, 90], axis=0)
            axes.fill_between(steps, low, high, color=look[treatment].colour, alpha=0.15, lw=0)
            marks = evenly_spaced(len(steps), MAX_MARKS)
            axes.plot(steps, values.mean(axis=0), markevery=marks, **look[treatment].line)
        covered |= widen_covered_lines(axes)
        steps_axis(axes)
        accuracy_axis(axes)
    label_left(panels, "validation accuracy (%)")
    seen = first_seen(config, records, data)
    table = " How many steps it takes to an accuracy that all that learn reach: see the table of speed."
    fastest: Counter[str] = Counter()
    for _, first in seen.values():
        if len(set(first.values())) > 1:  # if all tie, none is first
            fastest.update(t for t, step in first.items() if step == min(first.values()))
    title = "Validation accuracy of each arm as tuned"
    if fastest:
        counts = (f"{t} in {k} of {len(panels)}".replace(" ", "\N{NO-BREAK SPACE}") for t, k in fastest.most_common())
        title = f"First to an accuracy that all that learn reach (ties count for each): {', '.join(counts)}"
    return finish(
        "learning_curves",
        figure,
        title,
        "Lines: mean over the evaluation seeds, each arm as tuned, measured after every epoch with running statistics; "
        "bands: 10th to 90th percentile. Higher and further left is better; the axis is stretched towards 100%, where "
        f"small differences matter.{table if seen else ''}{COVERED_NOTE * covered}",
        handles_of(look),
    )


def learning_rate(config: Config, result: dict[str, Any]) -> Drawing:
    """Validation accuracy against learning rate, over the tuning seeds."""
    treatments, contexts = treatments_of(config)
    figure, panels = panels_of(contexts, height=3.1)
    look = looks(treatments)
    ring: dict[str, Any] = {"ls": "", "marker": "o", "ms": 11, "mfc": "none", "mec": GREY, "mew": 2}
    cross: dict[str, Any] = {"ls": "", "marker": "x", "ms": 9, "mew": 1.6, "color": GREY}
    chosen: dict[str, list[float]] = {treatment: [] for treatment in treatments}
    rings: Counter[tuple[str, float]] = Counter()
    covered = False
    for row in result["arms"]:
        axes, treatment, curve = panels[row["context"]], row["treatment"], row["tuning"]
        rates, colour = [point["learning_rate"] for point in curve], look[treatment].colour
        values = array([point["values"] for point in curve])
        axes.fill_between(rates, values.min(1), values.max(1), color=colour, alpha=0.15, lw=0)
        axes.plot(rates, [point["mean"] for point in curve], **look[treatment].line)
        best = rates.index(row["learning_rate"])
        at = (row["context"], rates[best])
        # Each further ring at the same rate is wider: with nearly the same accuracy, one would hide the other.
        axes.plot(rates[best], curve[best]["mean"], **{**ring, "mec": colour, "ms": ring["ms"] + 5 * rings[at]})
        rings[at] += 1
        diverged = [(point["learning_rate"], point["mean"]) for point in curve if point["diverged"]]
        if diverged:
            axes.plot(*np.transpose(diverged), **{**cross, "color": colour})
        chosen[treatment].append(row["learning_rate"])
    for axes in panels.values():
        covered |= widen_covered_lines(axes)
        rates_axis(axes, config.sweep.learning_rates)
        accuracy_axis(axes)
    label_left(panels, "validation accuracy (%)")
    spans = {t: span(rates) for t, rates in chosen.items()}
    if len(spans) > 1 and len(set(spans.values())) == 1:
        best = f"{next(iter(spans.values()))} for every treatment"
    else:
        best = ", ".join(f"{t} {text}".replace(" ", "\N{NO-BREAK SPACE}") for t, text in spans.items())
    handles = [
        *handles_of(look),
        Line2D([], [], label="chosen", **ring),
        Line2D([], [], label="a seed diverged", **cross),
    ]
    decay = " at the chosen weight decay" if config.sweep.weight_decays or config.sweep.decay_scale_bias else ""
    return finish(
        "learning_rate",
        figure,
        f"Best learning rate: {best}",
        "How sensitive each treatment is to its learning rate, and whether the grid was wide enough: a chosen rate at "
        f"either end of the grid may not be the best one. Lines: mean final validation accuracy{decay} over the tuning "
        "seeds; bands: lowest to highest seed. The axis is stretched towards 100%." + COVERED_NOTE * covered,
        handles,
    )
