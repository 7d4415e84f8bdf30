"""The difference within each class, for runs whose data.json has the classes of the test examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.formatting import signed
from experiments.palette import GREY, SHOWN_COLOUR
from experiments.report.figures.disagreement import Compared
from experiments.report.plotting import Drawing, Floats, finish, panels_of, wrapped

RESOLUTION_PP = 1e-4
"""Accuracies closer than this count as equal, as in experiments.analysis.comparison."""


class OfClass(NamedTuple):
    """a - b on the test examples of one class, pp."""

    label: int
    examples: int
    difference: float
    ci: tuple[float, float]
    adjusted_p: float
    """Of Student's paired t test, after Holm over the classes."""


def by_class(pairs: Mapping[str, Compared], labels: Sequence[int], alpha: float) -> dict[str, list[OfClass]]:
    """The differences within each class, by context. Empty without labels; contexts of unpaired arms are left out."""
    if not len(labels):
        return {}
    return {context: _by_class(pair, np.asarray(labels), alpha) for context, pair in pairs.items() if pair.paired}


def classes(found: Mapping[str, list[OfClass]], pairs: Mapping[str, Compared], alpha: float) -> Drawing:
    """The difference within each class with its interval."""
    figure, panels = panels_of(list(found), height=3.0)
    shown = []
    for context, rows in found.items():
        axes, pair = panels[context], pairs[context]
        for row in rows:
            sure = row.adjusted_p < alpha
            shown += [(context, row)] * sure
            axes.plot([row.label] * 2, row.ci, color=SHOWN_COLOUR, lw=1.5)
            axes.plot(row.label, row.difference, marker="o", ls="", color=SHOWN_COLOUR, mfc=None if sure else "white")
        axes.axhline(0, color=GREY, lw=1, zorder=1)
        axes.set_xlabel("class")
        axes.set_ylabel(wrapped(f"{pair.a} - {pair.b} (pp)", 34))
        axes.set_xticks([row.label for row in rows][:: max(1, len(rows) // 10)])
        axes.grid(axis="x", visible=False)
    total, level = sum(map(len, found.values())), f"{100 * (1 - alpha):g}%"
    title = f"In none of {total} classes is a difference shown"
    if shown:
        context, row = max(shown, key=lambda each: abs(each[1].difference))
        title = (
            f"A difference is shown in {len(shown)} of {total} classes, the largest in class {row.label} of {context}: "
            f"{signed(row.difference)} pp"
        )
    return finish(
        "by_class",
        figure,
        title,
        f"The difference on the test examples of each class, with its {level} interval for new seeds, each treatment "
        "at the setting that most bags choose. Filled: shown, after Holm over the classes of a panel; hollow: not.",
        [],
    )


def _by_class(pair: Compared, labels: NDArray[np.int64], alpha: float) -> list[OfClass]:
    from scipy.special import stdtr, stdtrit  # here alone: a report without labels needs no scipy

    n, found = len(pair.right_a), []
    for label in np.unique(labels):
        mine = labels == label
        each: Floats = 100 * (pair.right_a[:, mine].mean(1) - pair.right_b[:, mine].mean(1))
        mean, se = float(each.mean()), float(each.std(ddof=1)) / np.sqrt(n)
        if np.ptp(each) < RESOLUTION_PP:
            p, half = (1.0 if abs(mean) < RESOLUTION_PP else 2.0 ** (1 - n)), 0.0
        else:
            p, half = 2 * float(stdtr(n - 1, -abs(mean) / se)), float(stdtrit(n - 1, 1 - alpha / 2)) * se
        found.append(OfClass(int(label), int(mine.sum()), mean, (mean - half, mean + half), p))
    return [row._replace(adjusted_p=p) for row, p in zip(found, _holm([row.adjusted_p for row in found]), strict=True)]


def _holm(p: Sequence[float]) -> list[float]:
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()
