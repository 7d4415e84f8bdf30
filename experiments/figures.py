"""The figures of a run: data in, figures out. How they look is decided in `experiments.plotting`.

Every title says what is seen, computed from what is drawn; every caption says how to read the figure.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from experiments.config import Arm, Config
from experiments.formats import number
from experiments.plotting import (
    COLOUR,
    LAYER_DASHES,
    MARKER,
    STYLE,
    TEST_COLOUR,
    TRAIN_COLOUR,
    WIDTH,
    Drawing,
    Floats,
    accuracy_axis,
    array,
    corner,
    finish,
    finite_mean,
    label_left,
    log_axis,
    look_of,
    name_ticks,
    panels_of,
    placement_handles,
    short,
    span,
    steps_axis,
    symmetric_log_axis,
)

Record = dict[str, Any]


def draw(config: Config, result: dict[str, Any], records: Sequence[Record], data: dict[str, Any]) -> list[Drawing]:
    """Every figure that the run has the data for, in the order in which a reader wants them."""
    probed = [activation for activation in config.activations if _probes(records, activation)]
    normalized = any(_statistics(_probes(records, a), p) for a in probed for p in config.placements)
    with matplotlib.rc_context(STYLE):
        drawings = [accuracy(config, result), learning_curves(config, records), learning_rate(config, result)]
        drawings += [percentiles(config, records, activation) for activation in probed]
        drawings += [running_statistics(config, records)] if normalized else []
        drawings += [inputs(data)] if data.get("raw") and data.get("standardized") else []
    return drawings


def accuracy(config: Config, result: dict[str, Any]) -> Drawing:
    """Test accuracy of every evaluation seed, with mean and confidence interval."""
    figure, panels = panels_of(config.activations, height=3.1)
    rows = {(row["activation"], row["placement"]): row for row in result["arms"]}
    for activation, axes in panels.items():
        for x, placement in enumerate(config.placements):
            row = rows[activation, placement]
            values = row["test_accuracy"]
            offsets = np.linspace(-0.3, 0.1, len(values))  # one offset per seed, the same in every arm
            look: dict[str, Any] = {"color": COLOUR[placement], "marker": MARKER[placement]}
            axes.plot(x + offsets, values, ls="", ms=4, alpha=0.5, mew=0, **look)
            error = np.abs(np.subtract(row["ci"], row["mean"]))[:, None]
            axes.errorbar(x + 0.27, row["mean"], error, capsize=4, lw=1.8, ms=7, **look)
        axes.set_xlim(-0.55, len(config.placements) - 0.4)
        name_ticks(axes, config.placements)
        axes.grid(axis="x", visible=False)
    label_left(panels, "test accuracy (%)")
    best, worst = (pick(result["arms"], key=lambda row: row["mean"]) for pick in (max, min))
    lowest, highest = (f"{number(r['mean'])}% ({Arm(r['placement'], r['activation'])})" for r in (worst, best))
    title = f"Mean test accuracy: {f'from {lowest} to {highest}' if len(rows) > 1 else highest}"
    level = f"{100 * (1 - config.analysis.alpha):g}%"
    handles = [
        Line2D([], [], color="#555555", marker="o", ls="", ms=4, alpha=0.5, mew=0, label="one evaluation seed"),
        Line2D([], [], color="#555555", marker="o", ms=7, label=f"mean and {level} t interval of the mean"),
    ]
    return finish(
        "accuracy",
        figure,
        title,
        "Small marks are trainings from different seeds, in the same order from left to right for every placement; "
        f"the large mark is their mean with its {level} interval. Higher is better. Every panel has its own scale. "
        "Overlapping intervals do not show that two placements are equal: the comparisons do.",
        handles,
    )


def learning_curves(config: Config, records: Sequence[Record]) -> Drawing:
    """Validation accuracy against optimizer step, over the evaluation seeds."""
    figure, panels = panels_of(config.activations, height=3.4)
    fastest: Counter[str] = Counter()
    for activation, axes in panels.items():
        means: dict[str, Floats] = {}
        steps = np.zeros(0)
        for placement in config.placements:
            runs = _select(records, "evaluate", placement, activation)
            steps = array(runs[0]["steps"])
            values = 100 * array([run["val_accuracy"] for run in runs])
            low, high = np.percentile(values, [10, 90], axis=0)
            means[placement] = values.mean(axis=0)
            axes.fill_between(steps, low, high, color=COLOUR[placement], alpha=0.15, lw=0)
            axes.plot(steps, means[placement], markevery=max(1, len(steps) // 8), **look_of(placement))
        # The highest round accuracy that all placements reach: a line that each of them can be timed at.
        reached = min(float(mean.max()) for mean in means.values())
        threshold = max((t for t in (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 97, 98, 99) if t <= reached), default=0)
        first = {p: int(steps[np.argmax(mean >= threshold)]) for p, mean in means.items()}
        fastest.update(p for p, step in first.items() if step == min(first.values()))
        steps_axis(axes)
        accuracy_axis(axes)
        times = ", ".join(f"{p} {step:,}".replace(" ", "\N{NO-BREAK SPACE}") for p, step in first.items())
        axes.set_xlabel("\n".join(["training step", *textwrap.wrap(f"steps to {threshold}%: {times}", 42)]))
    label_left(panels, "validation accuracy (%)")
    title = "Validation accuracy at each placement's own learning rate"
    if len(config.placements) > 1:
        counts = (f"{p} in {k} of {len(panels)}".replace(" ", "\N{NO-BREAK SPACE}") for p, k in fastest.most_common())
        title = f"First to an accuracy that all placements reach (ties count for each): {', '.join(counts)}"
    return finish(
        "learning_curves",
        figure,
        title,
        "Lines: mean over the evaluation seeds at each arm's own learning rate, measured after every epoch with "
        "running statistics; bands: 10th to 90th percentile. Higher and further left is better; the axis is stretched "
        "towards 100%, where small differences matter. Below each panel: after how many steps the mean is first seen "
        "at an accuracy that all placements reach.",
        placement_handles(config.placements),
    )


def learning_rate(config: Config, result: dict[str, Any]) -> Drawing:
    """Validation accuracy against learning rate, over the tuning seeds."""
    figure, panels = panels_of(config.activations, height=3.1)
    ring: dict[str, Any] = {"ls": "", "marker": "o", "ms": 11, "mfc": "none", "mec": "#555555", "mew": 2}
    cross: dict[str, Any] = {"ls": "", "marker": "x", "ms": 9, "mew": 1.6, "color": "#555555"}
    chosen: dict[str, list[float]] = {placement: [] for placement in config.placements}
    for row in result["arms"]:
        axes, placement, curve = panels[row["activation"]], row["placement"], row["tuning"]
        rates = [point["learning_rate"] for point in curve]
        values = array([point["values"] for point in curve])
        axes.fill_between(rates, values.min(1), values.max(1), color=COLOUR[placement], alpha=0.15, lw=0)
        axes.plot(rates, [point["mean"] for point in curve], **look_of(placement))
        best, colour = rates.index(row["learning_rate"]), COLOUR[placement]
        axes.plot(rates[best], curve[best]["mean"], **ring | {"mec": colour})
        diverged = [(point["learning_rate"], point["mean"]) for point in curve if point["diverged"]]
        if diverged:
            axes.plot(*np.transpose(diverged), **cross | {"color": colour})
        chosen[placement].append(row["learning_rate"])
    for axes in panels.values():
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: short(rate)))
        axes.set_xlabel("learning rate")
        accuracy_axis(axes)
    label_left(panels, "validation accuracy (%)")
    spans = [f"{p} {span(rates)}" for p, rates in chosen.items()]
    handles = [
        *placement_handles(config.placements),
        Line2D([], [], label="chosen", **ring),
        Line2D([], [], label="a seed diverged", **cross),
    ]
    return finish(
        "learning_rate",
        figure,
        "Best learning rate: " + ", ".join(spans),
        "How sensitive each placement is to its learning rate, and whether the grid was wide enough: a chosen rate at "
        "either end of the grid may not be the best one. Lines: mean final validation accuracy over the tuning seeds; "
        "bands: lowest to highest seed. The axis is stretched towards 100%.",
        handles,
    )


def percentiles(config: Config, records: Sequence[Record], activation: str) -> Drawing:
    """What each hidden layer's activation receives through training; Ioffe and Szegedy (2015), figure 1b and 1c."""
    probes = _probes(records, activation)
    arrays = {p: array([probe["percentiles"] for probe in found]) for p, found in probes.items()}
    layers = max(values.shape[2] for values in arrays.values())
    columns = [p for p in config.placements if p in arrays]
    figure = Figure(figsize=(WIDTH, 0.9 + 1.75 * layers), layout="constrained")
    grid = figure.subplots(layers, len(columns), sharex=True, sharey="row", squeeze=False)
    widths = []
    for column, placement in enumerate(columns):
        steps = probes[placement][0]["steps"]
        values = finite_mean(arrays[placement])  # [time, layer, 3]
        scales = [probe["scale"] for probe in probes[placement] if probe["scale"]]
        for layer, axes in enumerate(grid[:, column]):
            low, middle, high = values[:, layer].T
            axes.fill_between(steps, low, high, color=COLOUR[placement], alpha=0.18, lw=0)
            for line, dash, width in ((low, "--", 1.2), (middle, "-", 1.8), (high, "--", 1.2)):
                axes.plot(steps, line, color=COLOUR[placement], ls=dash, lw=width)
            if scales:
                first, last = finite_mean(array(scales))[[0, -1], layer]
                note = rf"mean $|\gamma|$: {first:.2f} → {last:.2f}"
                corner(axes, note)
            if column == 0:
                axes.set_ylabel(f"hidden layer {layer + 1}\ninput value")
        bad = sum(not np.isfinite(seed).all() for seed in arrays[placement])
        grid[0, column].set_title(placement + (f" ({bad} of {len(arrays[placement])} not finite)" if bad else ""))
        steps_axis(grid[-1, column])
        spread = values[:, layers - 1, 2] - values[:, layers - 1, 0]
        first, last = (short(width) if np.isfinite(width) else "not finite" for width in spread[[0, -1]])
        widths.append(f"{first} → {last} ({placement})".replace(" ", "\N{NO-BREAK SPACE}"))
    for row in grid:
        limits = np.abs([axes.get_ylim() for axes in row])
        if limits.max() > 50:  # one exploding arm must not flatten the others
            symmetric_log_axis(row[0])
        elif any(axes.texts for axes in row):  # room for the note above the lines
            low, high = row[0].get_ylim()
            row[0].set_ylim(low, high + 0.25 * (high - low))
    title = (
        f"{activation}: through training, the spread (15th to 85th percentile) of what the last hidden layer's "
        f"activation receives goes {', '.join(widths)}"
    )
    handles = [
        Line2D([], [], color="#555555", lw=1.8, label="median"),
        Line2D([], [], color="#555555", ls="--", lw=1.2, label="15th and 85th percentile"),
    ]
    return finish(
        f"percentiles_{activation}",
        figure,
        title,
        f"The distribution of the values that the {activation} of each hidden layer receives, over the training set "
        "and all units, mean of the probed seeds. Flat lines mean that a layer sees the same kind of input throughout "
        "training; drifting ones that it must follow a moving target. After figure 1b, c of Ioffe and "
        "Szegedy (2015).",
        handles,
    )


def running_statistics(config: Config, records: Sequence[Record]) -> Drawing:
    """Running mean and variance against the exact statistics of the training set at the same weights."""
    placements = [p for p in config.placements if any(_statistics(_probes(records, a), p) for a in config.activations)]
    figure = Figure(figsize=(WIDTH, 0.9 + 2.3 * len(config.activations)), layout="constrained")
    grid = figure.subplots(len(config.activations), 2, sharex=True, sharey="col", squeeze=False)
    ends: dict[str, list[float]] = {"mean_gap": [], "var_ratio": []}
    layers = 0
    for row, activation in zip(grid, config.activations, strict=True):
        for placement in placements:
            probes = _statistics(_probes(records, activation), placement)
            for axes, key in zip(row, ends, strict=True):
                if not probes:
                    continue
                values = finite_mean(array([probe[key] for probe in probes]))  # [time, layer]
                layers = max(layers, values.shape[1])
                for layer, line in enumerate(values.T):
                    look = look_of(placement) | {"ls": LAYER_DASHES[layer % len(LAYER_DASHES)], "lw": 1.5, "ms": 4}
                    axes.plot(probes[0]["steps"], line, markevery=(layer, max(2, len(line) // 6)), **look)
                ends[key] += values[-1].tolist()
        row[0].set_title(f"{activation}: running mean")
        row[0].set_ylabel("distance from true (sd)")
        log_axis(row[0], base=10)
        row[1].set_title(f"{activation}: running variance")
        row[1].set_ylabel("running / true")
        row[1].axhline(1, color="#555555", lw=1, zorder=1)
        log_axis(row[1], base=2)
    low, high = grid[0, 0].get_ylim()
    grid[0, 0].set_ylim(max(low, 5e-4), high)  # a mean that is still exactly 0 must not flatten the others
    low, high = grid[0, 1].get_ylim()
    grid[0, 1].set_ylim(min(low, 0.45), max(high, 2.2))
    for axes in grid[-1]:
        steps_axis(axes)
    handles = placement_handles(placements) + [
        Line2D([], [], color="#555555", ls=LAYER_DASHES[layer % len(LAYER_DASHES)], label=f"layer {layer + 1}")
        for layer in range(layers)
    ]
    gap, ratio = np.array(ends["mean_gap"]), np.array(ends["var_ratio"])
    title = "After the last step not all running statistics are finite"
    if np.isfinite(gap).all() and (ratio > 0).all():
        title = (
            f"After the last step the running means are off by at most {gap.max():.2g} standard deviations and the "
            f"running variances by at most a factor of {max(ratio.max(), 1 / ratio.min()):.2f}"
        )
    return finish(
        "running_statistics",
        figure,
        title,
        "How well the statistics used for predictions follow the network as it learns. Left: distance of the running "
        "mean from the exact mean of the training set, in standard deviations, mean over channels (lower is better; "
        "not shown below 0.0005). Right: running variance over exact variance, median over channels (1 is exact). Mean "
        "of the probed seeds.",
        handles,
    )


def inputs(data: dict[str, Any]) -> Drawing:
    """The training set before and after standardization, feature by feature and as a histogram."""
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    grid = figure.subplots(2, 2)
    for (top, bottom), key, name in zip(grid.T, ("raw", "standardized"), ("before", "after"), strict=True):
        part = data[key]
        mean, sd = array(part["mean"]), array(part["std"])
        feature = np.arange(mean.size)
        top.errorbar(feature, mean, sd, color=TRAIN_COLOUR, marker="o", ms=3.5, ls="", lw=1.3)
        if key == "standardized" and data.get("standardized_test"):
            test = data["standardized_test"]
            top.errorbar(feature + 0.4, test["mean"], test["std"], color=TEST_COLOUR, marker="D", ms=2.5, ls="", lw=0.8)
        top.set(title=f"{name} standardization", xlabel="feature (pixel number)", ylabel="mean ± sd")
        counts = np.asarray(part["counts"], np.float64)
        bottom.stairs(100 * counts / counts.sum(), part["edges"], fill=True, color=TRAIN_COLOUR)
        bottom.set(xlabel="value", ylabel="share of all values (%)")
        log_axis(bottom, base=10)
        bottom.set_ylim(10 ** np.floor(np.log10(100 * counts[counts > 0].min() / counts.sum())), 100)
    constant = data["constant_features"]
    rest = f"; {constant} constant ones stay at 0" if constant else ""
    handles: list[Artist] = [Patch(color=TRAIN_COLOUR, label=f"training set ({data['train']:,} examples)")]
    if data.get("standardized_test"):
        handles.append(Patch(color=TEST_COLOUR, label=f"test set ({data['test']:,} examples), same shift and scale"))
    return finish(
        "inputs",
        figure,
        f"Standardization brings {data['features'] - constant} of {data['features']} features to mean 0 and sd 1{rest}",
        f"What the networks are fed ({data['name']}): each feature minus its mean, over its standard deviation, both "
        "taken from the training set alone. The test set, shifted and scaled by the same numbers, is therefore close "
        "to mean 0 and sd 1, not exactly there. Top: each feature; bottom: all values of the training set.",
        handles,
    )


def _select(records: Sequence[Record], phase: str, placement: str, activation: str) -> list[Record]:
    found = [r for r in records if (r["phase"], r["placement"], r["activation"]) == (phase, placement, activation)]
    return sorted(found, key=lambda record: record["seed"])


def _probes(records: Sequence[Record], activation: str) -> dict[str, list[dict[str, Any]]]:
    """The probes of every placement that has some, seeds in order."""
    found = {p: [r["probes"] for r in _select(records, "evaluate", p, activation) if r.get("probes")] for p in COLOUR}
    return {placement: probes for placement, probes in found.items() if probes}


def _statistics(probes: dict[str, list[dict[str, Any]]], placement: str) -> list[dict[str, Any]]:
    return [probe for probe in probes.get(placement, []) if probe["mean_gap"] and probe["var_ratio"]]
