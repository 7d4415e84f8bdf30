"""Runs many trainings at once: epochs, records, checkpoints, and resuming after a crash.

The lanes of an arm run under vmap or one after another (`autotune` decides), spread over the devices. All stages of an
arm use the same compiled program, so a training that is repeated in another stage gives the same bits. Initial weights,
batch order and augmentation depend only on the seed, so arms are paired.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.config import Setup
from experiments.data.arrays import Source, Split, batch_order
from experiments.store.past import CURVES, Curves, Observations, read_past, write_past
from experiments.store.right import pack_right
from experiments.training.checkpoints import Checkpoints
from experiments.training.compiled import (
    Engine,
    Lane,
    Shared,
    curvature_lane,
    evaluate_lanes,
    filled,
    in_batches,
    layout,
    observe_lane,
    place,
    population_lanes,
    run_steps,
    start,
)
from experiments.training.devices import put_by_lane
from experiments.training.dispatch import dispatch
from experiments.training.observe import layer_names
from experiments.training.optimizers import Tuned
from experiments.training.processes import first, same_arrays, told
from experiments.training.serialize import as_json, at_end, series
from experiments.training.step import State
from experiments.vocabulary import Metric

EVALUATION_BATCH = 512


class Epoch(NamedTuple):
    """The report of an epoch of some lanes."""

    lanes: Sequence[Lane]
    step: int
    metrics: list[dict[str, float]]
    """For each lane: train_loss, val_loss, val_accuracy; empty if the epoch was not trained now."""


def train_arm(
    setup: Setup,
    data: Source,
    lanes: Sequence[Lane],
    engine: Engine,
    *,
    width: int,
    metric: Metric = "test_accuracy",
    probe: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoints: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Trains every lane, and reads the test set after its last step.

    Args:
      setup: the config of the arm.
      data: the data set; each lane uses the split of its seed.
      lanes: the trainings.
      engine: how lanes and steps run.
      width: lanes of the compiled program, as far as `engine` and `training.vmap_lanes` allow. With equal `width`, a
        lane that is trained again gives the same bits, whatever lanes are trained with it, and nothing is compiled
        again.
      metric: the accuracy whose correctly classified test examples are recorded as "right".
      probe: whether to observe and probe the networks of all these lanes; it changes none of their other numbers.
      on_epoch: called after every epoch.
      checkpoints: folder, of these lanes alone, of the checkpoints from which a killed training resumes; None is off.
        Delete it when the records are written; until then, the same call only reads the test set again.
      note: called with sentences for the user.

    Returns:
      One record per lane, as in records.jsonl (`experiments.store.schema.Training`), without the names of the arm.
    """
    mesh, together = layout(setup, engine, width)
    records = []
    for begin in range(0, len(lanes), together):
        some = lanes[begin : begin + together]
        folder = checkpoints / f"lanes_{begin}" if checkpoints else None
        group = _LaneGroup(setup, data, filled(some, together), len(some), engine, mesh, metric, probe, folder, note)
        records += group.train(on_epoch)
    return records


class _LaneGroup:
    """Trains lanes that run at the same time; the first `real` of them are no copies."""

    def __init__(
        self,
        setup: Setup,
        data: Source,
        lanes: Sequence[Lane],
        real: int,
        engine: Engine,
        mesh: Mesh,
        metric: Metric,
        probe: bool,
        folder: Path | None,
        note: Callable[[str], None],
    ):
        self.setup, self.data, self.lanes, self.real, self.engine = setup, data, lanes, real, engine
        self.mesh, self.metric, self.folder, self.note = mesh, metric, folder, note
        self.own = {lane.seed: dispatch(data.of, lane.seed) for lane in lanes}
        self.first = self.own[lanes[0].seed]
        probed = [self.own[lane.seed].train for lane in lanes[:real] if probe]
        self.probed: list[Split] = [jax.device_get(dispatch(_first, split, setup.probes.examples)) for split in probed]
        self.steps = setup.steps_per_epoch(len(self.first.train.y))

    def train(self, on_epoch: Callable[[Epoch], None]) -> list[dict[str, Any]]:
        began = time.perf_counter()
        setup, classes, mesh = self.setup, self.data.classes, self.mesh
        split = place("train", self.data, self.lanes, mesh)
        validation = in_batches(EVALUATION_BATCH, mesh, place("validation", self.data, self.lanes, mesh))
        state, tuned = start(setup, classes, mesh, self.lanes, split)
        curves: Curves = [{name: [] for name in CURVES} for _ in range(self.real)]
        observations: Observations = [[] for _ in self.probed]
        done, state, curves, observations = self._restore(state, curves, observations)
        for epoch in range(done):  # the interrupted process has reported their metrics
            on_epoch(Epoch(self.lanes[: self.real], self.steps * (epoch + 1), []))
        if not done:
            self._observe(state, observations)
        for epoch in range(done, setup.training.epochs):
            state, loss = self._epoch(state, tuned, epoch, split)
            found = jax.device_get((loss, evaluate_lanes(setup, classes, mesh, False, state, validation)))
            for i, curve in enumerate(curves):
                curve["train_loss"].append(float(found[0][i]))
                curve["val_loss"].append(float(found[1].loss[i]))
                curve["val_accuracy"].append(int(found[1].correct[i]) / len(self.first.validation.y))
            self._observe(state, observations)
            metrics = [{name: values[-1] for name, values in c.items()} for c in curves]
            on_epoch(Epoch(self.lanes[: self.real], self.steps * (epoch + 1), metrics))
            diverged = np.asarray(state.diverged)[: self.real]
            if (diverged >= 0).all():  # all have diverged: repeat their last values to the end
                for c in curves:
                    for values in c.values():
                        values += values[-1:] * (setup.training.epochs - epoch - 1)
                for later in range(epoch + 1, setup.training.epochs):
                    on_epoch(Epoch(self.lanes[: self.real], self.steps * (later + 1), []))
                break
            self._save(epoch + 1, state, curves, observations)
        records = self._records(np.asarray(state.diverged), curves)
        self._read_test_set(records, state, split, observations)
        seconds = (time.perf_counter() - began) / self.real
        return [record | {"seconds": round(seconds, 4)} for record in records]

    def _epoch(self, state: State, tuned: Tuned, epoch: int, split: Split | Shared) -> tuple[State, Any]:
        """Trains one epoch; returns the new state and the mean loss of each lane."""
        made = {
            seed: batch_order(self.setup.training, np.asarray(own.train.y), seed, epoch)
            for seed, own in self.own.items()
        }
        order = put_by_lane(np.stack([made[lane.seed] for lane in self.lanes]), self.mesh)
        total = self.steps * self.setup.training.epochs
        return run_steps(self.setup, self.data.classes, self.mesh, total, self.engine, state, tuned, order, split)

    def _observe(self, state: State, observations: Observations) -> None:
        if observations:
            host = jax.device_get(state)
            for i, (seen, examples) in enumerate(zip(observations, self.probed, strict=True)):
                found = observe_lane(self.setup, self.data.classes, _lane(host, i), examples)
                seen.append(as_json(jax.device_get(found)))

    def _read_test_set(self, records, state: State, split: Split | Shared, observations: Observations) -> None:
        setup, classes, mesh, examples = self.setup, self.data.classes, self.mesh, len(self.first.test.y)
        size = min(setup.training.batch_size, examples)
        test = place("test", self.data, self.lanes, mesh)
        running = in_batches(EVALUATION_BATCH, mesh, test)
        found = {"": evaluate_lanes(setup, classes, mesh, False, state, running)}
        frozen = state
        if jax.tree.leaves(state.batch_stats):
            frozen = population_lanes(setup, classes, mesh, state, in_batches(EVALUATION_BATCH, mesh, split))
            found["_population"] = evaluate_lanes(setup, classes, mesh, False, frozen, running)
            found["_batch"] = evaluate_lanes(setup, classes, mesh, True, state, in_batches(size, mesh, test))
        found = jax.device_get(found)
        # A network without running statistics has only one accuracy.
        judged = found.get(self.metric.removeprefix("test_accuracy"), found[""])
        for i, record in enumerate(records):
            for kind in ("", "_population", "_batch"):
                evaluation = found.get(kind)
                record[f"test_loss{kind}"] = None if evaluation is None else float(evaluation.loss[i])
                record[f"test_accuracy{kind}"] = None if evaluation is None else int(evaluation.correct[i]) / examples
            record["right"] = pack_right(judged.right[i].ravel()[:examples])  # the padding comes last
            record["probes"] = None
        if self.probed:
            self._probe(records, jax.device_get(state), jax.device_get(frozen), observations)

    def _probe(self, records, state: State, frozen: State, observations: Observations) -> None:
        setup, classes = self.setup, self.data.classes
        layers, norms = layer_names(setup, classes, _lane(state, 0), self.probed[0])
        for i, (record, examples) in enumerate(zip(records, self.probed, strict=True)):
            end = None
            if setup.probes.eigenvalues or setup.probes.mean_logit:
                end = jax.device_get(curvature_lane(setup, classes, _lane(state, i), _lane(frozen, i), examples))
            record["probes"] = series(self.steps, layers, norms, observations[i], setup) | at_end(end)

    def _records(self, diverged: np.ndarray, curves: Curves) -> list[dict[str, Any]]:
        steps = [self.steps * (epoch + 1) for epoch in range(self.setup.training.epochs)]
        return [
            {**lane._asdict(), "steps": steps, **curve, "diverged": int(at) if at >= 0 else None}
            for lane, curve, at in zip(self.lanes, curves, diverged, strict=False)
        ]

    # A checkpoint holds the state; curves and observations, which grow, go into a JSON file that is written before it.
    def _restore(
        self, state: State, curves: Curves, observations: Observations
    ) -> tuple[int, State, Curves, Observations]:
        if self.folder is None:
            return 0, state, curves, observations
        kept = state

        def read() -> tuple[int, Curves, Observations]:
            nonlocal kept
            done, kept, read_curves, read_observations = self._read_checkpoint(state, curves, observations)
            return done, read_curves, read_observations

        done, curves, observations = told(read)
        return done, put_by_lane(same_arrays(jax.device_get(kept)), self.mesh), curves, observations

    def _read_checkpoint(
        self, state: State, curves: Curves, observations: Observations
    ) -> tuple[int, State, Curves, Observations]:
        assert self.folder is not None
        found = Checkpoints(self.folder, self.setup.training.keep_checkpoints).restore(state)
        for text in found.notes:
            self.note(text)
        if found.step is None:
            return 0, state, curves, observations
        try:
            curves, observations = read_past(self._past, found.step, len(curves), len(observations))
        except (OSError, ValueError) as error:
            self.note(f"{self._past} cannot be used ({error}); this training starts again")
            return 0, state, curves, observations
        self.note(f"{self.folder}: going on after epoch {found.step}")
        return found.step, found.state, curves, observations

    def _save(self, epoch: int, state: State, curves: Curves, observations: Observations) -> None:
        every, last = self.setup.training.checkpoint_epochs, self.setup.training.epochs
        # The last state, too: these lanes may wait for hours until others of their stage are trained and all recorded.
        if self.folder is None or not first() or not every or (epoch % every and epoch < last):
            return
        write_past(self._past, curves, observations)
        Checkpoints(self.folder, self.setup.training.keep_checkpoints).save(epoch, state)

    @property
    def _past(self) -> Path:
        assert self.folder is not None
        return self.folder.with_name(self.folder.name + ".json")


def _first(split: Split, count: int) -> Split:
    return Split(split.x[:count], split.y[:count])


def _lane(tree: Any, i: int) -> Any:
    """One lane of host arrays; on devices, indexing would be one more program, with a collective."""
    return jax.tree.map(lambda a: a[i], tree)
