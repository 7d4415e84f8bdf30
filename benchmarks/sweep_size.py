"""The laboratory's own work in a large sweep, without its trainings: `python -m benchmarks sweep`.

The plan is followed to its end with invented scores, while every round is planned and recorded as in a run; then the
folder is read again, and summarized. What trainings cost is multiplied on paper: a round ends with its last training,
so that a sweep takes

    sum over rounds of ceil(trainings / devices) · seconds of a training  +  compiling  +  the laboratory's own work
"""

from __future__ import annotations

import argparse
import base64
import math
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.output import RESULTS, write_json
from experiments.analysis.plan import plan
from experiments.analysis.scores import Setting
from experiments.analysis.stats import summarize
from experiments.config import Arm, Config, SweepConfig
from experiments.formatting import duration
from experiments.store import record
from experiments.store.environment import environment, processor

EXAMPLES = 10_000
DEVICES = (1, 8, 64, 512)
SECONDS = 60.0
COMPILING = 30.0
"""Seconds of a training, and of compiling an arm's programs, that the table assumes; any others scale it."""


class Own(NamedTuple):
    """Seconds of the laboratory's own work."""

    planning: float
    recording: float
    reading: float
    summarizing: float


def config_of(trainings: int) -> Config:
    """Three placements in seven activations, ten rates; as many seeds as make about this many trainings."""
    seeds = max(2, round(trainings / 100))  # the race leaves about 4.8 of 10 rates to a seed, in 21 arms
    return Config(
        "large",
        placements=("none", "before", "after"),
        activations=("relu", "gelu", "silu", "tanh", "elu", "softplus", "leaky_relu"),
        sweep=SweepConfig(lowest_learning_rate=2.0**-8, learning_rate_points=10, seeds=seeds),
    )


def rounds_of(config: Config, folder: Path) -> tuple[list[int], float, float]:
    """Trainings of each round, and the seconds of planning and of recording; the records are in `folder` then."""
    rounds, planning, recording, records = [], 0.0, 0.0, []
    while True:
        began = time.perf_counter()
        missing = plan(config, records, config.sweep.seeds).missing
        planning += time.perf_counter() - began
        if not missing:
            return rounds, planning, recording
        rounds.append(sum(map(len, missing.values())))
        for arm, keys in missing.items():
            made = [_record(arm, setting, seed) for setting, seed in keys]
            records += made
            began = time.perf_counter()
            record.append(folder, made)
            recording += time.perf_counter() - began


def seconds_on(devices: int, rounds: Iterable[int], arms: int, own: Own) -> float:
    """The wall time of a sweep whose trainings take `SECONDS` each."""
    training = sum(math.ceil(count / devices) * SECONDS for count in rounds)
    return training + math.ceil(arms / devices) * COMPILING + sum(own)


def _record(arm: Arm, setting: Setting, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, *f"{arm} {setting}".encode()])
    share = 0.9 - 0.02 * math.log2(setting.learning_rate / 0.1) ** 2 + 0.005 * rng.normal()
    right = rng.random(EXAMPLES) < share
    validation, test = float(share), float(right.mean())
    kinds = (None if arm.treatment == "none" else test,) * 2
    return {
        "phase": "train",
        **arm._asdict(),
        **setting._asdict(),
        "seed": seed,
        "steps": [100 * (k + 1) for k in range(20)],
        "train_loss": [0.5] * 20,
        "val_loss": [0.5] * 20,
        "val_accuracy": [validation] * 20,
        "diverged": None,
        "test_loss": 0.5,
        "test_accuracy": test,
        "test_loss_population": kinds[0],
        "test_accuracy_population": kinds[0],
        "test_loss_batch": kinds[1],
        "test_accuracy_batch": kinds[1],
        "right": base64.b64encode(np.packbits(right).tobytes()).decode(),
        "probes": None,
        "seconds": SECONDS,
    }


def run(options: argparse.Namespace) -> int:
    config = config_of(options.trainings)
    data: dict[str, Any] = {"train": 45_000, "validation": 5_000, "test": EXAMPLES, "split": "one"}
    data["test_classes"] = [EXAMPLES // 10] * 10
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        with record.opened(folder, config, "none"):
            rounds, planning, recording = rounds_of(config, folder)
        began = time.perf_counter()
        records = record.read(folder).records
        reading = time.perf_counter() - began
        size = (folder / "records.jsonl").stat().st_size
        began = time.perf_counter()
        summarize(config, records, data)
        own = Own(planning, recording, reading, time.perf_counter() - began)
    result = {
        "machine": {"processor": processor(), "versions": environment("none")["versions"]},
        "arms": len(config.arms),
        "seeds": config.sweep.seeds,
        "trainings": len(records),
        "rounds": rounds,
        "bytes_of_records": size,
        "seconds": own._asdict(),
        "assumed": {"seconds_of_a_training": SECONDS, "seconds_of_compiling_an_arm": COMPILING},
        "wall_seconds": {str(n): seconds_on(n, rounds, len(config.arms), own) for n in DEVICES},
    }
    write_json(result, options.out or RESULTS / "sweep.json")
    _show(result)
    return 0


def _show(result: dict[str, Any]) -> None:
    console, own = Console(highlight=False), result["seconds"]
    rounds = ", ".join(f"{count:,}" for count in result["rounds"])
    console.print(
        f"{result['trainings']:,} trainings of {result['arms']} arms with {result['seeds']} seeds, rounds of {rounds}"
        f"; {result['bytes_of_records'] / 1e6:.0f} MB of records",
        soft_wrap=True,
    )
    console.print("; ".join(f"{name} {seconds:.3g} s" for name, seconds in own.items()), soft_wrap=True)
    table = Table("devices", "wall time", "of it trainings")
    for devices, wall in result["wall_seconds"].items():
        training = sum(math.ceil(count / int(devices)) * SECONDS for count in result["rounds"])
        table.add_row(devices, duration(wall), f"{training / wall:.0%}")
    console.print(table)
