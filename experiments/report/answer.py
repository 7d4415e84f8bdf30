"""The answer in a terminal: question, arms, comparisons and warnings."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from experiments.config import ConfigError
from experiments.report import settings, tables
from experiments.store.record import Run

LONG_WORD = re.compile(r"(?<!\S)(\w{4,16}_)(\w{8,})")


def print_answer(console: Console, run: Run) -> None:
    """Prints question, arms, answer and warnings: wrapped in a terminal (80 columns suffice), not in a pipe.

    Raises:
      ConfigError: the run is not finished.
    """
    result = finished_result(run)
    short = tables.arms_in_short(run.config, result)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for k, name in enumerate(short.header):
        words = k < short.names or name == "edge"
        cells = [_narrow(console, row[k]) for row in short.rows]
        longest = max(len(word) for cell in (name, *cells) for word in cell.split())
        title = name if words else "\n".join(textwrap.wrap(name, 14))
        table.add_column(
            title, justify="left" if words else "right", no_wrap=not words, min_width=longest, overflow="fold"
        )
    previous = None
    for row in short.rows:
        if previous not in (None, row[0]):
            table.add_section()
        previous = row[0]
        table.add_row(*(_plain(console, _narrow(console, cell)) for cell in row))
    _say(console, run.config.question or f"Results of {run.config.name}", style="bold")
    if not console.is_terminal:  # in a pipe each row stays on one line
        table.width = console.measure(table, options=console.options.update(width=1000)).maximum
    console.print(table, crop=console.is_terminal)
    for title, rows in grouped(result):
        _say(console, title, style="bold")
        for row in rows:
            _say(console, row["sentence"], indent=2)
    for k, row in enumerate(result["published"]):
        if k == 0:
            _say(console, "Against published differences", style="bold")
        _say(console, row["sentence"], indent=2)
    for warning in result["warnings"]:
        _say(console, f"warning: {warning}", style="yellow")
    for note in settings.parameter_notes(run.config, run.arms):
        _say(console, f"note: {note}")


def _narrow(console: Console, text: str) -> str:
    """In a terminal, breaks long names into two lines after an underscore."""
    return LONG_WORD.sub("\\1\n\\2", text) if console.is_terminal else text


def _say(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    """Prints one paragraph: wrapped in a terminal, on one line in a pipe, so that other programs can search it."""
    line = Text(_plain(console, text), style=style)
    if console.is_terminal:
        console.print(Padding(line, (0, 0, 0, indent)))
    else:
        console.print(Text(" " * indent) + line, soft_wrap=True)


def _plain(console: Console, text: str) -> str:
    """Replaces the characters of `text` that the console's encoding cannot represent."""
    encoding = console.encoding
    if not "±".encode(encoding, "ignore"):
        text = text.replace("±", "+/-")
    return text.encode(encoding, "replace").decode(encoding)


def finished_result(run: Run) -> dict[str, Any]:
    """The run's result.json.

    Raises:
      ConfigError: the run is not finished.
    """
    if run.result is None:
        sweep, arms = run.config.sweep, len(run.config.arms)
        points = len(sweep.learning_rates) * max(1, len(sweep.weight_decays)) * max(1, len(sweep.decay_scale_bias))
        wanted = arms * (points * sweep.tuning_seeds + sweep.evaluation_seeds)
        raise ConfigError(
            f"{run.folder} is not finished: {len(run.records)} of {wanted} trainings are there; "
            "go on with: python -m experiments run CONFIG"
        )
    return run.result


def grouped(result: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yields a title and the comparisons for each pair of treatments; A/A tests come last."""
    rows = sorted(result["comparisons"], key=lambda row: row["same_arm"])
    for a, b in dict.fromkeys((row["a"], row["b"]) for row in rows):
        group = [row for row in rows if (row["a"], row["b"]) == (a, b)]
        yield (f"A/A test: {a} - {b}" if group[0]["same_arm"] else f"{a} - {b}"), group
