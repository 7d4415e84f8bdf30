"""The figure: gains in accuracy, by batch size and by weights, on clean and on corrupted images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.adaptation.scores import ORDERS, SETTINGS, STATISTICS, Setting
from benchmarks.adaptation.summary import BASE, MEAN, RAW, Scores, difference, of
from experiments.palette import GREY, OTHERS, PLACEMENTS
from experiments.report.plotting import STYLE, finish

BLENDS = {False: PLACEMENTS["after"].colour, True: PLACEMENTS["before"].colour}
BOUNDS: dict[float | None, tuple[str, str]] = {None: ("-", "o"), 1.0: ("--", "s"), 0.25: (":", "^")}
LOOKS = dict(zip(STATISTICS, (PLACEMENTS["none"], OTHERS[0], PLACEMENTS["both"]), strict=True))
KINDS = {"clean": "clean images", MEAN: "corrupted images, mean of six"}
TITLES = {"mixed": "Test batches of all classes", "one class": "Test batches of a single class"}


def write(result: dict[str, Any], out: Path) -> None:
    """PNG and SVG beside the JSON."""
    with matplotlib.rc_context(STYLE):
        drawn = figure(result)
        drawn.savefig(out.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
        drawn.savefig(out.with_suffix(".png"), dpi=150, metadata={"Software": None})


def figure(result: dict[str, Any]) -> Figure:
    """Rows: clean and corrupted images; columns: adaptation in two orders, and averaging."""
    drawn = Figure(figsize=(11.5, 6.4), layout="constrained")
    panels = drawn.subplots(2, 3, sharex="col", sharey="row", width_ratios=(1, 1, 0.9))
    for (shift, kind), row in zip(KINDS.items(), panels, strict=True):
        for order, axes in zip(ORDERS, row, strict=False):
            _adaptation(axes, result["adaptation"], order, shift, result["size"]["test_batches"])
        _averaging(row[2], result["averaging"], shift)
        row[0].set_ylabel(f"percentage points,\n{kind}")
        for axes in row:
            axes.axhline(0, color=GREY, lw=1)
    for axes, title in zip(panels[0], (*(TITLES[order] for order in ORDERS), "Averaged weights"), strict=True):
        axes.set_title(title)
    for axes in panels[1][:2]:
        axes.set_xlabel("images in a test batch")
    handles = [_line(setting) for setting in SETTINGS] + [
        Line2D([], [], color=look.colour, marker=look.marker, ls="", label=f"statistics {name}")
        for name, look in LOOKS.items()
    ]
    title = (
        f"Accuracy minus that of the raw weights with running statistics: {len(result['seeds'])} networks, "
        "Fashion-MNIST, means and 95% intervals"
    )
    return finish("adaptation", drawn, title, "Each panel of a row has the same scale.", handles).figure


def _line(setting: Setting) -> Artist:
    style, marker = BOUNDS[setting.max_drift]
    return Line2D([], [], color=BLENDS[setting.blend], ls=style, marker=marker, label=setting.name)


def _points(axes: Axes, x: Sequence[float], pairs: Sequence[tuple[np.ndarray, np.ndarray]], **look: Any) -> None:
    found = [difference(*pair) for pair in pairs]
    mean = np.array([f.mean for f in found])
    error = np.array([(f.mean - f.low, f.high - f.mean) for f in found]).T
    axes.errorbar(x, mean, error, capsize=2, elinewidth=1, **look)


def _adaptation(axes: Axes, scores: Scores, order: str, shift: str, sizes: Sequence[int]) -> None:
    base = of(scores, BASE, shift)
    for i, setting in enumerate(SETTINGS):
        style, marker = BOUNDS[setting.max_drift]
        pairs = [(of(scores, f"{order} | {{}} | {setting.name} | {n}", shift), base) for n in sizes]
        x = [k + 0.07 * (i - 2.5) for k in range(len(sizes))]  # side by side, so that equal ones are seen
        _points(axes, x, pairs, color=BLENDS[setting.blend], ls=style, marker=marker, ms=4.5, lw=1.5)
    axes.set_xticks(range(len(sizes)), [str(n) for n in sizes])


def _averaging(axes: Axes, scores: Scores, shift: str) -> None:
    base, weights = of(scores, RAW, shift), ("raw", "EMA", "SWA")
    for i, (name, look) in enumerate(LOOKS.items()):
        there = [(k, w) for k, w in enumerate(weights) if f"{w} | {name} | clean" in scores]
        pairs = [(of(scores, f"{w} | {name} | {{}}", shift), base) for _, w in there]
        x = [k + 0.18 * (i - 1) for k, _ in there]
        _points(axes, x, pairs, color=look.colour, ls="", marker=look.marker, ms=5.5)
    axes.set_xticks(range(len(weights)), weights)
    axes.set_xlim(-0.5, len(weights) - 0.5)
