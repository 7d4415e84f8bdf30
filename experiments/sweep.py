"""The ablation: tune every arm on validation data, train fresh seeds at the chosen rates, and read the test set.

An interrupted run can resume: trainings in the folder are not repeated, and missing ones are trained by the same
program on the same lanes, so the run ends with the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from experiments.analysis import stats, tuning
from experiments.config import Arm, Config, Setup
from experiments.data.arrays import Data, load
from experiments.store import record
from experiments.store.watchdog import Watchdog
from experiments.store.writers import Writer, open_writers
from experiments.training import autotune
from experiments.training.compiled import Engine, Lane
from experiments.training.devices import device_name
from experiments.training.dispatch import dispatched
from experiments.training.fingerprint import describe
from experiments.training.loop import Epoch, train_arm


class Stage(NamedTuple):
    """Trainings of one arm in one phase."""

    phase: str
    arm: Arm
    lanes: tuple[Lane, ...]

    def __str__(self) -> str:
        rates, seeds = sorted({lane.learning_rate for lane in self.lanes}), sorted({lane.seed for lane in self.lanes})
        return f"{self.phase} {self.arm} · rate {_span(rates)} · seed {_span(seeds)}"


class Progress(NamedTuple):
    """Callbacks of a sweep; `SILENT` ignores everything."""

    stage: Callable[[str], None]
    """Called with a description of the stage that starts."""
    advance: Callable[[int], None]
    """Called with the number of epochs just finished, summed over lanes."""
    note: Callable[[str], None]
    """Called with a sentence for the user, such as about a repair or a resumed run."""


SILENT = Progress(lambda text: None, lambda epochs: None, lambda text: None)


def run(config: Config, folder: Path, progress: Progress = SILENT) -> record.Run:
    """Runs the ablation, or the missing part of it, and returns the finished run.

    Raises:
      ConfigError: the folder belongs to another config or cannot be written, or the batch is larger than the data.
    """
    data = load(config.data)
    arms = describe(config, data)  # builds every network before anything is written
    began = time.perf_counter()
    with record.opened(folder, config, device_name()) as (found, notes):
        for note in notes:
            progress.note(note)
        record.refuse_another(found, data.description, arms)
        if found.result is not None:
            progress.note(f"{folder} is finished already; nothing was trained (delete the folder to train it again)")
            return found
        if found.records:
            progress.note(f"{folder}: {len(found.records)} trainings are there already; going on with the rest")
        record.write_json(folder / "data.json", data.description)
        record.write_json(folder / "arms.json", arms)

        records = list(found.records)
        with open_writers(config.writers, folder, config.name) as writer, Watchdog(folder, dispatched) as watchdog:
            for note in writer.notes:
                progress.note(note)
            with watchdog.watching("measuring how to run each kind of network"):
                engines = _engines(config, data, folder, progress)
            work = _Work(config, data, folder, progress, writer, engines, watchdog)
            records += work.complete(tuning_stages(config), records)
            # All points are chosen before the test set is read for the first time.
            records += work.complete(evaluation_stages(config, tuning.choose(config, records)), records)

        env = record.read(folder).env
        seconds = env.get("wall_seconds", 0.0) + time.perf_counter() - began
        record.write_json(folder / "env.json", env | {"wall_seconds": round(seconds, 1)})
        record.finish(folder, stats.summarize(config, records))
    return record.read(folder)


def tuning_stages(config: Config) -> list[Stage]:
    """Every arm at every point of the grid with every tuning seed."""
    stages = []
    for arm in config.arms:
        own = config.setup(arm).optimizer
        grid = product(
            config.sweep.learning_rates,
            config.sweep.weight_decays or (own.weight_decay,),
            config.sweep.decay_scale_bias or (own.decay_scale_bias,),
            config.seeds(arm)[0],
        )
        stages.append(Stage("tune", arm, tuple(Lane(*point) for point in grid)))
    return stages


def evaluation_stages(config: Config, chosen: dict[Arm, tuning.Choice]) -> list[Stage]:
    """Every arm at its chosen point, with every evaluation seed."""
    stages = []
    for arm in config.arms:
        choice, seeds = chosen[arm], config.seeds(arm)[1]
        lanes = (Lane(choice.learning_rate, choice.weight_decay, choice.decay_scale_bias, seed) for seed in seeds)
        stages.append(Stage("evaluate", arm, tuple(lanes)))
    return stages


def total_epochs(config: Config) -> int:
    """The number of epochs of the whole sweep, summed over lanes."""
    sweep = config.sweep
    decays = max(1, len(sweep.weight_decays)) * max(1, len(sweep.decay_scale_bias))
    trainings = sweep.learning_rate_points * decays * sweep.tuning_seeds + sweep.evaluation_seeds
    return trainings * sum(config.setup(arm).training.epochs for arm in config.arms)


class _Work:
    """Trains stages; holds the state that all stages of a run share."""

    def __init__(
        self,
        config: Config,
        data: Data,
        folder: Path,
        progress: Progress,
        writer: Writer,
        engines: dict[str, Engine],
        watchdog: Watchdog,
    ):
        self.config, self.data, self.folder, self.progress = config, data, folder, progress
        self.writer, self.engines, self.watchdog = writer, engines, watchdog

    def complete(self, stages: list[Stage], records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Trains the stages that are missing, appends their records in the order of the stages, and returns them.

        Two stages run at a time, so that one compiles, on one core, while the other trains; their programs take turns
        (`experiments.training.dispatch`).
        """
        done = {_key(r) for r in records}
        new: list[dict[str, Any]] = []
        with ThreadPoolExecutor(max_workers=2) as pool:
            try:
                for finished in pool.map(lambda stage: self._train(stage, done), stages):
                    record.append(self.folder, finished)
                    new += finished
            except BaseException:  # including Ctrl-C: stages that wait must not start
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return new

    def _train(self, stage: Stage, done: set[tuple[Any, ...]]) -> list[dict[str, Any]]:
        setup = self.config.setup(stage.arm)
        self.progress.stage(str(stage))
        if {(stage.phase, *stage.arm, *lane) for lane in stage.lanes} <= done:
            self.progress.advance(len(stage.lanes) * setup.training.epochs)
            return []

        with self.watchdog.watching(f"{stage}, before its first step") as now:

            def on_epoch(epoch: Epoch) -> None:
                now(f"{stage._replace(lanes=tuple(epoch.lanes))}, after step {epoch.step}")
                self.progress.advance(len(epoch.lanes))
                for lane, metrics in zip(epoch.lanes, epoch.metrics, strict=False):
                    self.writer.scalars(_name(stage, lane), epoch.step, metrics)

            trained = train_arm(
                setup,
                self.data,
                stage.lanes,
                self.engines[_kind(self.config, stage.arm)],
                test=stage.phase == "evaluate",
                on_epoch=on_epoch,
                checkpoints=self._checkpoints(stage) if setup.training.checkpoint_epochs else None,
                note=self.progress.note,
            )
        head = {"phase": stage.phase, **stage.arm._asdict()}
        # A stage that a crash interrupted is trained as a whole again, by the same program, so that the numbers equal
        # those of an uninterrupted run; only missing records are kept.
        return [record.finite(head | r) for r in trained if _key(head | r) not in done]

    def _checkpoints(self, stage: Stage) -> Path:
        number = self.config.arms.index(stage.arm)
        return record.checkpoints(self.folder) / f"{stage.phase}_{number}"


def _engines(config: Config, data: Data, folder: Path, progress: Progress) -> dict[str, Engine]:
    """The engine of each kind of network: read from the folder, or measured and written there.

    So a resumed run uses the same engines as before, and ends with the same numbers.
    """
    path = folder / "engine.json"
    found: dict[str, Any] = record.read_json(path, {})
    # Arms with a norm come first, because they do more work: the first arm represents its kind.
    for stage in sorted(tuning_stages(config), key=lambda stage: _without_norm(config.setup(stage.arm))):
        kind = _kind(config, stage.arm)
        if kind not in found:
            progress.stage(f"measuring how to run {kind}")
            measured = autotune.choose(config.setup(stage.arm), data, stage.lanes)
            found[kind] = measured.engine._asdict() | {"milliseconds per step": measured.milliseconds}
            record.write_json(path, found)
    return {kind: Engine(how["steps"], how["lanes"]) for kind, how in found.items()}


def _kind(config: Config, arm: Arm) -> str:
    """A key of networks that share an engine; the placement of the norm does not change how convolutions run."""
    setup = config.setup(arm)
    model, training = setup.model, setup.training
    size = [f"depth {model.depth}"] if model.depth else []
    size += [f"width {model.width:g}"] if model.width else []
    size += [f"{'-'.join(map(str, model.hidden))}"] if model.network == "mlp" else []
    fixed = [how for how in (training.steps, training.lanes) if how != "auto"]
    return ", ".join([model.network, *size, model.dtype, f"batch {training.batch_size}", *fixed])


def _without_norm(setup: Setup) -> bool:
    return setup.model.norm == "none" or (setup.model.placement == "none" and setup.model.unit is None)


def _name(stage: Stage, lane: Lane) -> str:
    decay = f" decay {lane.weight_decay:g}" if lane.weight_decay else ""
    return f"{stage.phase} {stage.arm} rate {lane.learning_rate:g}{decay} seed {lane.seed}"


def _key(r: dict[str, Any]) -> tuple[Any, ...]:
    return (r["phase"], r["treatment"], r["context"], *(r[field] for field in Lane._fields))


def _span(values: list[Any]) -> str:
    text = [f"{v:.4g}" for v in values]
    return text[0] if len(text) == 1 else f"{text[0]} to {text[-1]}"
