"""Starts the program on a tiny config, and kills it with SIGKILL at a chosen stage, as a crash does."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from helpers import ROOT

AS_IN_A_TERMINAL = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("experiments", run_name="__main__", alter_sys=True)
"""
PROGRAM = [sys.executable, "-c", AS_IN_A_TERMINAL]
"""`python -m experiments` that handles Ctrl-C; a program started in the background ignores it."""
LATEST = {
    "set-up": 4.0,
    "measure": 1.0,
    "compile": 0.1,
    "step": 0.02,
    "checkpoint": 0.1,
    "record": 0.002,
    "probe": 0.05,
    "report": 3.0,
}
"""Stages of a process, and the seconds into each within which the kill comes: about as long as it lasts at least."""
TIMEOUT = 600.0
EPOCHS = 4
FILES = ("result.json", "data.json", "scores.csv", "summary.csv")
CONFIG = """
from experiments.config import Config, ModelConfig, ProbesConfig, SweepConfig, TrainingConfig

CONFIG = Config(
    name="tiny",
    placements=("before", "after"),
    activations=("tanh",),
    model=ModelConfig(hidden=(5,)),
    training=TrainingConfig(epochs=EPOCHS, checkpoint_epochs=1, ENGINE),
    probes=ProbesConfig(seeds=2, examples=64),
    sweep=SweepConfig(lowest_learning_rate=0.05, learning_rate_points=2, learning_rate_extension=1, seeds=4),
)
"""
# A race, a grid that grows, probes: a run of ten stages of two to six trainings, in a few seconds.


def write_config(path: Path, steps: str = "scan", lanes: str = "vmap") -> Path:
    engine = f"steps={steps!r}, lanes={lanes!r}"
    path.write_text(CONFIG.replace("EPOCHS", str(EPOCHS)).replace("ENGINE", engine))
    return path


def start(config: Path, folder: Path, cache: Path, *, dying: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Runs the config in a process, which `tests/dying.py` kills if it is given arguments.

    Processes share compiled programs in the folder `cache`.
    """
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    program = ["tests/dying.py", *dying] if dying else ["-m", "experiments"]
    return subprocess.Popen(
        [sys.executable, *program, "run", str(config), "--out", str(folder)],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(config: Path, folder: Path, cache: Path) -> tuple[int, str]:
    """Runs the config to its end; exit status, and what it printed on stderr."""
    process = start(config, folder, cache)
    _, error = process.communicate(timeout=TIMEOUT)
    return process.returncode, error


def kill(config: Path, folder: Path, cache: Path, stage: str, seconds: float) -> str:
    """Runs the config and kills it so many seconds into a stage; the stage that it was in by then, or "end"."""
    process = start(config, folder, cache, dying=(stage, str(seconds)))
    _, error = process.communicate(timeout=TIMEOUT)
    *others, last = error.splitlines() or [""]
    assert process.returncode == (-signal.SIGKILL if last.startswith("killed in ") else 0), error
    assert not others, error
    return last.removeprefix("killed in ") or "end"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file; none if there is no file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def moments(seed: int, count: int, stages: Collection[str] = tuple(LATEST)) -> list[tuple[str, float]]:
    """Stages, each about equally often, and seconds into them; in a random order, but for those a run has only once."""
    rng = random.Random(seed)
    some = [stage for stage, _ in zip(itertools.cycle(stages), range(count), strict=False)]
    rng.shuffle(some)
    some.sort(key=lambda stage: {"measure": -1, "probe": 1, "report": 2}.get(stage, 0))
    return [(stage, rng.uniform(0, LATEST[stage])) for stage in some]


def content(folder: Path) -> dict[str, Any]:
    """All that a run found out, without the times that it took and the order in which its threads told of epochs."""
    records = [
        {k: v for k, v in record.items() if k not in ("seconds", "crc32")}
        for record in read_lines(folder / "records.jsonl")
    ]
    told = (folder / "metrics.jsonl").read_text().splitlines()
    return {
        "records": records,
        "metrics": sorted(told),
        **{str(name): (folder / name).read_bytes() for name in FILES},
        **{path.name: path.read_bytes() for path in sorted((folder / "tables").iterdir())},
    }
