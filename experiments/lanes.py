"""Many trainings at once.

A *lane* is one training: one learning rate and one seed, both array arguments. All lanes of an arm run side by side,
under vmap within a device and spread over the devices there are, so one compiled program per arm serves tuning and
evaluation alike. Initial weights and batch order depend on the seed alone: arms are paired.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.config import Arm, Config
from experiments.data import Data, batch_orders, batches
from experiments.train import Probe, evaluate, init, probe, train_epoch

EVALUATION_BATCH = 512
PROBED_SEEDS = 3
PERCENTILES = (15, 50, 85)
_ONCE = {"xla_backend_optimization_level": 0}
_OFTEN = {"xla_backend_optimization_level": 1}


def train_arm(
    config: Config,
    arm: Arm,
    data: Data,
    lanes: Sequence[tuple[float, int]],
    *,
    test: bool,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> list[dict[str, Any]]:
    """Trains every lane of an arm side by side.

    Args:
      config: the ablation.
      arm: placement and activation.
      data: standardized splits.
      lanes: (learning rate, seed) of each training.
      test: whether to read the test set, after the last step, and to probe the first seeds.
      on_epoch: called after every epoch with the number of epochs done.

    Returns:
      One record per lane: learning rate, seed, and the curves (see `experiments.record`).
    """
    began = time.perf_counter()
    mesh = Mesh(np.array(jax.devices()), ("lanes",))
    # Every device takes equally many lanes: repeat the first ones to fill up, and drop their results.
    padded = -(-len(lanes) // mesh.size) * mesh.size
    filled = [lanes[i % len(lanes)] for i in range(padded)]
    by_lane, shared = NamedSharding(mesh, PartitionSpec("lanes")), NamedSharding(mesh, PartitionSpec())
    rates = jax.device_put(np.array([rate for rate, _ in filled], np.float32), by_lane)
    seeds = jax.device_put(np.array([seed for _, seed in filled], np.int32), by_lane)
    orders = batch_orders(config, tuple(seed for _, seed in filled), len(data.train.y))
    train, validation = jax.device_put((data.train, batches(data.validation, EVALUATION_BATCH)), shared)

    setting = (config, arm, data.classes)
    state = _init_lanes(*setting, data.train.x.shape[1:], mesh, seeds)
    probes = [_probe_lanes(*setting, state, train.x)] if test else []
    losses, evaluations = [], []
    for epoch in range(config.training.epochs):
        order = jax.device_put(orders[:, epoch], by_lane)
        state, loss, evaluation = _train_lanes(*setting, mesh, state, rates, order, train, validation)
        losses.append(loss)
        evaluations.append(evaluation)
        if test:
            probes.append(_probe_lanes(*setting, state, train.x))
        jax.block_until_ready(loss)
        on_epoch(epoch + 1)

    records = _records(config, lanes, orders.shape[2], losses, evaluations, len(data.validation.y))
    if test:
        split = jax.device_put(batches(data.test, EVALUATION_BATCH), shared)
        final = jax.device_get(_evaluate_lanes(*setting, mesh, state, split))
        looks = _looks(config, orders.shape[2], probes)
        for i, record in enumerate(records):
            record["test_loss"] = float(final.loss[i])
            record["test_accuracy"] = int(final.correct[i]) / len(data.test.y)
            record["probes"] = looks[i] if i < min(len(looks), len(lanes)) else None
    seconds = (time.perf_counter() - began) / len(lanes)
    return [record | {"seconds": round(seconds, 4)} for record in records]


def over_lanes(function: Callable, mesh: Mesh, *arguments: Any, shared: int = 0) -> Any:
    """`function` for every lane at once: vmap within a device, shard_map across devices.

    The last `shared` arguments are the same for all lanes; the others have a leading axis `lanes`.
    """
    own = len(arguments) - shared
    mapped = jax.vmap(function, in_axes=(0,) * own + (None,) * shared)
    lanes, everywhere = PartitionSpec("lanes"), PartitionSpec()
    specs = (lanes,) * own + (everywhere,) * shared
    return jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=lanes)(*arguments)


# Every arm is a program of its own, so compile time counts. Two CPU cores, MLP of the digits config: initialization
# compiles in 0.7 s instead of 5.7 at level 0 and runs once; an epoch compiles in 1.0 s instead of 2.2 at level 1 and
# runs as fast (84 ms against 81).
@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), compiler_options=_ONCE)
def _init_lanes(config, arm, classes, shape, mesh, seeds):
    return over_lanes(partial(init, config, arm, classes, shape), mesh, seeds)


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4, compiler_options=_OFTEN)
def _train_lanes(config, arm, classes, mesh, state, rates, order, train, validation):
    return over_lanes(
        partial(train_epoch, config, arm, classes), mesh, state, rates, order, train, validation, shared=2
    )


@partial(jax.jit, static_argnums=(0, 1, 2, 3), compiler_options=_ONCE)
def _evaluate_lanes(config, arm, classes, mesh, state, split):
    return over_lanes(partial(evaluate, config, arm, classes), mesh, state, split, shared=1)


@partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=_ONCE)
def _probe_lanes(config, arm, classes, state, x):
    first = jax.tree.map(lambda a: a[:PROBED_SEEDS], state)
    return jax.vmap(partial(probe, config, arm, classes), in_axes=(0, None))(first, x)


def _records(config, lanes, steps, losses, evaluations, examples) -> list[dict[str, Any]]:
    losses, evaluations = jax.device_get((losses, evaluations))
    records = []
    for i, (rate, seed) in enumerate(lanes):
        curve = [float(loss[i]) for loss in losses]
        records.append(
            {
                "learning_rate": rate,
                "seed": seed,
                "steps": [steps * (epoch + 1) for epoch in range(config.training.epochs)],
                "train_loss": curve,
                "val_loss": [float(e.loss[i]) for e in evaluations],
                "val_accuracy": [int(e.correct[i]) / examples for e in evaluations],
                "diverged": not math.isfinite(curve[-1]),
            }
        )
    return records


def _looks(config, steps, probes: list[Probe]) -> list[dict[str, Any]]:
    """The probes of each probed lane, `[time][layer]`; percentiles by NumPy: on a CPU, selection beats sorting."""
    probes = jax.device_get(probes)
    has_norm = bool(probes[0].mean_gap)

    def series(field: str, lane: int) -> list[list[float]] | None:
        return [[float(value[lane]) for value in getattr(p, field)] for p in probes] if has_norm else None

    return [
        {
            "steps": [steps * epoch for epoch in range(len(probes))],
            "percentiles": [[_percentiles(np.asarray(a[lane])) for a in p.activation_inputs] for p in probes],
            "mean_gap": series("mean_gap", lane),
            "var_ratio": series("var_ratio", lane),
            "scale": series("scale", lane),
        }
        for lane in range(len(probes[0].activation_inputs[0]))
    ]


def _percentiles(values: np.ndarray) -> list[float]:
    return np.percentile(values, PERCENTILES).tolist() if np.isfinite(values).all() else [math.nan] * len(PERCENTILES)
