"""Figures of the networks' activations, norms and gradients through training."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.config import Config
from experiments.palette import GREY, looks
from experiments.report.figures.probed import (
    MAX_MARKS,
    Probes,
    Seen,
    ends_only_note,
    evenly_spaced,
    forward_order,
    has_values,
    names_of,
    omission_note,
    stacked,
)
from experiments.report.plotting import (
    COVERED_NOTE,
    LAYER_DASHES,
    WIDTH,
    Drawing,
    Floats,
    array,
    corner_note,
    finish,
    finite_mean,
    handles_of,
    log_axis,
    short,
    steps_axis,
    symmetric_log_axis,
    treatments_of,
    widen_covered_lines,
    wrapped,
)

MAX_NORMS = 3


def percentiles(config: Config, context: str, probes: dict[str, Probes]) -> Drawing:
    """Percentiles of the input of each hidden layer's activation in training; Ioffe and Szegedy (2015), figure 1."""
    look = looks(treatments_of(config)[0])
    arrays = {t: stacked(found, "percentiles") for t, found in probes.items()}  # [seed, time, layer, 3]
    counts = {values.shape[2] for values in arrays.values()}
    rows = len(evenly_spaced(max(counts)))
    figure = Figure(figsize=(max(WIDTH, 1.9 * len(arrays)), 0.9 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, len(arrays), sharex=True, sharey="row", squeeze=False)
    widths = []
    for column, (treatment, values) in enumerate(arrays.items()):
        steps, names = probes[treatment][0]["steps"], names_of(probes[treatment], values.shape[2])
        mean, colour = finite_mean(values), look[treatment].colour  # [time, layer, 3]
        chosen = evenly_spaced(values.shape[2])
        for layer, axes in zip(chosen, grid[:, column], strict=False):
            low, middle, high = mean[:, layer].T
            axes.fill_between(steps, low, high, color=colour, alpha=0.18, lw=0)
            for line, dash, width in ((low, "--", 1.2), (middle, "-", 1.8), (high, "--", 1.2)):
                axes.plot(steps, line, color=colour, ls=dash, lw=width)
            note = _scale_note(probes[treatment], names[layer], values.shape[2], layer)
            if note:
                corner_note(axes, note)
            if column == 0 or len(counts) > 1:
                axes.set_ylabel(f"{_layer_label(layer, values.shape[2])}\ninput value")
        for axes in grid[len(chosen) :, column]:
            axes.set_axis_off()
        bad = sum(not np.isfinite(seed).all() for seed in values)
        name = treatment + (f" ({bad} of {len(values)} not finite)" if bad else "")
        grid[0, column].set_title(wrapped(name, max(14, 90 // len(arrays))))
        steps_axis(grid[len(chosen) - 1, column], ticks=4 if len(arrays) < 4 else 3)
        spread = mean[:, -1, 2] - mean[:, -1, 0]
        first, last = (short(width) if np.isfinite(width) else "not finite" for width in spread[[0, -1]])
        widths.append(f"{first} → {last} ({treatment})".replace(" ", "\N{NO-BREAK SPACE}"))
    for row in grid:
        limits = np.abs([axes.get_ylim() for axes in row])
        if limits.max() > 50:  # one exploding arm must not flatten the others
            symmetric_log_axis(row[0])
        elif any(axes.texts for axes in row):  # room for the note above the lines
            low, high = row[0].get_ylim()
            row[0].set_ylim(low, high + 0.25 * (high - low))
    title = (
        f"{context}: through training, the spread (15th to 85th percentile) of what the last hidden layer's "
        f"activation receives goes {', '.join(widths)}"
    )
    handles = [
        Line2D([], [], color=GREY, lw=1.8, label="median"),
        Line2D([], [], color=GREY, ls="--", lw=1.2, label="15th and 85th percentile"),
    ]
    return finish(
        f"percentiles_{context}",
        figure,
        title,
        f"The distribution of the values that the activation of each hidden layer receives ({context}), over "
        f"{_examples(config)} and all units, mean of the probed seeds. Flat lines mean that a layer sees the same "
        "kind of input throughout training; drifting ones that it must follow a moving target. After figure 1b, c of "
        f"Ioffe and Szegedy (2015).{omission_note(counts)}{_ends_note(probes)}",
        handles,
    )


def saturation(config: Config, context: str, probes: dict[str, Probes]) -> Drawing:
    """Saturation, sparsity and skewness of each hidden layer through training; Kim, Kim and Kim (2023)."""
    look = {t: v for t, v in looks(treatments_of(config)[0]).items() if t in probes}
    kinds = [
        k
        for k in ("saturation", "sparsity", "skewness")
        if all(has_values(p, k) for found in probes.values() for p in found)
    ]
    arrays = {k: {t: finite_mean(stacked(found, k)) for t, found in probes.items()} for k in kinds}  # [time, layer]
    counts = {values.shape[1] for values in arrays[kinds[0]].values()}
    most = 5
    columns = len(evenly_spaced(max(counts), most))
    covered = False
    figure = Figure(figsize=(WIDTH, 0.9 + 1.9 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), columns, sharex=True, sharey="row", squeeze=False)
    for row, (kind, by_treatment) in zip(grid, arrays.items(), strict=True):
        for treatment, values in by_treatment.items():
            steps = probes[treatment][0]["steps"]
            for axes, layer in zip(row, evenly_spaced(values.shape[1], most), strict=False):
                axes.plot(
                    steps, values[:, layer], markevery=evenly_spaced(len(steps), MAX_MARKS),
                    **look[treatment].line | {"lw": 1.5, "ms": 4},
                )  # fmt: skip
        covered |= any([widen_covered_lines(axes) for axes in row])  # a list: a generator would stop at the first hit
        row[0].set_ylabel(kind)
        row[0].yaxis.set_major_locator(MaxNLocator(4))
    for axes, layer in zip(grid[0], evenly_spaced(max(counts), most), strict=True):
        axes.set_title(_layer_label(layer, max(counts)) if len(counts) == 1 else "", fontsize=10)
    for axes in grid[-1]:
        steps_axis(axes, ticks=3)
    means = {t: float(v[-1].mean()) for t, v in arrays[kinds[0]].items()}
    ends = [
        f"{t} {f'{m:.2f}' if np.isfinite(m) else 'not finite'}".replace(" ", "\N{NO-BREAK SPACE}")
        for t, m in means.items()
    ]
    return finish(
        f"saturation_{context}",
        figure,
        f"{context}: mean {kinds[0]} over all hidden layers after the last step: " + ", ".join(ends),
        "Saturation: mean |a| over max |a| of each channel of the activation's output a, so 1 where all values are as "
        "large as the largest. Sparsity: 1 minus the same at the block's output, which is the norm's where one follows "
        "the activation. Skewness: |skewness| of the activation's output. Means over channels and over the probed "
        "seeds; after Kim, Kim and Kim (2023)."
        f"{omission_note(counts, most)}{COVERED_NOTE * covered}{_ends_note(probes)}",
        handles_of(look),
    )


def running_statistics(config: Config, seen: Seen) -> Drawing:
    """Running mean and variance, compared with the exact statistics of the probed examples at the same weights."""
    every = looks(treatments_of(config)[0])
    look = {t: v for t, v in every.items() if any(t in found for found in seen.values())}
    figure = Figure(figsize=(WIDTH, 0.9 + 2.3 * len(seen)), layout="constrained")
    grid = figure.subplots(len(seen), 2, sharex=True, sharey="col", squeeze=False)
    ends: dict[str, list[float]] = {"mean_gap": [], "var_ratio": []}
    counts: set[int] = set()
    covered = False
    for row, (context, found) in zip(grid, seen.items(), strict=True):
        for treatment, probes in found.items():
            for axes, key in zip(row, ends, strict=True):
                values = finite_mean(stacked(probes, key))  # [time, norm]
                counts.add(values.shape[1])
                # The initial running variance, 1, may be so far off that it would flatten the rest of the curve.
                late = int(key == "var_ratio")
                marks = evenly_spaced(len(values) - late, MAX_MARKS)
                for k, norm in enumerate(evenly_spaced(values.shape[1], MAX_NORMS)):
                    style = look[treatment].line | {"ls": LAYER_DASHES[k], "lw": 1.5, "ms": 4}
                    axes.plot(probes[0]["steps"][late:], values[late:, norm], markevery=marks, **style)
                ends[key] += values[-1].tolist()
        covered |= any([widen_covered_lines(axes) for axes in row])
        row[0].set_title(f"{context}: running mean")
        row[0].set_ylabel("distance from true (sd)")
        log_axis(row[0], base=10)
        row[1].set_title(f"{context}: running variance")
        row[1].set_ylabel("running / true")
        row[1].axhline(1, color=GREY, lw=1, zorder=1)
        log_axis(row[1], base=2)
    low, high = grid[0, 0].get_ylim()
    grid[0, 0].set_ylim(max(low, 5e-4), high)  # a running mean that is still exactly 0 must not flatten the others
    low, high = grid[0, 1].get_ylim()
    grid[0, 1].set_ylim(min(low, 0.45), max(high, 2.2))
    for axes in grid[-1]:
        steps_axis(axes)
    drawn = evenly_spaced(max(counts), MAX_NORMS)
    labels = [f"norm {norm + 1}" for norm in drawn] if len(counts) == 1 else ["first norm", "middle norm", "last norm"]
    handles = handles_of(look) + [
        Line2D([], [], color=GREY, ls=dash, label=label) for dash, label in zip(LAYER_DASHES, labels, strict=False)
    ]
    gap, ratio = np.array(ends["mean_gap"]), np.array(ends["var_ratio"])
    first = next(iter(seen.values()))
    title = "After the last step not all running statistics are finite"
    if np.isfinite(gap).all() and (ratio > 0).all():
        title = (
            f"After the last step, running means are off by at most {gap.max():.2g} standard deviations on average "
            f"over a norm's channels, running variances by at most a factor of "
            f"{max(ratio.max(), 1 / ratio.min()):.2f} in the median channel"
        )
    return finish(
        "running_statistics",
        figure,
        title,
        "How well the statistics used for predictions follow the network as it learns. Left: distance of the running "
        f"mean from the exact mean of {_examples(config)}, in standard deviations, mean over channels (lower is "
        "better; not shown below 0.0005). Right: running variance over exact variance, median over channels (1 is "
        "exact), from the first epoch on. Single channels may be further off. Mean of the probed seeds."
        f"{omission_note(counts, MAX_NORMS, 'norms')} The title speaks of all."
        f"{COVERED_NOTE * covered}{_ends_note(first)}",
        handles,
    )


def gradient_norms(config: Config, seen: Seen) -> Drawing:
    """Norm of the loss's gradient with respect to each layer's parameters, through training."""
    treatments = [t for t in treatments_of(config)[0] if any(t in found for found in seen.values())]
    figure = Figure(figsize=(max(WIDTH, 1.9 * len(treatments)), 0.9 + 2.2 * len(seen)), layout="constrained")
    grid = figure.subplots(len(seen), len(treatments), sharex=True, sharey="row", squeeze=False)
    most, where, most_layers = 0.0, "", 1
    for row, (context, found) in zip(grid, seen.items(), strict=True):
        for axes, treatment in zip(row, treatments, strict=True):
            if treatment not in found:
                axes.set_axis_off()
                continue
            lines, steps = _by_layer(found[treatment]), found[treatment][0]["steps"]
            most_layers = max(most_layers, len(lines))
            for line, colour in zip(lines.values(), _shades(len(lines)), strict=True):
                axes.plot(steps, line, color=colour, lw=1.5)
            start = array([line[0] for line in lines.values()])
            start = start[np.isfinite(start)]
            ratio = 0.0 if not start.size else float(start.max() / start.min()) if start.min() > 0 else np.inf
            if ratio > most:
                most, where = ratio, f"{treatment}/{context}"
        for axes in row:
            log_axis(axes, base=10)
        row[0].set_ylabel(f"{wrapped(context, 24)}\nnorm of the gradient")
    for axes, treatment in zip(grid[0], treatments, strict=True):
        axes.set_title(wrapped(treatment, max(14, 90 // len(treatments))))
    for axes in grid[-1]:
        steps_axis(axes, ticks=4 if len(treatments) < 4 else 3)
    bands = ListedColormap(_shades(most_layers))
    bar = figure.colorbar(ScalarMappable(Normalize(0, most_layers), bands), ax=grid, shrink=0.6, pad=0.01)
    bar.set_ticks([0.5, most_layers - 0.5], labels=["first", "last"])
    bar.ax.tick_params(length=0)
    bar.set_label("layer", labelpad=-12)
    title = "No gradient is finite before the first step"
    if where:
        said = "beyond all bounds" if not np.isfinite(most) else f"{most:,.0f}" if most >= 10 else f"{most:.2g}"
        title = f"Before the first step, gradients of the layers differ by a factor of up to {said} ({where})"
    return finish(
        "gradient_norms",
        figure,
        title,
        "Euclidean norm of the gradient of the loss by the parameters of each layer, kernel and bias together, without "
        "those of the norms; on the probed examples as one batch, mean of the probed seeds. Lines that lie together "
        "mean that all layers are driven alike; lines that fan out that gradients vanish or explode on the way back."
        + _ends_note(next(iter(seen.values()))),
        [],
    )


def _shades(layers: int) -> list[Any]:
    """One colour per layer, from first to last."""
    return [matplotlib.colormaps["viridis"](0.92 * k / max(1, layers - 1)) for k in range(layers)]


def _ends_note(found: dict[str, Probes]) -> str:
    return ends_only_note(next(iter(found.values()))[0]["steps"])


def _by_layer(probes: Probes) -> dict[str, Floats]:
    """Gradient norm of each layer's parameters (norm layers excluded), averaged over seeds."""
    norms = set(probes[0].get("norms") or ())
    names = forward_order(name for name in probes[0]["gradient_norms"] if name not in norms)
    return {name: finite_mean(array([probe["gradient_norms"][name] for probe in probes])) for name in names}


def _examples(config: Config) -> str:
    return f"the first {config.probes.examples:,} training examples (all, if there are fewer)"


def _layer_label(layer: int, count: int) -> str:
    return f"hidden layer {layer + 1}" + (f" of {count}" if count > 6 else "")


def _scale_note(probes: Probes, name: str, layers: int, layer: int) -> str:
    """First and last mean |scale| of the norm in the layer's block; empty unless the block has exactly one norm."""
    scaled = [probe for probe in probes if probe.get("scale")]
    if not scaled:
        return ""
    values = finite_mean(array([probe["scale"] for probe in scaled]))  # [time, norm]
    norms: list[Any] = scaled[0].get("norms") or []
    block, _, order = name.partition(".")
    inside = [k for k, norm in enumerate(norms) if norm.rpartition("/")[0] == block]
    if order and order.isdigit() and int(order) < len(inside):
        inside = [inside[int(order)]]
    if not norms and values.shape[1] == layers:
        inside = [layer]
    if len(inside) != 1:
        return ""
    first, last = values[[0, -1], inside[0]]
    return f"mean |γ|: {first:.2f} → {last:.2f}"
