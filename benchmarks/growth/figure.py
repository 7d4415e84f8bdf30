"""The figure: a panel for each quantity, log against log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from experiments.palette import GREY, OTHERS, PLACEMENTS
from experiments.report.plotting import STYLE, finish, panels_of

Curve = dict[str, Any]
TITLES = {
    "batch": "Batch: b x 32 x 32 x 64",
    "channels": "Channels: 32 x 32 x 32 x c",
    "devices": "Devices that share a batch of 64",
    "seeds": "Seeds: a step of an MLP, vmap",
    "layers": "Layers: 4096 x 32",
    "compile": "Layers: time to compile",
}
STYLES = {"jbn": PLACEMENTS["after"], "copy": OTHERS[5], "unrolled": PLACEMENTS["after"], "scan": PLACEMENTS["before"]}
STYLES |= {"norms alone": PLACEMENTS["both"], "norms alone, flax": PLACEMENTS["pre_linear"], "residual": OTHERS[0]}


def write(found: Sequence[Curve], device: str, out: Path) -> None:
    """PNG and SVG beside the JSON."""
    with matplotlib.rc_context(STYLE):
        drawn = figure(found, device)
        drawn.savefig(out.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
        drawn.savefig(out.with_suffix(".png"), dpi=150, metadata={"Software": None})


def figure(found: Sequence[Curve], device: str) -> Figure:
    """A panel for each quantity, with a dotted line through the middle point, in proportion to size."""
    drawn, panels = panels_of(list(TITLES.values()), 2.5)
    for curve in found:
        _draw(panels[TITLES[curve["panel"]]], curve)
    for panel, axes in zip(TITLES, panels.values(), strict=True):
        sizes = sorted({p["size"] for c in found if c["panel"] == panel for p in c["points"]})
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        # Room above the curves for the legend, a line of which is a tenth of the panel.
        low, high = axes.get_ylim()
        low, high = (low / 3, high * 3) if high < 4 * low else (low, high)  # a flat curve still shows its ticks
        axes.set_ylim(low, high * (high / low) ** (0.12 * (1 + sum(c["panel"] == panel for c in found))))
        decades = math.log10(axes.get_ylim()[1] / axes.get_ylim()[0])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3.5 else (1,)))
        axes.legend(loc="upper left", fontsize=8.5, handlelength=1.5, title="slope", title_fontsize=8.5)
    for axes in list(panels.values())[::3]:
        axes.set_ylabel("milliseconds")
    caption = "Medians; bands: quartiles. Dotted: proportional to size."
    return finish("growth", drawn, f"How batch norm's cost grows ({device}); dotted: in proportion", caption, []).figure


def _draw(axes: Axes, curve: Curve) -> None:
    look, points = STYLES[curve["line"]], curve["points"]
    sizes, times = [p["size"] for p in points], [p["milliseconds"] for p in points]
    label = f"{curve['line']}: {curve['slope']:.2f}"
    axes.plot(sizes, times, color=look.colour, marker=look.marker, lw=1.8, ms=4, label=label)
    if "quartiles" in points[0]:
        low, high = zip(*(p["quartiles"] for p in points), strict=True)
        axes.fill_between(sizes, low, high, color=look.colour, alpha=0.2, lw=0)
    # Devices that share one batch on the same cores have no more work in all.
    if curve["line"] in ("jbn", "unrolled", "scan") and curve["panel"] != "devices":
        middle = len(sizes) // 2
        axes.plot(sizes, [times[middle] * n / sizes[middle] for n in sizes], ":", color=GREY, lw=1, zorder=1)
