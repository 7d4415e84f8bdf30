"""The answer in a terminal: question, contrasts, published differences, arms and warnings."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from experiments.config import ConfigError
from experiments.formatting import printable
from experiments.report import settings, tables_of_arms
from experiments.report.groups import Group, grouped, in_short
from experiments.report.table import Table
from experiments.store.record import Run

LONG_WORD = re.compile(r"(?<!\S)(\w{4,16}_)(\w{8,})")


def print_answer(console: Console, run: Run) -> None:
    """Prints question, answer, arms and warnings: wrapped in a terminal (80 columns suffice), not in a pipe.

    Raises:
      ConfigError: the run is not finished.
    """
    result = finished_result(run)
    groups = grouped(run.config, result)
    _say(console, run.config.question or f"Results of {run.config.name}", style="bold")
    for group in (group for group in groups if group.kind in ("declared", "pair")):
        _group(console, run, group)
    for title, rows in (("Published differences", result["published"]), ("Shares that learn", result["shares"])):
        for k, row in enumerate(rows):
            if k == 0:
                _say(console, title, style="bold")
            _say(console, row["sentence"], indent=2)
    for group in (group for group in groups if group.kind == "exploration"):
        _say(console, f"{explorations(group)}: see {run.folder / 'report.md'}")
    for group in (group for group in groups if group.kind == "same_arm"):
        _group(console, run, group)
    _arms(console, run, result)
    for warning in result["warnings"]:
        _say(console, f"warning: {warning}", style="yellow")
    for note in settings.parameter_notes(run.config, run.arms):
        _say(console, f"note: {note}")


def print_table(console: Console, of: Table) -> None:
    """Prints a table of text: wrapped in a terminal, each row on one line in a pipe; "none" where it has no rows."""
    if not of.rows:
        _say(console, "none", indent=2)
        return
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for name in of.header:
        table.add_column(_plain(console, name), overflow="fold")
    for row in of.rows:
        table.add_row(*(_plain(console, cell) for cell in row))
    _print(console, table)


def explorations(group: Group) -> str:
    """`9 explorations, not adjusted for their number; 2 of them point to a difference`."""
    count, pointing = len(group.rows), sum(row["finding"].startswith("different") for row in group.rows)
    what = "exploration" if count == 1 else "explorations"
    points = f"{pointing or 'none'} of them {'point' if pointing > 1 else 'points'}"
    return f"{count} {what}, not adjusted for their number; {points} to a difference"


def _group(console: Console, run: Run, group: Group) -> None:
    """Prints one sentence per contrast; in a terminal, below what was found in a few words."""
    _say(console, group.title, style="bold")
    for row, label in zip(group.rows, group.labels, strict=True):
        if console.is_terminal:
            _say(console, f"{label}: {in_short(run.config, row)}", indent=2)
        _say(
            console, row["sentence"], style="dim" if console.is_terminal else "", indent=4 if console.is_terminal else 2
        )
        if row["caution"]:
            _say(console, f"caution: {row['caution']}", style="yellow", indent=4)


def _arms(console: Console, run: Run, result: dict[str, Any]) -> None:
    short = tables_of_arms.arms_in_short(run.config, result)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for k, name in enumerate(short.header):
        words = not short.numbers[k]
        cells = [_narrow(console, row[k]) for row in short.rows]
        longest = max(len(word) for cell in (name, *cells) for word in cell.split())
        title = _plain(console, name if words else "\n".join(textwrap.wrap(name, 16)))
        table.add_column(
            title, justify="left" if words else "right", no_wrap=not words, min_width=longest, overflow="fold"
        )
    previous = None
    for row in short.rows:
        if previous not in (None, row[0]):
            table.add_section()
        previous = row[0]
        table.add_row(*(_plain(console, _narrow(console, cell)) for cell in row))
    _print(console, table)


def _print(console: Console, table: RichTable) -> None:
    if not console.is_terminal:  # in a pipe each row stays on one line
        table.width = console.measure(table, options=console.options.update(width=1000)).maximum
    console.print(table, crop=console.is_terminal, markup=False)


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
    """Replaces the characters of `text` that the console's encoding cannot represent, or that a terminal would obey."""
    encoding = console.encoding
    if not "±".encode(encoding, "ignore"):
        text = text.replace("±", "+/-")
    shown = "\n".join(map(printable, text.split("\n")))
    return shown.encode(encoding, "replace").decode(encoding)


def finished_result(run: Run) -> dict[str, Any]:
    """The run's result.json.

    Raises:
      ConfigError: the run is not finished.
    """
    if run.result is None:
        raise ConfigError(
            f"{run.folder} is not finished: {len(run.records)} trainings are there, and how many more it takes depends "
            "on what they show; go on with: python -m experiments run CONFIG"
        )
    return run.result
