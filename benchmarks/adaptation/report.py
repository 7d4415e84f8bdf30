"""The tables, as Markdown and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.adaptation import figure
from benchmarks.adaptation.scores import ORDERS, SOURCE
from benchmarks.adaptation.summary import (
    BASE,
    COLUMNS,
    MEAN,
    RAW,
    Scores,
    adapted,
    averages,
    bounded,
    compared,
    difference,
    of,
    spread,
)

WORDS = {"mixed": "batches of all classes", "one class": "batches of a single class"}


class Rows(NamedTuple):
    """One table: a title, the heads of its columns, and its lines."""

    title: str
    head: tuple[str, ...]
    lines: list[tuple[str, ...]]


def _cells(scores: Scores, pairs: dict[str, tuple[str, str]]) -> list[tuple[str, ...]]:
    """A line of differences for each pair of keys."""
    return [
        (name, *(str(difference(of(scores, one, shift), of(scores, other, shift))) for shift in COLUMNS))
        for name, (one, other) in pairs.items()
    ]


def _both(title: str, first: str, scores: Scores, keys: dict[str, str], base: str, against: str) -> list[Rows]:
    """Accuracies, and differences to one of them."""
    lines = [(name, *(spread(of(scores, key, shift)) for shift in COLUMNS)) for name, key in keys.items()]
    others = {name: (key, base) for name, key in keys.items() if key != base}
    head = (first, *COLUMNS)
    return [
        Rows(f"{title}: accuracy in %, mean ± standard deviation over seeds", head, lines),
        Rows(f"{title}: minus {against}", head, _cells(scores, others)),
    ]


def rows(result: dict[str, Any]) -> list[Rows]:
    """All tables of the result; differences in percentage points, with their intervals."""
    found, sizes, scores = [], result["size"]["test_batches"], result["adaptation"]
    for order in ORDERS:
        title = f"Adaptation, {WORDS[order]}"
        keys = {SOURCE: BASE} | {f"{name}, n = {n}": key for (name, n), key in adapted(order, sizes).items()}
        found += _both(title, "statistics", scores, keys, BASE, SOURCE)
        pairs = {f"{name}, n = {n}": pair for (name, n), pair in bounded(order, sizes).items()}
        found.append(
            Rows(f"{title}: minus the same without the bound", ("statistics", *COLUMNS), _cells(scores, pairs))
        )
    scores = result["averaging"]
    found += _both("Averaging", "weights, statistics", scores, averages(scores), RAW, "raw weights with their own")
    title = "Averaging: statistics compared under the same weights"
    found.append(Rows(title, ("weights", *COLUMNS), _cells(scores, compared())))
    return found


def tables(result: dict[str, Any]) -> list[Table]:
    """For the terminal."""
    found = []
    for title, head, lines in rows(result):
        table = Table(*head, title=title)
        for line in lines:
            table.add_row(*line)
        found.append(table)
    return found


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    both = [head, (":--", *("--:" for _ in head[1:])), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in both)


def as_markdown(result: dict[str, Any]) -> str:
    """All tables, and what they were made with."""
    size, settings = result["size"], result["settings"]
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("jax", "flax", "optax"))
    parts = [
        "<!-- written by python -m benchmarks adaptation -->",
        f"{len(result['seeds'])} networks of three 3x3 convolutions with batch norm, each trained on "
        f"{size['train']:,} images of Fashion-MNIST that its seed draws ({size['epochs']} epochs in batches of "
        f"{size['batch']}, SGD at a constant rate of 0.1), and judged on the same {size['per_class']} test images of "
        f"each class. {result['device']}, {result['date']}; jbn {result['jbn']}, {versions}.",
        "Noise: standard deviation on pixels in [0, 1]; blur: standard deviation in pixels; contrast: factor. "
        f"`{MEAN}` is the mean of the six. Statistics of the *test batch* of n images (`source_weight=0`), or a "
        f"*blend*, w = {settings['source_examples']} / ({settings['source_examples']} + n); *drift ≤ d* is "
        f"`max_drift=d`. EMA keeps {settings['ema']} a step; SWA averages the ends of the later half of the epochs. "
        "Statistics of averaged weights: those *of the raw weights* at the end, *averaged* in the same way, or "
        "*estimated* by `population.estimate_linen`. Differences are in percentage points and paired by seed, with "
        "95% t intervals over seeds, each by itself, not all together.",
        "![What adaptation and averaging gain](adaptation.png)",
    ]
    for title, head, lines in rows(result):
        parts += [f"**{title}**", table(head, lines)]
    return "\n\n".join(parts) + "\n"


def write(result: dict[str, Any], out: Path) -> None:
    """Markdown and figure beside the JSON."""
    out.with_suffix(".md").write_text(as_markdown(result), encoding="utf-8")
    figure.write(result, out)
