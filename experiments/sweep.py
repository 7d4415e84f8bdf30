"""The ablation: tune every arm on validation data, then train fresh seeds at the chosen rates, then read the test set.

A run is restartable by construction: what is in the folder is not trained again, and whatever is missing is trained by
the same program on the same lanes, so that a run that was stopped ends with the same numbers as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import record, stats
from experiments.config import Arm, Config
from experiments.data import Data, load
from experiments.lanes import train_arm


class Stage(NamedTuple):
    """Trainings that run side by side: one arm, in one phase. `lanes` are (learning rate, seed)."""

    phase: str
    arm: Arm
    lanes: tuple[tuple[float, int], ...]

    def __str__(self) -> str:
        rates, seeds = sorted({rate for rate, _ in self.lanes}), sorted({seed for _, seed in self.lanes})
        return f"{self.phase} {self.arm} · rate {_span(rates)} · seed {_span(seeds)}"


class Progress(NamedTuple):
    """What the sweep tells while it works; each may be replaced by a function that does nothing."""

    stage: Callable[[str], None]
    """Called with what is trained now."""
    advance: Callable[[int], None]
    """Called with the number of epochs, over all lanes, that were just finished."""
    note: Callable[[str], None]
    """Called with a sentence that the user should see: a repair, a resumed run."""


SILENT = Progress(lambda text: None, lambda epochs: None, lambda text: None)


def run(config: Config, folder: Path, progress: Progress = SILENT) -> record.Run:
    """Runs the ablation, or what is still missing of it, and returns the finished run.

    Raises:
      ConfigError: the folder belongs to another config or cannot be written, or the batch is larger than the data.
    """
    data = load(config.data)
    config.steps_per_epoch(len(data.train.y))  # refuses a batch larger than the data before anything is written
    began = time.perf_counter()
    with record.opened(folder, config, device_name()) as (found, notes):
        for note in notes:
            progress.note(note)
        if found.result is not None:
            progress.note(f"{folder} is finished already; nothing was trained (delete the folder to train it again)")
            return found
        if found.records:
            progress.note(f"{folder}: {len(found.records)} trainings are there already; going on with the rest")
        record.write_json(folder / "data.json", data.description)

        records = list(found.records)
        records += _complete(config, data, folder, tuning(config), records, progress)
        # Every choice is made before the first look at the test set.
        records += _complete(config, data, folder, evaluation(config, stats.choose(config, records)), records, progress)

        env = record.read(folder).env
        seconds = env.get("wall_seconds", 0.0) + time.perf_counter() - began
        record.write_json(folder / "env.json", env | {"wall_seconds": round(seconds, 1)})
        record.write_json(folder / "result.json", stats.summarize(config, records))
    return record.read(folder)


def tuning(config: Config) -> list[Stage]:
    """Every arm at every learning rate of the grid with every tuning seed."""
    lanes = tuple((rate, seed) for rate in config.sweep.learning_rates for seed in config.sweep.tuning)
    return [Stage("tune", arm, lanes) for arm in config.arms]


def evaluation(config: Config, chosen: dict[Arm, stats.Choice]) -> list[Stage]:
    """Every arm at its chosen learning rate with every evaluation seed."""
    return [
        Stage("evaluate", arm, tuple((chosen[arm].learning_rate, seed) for seed in config.sweep.evaluation))
        for arm in config.arms
    ]


def device_name() -> str:
    """The devices that the lanes are spread over, such as "NVIDIA H100 x 1"."""
    devices = jax.devices()
    return f"{devices[0].device_kind} x {len(devices)}"


def total_epochs(config: Config) -> int:
    """Epochs over all lanes of the whole sweep."""
    sweep = config.sweep
    trainings = sweep.learning_rate_points * sweep.tuning_seeds + sweep.evaluation_seeds
    return trainings * len(config.arms) * config.training.epochs


def _complete(
    config: Config,
    data: Data,
    folder: Path,
    stages: list[Stage],
    records: list[dict[str, Any]],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Trains the stages that the folder has not, appends what was missing, stage by stage in order, and returns it.

    Two stages are under way at a time, so that one compiles, on one core, while the other one trains.
    """
    done = {_key(r) for r in records}

    def train(stage: Stage) -> list[dict[str, Any]]:
        progress.stage(str(stage))
        if {(stage.phase, *stage.arm, rate, seed) for rate, seed in stage.lanes} <= done:
            progress.advance(len(stage.lanes) * config.training.epochs)
            return []
        trained = train_arm(
            config,
            stage.arm,
            data,
            stage.lanes,
            test=stage.phase == "evaluate",
            on_epoch=lambda epoch: progress.advance(len(stage.lanes)),
        )
        head = {"phase": stage.phase, "placement": stage.arm.placement, "activation": stage.arm.activation}
        # A stage of which a crash left a part is trained whole, by the same program as before, so that its numbers are
        # those of a run that was not stopped; only what is missing is kept.
        return [record.finite(head | r) for r in trained if _key(head | r) not in done]

    new: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        try:
            for finished in pool.map(train, stages):
                record.append(folder, finished)
                new += finished
        except BaseException:  # Ctrl-C, too: what has not begun must not begin
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return new


def _key(r: dict[str, Any]) -> tuple[Any, ...]:
    return (r["phase"], r["placement"], r["activation"], r["learning_rate"], r["seed"])


def _span(values: list[Any]) -> str:
    text = [f"{v:.4g}" for v in values]
    return text[0] if len(text) == 1 else f"{text[0]} to {text[-1]}"
