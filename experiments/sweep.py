"""The ablation: train what the plan asks for, until every arm's setting is searched, and read the result.

Every network is trained once, and read on the test set once, after its last step; what is trained next depends on
validation data alone (`experiments.analysis.plan`). After the choice, the first seeds of each arm's most chosen setting
are trained once more, with probes on.

An interrupted run can resume: trainings in the folder are not repeated, and missing ones are trained by the same
program, so the run ends with the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from experiments.analysis import findings, looks
from experiments.analysis.answers import judged
from experiments.analysis.plan import plan
from experiments.analysis.race import FIRST_SEEDS
from experiments.analysis.scores import by_key, grid
from experiments.analysis.search import search
from experiments.analysis.stats import summarize
from experiments.config import Arm, Config, ConfigError, Setup
from experiments.data.arrays import Source, load
from experiments.store import record
from experiments.store.watchdog import Watchdog
from experiments.store.writers import Writers, open_writers
from experiments.training.compiled import Engine, Lane
from experiments.training.fingerprint import describe
from experiments.training.loop import Epoch
from experiments.training.processes import first, told
from experiments.training.scope import scoped
from experiments.training.workers import Local, Lost, Stopping, Workers

CURVES = ("train_loss", "val_loss", "val_accuracy", "test_loss", "right")


class Stage(NamedTuple):
    """Trainings of one arm in one phase: "train", or "probe", which trains again with probes on."""

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
    expect: Callable[[int], None]
    """Called with the number of epochs, summed over lanes, by which the work known so far grows."""
    advance: Callable[[int], None]
    """Called with the number of epochs just finished, summed over lanes."""
    note: Callable[[str], None]
    """Called with a sentence for the user, such as about a repair or a resumed run."""


SILENT = Progress(lambda text: None, lambda epochs: None, lambda epochs: None, lambda text: None)


def run(config: Config, folder: Path, progress: Progress = SILENT, workers: Workers | None = None) -> record.Run | None:
    """Runs the ablation, or the missing part of it.

    Args:
      config: the ablation.
      folder: the run folder.
      progress: callbacks.
      workers: where to train; None is this process.

    Returns:
      The finished run; None in other processes than the first, which alone reads and writes the folder.

    Raises:
      ConfigError: the folder belongs to another config or cannot be written, or the batch is larger than the data.
    """
    workers = workers or Local()
    data = load(config.data, first_seed=config.sweep.first_seed)
    arms = describe(config, data, workers.spread)  # builds every network before anything is written
    began = time.perf_counter()
    with ExitStack() as stack:
        found = told(lambda: _open(stack, folder, config, data, arms, progress, workers))
        if found["arms"] != arms:
            raise ConfigError("another code is run here than in process 0: its networks compute something else")
        if found["finished"]:
            return record.read(folder) if first() else None
        with ExitStack() as meanwhile:
            watchdog = Watchdog(folder, workers.advanced)
            writer = Writers([])  # other processes than the first write nothing
            if first():
                writer = meanwhile.enter_context(open_writers(config.writers, folder, config.name))
                meanwhile.enter_context(watchdog)
            for note in writer.notes:
                progress.note(note)
            with watchdog.watching("measuring how to run each kind of network"):
                engines = _engines(config, data, folder, progress, workers)
            work = _Work(config, data, folder, progress, writer, engines, watchdog, found["records"], workers)
            look = work.search()
            work.probe(look)
        if not first():
            return None

        env = record.read(folder).env
        seconds = env.get("wall_seconds", 0.0) + time.perf_counter() - began
        record.write_json(folder / "env.json", env | {"wall_seconds": round(seconds, 1)})
        undeclared = record.undeclared(env, below=look.seeds)
        record.finish(folder, summarize(config, work.records, data.description, look, undeclared))
    return record.read(folder)


def _open(
    stack: ExitStack,
    folder: Path,
    config: Config,
    data: Source,
    arms: dict[str, Any],
    progress: Progress,
    workers: Workers,
) -> dict[str, Any]:
    """Opens the run folder until `stack` is closed; returns what every process needs to know of it."""
    found, notes = stack.enter_context(record.opened(folder, config, workers.device_name()))
    for note in notes:
        progress.note(note)
    record.refuse_another(found, data.description, arms)
    if found.result is not None:
        progress.note(f"{folder} is finished already; nothing was trained (delete the folder to train it again)")
    else:
        if found.records:
            progress.note(f"{folder}: {len(found.records)} trainings are there already; going on with the rest")
        record.write_json(folder / "data.json", data.description)
        record.write_json(folder / "arms.json", arms)
    return {"arms": arms, "records": list(found.records), "finished": found.result is not None}


class _Work:
    """Trains stages; holds the state that all stages of a run share."""

    def __init__(
        self,
        config: Config,
        data: Source,
        folder: Path,
        progress: Progress,
        writer: Writers,
        engines: dict[str, Engine],
        watchdog: Watchdog,
        records: list[dict[str, Any]],
        workers: Workers,
    ):
        self.config, self.data, self.folder, self.progress = config, data, folder, progress
        self.writer, self.engines, self.watchdog, self.records = writer, engines, watchdog, records
        self.workers, self.stopping = workers, threading.Event()

    def search(self) -> looks.Look:
        """Trains what the plan asks for; returns the look at which the run ends."""
        sweep = self.config.sweep
        look = looks.Look(sweep.seeds, self.config.analysis.alpha)
        for look in looks.schedule(sweep.looks or (sweep.seeds,), sweep.seeds, self.config.analysis.alpha):
            while missing := plan(self.config, self.records, look.seeds).missing:
                self._complete(
                    [
                        Stage("train", arm, tuple(Lane(*setting, seed) for setting, seed in keys))
                        for arm, keys in missing.items()
                    ]
                )
            if look.seeds < sweep.seeds and self._decided(look):
                self.progress.note(f"every primary contrast is decided with {look.seeds} seeds; the run ends here")
                break
        return look

    def probe(self, look: looks.Look) -> None:
        """Trains the first seeds of each arm's most chosen setting again, with probes on."""
        found = search(self.config, self.records, look.seeds)
        there = {_key(r) for r in self.records if r["phase"] == "probe"}
        stages = []
        for arm in self.config.arms:
            seeds = found.scores[arm].seeds[: self.config.setup(arm).probes.seeds]
            lanes = tuple(Lane(*found.chosen(arm), seed) for seed in seeds)
            missing = tuple(lane for lane in lanes if ("probe", *arm, *lane) not in there)
            stages += [Stage("probe", arm, missing)] if missing else []
        self._complete(stages)
        self._compare_probed()

    def _decided(self, look: looks.Look) -> bool:
        """Whether every primary contrast shows a difference, or equivalence; one at an end of a grid shows neither."""
        found, trained = search(self.config, self.records, look.seeds), by_key(self.records)
        answers = judged(self.config, found, trained, self.data.description, look.alpha)
        undecided = ("inconclusive", "worse_at_end_of_grid")
        return all(
            findings.finding(answer.widest) not in undecided for answer in answers if answer.widest.contrast.primary
        )

    def _complete(self, stages: list[Stage]) -> None:
        """Trains the stages and appends their records in the order of the stages."""
        self.progress.expect(sum(len(s.lanes) * self.config.setup(s.arm).training.epochs for s in stages))
        lost, appending = None, False
        with ThreadPoolExecutor(max_workers=self.workers.at_once()) as pool:
            waiting = deque((part, pool.submit(self._train, part)) for stage in stages for part in self._parts(stage))
            futures = [future for _, future in waiting]
            try:
                while waiting:
                    part, future = waiting[0]
                    try:
                        finished = future.result()
                    except Lost as error:
                        finished, lost = [], lost or error
                    appending = True
                    waiting.popleft()
                    self._append(part, finished)
                    appending = False
            except BaseException as error:  # including Ctrl-C: no further stage starts, and those that run end soon
                self.stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                self.progress.note(self.workers.stop())
                failures = list(_failures(futures))  # waits
                if not appending:  # else the file may end within a line
                    for part, future in waiting:
                        self._append(part, [] if future.cancelled() or future.exception() else future.result())
                if isinstance(error, Stopping):  # another stage failed, and stopped this one
                    raise next(cause for cause in failures if not isinstance(cause, Stopping)) from None
                raise
        if lost:
            raise lost.cause

    def _append(self, part: Stage, finished: list[dict[str, Any]]) -> None:
        """Records the trainings of a part, unless it was lost; they need their checkpoints no more."""
        if finished:
            if first():
                record.append(self.folder, finished)
                record.delete_checkpoints(self._checkpoints(part))
            self.records += finished

    def _parts(self, stage: Stage) -> list[Stage]:
        how = self.config.setup(stage.arm), self.engines[kind_of(self.config, stage.arm)], self._width(stage.arm)
        return [stage._replace(lanes=tuple(lanes)) for lanes in self.workers.parts(*how, stage.lanes)]

    def _train(self, stage: Stage) -> list[dict[str, Any]]:
        try:
            return self._trained(stage)
        except Lost as lost:
            raise lost.named(str(stage)) from None
        except BaseException:
            self.stopping.set()
            raise

    def _trained(self, stage: Stage) -> list[dict[str, Any]]:
        setup = scoped(self.config.setup(stage.arm), self.workers.spread)
        with self.watchdog.watching(f"{stage}, before its first step") as now:

            def on_epoch(epoch: Epoch) -> None:
                if self.stopping.is_set():
                    raise Stopping
                now(f"{stage._replace(lanes=tuple(epoch.lanes))}, after step {epoch.step}")
                self.progress.advance(len(epoch.lanes))
                for lane, metrics in zip(epoch.lanes, epoch.metrics, strict=False):
                    if stage.phase == "train":
                        self.writer.scalars(_name(stage, lane), epoch.step, metrics)

            trained = self.workers.train(
                setup,
                self.data,
                stage.lanes,
                self.engines[kind_of(self.config, stage.arm)],
                width=self._width(stage.arm),
                metric=self.config.analysis.metric,
                probe=stage.phase == "probe",
                on_start=lambda: self.progress.stage(str(stage)),
                on_epoch=on_epoch,
                checkpoints=self._checkpoints(stage) if setup.training.checkpoint_epochs else None,
                note=self.progress.note,
            )
        head = {"phase": stage.phase, **stage.arm._asdict()}
        return [record.finite(head | r) for r in trained]

    def _width(self, arm: Arm) -> int:
        """Lanes of an arm's programs: three seeds at every setting, however many seeds there are and will be.

        In programs of one width a training has the same bits, whichever other lanes are trained with it.
        """
        return FIRST_SEEDS * len(grid(self.config, arm, self.config.sweep.learning_rates))

    def _checkpoints(self, stage: Stage) -> Path:
        """A folder for the checkpoints of exactly these trainings."""
        name = hashlib.sha256(repr((stage.phase, *stage.arm, *stage.lanes)).encode()).hexdigest()[:16]
        return record.checkpoints(self.folder) / name

    def _compare_probed(self) -> None:
        """Says so if a training that was repeated for its probes did not come out as before."""
        trained = {_key(r): r for r in self.records if r["phase"] == "train"}
        for r in self.records:
            first = trained.get(("train", *_key(r)[1:]))
            if r["phase"] == "probe" and first and any(r[name] != first[name] for name in CURVES):
                self.progress.note(
                    f"{r['treatment']}/{r['context']}, seed {r['seed']}: the training that was repeated for its probes "
                    "differs in its last digits from the first one; its figures are those of the repetition"
                )


def _failures(futures: Sequence[Future]) -> Iterator[BaseException]:
    """What the stages raised that are not cancelled; waits for those that still run."""
    for future in futures:
        if not future.cancelled() and (error := future.exception()):
            yield error


def _engines(config: Config, data: Source, folder: Path, progress: Progress, workers: Workers) -> dict[str, Engine]:
    """The engine of each kind of network: read from the folder, or measured and written there.

    So a resumed run uses the same engines as before, and ends with the same numbers, also on fewer or more devices.
    """
    path = folder / "engine.json"
    found: dict[str, Any] = record.read_json(path, {}) if first() else {}
    for kind, arm in kinds(config).items():
        # A run may go on with its trainings spread over devices, or no more.
        if kind not in found or (found[kind]["lanes"] == "spread") != workers.spread:
            progress.stage(f"measuring how to run {kind}")
            measured = workers.choose(config.setup(arm), data, first_lanes(config, arm))
            engine = measured.engine._replace(devices=workers.devices())
            found[kind] = engine._asdict() | {"milliseconds per step": measured.milliseconds}
            if first():
                record.write_json(path, found)
    return {kind: Engine(how["steps"], how["lanes"], how.get("devices")) for kind, how in found.items()}


def kinds(config: Config) -> dict[str, Arm]:
    """The kinds of networks, each with its first arm that has a norm, because such an arm does more work."""
    found: dict[str, Arm] = {}
    for arm in sorted(config.arms, key=lambda arm: _without_norm(config.setup(arm))):
        found.setdefault(kind_of(config, arm), arm)
    return found


def first_lanes(config: Config, arm: Arm) -> list[Lane]:
    """The trainings of an arm's first round."""
    return [Lane(*setting, seed) for setting, seed in plan(config, [], config.sweep.seeds).missing[arm]]


def kind_of(config: Config, arm: Arm) -> str:
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
    return f"{stage.arm} rate {lane.learning_rate:g}{decay} seed {lane.seed}"


def _key(r: dict[str, Any]) -> tuple[Any, ...]:
    return (r["phase"], r["treatment"], r["context"], *(r[field] for field in Lane._fields))


def _span(values: list[Any]) -> str:
    text = [f"{v:.4g}" for v in values]
    return text[0] if len(text) == 1 else f"{text[0]} to {text[-1]}"
