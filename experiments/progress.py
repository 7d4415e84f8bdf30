"""Shows how far a run is: a bar in a terminal, a line that changes in a notebook, a line for each task elsewhere."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from experiments.formatting import duration, printable


def say(console: Console, text: str) -> None:
    """Prints one line as it is: folders may have any name, even one that rich or the terminal would obey."""
    console.print(printable(text), soft_wrap=True, markup=False)


@contextlib.contextmanager
def shown(console: Console) -> Iterator[dict[str, Callable]]:
    """A progress bar with the present task and the time left; if the output is no terminal, a line for each task.

    How many trainings there will be is not known ahead, since a race decides it: the total grows by what is expected,
    and the time left is that of what is known.

    Yields:
      The callbacks of `sweep.Progress`, by name.
    """
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
        TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    began = time.monotonic()
    with bar:
        task = bar.add_task("loading data", total=None)  # unknown, until something is expected

        def stage(text: str) -> None:
            bar.update(task, description=text)
            if not console.is_terminal:  # such as the log of a batch job
                done, total = bar.tasks[0].completed, bar.tasks[0].total
                known = f", {100 * done / total:.0f}% of the epochs known so far" if total else ""
                say(console, f"{duration(time.monotonic() - began)}{known}: {text}")

        yield {
            "stage": stage,
            "expect": lambda epochs: bar.update(task, total=epochs + (bar.tasks[0].total or 0)),
            "advance": lambda epochs: bar.advance(task, epochs),
            "note": lambda text: say(console, text),
        }


@contextlib.contextmanager
def shown_in_notebook(console: Console) -> Iterator[dict[str, Callable]]:
    """One line below the cell that changes; notes are printed. Rich's bar would need ipywidgets.

    Yields:
      As `shown`.
    """
    began = time.monotonic()
    said, done, expected = "loading data", 0, 0

    def line() -> dict[str, str]:
        known = f", {100 * done / expected:.0f}% of the epochs known so far" if expected else ""
        return {"text/plain": f"{duration(time.monotonic() - began)}{known}: {said}"}

    # By name, since IPython is there in a notebook alone.
    handle = importlib.import_module("IPython.display").display(line(), raw=True, display_id=True)

    def change(*, text: str | None = None, more: int = 0, finished: int = 0) -> None:
        nonlocal said, done, expected
        said, done, expected = text or said, done + finished, expected + more
        handle.update(line(), raw=True)

    try:
        yield {
            "stage": lambda text: change(text=text),
            "expect": lambda epochs: change(more=epochs),
            "advance": lambda epochs: change(finished=epochs),
            "note": lambda text: say(console, text),
        }
    except BaseException:
        change(text="stopped")
        raise
    handle.update({"text/plain": f"{duration(time.monotonic() - began)}: finished"}, raw=True)
