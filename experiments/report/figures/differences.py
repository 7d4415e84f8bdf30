"""The differences: every contrast with its seeds, its intervals, its margin, and what was found."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from experiments.config import Config
from experiments.formatting import join, signed
from experiments.palette import GREY, MARGIN_COLOUR, SHOWN_COLOUR, Look, looks
from experiments.report.groups import (
    Group,
    Row,
    better,
    confidence,
    decided,
    estimate,
    grouped,
    in_short,
    interval,
    primary,
)
from experiments.report.plotting import WIDTH, Drawing, finish, treatments_of, wrapped

MAX_EXPLORATIONS = 12
"""Up to this many explorations are drawn, those with the smallest p."""
ROW, HEADING, TEXT, LETTER, BOLD = 0.39, 0.32, 0.155, 0.073, 1.15
"""Inches: the least height of a row, of a heading and of a line of text; the width of a letter."""
THICK, THIN = 3.6, 1.3
"""Widths of the interval for new seeds, and of that for new data, too."""
LINEAR_MARGINS = 10
"""The axis is linear where nothing lies further from 0 than so many margins; otherwise the margin would be a line."""
LINEAR_PART = 3
"""Otherwise the axis is linear up to so many margins, and logarithmic beyond."""


class Line(NamedTuple):
    """A row of the figure: a heading, or a contrast with what is said about it. In inches from the top."""

    y: float
    """The middle."""
    height: float
    label: str
    row: Row | None = None
    words: tuple[str, ...] = ()


def differences(config: Config, result: dict[str, Any]) -> Drawing:
    """Every primary contrast, the explorations with the smallest p, and A/A tests; one row each."""
    groups = _drawn(grouped(config, result))
    lines, height = _lines(config, groups)
    left = 0.15 + LETTER * max(len(part) for line in lines if line.row for part in line.label.split("\n"))
    longest = max(len(part) * (BOLD if _bold(line) else 1) for line in lines for part in line.words)
    right = 0.25 + LETTER * max(longest, len("+10.00 [10.00, 10.00]"))
    figure = Figure(figsize=(WIDTH, height + 1.7), layout="constrained")
    grid = figure.add_gridspec(1, 3, width_ratios=[left, WIDTH - left - right, right])
    names, axes, said = (figure.add_subplot(cell) for cell in grid)
    look = looks(treatments_of(config)[0])
    for line in lines:
        if line.row is None:
            names.text(0, line.y, line.label, fontweight="bold", va="center", in_layout=False)
            continue
        names.text(0.04, line.y, line.label, va="center", fontsize=9.5, linespacing=1.05, in_layout=False)
        _draw(axes, line, line.row, look.get(better(config, line.row) or ""))
        _say(said, line)
    rows = [line.row for line in lines if line.row is not None]
    limit = _axis(axes, rows)
    for side in (names, said):
        side.set_axis_off()
        side.set_xlim(0, 1)
        side.set_ylim(height, 0)
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    axes.set_facecolor("none")  # long headings reach into it
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("difference of test accuracy (pp)")
    level = confidence(result)
    caption = _caption(result, groups, limit, level)
    return finish("differences", figure, _title(config, result), caption, _handles(rows, level))


def _drawn(groups: Sequence[Group]) -> list[Group]:
    """The groups, with at most MAX_EXPLORATIONS explorations: those with the smallest p, in their order."""
    found = []
    for group in groups:
        if group.kind == "exploration" and len(group.rows) > MAX_EXPLORATIONS:
            first = sorted(sorted(range(len(group.rows)), key=lambda k: group.rows[k]["p"])[:MAX_EXPLORATIONS])
            title = f"Explorations: the {MAX_EXPLORATIONS} of {len(group.rows)} with the smallest p"
            group = Group(title, group.kind, [group.rows[k] for k in first], [group.labels[k] for k in first])
        found.append(group)
    return found


def _lines(config: Config, groups: Sequence[Group]) -> tuple[list[Line], float]:
    """All rows, and the height of the figure's inside."""
    lines, y = [], 0.0
    for group in groups:
        lines.append(Line(y + HEADING / 2, HEADING, group.title))
        y += HEADING
        for row, label in zip(group.rows, group.labels, strict=True):
            label = "\n".join(wrapped(part, 36) for part in label.replace(") - (", ")\n- (").split("\n"))
            words = (*textwrap.wrap(in_short(config, row).removeprefix("exploration: "), 36), estimate(row))
            height = max(ROW, 0.08 + TEXT * max(len(words), label.count("\n") + 1))
            lines.append(Line(y + height / 2, height, label, row, words))
            y += height
        y += 0.06
    return lines, y


def _draw(axes: Axes, line: Line, row: Row, look: Look | None) -> None:
    """Margin, seeds, intervals and estimate of one contrast."""
    top, margin = line.y - line.height / 2, row["margin_pp"]
    axes.add_patch(Rectangle((-margin, top), 2 * margin, line.height, color=MARGIN_COLOUR, lw=0, zorder=0))
    axes.plot([0, 0], [top, top + line.height], color=GREY, lw=1, zorder=1)
    if values := row["values"]:
        heights = line.y + ROW * np.linspace(-0.4, 0.06, len(values))
        axes.plot(values, heights, ls="", marker="o", ms=3.2, mew=0, color=GREY, alpha=0.45, zorder=2)
    y, colour = line.y + 0.26 * ROW, look.colour if look else SHOWN_COLOUR
    for found, width in zip(row["intervals"], (THICK, THIN), strict=False):
        axes.plot(found["ci"], [y, y], color=colour, lw=width, solid_capstyle="butt", zorder=3)
    by_seeds = row["intervals"][0]["finding"]
    fill: Any = "full" if decided(row["finding"]) else "left" if decided(by_seeds) else "none"
    axes.plot(
        row["difference"], y, ls="", marker=look.marker if look else "o", ms=7.5, color=colour, zorder=4, mew=1.5,
        fillstyle=fill, mfc="white" if fill == "none" else colour, markerfacecoloralt="white",
    )  # fmt: skip


def _say(axes: Axes, line: Line) -> None:
    """The finding, and below it estimate and interval."""
    for k, text in enumerate(line.words, start=1):
        style = {"fontsize": 9.5, "fontweight": "bold" if _bold(line) else "normal"}
        if k == len(line.words):
            style = {"fontsize": 8.8, "color": GREY}
        y = line.y + TEXT * (k - (len(line.words) + 1) / 2)
        axes.text(0.04, y, text, va="center", in_layout=False, **style)


def _bold(line: Line) -> bool:
    row = line.row
    return row is not None and row["finding"].startswith("different") and bool(row["primary"])


def _axis(axes: Axes, rows: Sequence[Row]) -> float | None:
    """Sets the x axis; returns where its logarithmic part begins, if it has one."""
    margin = max(row["margin_pp"] for row in rows)
    every = [x for row in rows for x in [*row["values"], *(end for found in row["intervals"] for end in found["ci"])]]
    low, high = min([*every, -1.4 * margin]), max([*every, 1.4 * margin])
    room = 0.03 * (high - low)
    if max(-low, high) <= LINEAR_MARGINS * margin:
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: signed(x, 6).rstrip("0").rstrip(".")))
        return None
    limit = LINEAR_PART * margin
    ends = -max(-1.1 * low, limit), max(1.1 * high, limit)
    # The longer of the two logarithmic parts is 0.7 times as long as half of the linear one.
    decades = math.log10(max(-ends[0], ends[1]) / limit)
    linear = decades / 0.7
    axes.set_xscale("symlog", linthresh=limit, linscale=0.9 * linear)  # matplotlib divides by 1 - 1 / 10
    axes.set_xlim(*ends)

    def place(x: float) -> float:
        """Of a positive x on the axis."""
        return linear * x / limit if x <= limit else linear + math.log10(x / limit)

    steps = [margin * k for k in range(1, LINEAR_PART + 1)]
    for x in sorted(step * 10.0**k for k in range(-2, 4) for step in (1, 2, 5)):
        if x > limit and place(x) - place(steps[-1]) > 0.09 * 2 * (linear + decades):
            steps.append(x)
    axes.xaxis.set_major_locator(
        FixedLocator([x for x in [*(-s for s in steps), 0, *steps] if ends[0] <= x <= ends[1]])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}" if x else "0"))
    for edge in (-limit, limit):
        axes.axvline(edge, color=GREY, lw=0.8, ls=(0, (2, 3)), zorder=1)
    return limit


def _title(config: Config, result: dict[str, Any]) -> str:
    """What was found about the first declared contrast, and how many of the others are shown, equivalent, undecided."""
    family, first = primary(result), grouped(config, result)[0]
    if not family:
        covering = [row["finding"] == "same_arm_agrees" for row in result["contrasts"] if row["same_arm"]]
        if covering:
            return f"A/A tests, whose intervals should cover 0: {sum(covering)} of {len(covering)} do"
        return "No contrast of this run was declared to be primary: all are explorations"
    said, others = "", family
    if first.kind == "declared" or len(family) == 1:
        said, others = f"{_sentence(config, first.rows[0])}", [row for row in family if row is not first.rows[0]]
    if len(others) < 2:
        return "; ".join([said] * bool(said) + [_sentence(config, row) for row in others])
    of = {kind: [row for row in others if _kind(row) == kind] for kind in ("shown", "equivalent", "undecided")}
    most = max(of["shown"] or others, key=lambda row: abs(row["difference"]))
    largest = f"the largest: {_whole(most['name'])}, {signed(most['difference'])} pp"
    margins = {row["margin_pp"] for row in of["equivalent"]}
    within = f"within ±{margins.pop():g} pp" if len(margins) == 1 else "within their margins"
    further = "further " * bool(said)
    all_are = f"{'all' if said else 'All'} {len(others)} {further}differences are"
    if len(of["equivalent"]) == len(others):
        return "; ".join([said] * bool(said) + [f"{all_are} equivalent {within} ({largest})"])
    if len(of["undecided"]) == len(others):
        return "; ".join([said] * bool(said) + [f"{all_are} undecided{_for_new_data_only(others)}"])
    parts = [f"{len(of['shown']) or 'none'} of {len(others)} {further}differences {_are(of['shown'])} shown"]
    parts[0] += f" ({largest})" * bool(of["shown"])
    parts += [f"{len(of['equivalent'])} {_are(of['equivalent'])} equivalent {within}"] * bool(of["equivalent"])
    if of["undecided"]:
        parts.append(f"{len(of['undecided'])} {_are(of['undecided'])} undecided{_for_new_data_only(of['undecided'])}")
    return f"{said}; {join(parts)}" if said else join(parts)[0].upper() + join(parts)[1:]


def _for_new_data_only(undecided: Sequence[Row]) -> str:
    """How many of them the interval for new seeds decides."""
    count = sum(decided(row["intervals"][0]["finding"]) for row in undecided)
    return f" ({count} of them for new data only)" if count else ""


def _sentence(config: Config, row: Row) -> str:
    ci = "" if row["exact"] else f" {interval(row['ci'])}"
    return f"{_whole(row['name'])} = {signed(row['difference'])} pp{ci}: {in_short(config, row)}"


def _whole(name: str) -> str:
    """The name with spaces at which no line breaks, if it is short."""
    return name.replace(" ", "\N{NO-BREAK SPACE}") if len(name) < 40 else name


def _are(rows: Sequence[Row]) -> str:
    return "is" if len(rows) < 2 else "are"


def _kind(row: Row) -> str:
    if row["finding"].startswith("different"):
        return "shown"
    return "equivalent" if row["finding"] in ("equivalent", "exactly_equal") else "undecided"


def _caption(result: dict[str, Any], groups: Sequence[Group], limit: float | None, level: str) -> str:
    rows = [row for group in groups for row in group.rows]
    family, two = len(primary(result)), any(len(row["intervals"]) > 1 for row in rows)
    twice = f"{100 * (1 - 2 * rows[0]['alpha']):g}%"
    own = " (arms with seeds of their own have none)" if any(not row["values"] for row in rows) else ""
    thin = f", thin line: that for {rows[0]['speaks_of']}, on which the finding rests" if two else ""
    text = (
        "One row per contrast; a positive difference favours what is named first. Small marks: what each seed adds, in "
        f"the same order from top to bottom in every row{own}. Large mark: the estimate, with the choice of the "
        "learning rate bagged; in colour where one treatment is shown to be better. Thick line: the "
        f"{level} interval for {rows[0]['intervals'][0]['speaks_of']}{thin}. Shaded: the equivalence margin, declared "
        f"before the run; equivalence rests on the {twice} interval, so that the {level} interval may reach a little "
        "beyond the margin."
    )
    if family > 1:
        text += (
            f" Findings are adjusted over the {family} primary contrasts (Holm), the intervals are not: one that just "
            "leaves out 0 may belong to an undecided contrast."
        )
    if limit is not None:
        text += f" Beyond the dotted lines, at ±{limit:g} pp, the axis is logarithmic, so that the margin can be seen."
    if any(group.title.startswith("Explorations:") for group in groups):
        text += " The table of explorations has all of them."
    return text


def _handles(rows: Sequence[Row], level: str) -> list[Any]:
    most = max(rows, key=lambda row: len(row["intervals"]))["intervals"]
    seed: dict[str, Any] = {"ls": "", "marker": "o", "ms": 3.2, "mew": 0, "color": GREY, "alpha": 0.45}
    mark: dict[str, Any] = {"ls": "", "marker": "o", "ms": 7, "mew": 1.5, "color": SHOWN_COLOUR}
    handles: list[Any] = [Line2D([], [], label="one seed", **seed)]
    handles += [
        Line2D([], [], color=SHOWN_COLOUR, lw=width, label=f"{level} interval for {found['speaks_of']}")
        for found, width in zip(most, (THICK, THIN), strict=False)
    ]
    handles += [Line2D([], [], label="shown, or equivalent", **mark)]
    if any(decided(row["intervals"][0]["finding"]) and not decided(row["finding"]) for row in rows):
        handles += [Line2D([], [], label="so for new seeds only", fillstyle="left", markerfacecoloralt="white", **mark)]
    if any(not decided(row["intervals"][0]["finding"]) for row in rows):
        handles += [Line2D([], [], label="undecided", **{**mark, "mfc": "white"})]
    return [*handles, Patch(color=MARGIN_COLOUR, lw=0, label="equivalence margin")]
