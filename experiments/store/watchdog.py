"""Warns that a sweep stands still, and says what was under way; otherwise its user would wait for ever."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LEAST = 600.0  # seconds
TIMES = 10
STACKS = "stalled.txt"


class Standstill:
    """Whether a count that should grow has stood still for long.

    Args:
      count, now: at the start, in seconds.
      least: seconds that are never long; nor is less than `TIMES` times the longest that the count ever stood before.
    """

    def __init__(self, count: int, now: float, least: float):
        self._count, self._since, self._least, self._said = count, now, least, False
        self.longest = 0.0

    def seconds(self, count: int, now: float) -> float | None:
        """For how long it has stood still, where that is long; once for each time that it does."""
        still = now - self._since
        if count != self._count:
            self._count, self._since, self._said = count, now, False
            self.longest = max(self.longest, still)
        elif not self._said and still > max(self._least, TIMES * self.longest):
            self._said = True
            return still
        return None


class Watchdog:
    """Watches, from a thread of its own, whether `advances()` still grows.

    Where it has not for long (`Standstill`), one warning on stderr names what is under way, and the stacks of all
    threads go to `stalled.txt` in the folder.

    Args:
      folder: of the run.
      advances: a number that grows while there is progress.
      least: seconds that are never long.

    Example:
      >>> with Watchdog(Path("runs/mine"), advances=lambda: 0) as watchdog, watchdog.watching("tune") as now:
      ...     now("tune, step 36")
    """

    def __init__(self, folder: Path, advances: Callable[[], int], least: float = LEAST):
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
        """Something is under way; call what this yields to say more of it than at its start."""
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
        try:
            with open(self._folder / STACKS, "w") as file:
                faulthandler.dump_traceback(file)
            stacks = f"where each thread stands: {self._folder / STACKS}"
        except OSError as error:
            stacks = f"{self._folder / STACKS} cannot be written ({error.strerror})"
        under_way = "; ".join(list(self._under_way.values())) or "nothing that is known of"
        print(
            f"warning: nothing has advanced for {_time(still)} (before, {_time(longest)} at most); under way: "
            f"{under_way}; {stacks}; if this goes on, end the process (kill {os.getpid()}) and start the same command "
            "again: what was trained is kept",
            file=sys.stderr,
            flush=True,
        )


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.3g} seconds"
