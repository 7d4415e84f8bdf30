"""Shows how far a run is: a bar in a terminal, a line for each task elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from experiments.formatting import duration


@contextlib.contextmanager
def shown(console: Console) -> Iterator[dict[str, Callable]]:
    """A progress bar with the present task and the time left; if the output is no terminal, a line for each task.

    How many trainings there will be is not known ahead, since a race decides it: the total grows by what is expected,
    and the time left is that of what is known.

    Yields:
      The callbacks of `sweep.Progress`, by name.
    """
    bar = Progress(
        TextColumn("{task.description}"),
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
                console.print(f"{duration(time.monotonic() - began)}{known}: {text}", soft_wrap=True, markup=False)

        yield {
            "stage": stage,
            "expect": lambda epochs: bar.update(task, total=epochs + (bar.tasks[0].total or 0)),
            "advance": lambda epochs: bar.advance(task, epochs),
            "note": lambda text: console.print(text, soft_wrap=True),
        }
