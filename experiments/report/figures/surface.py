"""Figures of the loss around the weights: change along the gradient, curvature, gradients of mean logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.config import Config
from experiments.palette import GREY, Look, looks
from experiments.report.figures.probed import MAX_MARKS, Probes, Seen, ends_only_note, evenly_spaced, forward_order
from experiments.report.plotting import (
    WIDTH,
    Drawing,
    Floats,
    array,
    finish,
    finite_mean,
    handles_of,
    label_left,
    log_axis,
    panels_of,
    short,
    steps_axis,
    treatments_of,
    wrapped,
)
from experiments.vocabulary import LAST_MODULES

# The differentiated network uses batch statistics, as in training, or frozen ones; "" means that the run did not say.
FILLS = {"": "full", "batch": "full", "frozen": "none"}
MAX_TICKS = 12
KINDS = {"batch": "statistics of the batch", "frozen": "statistics frozen"}


def predictiveness(config: Config, seen: Seen) -> Drawing:
    """How well the gradient predicts the loss along its direction; Santurkar et al. (2018), figure 4."""
    look = _looks(config, seen)
    figure = Figure(figsize=(WIDTH, 0.9 + 2.4 * len(seen)), layout="constrained")
    grid = figure.subplots(len(seen), 3, sharex=True, sharey="col", squeeze=False)
    ends: dict[str, list[float]] = {}
    steps: list[int] = []
    sizes: list[float] = []
    for row, (context, found) in zip(grid, seen.items(), strict=True):
        for treatment, probes in found.items():
            measured = [probe["predictiveness"] for probe in probes]
            steps, sizes = measured[0]["steps"], measured[0]["step_sizes"]
            style, marks = look[treatment], evenly_spaced(len(steps), MAX_MARKS)
            for axes, key in zip(row, ("losses", "gradient_distances"), strict=False):
                values = finite_mean(array([each[key] for each in measured]))  # [time, step size]
                axes.fill_between(steps, values.min(1), values.max(1), color=style.colour, alpha=0.12, lw=0)
                for edge in (values.min(1), values.max(1)):
                    axes.plot(steps, edge, color=style.colour, lw=0.7, alpha=0.7)
                axes.plot(steps, values.mean(1), markevery=marks, **style.line | {"lw": 1.5, "ms": 4})
            smoothness = finite_mean(array([each["smoothness"] for each in measured]))
            row[2].plot(steps, smoothness, markevery=marks, **style.line | {"lw": 1.5, "ms": 4})
            ends.setdefault(treatment, []).append(float(smoothness[-1]))
        for axes in row:
            log_axis(axes, base=10)
        row[0].set_ylabel(wrapped(context, 24))
    for axes, name in zip(
        grid[0], ("loss along the gradient", "change of the gradient", "effective smoothness"), strict=True
    ):
        axes.set_title(name)
    for axes in grid[-1]:
        steps_axis(axes, ticks=3)
    said = [f"{t} {_span(values)}".replace(" ", "\N{NO-BREAK SPACE}") for t, values in ends.items()]
    return finish(
        "predictiveness",
        figure,
        f"Effective smoothness after the last step (lower is smoother): {', '.join(said)}",
        f"A step along the gradient of a fixed batch, of {len(sizes)} sizes from {short(min(sizes))} to "
        f"{short(max(sizes))}. Left: the loss where the step ends. Middle: how far the gradient there is from that at "
        "the start. Bands: lowest to highest over the sizes; lines: their mean. Right: the largest change of the "
        "gradient over the length of the step. Narrow bands and low lines mean that the gradient can be trusted. "
        f"After Santurkar et al. (2018), figure 4; mean of the probed seeds.{ends_only_note(steps)}",
        handles_of(look),
    )


def eigenvalues(config: Config, seen: Seen) -> Drawing:
    """The largest eigenvalues of the Hessian after the last step."""
    look = _looks(config, seen)
    figure, panels = panels_of(list(seen), height=3.0)
    tops: dict[str, list[float]] = {}
    kinds: set[str] = set()
    positive = True
    for context, found in seen.items():
        for treatment, probes in found.items():
            for kind, values in _by_kind(probes, "eigenvalues").items():
                mean = finite_mean(array(values))
                kinds.add(kind)
                positive &= bool((mean > 0).all())
                panels[context].plot(
                    np.arange(1, mean.size + 1), mean, markevery=max(1, mean.size // 8), **_style(look[treatment], kind)
                )
                tops.setdefault(treatment, []).extend([float(mean[0])] if kind != "frozen" else [])
    for axes in panels.values():
        if positive:
            log_axis(axes, base=10)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("rank")
    label_left(panels, "eigenvalue")
    said = [f"{t} {_span(values)}".replace(" ", "\N{NO-BREAK SPACE}") for t, values in tops.items() if values]
    return finish(
        "eigenvalues",
        figure,
        f"Largest eigenvalue of the loss's Hessian after the last step: {', '.join(said)}",
        "The largest eigenvalues of the Hessian of the training loss, in batches, by Lanczos' method: how sharply the "
        "loss bends in its steepest directions. A gradient step is stable along a direction while the rate is below 2 "
        "over the eigenvalue, without momentum. Mean of the probed seeds." + _kinds_text(kinds),
        [*handles_of(look), *_kind_handles(kinds)],
    )


def mean_logit(config: Config, seen: Seen) -> Drawing:
    """Gradient of a mean logit with respect to each layer's kernel, after the last step; Page (2019)."""
    look = _looks(config, seen)
    figure, panels = panels_of(list(seen), height=3.0)
    largest: dict[str, list[float]] = {}
    kinds: set[str] = set()
    for context, found in seen.items():
        measured = {t: _by_kind(probes, "mean_logit") for t, probes in found.items()}
        every = [value for by_kind in measured.values() for values in by_kind.values() for value in values]
        # Networks may lack some layers, so the one with the most sets the order.
        names = forward_order(dict.fromkeys(name for value in sorted(every, key=len, reverse=True) for name in value))
        for treatment, by_kind in measured.items():
            for kind, values in by_kind.items():
                kinds.add(kind)
                mean = finite_mean(array([[value.get(name) for name in names] for value in values]))
                at = np.flatnonzero(mean > 0)
                panels[context].plot(at, mean[at], **_style(look[treatment], kind))
                largest.setdefault(treatment, []).extend(mean.tolist() if kind != "frozen" else [])
        axes = panels[context]
        ticks = evenly_spaced(len(names), MAX_TICKS)
        labels = [names[k].removesuffix("/layer") for k in ticks]
        if max(map(len, labels)) > 9:  # such as stage_2_unit_0/layer_1
            labels = [name if name in LAST_MODULES else f"{k + 1}" for k, name in zip(ticks, labels, strict=True)]
            axes.set_xlabel("layer, first to last")
        axes.set_xticks(ticks, labels, rotation=35, ha="right")
        axes.tick_params(axis="x", labelsize=9 if len(names) < 8 else 8)
        axes.set_xlim(-0.4, len(names) - 0.6)
        log_axis(axes, base=10)
    label_left(panels, "squared gradient")
    tops = {t: np.nanmax([*values, -np.inf]) for t, values in largest.items()}
    said = [
        f"{t} {short(top) if np.isfinite(top) else 'not finite'}".replace(" ", "\N{NO-BREAK SPACE}")
        for t, top in tops.items()
    ]
    return finish(
        "mean_logit",
        figure,
        f"Largest squared gradient of a mean logit by the kernel of a layer: {', '.join(said)}",
        "Squared norm of the gradient of the mean of logit 0 over the probed examples, by the kernel of each layer: "
        "how much a step in that kernel shifts what the network says whatever it sees. A norm on the way removes such "
        "a shift. After Page (2019); mean of the probed seeds, after the last step." + _kinds_text(kinds),
        [*handles_of(look), *_kind_handles(kinds)],
    )


def _looks(config: Config, seen: Seen) -> dict[str, Look]:
    every = looks(treatments_of(config)[0])
    return {t: look for t, look in every.items() if any(t in found for found in seen.values())}


def _by_kind(probes: Probes, key: str) -> dict[str, list[Any]]:
    """One value per seed for each kind of statistics; the kind is "" if the run did not store it."""
    kinds: dict[str, list[Any]] = {}
    for probe in probes:
        value = probe[key]
        by_kind = isinstance(value, Mapping) and set(value) <= KINDS.keys()
        for kind, each in value.items() if by_kind else [("", value)]:
            if each:
                kinds.setdefault(kind, []).append(each)
    return kinds


def _style(look: Look, kind: str) -> dict[str, Any]:
    fill = FILLS[kind]
    return look.line | {"lw": 1.5, "ms": 6, "fillstyle": fill, "ls": "--" if fill == "none" else "-"}


def _kind_handles(kinds: set[str]) -> list[Line2D]:
    if len(kinds) < 2:
        return []
    return [
        Line2D([], [], color=GREY, marker="o", ls="--" if FILLS[k] == "none" else "-", fillstyle=FILLS[k], label=name)  # type: ignore[arg-type]
        for k, name in KINDS.items()
    ]


def _kinds_text(kinds: set[str]) -> str:
    return (
        " Full marks: norms use the batch's statistics; empty ones: the population's, frozen." if len(kinds) > 1 else ""
    )


def _span(values: list[float]) -> str:
    found: Floats = array(values)
    found = found[np.isfinite(found)]
    if not found.size:
        return "not finite"
    low, high = short(float(found.min())), short(float(found.max()))
    return low if low == high else f"{low} to {high}"
