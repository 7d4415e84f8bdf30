"""Which test examples two treatments disagree about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from experiments.config import Config
from experiments.formatting import number
from experiments.palette import GREY, looks
from experiments.report.figures.probed import Record, as_chosen
from experiments.report.groups import grouped, sides
from experiments.report.plotting import Drawing, finish, panels_of, treatments_of, wrapped
from experiments.store.right import unpack_right

MAX_NAME = 14
"""Longer names of treatments do not fit into a panel."""
SMALLEST, LARGEST = 9.0, 260.0
"""Areas of marks, square points."""


class Compared(NamedTuple):
    """Which test examples the networks of two arms got right, at the settings that most bags choose."""

    name: str
    a: str
    b: str
    right_a: NDArray[np.bool_]
    """`[seeds, examples]`"""
    right_b: NDArray[np.bool_]
    paired: bool


def compared(
    config: Config, result: Mapping[str, Any], records: Sequence[Record], data: Mapping[str, Any]
) -> dict[str, Compared]:
    """The first primary difference of two treatments in each context. Empty if each seed has its own test set."""
    if data.get("split", "one") != "one" or not data.get("test"):
        return {}
    arms = {(row["context"], row["treatment"]): row for row in result["arms"]}
    found: dict[str, Compared] = {}
    for row in (row for group in grouped(config, result) for row in group.rows):
        up, down = sides(config, row)
        if row["kind"] != "simple" or not row["primary"] or row["same_arm"] or up[0].context != down[0].context:
            continue
        if (context := up[0].context) not in found:
            a, b = (_right(records, arms[context, arm.treatment], data["test"]) for arm in (up[0], down[0]))
            found[context] = Compared(row["name"], up[0].treatment, down[0].treatment, a, b, row["paired"])
    return found


def disagreement(config: Config, pairs: Mapping[str, Compared]) -> Drawing:
    """For every test example, the share of the seeds with which either treatment gets it right."""
    figure, panels = panels_of(list(pairs), height=3.5)
    look = looks(treatments_of(config)[0])
    counts = {context: _counts(pair) for context, pair in pairs.items()}
    most = max(int(count.max()) for count in counts.values())
    for context, pair in pairs.items():
        axes, count = panels[context], counts[context]
        x, y = (100 * np.arange(size) / (size - 1) for size in count.shape)
        for k, j in np.argwhere(count):
            ahead = pair.a if y[j] > x[k] + 1e-9 else pair.b if y[j] < x[k] - 1e-9 else ""
            colour = look[ahead].colour if ahead else GREY
            axes.scatter(x[k], y[j], s=_area(int(count[k, j]), most), color=colour, alpha=0.75, lw=0, zorder=2)
        axes.plot([0, 100], [0, 100], color=GREY, lw=0.8, zorder=1)
        corners: Any = ((pair.a, -4, 112, "left"), (pair.b, 104, -12, "right"))
        for (name, left, top, side), only in zip(corners, _only(pair), strict=True):
            words = f"only {name if len(name) <= MAX_NAME else 'this'} right: {only}"
            style: dict[str, Any] = {"color": look[name].colour, "ha": side, "va": "center", "fontweight": "bold"}
            axes.text(left, top, words, fontsize=9.5, **style)
        axes.set(xlim=(-6, 106), ylim=(-20, 120), xticks=[0, 25, 50, 75, 100], yticks=[0, 25, 50, 75, 100])
        axes.set_xlabel(wrapped(f"seeds of {pair.b} that are right (%)", 36))
        axes.set_ylabel(wrapped(f"seeds of {pair.a} that are right (%)", 36))
        axes.set_aspect("equal")
    sizes = sorted({1, *(10**k for k in range(1, 5) if 10**k < most), most})
    named = dict.fromkeys(name for pair in pairs.values() for name in (pair.a, pair.b))
    handles: list[Any] = [
        Line2D([], [], ls="", marker="o", ms=6, color=look[name].colour, label=f"{name} right more often")
        for name in named
    ]
    handles += [
        Line2D([], [], ls="", marker="o", color=GREY, alpha=0.75, mew=0, ms=np.sqrt(_area(size, most)),
               label=f"{size:,} example{'s' * (size > 1)}") for size in sizes
    ]  # fmt: skip
    across, within = zip(*(_churn(pair) for pair in pairs.values()), strict=True)
    return finish(
        "disagreement",
        figure,
        f"Networks of two treatments disagree about {_range(across)} of the test examples, those of one treatment with "
        f"two seeds about {_range(within)}",
        "Every test example has a place: how many of the seeds get it right with either treatment, each at the setting "
        "that most bags choose; the area of a mark grows with the square root of the number of examples there. Above "
        "the line the treatment along y is right more often. Counted in the corners: examples that more than half of "
        "the seeds of one treatment get right, and at most half of those of the other. The title compares networks of "
        "different seeds: where both numbers are alike, the treatments differ no more than two trainings of the same "
        "treatment do.",
        handles,
    )


def _right(records: Sequence[Record], row: Mapping[str, Any], examples: int) -> NDArray[np.bool_]:
    return np.array([unpack_right(record["right"], examples) for record in as_chosen(records, row)])


def _counts(pair: Compared) -> NDArray[np.int64]:
    """Test examples by how many seeds of b and how many of a get them right `[seeds of b + 1, seeds of a + 1]`."""
    found = np.zeros((len(pair.right_b) + 1, len(pair.right_a) + 1), np.int64)
    np.add.at(found, (pair.right_b.sum(0), pair.right_a.sum(0)), 1)
    return found


def _only(pair: Compared) -> tuple[int, int]:
    """How many examples the majority of the seeds of a alone, and of b alone, gets right."""
    a, b = (right.mean(0) > 0.5 for right in (pair.right_a, pair.right_b))
    return int((a & ~b).sum()), int((b & ~a).sum())


def _churn(pair: Compared) -> tuple[float, float]:
    """Percent of the examples about which two networks of different seeds disagree: of a and b; of one treatment."""
    a, b = (right.mean(0) for right in (pair.right_a, pair.right_b))
    across, n = (a * (1 - b) + b * (1 - a)).mean(), len(pair.right_a)
    if pair.paired:  # without the pairs of one seed
        same = (pair.right_a != pair.right_b).mean()
        across = (n * across - same) / (n - 1)
    within = [2 * (p * (1 - p)).mean() * len(r) / (len(r) - 1) for p, r in ((a, pair.right_a), (b, pair.right_b))]
    return 100 * float(across), 100 * float(np.mean(within))


def _range(percents: Sequence[float]) -> str:
    low, high = number(min(percents), 1), number(max(percents), 1)
    return f"{low}%" if low == high else f"{low} to {high}%"


def _area(count: int, most: int) -> float:
    return SMALLEST + (LARGEST - SMALLEST) * float(np.sqrt(count / most))
