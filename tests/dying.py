"""Runs the program and kills it with SIGKILL at a moment of one of its stages, as a crash or a batch system would.

    PYTHONPATH=. python tests/dying.py STAGE SECONDS run CONFIG.py --out FOLDER

The kill comes so many seconds after the stage is first entered; for "set-up", after the start of the process. The
process does it itself, since on a busy machine another one would come too late. Before, it says on stderr which stage
it was in by then.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

ENTERED: list[str] = ["set-up"]
"""The stages that run now, in the order in which they were entered; two trainings run at a time."""


def die() -> None:
    os.write(2, f"killed in {ENTERED[-1] if ENTERED else 'between'}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def watched(function: Callable, stage: str, chosen: str, seconds: float) -> Callable:
    """The function as a stage, of which the first call, if it is the chosen one, starts the clock."""
    first = threading.Lock()

    def call(*arguments: Any, **options: Any) -> Any:
        if stage == chosen and first.acquire(blocking=False):
            timer = threading.Timer(seconds, die)
            timer.daemon = True
            timer.start()
        ENTERED.append(stage)
        try:
            return function(*arguments, **options)
        finally:
            ENTERED.remove(stage)

    return call


def main(chosen: str, seconds: float, arguments: list[str]) -> int:
    if chosen == "set-up":
        threading.Timer(seconds, die).start()
    import jax

    from experiments import __main__, report
    from experiments.store import record
    from experiments.training import autotune, checkpoints, loop, workers

    for holder, name, stage in (
        (autotune, "choose", "measure"),
        (jax.stages.Lowered, "compile", "compile"),
        (loop, "run_steps", "step"),
        (checkpoints.Checkpoints, "save", "checkpoint"),
        (record, "append", "record"),
        (loop._LaneGroup, "_probe", "probe"),
        (report, "write", "report"),
    ):
        setattr(holder, name, watched(getattr(holder, name), stage, chosen, seconds))
    train = workers.train_arm

    def train_arm(*arguments: Any, **options: Any) -> Any:
        if "set-up" in ENTERED:
            ENTERED.remove("set-up")
        return train(*arguments, **options)

    workers.train_arm = train_arm
    return __main__.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
