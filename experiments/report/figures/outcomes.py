"""Test accuracy, learning curves, and accuracy by the statistics at test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from experiments.config import Arm, Config
from experiments.formatting import join, number, signed
from experiments.palette import GREY, looks
from experiments.report.figures.probed import MAX_MARKS, FirstSeen, Record, as_chosen, evenly_spaced, first_seen
from experiments.report.groups import confidence
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
    """Test accuracy (the config's metric): the estimate with its interval, and every seed as most bags choose."""
    treatments, contexts = treatments_of(config)
    figure, panels, along_y = by_treatment(contexts, treatments, "test accuracy (%)")
    look = looks(treatments)
    for row in result["arms"]:
        axes, place, values = panels[row["context"]], treatments.index(row["treatment"]), row["values"]
        offsets = np.linspace(-0.3, 0.1, len(values))  # one offset per seed, the same in every arm
        shade = look[row["treatment"]]
        style: dict[str, Any] = {"color": shade.colour, "marker": shade.marker, "along_y": along_y}
        mark(axes, place + offsets, values, ls="", ms=4, alpha=0.5, mew=0, **style)
        error = np.abs(np.subtract(row["ci"], row["estimate"]))[:, None]
        mark(axes, place + 0.27, row["estimate"], error, capsize=4, lw=1.8, ms=7, **style)
    best, worst = (pick(result["arms"], key=lambda row: row["estimate"]) for pick in (max, min))
    lowest, highest = (f"{number(r['estimate'])}% ({Arm(r['treatment'], r['context'])})" for r in (worst, best))
    title = f"Test accuracy: {f'from {lowest} to {highest}' if len(result['arms']) > 1 else highest}"
    level = confidence(result)
    way = "downwards" if along_y else "from left to right"
    handles = [
        Line2D([], [], color=GREY, marker="o", ls="", ms=4, alpha=0.5, mew=0, label="one seed"),
        Line2D([], [], color=GREY, marker="o", ms=7, label=f"estimate with its {level} interval"),
    ]
    return finish(
        "accuracy",
        figure,
        title,
        f"Small marks are trainings from different seeds at the setting that most bags choose, in the same order {way} "
        f"for every treatment. The large mark is the estimate with its {level} interval for new seeds; the choice of "
        "the setting is bagged, and the interval knows that it was made. Measured with "
        f"{STATISTICS[result['metric']][0]}. Higher is better. Every panel has its own scale. Overlapping intervals do "
        "not show that two treatments are equal: the figure of differences does.",
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
    level = confidence(result)
    return finish(
        "statistics_at_test",
        figure,
        title,
        "The same trained networks, their norms fed with three kinds of statistics: running ones, those of the whole "
        "training set at the final weights, and each test batch's own. Where the first two differ, the running "
        "statistics lag behind or are noisy; where the third is lower, a test batch is too small to tell them. "
        f"Means over the seeds at the setting that most bags choose, with {level} intervals; networks without norms "
        "have one value.",
        handles,
    )


def learning_curves(config: Config, result: dict[str, Any], records: Sequence[Record], data: dict[str, Any]) -> Drawing:
    """Validation accuracy against optimizer step, over all seeds at the setting that most bags choose."""
    treatments, contexts = treatments_of(config)
    figure, panels = panels_of(contexts, height=3.4)
    look = looks(treatments)
    covered = False
    for row in result["arms"]:
        axes, style = panels[row["context"]], look[row["treatment"]]
        values = 100 * array([run["val_accuracy"] for run in as_chosen(records, row)])
        steps = row["validation_curve"]["steps"]
        axes.fill_between(steps, *np.percentile(values, [10, 90], axis=0), color=style.colour, alpha=0.15, lw=0)
        axes.plot(steps, values.mean(axis=0), markevery=evenly_spaced(len(steps), MAX_MARKS), **style.line)
    for axes in panels.values():
        covered |= widen_covered_lines(axes)
        steps_axis(axes)
        accuracy_axis(axes)
    label_left(panels, "validation accuracy (%)")
    seen = first_seen(result, data)
    table = " How many steps it takes to an accuracy that all that learn reach: see the table of speed."
    return finish(
        "learning_curves",
        figure,
        fastest(seen),
        "Lines: mean over the seeds, each arm at the setting that most bags choose, measured after every epoch with "
        "running statistics; bands: 10th to 90th percentile. Higher and further left is better; the axis is stretched "
        f"towards 100%, where small differences matter.{table if seen else ''}{COVERED_NOTE * covered}",
        handles_of(look),
    )


def fastest(seen: Mapping[str, FirstSeen]) -> str:
    """Which treatments are the first to an accuracy that all reach, in one sentence."""
    if not seen:
        return "Validation accuracy through training, each arm at its most chosen setting"
    if len(seen) == 1:
        reached, first = next(iter(seen.values()))
        steps = sorted(set(first.values()))
        by_step = [[t for t, step in first.items() if step == when] for when in steps]
        if len(steps) == 1:
            every = "both" if len(first) == 2 else "all"
            return f"{join(by_step[0])} tie: {every} reach {reached}% validation accuracy after {steps[0]:,} steps"
        said = [f"{join(names)} after {step:,}" for names, step in zip(by_step, steps, strict=True)]
        return f"{reached}% validation accuracy, which all that learn reach, is first seen in {', '.join(said)} steps"
    winners: Counter[tuple[str, ...]] = Counter()
    for _, first in seen.values():
        ahead = tuple(t for t, step in first.items() if step == min(first.values()))
        winners[() if len(ahead) == len(first) else ahead] += 1
    everywhere = winners[()]
    if everywhere == len(seen):
        return f"All treatments tie: in each of {len(seen)} contexts they reach the same accuracy after as many steps"
    parts = [
        f"{join(names)}{', tied,' if len(names) > 1 else ''} in {'all ' if k == len(seen) else f'{k} of '}{len(seen)}"
        for names, k in winners.most_common()
        if names
    ]
    parts += [f"all tie in {everywhere} of {len(seen)}"] * bool(everywhere)
    shown = (part.replace(" ", "\N{NO-BREAK SPACE}") if len(part) < 40 else part for part in parts)
    return f"First to an accuracy that all that learn reach: {', '.join(shown)} contexts"
