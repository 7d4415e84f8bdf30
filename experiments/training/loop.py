"""Many trainings at once: their epochs, what is written down of them, and how they go on after a crash.

The lanes of an arm run side by side under vmap, or one after another, and are spread over the devices there are
(`autotune` decides), so one compiled program per arm serves tuning and evaluation alike. Initial weights,
batch order and augmentation depend on the seed alone: arms are paired.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.config import Setup
from experiments.data.arrays import Batches, Data, Split, batch_order
from experiments.store.validation import fit_past, parse
from experiments.training.checkpoints import Checkpoints
from experiments.training.compiled import (
    Engine,
    Lane,
    curve_lane,
    evaluate_lanes,
    in_batches,
    look_lane,
    mesh_of,
    population_lanes,
    put_by_lane,
    put_on_all,
    run_steps,
    start,
)
from experiments.training.dispatch import dispatch
from experiments.training.observe import STEP_SIZES, Look, layer_names
from experiments.training.optimizers import Tuned
from experiments.training.step import State

EVALUATION_BATCH = 512
PERCENTILES = (15, 50, 85)
CURVES = ("train_loss", "val_loss", "val_accuracy")
Curves = list[dict[str, list[float]]]  # by lane
Looks = list[list[dict[str, Any]]]  # by lane and time


class Epoch(NamedTuple):
    """What is told after every epoch of some lanes."""

    lanes: Sequence[Lane]
    step: int
    metrics: list[dict[str, float]]
    """By lane: train_loss, val_loss, val_accuracy."""


def train_arm(
    setup: Setup,
    data: Data,
    lanes: Sequence[Lane],
    engine: Engine,
    *,
    test: bool,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoints: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Trains every lane of an arm.

    Args:
      setup: of the arm.
      data: standardized splits.
      lanes: the trainings.
      engine: how they run.
      test: whether to read the test set, after the last step, and to probe the first seeds.
      on_epoch: called after every epoch.
      checkpoints: folder in which a training that is killed leaves what it goes on from; None is off.
      note: called with a sentence that the user should see.

    Returns:
      One record per lane: learning rate, seed, and the curves (see `experiments.store.record`).
    """
    mesh = mesh_of(len(lanes))
    at_once = engine.at_once(mesh.size, setup.training.vmap_lanes)
    records = []
    for first in range(0, len(lanes), at_once):
        some = lanes[first : first + at_once]
        folder = checkpoints / f"lanes_{first}" if checkpoints else None
        probed = max(0, min(setup.probes.seeds - first, len(some))) if test else 0
        # Every device takes equally many lanes, and every round the same number: fill up, and drop those results.
        width = -(-min(at_once, len(lanes)) // mesh.size) * mesh.size
        filled = [some[i % len(some)] for i in range(width)]
        together = _Together(setup, data, filled, len(some), engine, mesh, probed, test, folder, note)
        records += together.train(on_epoch)
    return records


class _Together:
    """Lanes that run at the same time, through their epochs."""

    def __init__(
        self,
        setup: Setup,
        data: Data,
        lanes: Sequence[Lane],
        real: int,
        engine: Engine,
        mesh: Mesh,
        probed: int,
        test: bool,
        folder: Path | None,
        note: Callable[[str], None],
    ):
        self.setup, self.data, self.lanes, self.real, self.engine = setup, data, lanes, real, engine
        self.mesh, self.probed, self.test, self.folder, self.note = mesh, probed, test, folder, note
        self.train_y = np.asarray(data.train.y)
        self.examples: Split = jax.device_get(dispatch(_first, data.train, setup.probes.examples))
        self.steps = setup.steps_per_epoch(len(self.train_y))

    def train(self, on_epoch: Callable[[Epoch], None]) -> list[dict[str, Any]]:
        began = time.perf_counter()
        setup, data, classes, mesh = self.setup, self.data, self.data.classes, self.mesh
        split, validation = put_on_all(data.train, mesh), self._batches(data.validation, EVALUATION_BATCH)
        state, tuned = start(setup, classes, mesh, self.lanes, split.x)
        curves: Curves = [{name: [] for name in CURVES} for _ in range(self.real)]
        looks: Looks = [[] for _ in range(self.probed)]
        done, state, curves, looks = self._restore(state, curves, looks)
        for epoch in range(done):  # told before, to a program that is gone
            on_epoch(Epoch(self.lanes[: self.real], self.steps * (epoch + 1), []))
        if not done:
            self._look(state, looks)
        for epoch in range(done, setup.training.epochs):
            state, loss = self._epoch(state, tuned, epoch, split)
            found = jax.device_get((loss, evaluate_lanes(setup, classes, mesh, False, state, validation)))
            for i, curve_ in enumerate(curves):
                curve_["train_loss"].append(float(found[0][i]))
                curve_["val_loss"].append(float(found[1].loss[i]))
                curve_["val_accuracy"].append(int(found[1].correct[i]) / len(data.validation.y))
            self._look(state, looks)
            metrics = [{name: values[-1] for name, values in c.items()} for c in curves]
            on_epoch(Epoch(self.lanes[: self.real], self.steps * (epoch + 1), metrics))
            diverged = np.asarray(state.diverged)[: self.real]
            if (diverged >= 0).all():  # nothing will come of them: what they ended at stands for the rest
                for c in curves:
                    for values in c.values():
                        values += values[-1:] * (setup.training.epochs - epoch - 1)
                for later in range(epoch + 1, setup.training.epochs):
                    on_epoch(Epoch(self.lanes[: self.real], self.steps * (later + 1), []))
                break
            self._save(epoch + 1, state, curves, looks)
        records = self._records(np.asarray(state.diverged), curves)
        if self.test:
            self._read_test_set(records, state, split, looks)
        self._forget()
        seconds = (time.perf_counter() - began) / self.real
        return [record | {"seconds": round(seconds, 4)} for record in records]

    def _epoch(self, state: State, tuned: Tuned, epoch: int, split: Split) -> tuple[State, Any]:
        """The state after one pass over the training set, and the mean loss of each lane."""
        made: dict[int, np.ndarray] = {}
        for lane in self.lanes:
            if lane.seed not in made:
                made[lane.seed] = batch_order(self.setup.training, self.train_y, lane.seed, epoch)
        order = put_by_lane(np.stack([made[lane.seed] for lane in self.lanes]), self.mesh)
        total = self.steps * self.setup.training.epochs
        return run_steps(self.setup, self.data.classes, self.mesh, total, self.engine, state, tuned, order, split)

    def _look(self, state: State, looks: Looks) -> None:
        if looks:
            host = jax.device_get(state)
            for i, seen in enumerate(looks):
                found = look_lane(self.setup, self.data.classes, _lane(host, i), self.examples)
                seen.append(_numbers(jax.device_get(found)))

    def _read_test_set(self, records, state, split, looks) -> None:
        setup, classes, mesh, data = self.setup, self.data.classes, self.mesh, self.data
        size = min(setup.training.batch_size, len(data.test.y))
        running, by_batch = self._batches(data.test, EVALUATION_BATCH), self._batches(data.test, size)
        train = self._batches(data.train, EVALUATION_BATCH)
        found = {"": evaluate_lanes(setup, classes, mesh, False, state, running)}
        frozen = state
        if jax.tree.leaves(state.batch_stats):
            frozen = population_lanes(setup, classes, mesh, state, train)
            found["_population"] = evaluate_lanes(setup, classes, mesh, False, frozen, running)
            found["_batch"] = evaluate_lanes(setup, classes, mesh, True, state, by_batch)
        found = jax.device_get(found)
        state, frozen = jax.device_get((state, frozen))
        layers, norms = layer_names(setup, classes, _lane(state, 0), self.examples)
        for i, record in enumerate(records):
            for kind in ("", "_population", "_batch"):
                evaluation = found.get(kind)
                record[f"test_loss{kind}"] = None if evaluation is None else float(evaluation.loss[i])
                accuracy = None if evaluation is None else int(evaluation.correct[i]) / len(data.test.y)
                record[f"test_accuracy{kind}"] = accuracy
            record["probes"] = None
            if i < self.probed:
                end = None
                if setup.probes.eigenvalues or setup.probes.mean_logit:
                    end = jax.device_get(curve_lane(setup, classes, _lane(state, i), _lane(frozen, i), self.examples))
                record["probes"] = _series(self.steps, layers, norms, looks[i], setup) | _end(end)

    def _records(self, diverged: np.ndarray, curves: Curves) -> list[dict[str, Any]]:
        steps = [self.steps * (epoch + 1) for epoch in range(self.setup.training.epochs)]
        return [
            {**lane._asdict(), "steps": steps, **curve_, "diverged": int(at) if at >= 0 else None}
            for lane, curve_, at in zip(self.lanes, curves, diverged, strict=False)
        ]

    def _batches(self, split: Split, size: int) -> Batches:
        return put_on_all(in_batches(size, split), self.mesh)

    # A checkpoint is the state, by orbax; curves and looks, which grow, are a JSON file beside it, written before.
    def _restore(self, state: State, curves: Curves, looks: Looks) -> tuple[int, State, Curves, Looks]:
        if self.folder is None:
            return 0, state, curves, looks
        found = Checkpoints(self.folder, self.setup.training.keep_checkpoints).restore(state)
        for text in found.notes:
            self.note(text)
        if found.step is None:
            return 0, state, curves, looks
        try:
            past = parse(self._past.read_bytes(), "past")
            fit_past(past, found.step, len(curves), len(looks))
        except (OSError, ValueError) as error:
            self.note(f"{self._past} cannot be used ({error}); this training begins anew")
            return 0, state, curves, looks
        curves = [{name: c[name][: found.step] for name in CURVES} for c in past["curves"]]
        looks = [seen[: found.step + 1] for seen in past["looks"]]
        self.note(f"{self.folder}: going on after epoch {found.step}")
        return found.step, found.state, curves, looks

    def _save(self, epoch: int, state: State, curves: Curves, looks: Looks) -> None:
        every, last = self.setup.training.checkpoint_epochs, self.setup.training.epochs
        if self.folder is None or not every or epoch % every or epoch == last:
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        written = self._past.with_suffix(".tmp")
        written.write_text(json.dumps({"curves": curves, "looks": looks}), encoding="utf-8")
        written.replace(self._past)
        Checkpoints(self.folder, self.setup.training.keep_checkpoints).save(epoch, state)

    def _forget(self) -> None:
        """The records are to come; until they are written, a kill costs this training once more."""
        if self.folder is not None:
            Checkpoints(self.folder, 1).clear()
            self._past.unlink(missing_ok=True)

    @property
    def _past(self) -> Path:
        assert self.folder is not None
        return self.folder.with_name(self.folder.name + ".json")


def _numbers(seen: Look) -> dict[str, Any]:
    """One look of one lane as JSON values; percentiles by NumPy: on a CPU, selection beats sorting."""
    values = {name: value for name, value in seen._asdict().items() if name != "inputs"}
    values = jax.tree.map(float, {k: v for k, v in values.items() if k != "predictiveness"})
    if seen.predictiveness:
        values["predictiveness"] = jax.tree.map(lambda a: np.asarray(a).tolist(), seen.predictiveness._asdict())
    return values | {"percentiles": [_percentiles(np.asarray(a)) for a in seen.inputs]}


def _series(
    steps: int, layers: list[str], norms: list[str], seen: list[dict[str, Any]], setup: Setup
) -> dict[str, Any]:
    """The looks of one lane over time."""
    times = ("percentiles", "saturation", "sparsity", "skewness", "dead", "zero_share")
    series: dict[str, Any] = {"steps": [steps * epoch for epoch in range(len(seen))], "layers": layers, "norms": norms}
    series |= {field: [s[field] for s in seen] for field in times}
    series |= {field: [s[field] for s in seen] if norms else None for field in ("mean_gap", "var_ratio", "scale")}
    names = list(seen[0]["gradient_norms"])
    series["gradient_norms"] = {name: [s["gradient_norms"][name] for s in seen] for name in names} or None
    series["predictiveness"] = None
    if setup.probes.predictiveness:
        names = {"losses": "loss", "gradient_distances": "gradient_change", "smoothness": "smoothness"}
        along = {name: [s["predictiveness"][field] for s in seen] for name, field in names.items()}
        series["predictiveness"] = {"steps": series["steps"], "step_sizes": list(STEP_SIZES), **along}
    return series


def _end(found: Any) -> dict[str, Any]:
    """Curvature at the end of one lane."""
    if found is None:
        return {"eigenvalues": None, "eigenvalue_residuals": None, "mean_logit": None}
    values, residuals = (
        {name: np.asarray(a).tolist() for name, a in part.items()} or None
        for part in (found.eigenvalues, found.residuals)
    )
    logit = jax.tree.map(float, found.mean_logit) or None
    return {"eigenvalues": values, "eigenvalue_residuals": residuals, "mean_logit": logit}


def _first(split: Split, count: int) -> Split:
    return Split(split.x[:count], split.y[:count])


def _lane(tree: Any, i: int) -> Any:
    """One lane of arrays on the host: on the devices it would be one more program, and a collective."""
    return jax.tree.map(lambda a: a[i], tree)


def _percentiles(values: np.ndarray) -> list[float]:
    return np.percentile(values, PERCENTILES).tolist() if np.isfinite(values).all() else [math.nan] * len(PERCENTILES)
