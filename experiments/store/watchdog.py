"""Warns if a sweep makes no progress, and says what was running; otherwise the user would wait forever."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MIN_SECONDS = 600.0
FACTOR = 10
STACKS = "stalled.txt"


class Standstill:
    """Detects that a count which should grow has stalled.

    A stall lasts more than `least` seconds and more than `FACTOR` times the longest earlier pause.

    Args:
      count, now: the count and the time, in seconds, at the start.
      least: shortest stall, in seconds.
    """

    def __init__(self, count: int, now: float, least: float):
        self._count, self._since, self._least, self._said = count, now, least, False
        self.longest = 0.0

    def seconds(self, count: int, now: float) -> float | None:
        """The seconds since the count last grew, once per stall; otherwise None."""
        still = now - self._since
        if count != self._count:
            self._count, self._since, self._said = count, now, False
            self.longest = max(self.longest, still)
        elif not self._said and still > max(self._least, FACTOR * self.longest):
            self._said = True
            return still
        return None


class Watchdog:
    """Checks, in its own thread, that `advances()` keeps growing.

    After a stall (`Standstill`), it prints one warning that names the running tasks, and writes the stacks of all
    threads to `stalled.txt` in the folder.

    Args:
      folder: the run folder.
      advances: function that returns a number which grows with progress.
      least: shortest stall, in seconds.

    Example:
      >>> with Watchdog(Path("runs/mine"), advances=lambda: 0) as watchdog, watchdog.watching("tune") as now:
      ...     now("tune, step 36")
    """

    def __init__(self, folder: Path, advances: Callable[[], int], least: float = MIN_SECONDS):
        self._folder, self._advances, self._least = folder, advances, least
        self._under_way: dict[object, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def watching(self, what: str) -> Iterator[Callable[[str], None]]:
        """Marks a task as running; call the yielded function to update its description."""
        key = object()
        self._under_way[key] = what
        try:
            yield lambda more: self._under_way.update({key: more})
        finally:
            del self._under_way[key]

    def _watch(self) -> None:
        standstill = Standstill(self._advances(), time.monotonic(), self._least)
        while not self._ended.wait(min(1.0, self._least / 10)):
            still = standstill.seconds(self._advances(), time.monotonic())
            if still is not None:
                self._say(still, standstill.longest)

    def _say(self, still: float, longest: float) -> None:
        # First: while the stacks are being written, a task may end.
        under_way = "; ".join(list(self._under_way.values())) or "nothing that is known of"
        try:
            with open(self._folder / STACKS, "w") as file:
                faulthandler.dump_traceback(file)
            stacks = f"where each thread stands: {self._folder / STACKS}"
        except OSError as error:
            stacks = f"{self._folder / STACKS} cannot be written ({error.strerror})"
        print(
            f"warning: nothing has advanced for {_time(still)} (before, {_time(longest)} at most); under way: "
            f"{under_way}; {stacks}; if this goes on, end the process (kill {os.getpid()}) and start the same command "
            "again: what was trained is kept",
            file=sys.stderr,
            flush=True,
        )


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.3g} seconds"
