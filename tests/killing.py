"""Starts the program on a tiny config, and kills it with SIGKILL at a chosen stage, as a crash does."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from helpers import ROOT

STAGES = ("set-up", "compile", "step", "checkpoint", "record", "probe", "report")
"""What a process does, in this order, but for steps, checkpoints and records, which alternate."""
LATEST = {"set-up": 2.5, "compile": 1.0, "step": 0.2, "checkpoint": 0.05, "record": 0.05, "probe": 0.5, "report": 4.0}
"""Seconds into a stage within which the kill comes."""
TIMEOUT = 300.0
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


def start(config: Path, folder: Path, cache: Path, *, log: Path) -> subprocess.Popen[str]:
    """Runs the config in a process that writes what it prints into the file `log` and its suffix .err.

    Processes share compiled programs in the folder `cache`.
    """
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    with open(log, "w") as out, open(log.with_suffix(".err"), "w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "experiments", "run", str(config), "--out", str(folder)],
            cwd=ROOT, env=environment, text=True, stdout=out, stderr=err,
        )  # fmt: skip


def finish(config: Path, folder: Path, cache: Path) -> tuple[int, str, str]:
    """Runs the config to its end; exit status, and what it printed."""
    log = folder.with_name(folder.name + ".log")
    code = start(config, folder, cache, log=log).wait(TIMEOUT)
    return code, log.read_text(), log.with_suffix(".err").read_text()


class Moment(NamedTuple):
    """Where a process was killed."""

    stage: str
    error: str
    """What it had printed on stderr."""


def kill(config: Path, folder: Path, cache: Path, stage: str, seconds: float) -> Moment:
    """Starts the run and kills it so many seconds into a stage, or in the report if that comes first.

    Returns:
      The stage that the process was in fact killed in, as the folder shows afterwards.
    """
    log = folder.with_name(folder.name + ".log")
    lines = len(read_lines(folder / "metrics.jsonl"))
    process = start(config, folder, cache, log=log)
    until = time.monotonic() + TIMEOUT
    try:
        while stage_of(folder, log, lines) not in (stage, "report"):
            assert process.poll() is None, log.with_suffix(".err").read_text()
            assert time.monotonic() < until, f"no {stage} within {TIMEOUT:.0f} seconds: {log.read_text()}"
            time.sleep(0.005)
        time.sleep(seconds)
    finally:
        process.send_signal(signal.SIGKILL)
        ended = process.wait() == 0
    return Moment("end" if ended else stage_of(folder, log, lines), log.with_suffix(".err").read_text())


def stage_of(folder: Path, log: Path, lines: int) -> str:
    """The stage of a process, given what it printed and how many lines metrics.jsonl had when it started."""
    if (folder / "result.json").exists():
        return "report"
    tasks = re.findall(r": (train|probe) ", log.read_text())
    if not tasks:
        return "set-up"
    if any(folder.glob("checkpoints/*/*/*.tmp")):
        return "checkpoint"
    told = read_lines(folder / "metrics.jsonl")
    trained = sum(record["phase"] == "train" for record in read_lines(folder / "records.jsonl"))
    if len(told) - len({line["run"] for line in told}) * (EPOCHS - 1) > trained and _last(told):
        return "record"
    if "probe" in tasks:
        return "probe"
    return "step" if len(told) > lines else "compile"


def _last(told: Sequence[dict[str, Any]]) -> bool:
    """Whether the newest line is of a last epoch."""
    runs = [line["run"] for line in told]
    return runs.count(runs[-1]) == EPOCHS


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file; none if there is no file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def moments(seed: int, count: int) -> list[tuple[str, float]]:
    """Stages, each about equally often, in a random order that ends in the report, and seconds into them."""
    rng = random.Random(seed)
    early = [stage for stage in STAGES if stage not in ("probe", "report")]
    late = ["probe", "report"] * (count // len(STAGES))
    stages = [early[k % len(early)] for k in range(count - len(late))]
    rng.shuffle(stages)
    return [(stage, rng.uniform(0, LATEST[stage])) for stage in [*stages, *sorted(late)]]


def content(folder: Path) -> dict[str, Any]:
    """All that a run found out, without the times that it took and the order in which its threads told of epochs."""
    records = [{k: v for k, v in record.items() if k != "seconds"} for record in read_lines(folder / "records.jsonl")]
    told = (folder / "metrics.jsonl").read_text().splitlines()
    return {
        "records": records,
        "metrics": sorted(told),
        **{str(name): (folder / name).read_bytes() for name in FILES},
        **{path.name: path.read_bytes() for path in sorted((folder / "tables").iterdir())},
    }
