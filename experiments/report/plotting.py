"""Layout and style of all figures: panels, axes, titles, legends, files. Colours and markers are in `palette`.

This file uses neither pyplot nor global state: STYLE applies only while a figure is drawn or saved.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from experiments.config import Config
from experiments.palette import Look

Floats = NDArray[np.float64]


LAYER_DASHES: list[Any] = ["-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 4))]
WIDTH = 9.6  # inches
MAX_ALONG_X = 4
"""Up to this many treatments lie along x; with more of them their names would touch, so they lie along y."""
COVERED_NOTE = " Where lines coincide, the one below is drawn wider."

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
    "text.parse_math": False,  # a name may hold $, which would begin a formula, or fail to
    "svg.hashsalt": "jbn",  # a fixed salt makes the files reproducible byte for byte
}


class Drawing(NamedTuple):
    name: str
    """Name of the file, without its extension."""
    title: str
    """One sentence that says what the figure shows."""
    caption: str
    """How to read the figure."""
    figure: Figure


def render(drawing: Drawing) -> dict[str, bytes]:
    """The contents of the svg, png and pdf file, by extension. The same drawing gives the same bytes."""
    options: dict[str, dict[str, Any]] = {
        "svg": {"metadata": {"Date": None, "Creator": None}},
        "png": {"metadata": {"Software": None}, "dpi": 150},
        "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    }
    contents = {}
    with matplotlib.rc_context(STYLE):
        drawing.figure.draw_without_rendering()
        drawing.figure.set_layout_engine("none")  # one layout for all three files halves the time
        for axes in drawing.figure.axes:  # the layout's last digits differ from process to process
            axes.set_position(tuple(np.round(axes.get_position(original=True).bounds, 6)))
        for ending, how in options.items():
            file = io.BytesIO()
            drawing.figure.savefig(file, format=ending, **how)
            contents[ending] = file.getvalue()
    return contents


def treatments_of(config: Config) -> tuple[list[str], list[str]]:
    """Names of the treatments and of the contexts, in the order of the config."""
    return [t.name for t in config.all_treatments], [c.name for c in config.all_contexts]


def panels_of(contexts: Sequence[str], height: float) -> tuple[Figure, dict[str, Axes]]:
    """One panel per context, at most three in a row; `height` is the height of a row in inches."""
    columns = 2 if len(contexts) in (2, 4) else min(3, len(contexts))
    rows = math.ceil(len(contexts) / columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else 6.4, 0.9 + height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(contexts) :]:
        axes.set_axis_off()
    panels = dict(zip(contexts, grid, strict=False))
    for context, axes in panels.items():
        axes.set_title(wrapped(context, 90 // columns))
    return figure, panels


def finish(name: str, figure: Figure, title: str, caption: str, handles: Sequence[Artist]) -> Drawing:
    """Puts the title above and the legend below; the file's name keeps only letters, digits, - and _."""
    inches = figure.get_figwidth()
    text = wrapped(title, int(inches * 10.4))
    figure.suptitle(text, x=0.01, ha="left", fontsize=12.5)
    lines = text.count("\n") + 1
    if not handles:
        return _drawing(name, title, caption, figure)
    # A letter of a label is about 0.076 inches wide; its handle and the space around it take 0.7.
    widest = max(0.076 * len(str(handle.get_label())) + 0.7 for handle in handles)
    fitting = max(1, min(7, int(inches / widest)))
    rows = math.ceil(len(handles) / fitting)
    columns = math.ceil(len(handles) / rows)
    # A long title or legend makes the figure higher, not the panels smaller.
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, lines + rows - 3))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return _drawing(name, title, caption, figure)


def _drawing(name: str, title: str, caption: str, figure: Figure) -> Drawing:
    return Drawing(re.sub(r"[^\w-]+", "_", name).strip("_"), title, caption, figure)


def handles_of(looks: Mapping[str, Look]) -> list[Artist]:
    return [Line2D([], [], label=treatment, **look.line) for treatment, look in looks.items()]


def by_treatment(
    contexts: Sequence[str], treatments: Sequence[str], measure: str
) -> tuple[Figure, dict[str, Axes], bool]:
    """One panel per context with a position for each treatment; the bool says whether the positions lie along y."""
    along_y = len(treatments) > MAX_ALONG_X
    figure, panels = panels_of(contexts, height=0.9 + 0.34 * len(treatments) if along_y else 3.1)
    for axes in panels.values():
        if along_y:
            place = axes.get_subplotspec()
            first = place is None or place.is_first_col()
            axes.set_yticks(range(len(treatments)), treatments if first else [""] * len(treatments))
            axes.set_ylim(len(treatments) - 0.4, -0.55)
            axes.set_xlabel(measure)
        else:
            _name_ticks(axes, treatments)
            axes.set_xlim(-0.55, len(treatments) - 0.4)
        axes.grid(axis="y" if along_y else "x", visible=False)
    if not along_y:
        label_left(panels, measure)
    return figure, panels, along_y


def mark(axes: Axes, place: Any, values: Any, error: Any = None, *, along_y: bool, **style: Any) -> None:
    """Plots values and their error bars at the position of a treatment; see `by_treatment`."""
    bars = {"xerr" if along_y else "yerr": error}
    axes.errorbar(*((values, place) if along_y else (place, values)), **bars, **style)


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    crowded = len(names) > 3 or max(map(len, names)) > 12
    texts = [wrapped(name, 18) for name in names]
    axes.set_xticks(range(len(names)), texts, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    if crowded:
        axes.tick_params(axis="x", labelsize=9)
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")


def wrapped(text: str, width: int) -> str:
    """Wraps `text` to the fewest lines of at most `width` letters, then balances them so that no last line is short."""
    lines = textwrap.wrap(text, width)
    longest = max(map(len, text.split(" ")))
    for narrower in range(width - 1, longest - 1, -1):
        tried = textwrap.wrap(text, narrower)
        if len(tried) > len(lines):
            break
        lines = tried
    return "\n".join(lines) or text


def widen_covered_lines(axes: Axes) -> bool:
    """Widens lines that a line of another treatment covers, so that both can be seen; returns whether it found any."""
    lines = [(line, array(line.get_ydata())) for line in axes.lines if line.get_linestyle() != "None"]
    found = False
    for k, (line, y) in enumerate(lines):
        near = 0.01 * float(np.ptp(y[np.isfinite(y)])) if np.isfinite(y).any() else 0.0
        hiding = {
            other.get_color()
            for other, its in lines[k + 1 :]
            if its.shape == y.shape
            and other.get_linestyle() == line.get_linestyle()
            and np.allclose(its, y, rtol=0, atol=near, equal_nan=True)
        } - {line.get_color()}
        if hiding:
            line.set_linewidth(line.get_linewidth() + 2.5 * len(hiding))
            line.set_markersize(line.get_markersize() + 3 * len(hiding))
            found = True
    return found


def label_left(panels: Mapping[str, Axes], text: str) -> None:
    """Labels the y axis of the first panel of each row."""
    for axes in panels.values():
        place = axes.get_subplotspec()
        if place is None or place.is_first_col():
            axes.set_ylabel(text)


def corner_note(axes: Axes, text: str) -> None:
    """Writes a small note into the upper right corner, on a background that keeps it readable over lines."""
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
    axes.text(0.98, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=9, bbox=box)


def accuracy_axis(axes: Axes) -> None:
    """A y axis for accuracy in percent, on the scale -log(100.5 - y), which stretches the part near 100."""

    def stretch(y: ArrayLike) -> Floats:
        return -np.log(np.maximum(100.5 - np.asarray(y, np.float64), 1e-3))

    def shrink(v: ArrayLike) -> Floats:
        return 100.5 - np.exp(-np.asarray(v, np.float64))

    low, high = stretch(axes.dataLim.intervaly)
    margin = 0.05 * max(high - low, 0.2)
    bottom, top = shrink([low - margin, high + margin])
    axes.set_yscale("function", functions=(stretch, shrink))
    axes.set_ylim(bottom, top)
    sets = [[0, 20, 50, 80, 90, 95, 97, 98, 99, 100], [80, 85, 88, 90, *range(92, 101)]]
    sets += [np.arange(0, 100 + step, step).tolist() for step in (10, 5, 2, 1, 0.5, 0.2, 0.1)]
    thinned = [_apart([t for t in ticks if bottom <= t <= top], stretch, 0.09 * (high - low)) for ticks in sets]
    # Three ticks are needed to read a scale, so take the first set that has them.
    ticks = next((t for t in thinned if len(t) >= 3), thinned[-1])
    axes.yaxis.set_major_locator(FixedLocator([round(tick, 1) for tick in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def _apart(ticks: Sequence[float], scale: Callable[[float], Any], least: float) -> list[float]:
    """Drops ticks that are closer than `least` to the next higher one on the scale; `ticks` are ascending."""
    kept: list[float] = []
    for tick in reversed(ticks):
        if not kept or float(scale(kept[-1]) - scale(tick)) >= least:
            kept.append(tick)
    return kept[::-1]


def rates_axis(axes: Axes, rates: Sequence[float]) -> None:
    """A logarithmic x axis with a tick at every k-th rate of the grid, k as small as the width allows."""
    place = axes.get_subplotspec()
    columns = place.get_gridspec().ncols if place else 1
    figure = axes.get_figure(root=True)
    # The width of a panel, without its labels on the left and its inner margins.
    width = 0.91 * ((figure.get_figwidth() if figure else WIDTH) / columns - 0.6)
    # A digit is 0.093 inches wide.
    wanted = 0.093 * max(len(short(rate)) for rate in rates) + 0.05
    every = math.ceil(wanted * (len(rates) - 1) / width)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(rates)[::every]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: short(rate)))
    axes.set_xlabel("learning rate")


def symmetric_log_axis(axes: Axes) -> None:
    """A y axis that is linear from -5 to 5 and logarithmic beyond, with ticks at powers of ten."""
    axes.set_yscale("symlog", linthresh=5)
    powers = [10.0**k for k in range(1, 12)]
    axes.yaxis.set_major_locator(FixedLocator([*(-p for p in reversed(powers)), 0, *powers]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def log_axis(axes: Axes, base: int) -> None:
    """A logarithmic y axis with plain numbers as labels; the axis stays linear if no value is positive and finite."""
    if not any(np.isfinite(shared.dataLim.minposy) for shared in axes.get_shared_y_axes().get_siblings(axes)):
        return
    axes.set_yscale("log", base=base)
    low, high = axes.get_ylim()
    narrow = base == 10 and high < 100 * low  # powers of ten alone would give one or two ticks
    axes.yaxis.set_major_locator(LogLocator(base=base, subs=(1, 2, 5) if narrow else (1,), numticks=7))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def steps_axis(axes: Axes, ticks: int = 4) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.set_xlabel("training step")


def array(values: Any) -> Floats:
    """Nested lists as a float64 array; None becomes NaN."""
    return np.array(values, np.float64)  # NumPy reads None as NaN when the dtype is given


def finite_mean(values: Floats) -> Floats:
    """Mean of the finite values over axis 0; NaN where there are none."""
    finite = np.isfinite(values)
    count = finite.sum(axis=0)
    total = np.where(finite, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def short(rate: float) -> str:
    return f"{rate:.3g}"


def span(rates: Sequence[float]) -> str:
    low, high = short(min(rates)), short(max(rates))
    return low if low == high else f"{low} to {high}"
