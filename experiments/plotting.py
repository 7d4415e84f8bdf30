"""How the figures of a run look, and how they are saved: colours, markers, panels, titles, legends.

A placement has one colour and one marker in all figures (colours of Okabe and Ito, safe for colour-blind readers). No
pyplot and no global state: STYLE holds only while a figure is drawn or saved.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

COLOUR: dict[str, Any] = {
    "none": "#000000",
    "before": "#0072B2",
    "after": "#D55E00",
    "both": "#009E73",
    "pre_linear": "#CC79A7",
}
MARKER: dict[str, Any] = {"none": "o", "before": "s", "after": "^", "both": "D", "pre_linear": "v"}
LAYER_DASHES: list[Any] = ["-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 4))]
TRAIN_COLOUR, TEST_COLOUR = "#56B4E9", "#E69F00"
WIDTH = 9.6  # inches

STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.markersize": 5,
    "figure.constrained_layout.h_pad": 0.08,
    "svg.hashsalt": "jbn",  # with a fixed salt the same data give the same bytes
}


class Drawing(NamedTuple):
    name: str
    """Name of the file, without its ending."""
    title: str
    """What is seen, in one sentence."""
    caption: str
    """How to read it."""
    figure: Figure


def save(drawing: Drawing, folder: Path) -> tuple[Path, Path]:
    """Writes NAME.svg and NAME.png; the same drawing gives the same bytes."""
    svg, png = folder / f"{drawing.name}.svg", folder / f"{drawing.name}.png"
    with matplotlib.rc_context(STYLE):
        drawing.figure.draw_without_rendering()
        drawing.figure.set_layout_engine("none")  # laid out once, not once a file: that is half of the time
        drawing.figure.savefig(svg, metadata={"Date": None, "Creator": None})
        drawing.figure.savefig(png, dpi=150, metadata={"Software": None})
    return svg, png


def panels_of(activations: Sequence[str], height: float) -> tuple[Figure, dict[str, Axes]]:
    """One panel per activation, at most three in a row; `height` is that of a row in inches."""
    columns = 2 if len(activations) in (2, 4) else min(3, len(activations))
    rows = math.ceil(len(activations) / columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else 6.4, 0.9 + height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(activations) :]:
        axes.set_axis_off()
    panels = dict(zip(activations, grid, strict=False))
    for activation, axes in panels.items():
        axes.set_title(activation)
    return figure, panels


def finish(name: str, figure: Figure, title: str, caption: str, handles: Sequence[Artist]) -> Drawing:
    width = int(figure.get_figwidth() * 10.4)
    figure.suptitle("\n".join(textwrap.wrap(title, width)), x=0.01, ha="left", fontsize=12.5)
    columns = math.ceil(len(handles) / math.ceil(len(handles) / (7 if width > 80 else 3)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return Drawing(name, title, caption, figure)


def placement_handles(placements: Sequence[str]) -> list[Artist]:
    return [Line2D([], [], label=placement, **look_of(placement)) for placement in placements]


def look_of(placement: str) -> dict[str, Any]:
    return {"color": COLOUR[placement], "marker": MARKER[placement], "lw": 1.8}


def name_ticks(axes: Axes, names: Sequence[str]) -> None:
    crowded = len(names) > 3
    axes.set_xticks(range(len(names)), names, rotation=30 if crowded else 0, ha="right" if crowded else "center")


def label_left(panels: dict[str, Axes], text: str) -> None:
    """The same y label for all panels, written once a row."""
    for axes in panels.values():
        place = axes.get_subplotspec()
        if place is None or place.is_first_col():
            axes.set_ylabel(text)


def corner(axes: Axes, text: str) -> None:
    """A small note in the upper right corner that stays readable above lines."""
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
    axes.text(0.98, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=9, bbox=box)


def accuracy_axis(axes: Axes) -> None:
    """Percent correct, stretched towards 100 like the logarithm of the error; its end lies half a percent beyond."""

    def stretch(y: ArrayLike) -> Floats:
        return -np.log(np.maximum(100.5 - np.asarray(y, np.float64), 1e-3))

    def shrink(v: ArrayLike) -> Floats:
        return 100.5 - np.exp(-np.asarray(v, np.float64))

    low, high = stretch(axes.dataLim.intervaly)
    margin = 0.05 * max(high - low, 0.2)
    wide = axes.dataLim.y0 < 80
    axes.set_yscale("function", functions=(stretch, shrink))
    axes.set_ylim(*shrink([low - margin, high + margin]))
    axes.yaxis.set_major_locator(
        FixedLocator([0, 20, 50, 80, 90, 95, 97, 98, 99, 100] if wide else [80, 85, 88, 90, *range(92, 101)])
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def symmetric_log_axis(axes: Axes) -> None:
    """Linear between -5 and 5, logarithmic beyond, with ticks at powers of ten."""
    axes.set_yscale("symlog", linthresh=5)
    powers = [10.0**k for k in range(1, 12)]
    axes.yaxis.set_major_locator(FixedLocator([*(-p for p in reversed(powers)), 0, *powers]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def log_axis(axes: Axes, base: int) -> None:
    """A logarithmic y axis whose labels are plain numbers."""
    axes.set_yscale("log", base=base)
    axes.yaxis.set_major_locator(LogLocator(base=base, numticks=7))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def steps_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.set_xlabel("training step")


def array(values: Any) -> Floats:
    """Nested lists as float64, null as NaN."""
    return np.array(values, np.float64)  # NumPy reads None as NaN when the dtype is given


def finite_mean(values: Floats) -> Floats:
    """Mean over axis 0 of what is finite, NaN where nothing is."""
    finite = np.isfinite(values)
    count = finite.sum(axis=0)
    total = np.where(finite, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def short(rate: float) -> str:
    return f"{rate:.3g}"


def span(rates: Sequence[float]) -> str:
    low, high = short(min(rates)), short(max(rates))
    return low if low == high else f"{low} to {high}"
