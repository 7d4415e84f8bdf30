"""The compiled programs: `step` and `observe` handle one lane; these handle many, spread over the devices.

A *lane* is one training: the tuned values and a seed, all of them array arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.config import Setup
from experiments.data.arrays import Source, Split, batches
from experiments.training.devices import EXAMPLES, mesh_of, mesh_of_all, over_examples, put_by_lane, put_on_all
from experiments.training.dispatch import dispatch, program
from experiments.training.observe import measure_curvature, observe
from experiments.training.optimizers import Tuned
from experiments.training.step import State, evaluate, init, train_step, with_population_statistics

_ONCE, _OFTEN = 0, 1


class Lane(NamedTuple):
    """One training."""

    learning_rate: float
    weight_decay: float
    decay_scale_bias: bool
    seed: int


class Engine(NamedTuple):
    """How lanes run."""

    steps: str
    """`scan` compiles an epoch as one loop; `loop` calls one compiled step from Python."""
    lanes: str
    """`vmap` runs many lanes in one program; `sequence` runs one after another on each device; `spread` runs one after
    another, each with its examples spread over the devices of all processes."""
    devices: int | None = None
    """The lanes are spread as over this many devices, however many there are; None is as many as there are."""

    def at_once(self, devices: int, limit: int) -> int:
        """The number of lanes that run together."""
        return devices if self.lanes == "sequence" else max(devices, limit)


class Shared(NamedTuple):
    """Marks arrays that all lanes of a program share; its other arrays have a leading axis of lanes."""

    value: Any


class Layout(NamedTuple):
    """Where lanes run, and how many at once."""

    mesh: Mesh
    lanes: int
    """Number of lanes of the compiled program: a multiple of the number of devices, or 1 that all devices share."""


def layout(setup: Setup, engine: Engine, width: int) -> Layout:
    """The devices and the number of lanes of a program for (up to) `width` lanes.

    It depends on no number of trainings, so that all stages of an arm use the same program. This program gives a lane
    the same bits wherever and beside whatever other lanes it runs. They depend on the number of lanes on each device,
    but not on the number of devices, so that with `engine.devices` fewer or more devices give the same bits.
    """
    if engine.lanes == "spread":
        return Layout(mesh_of_all(), 1)
    each = lanes_on_each(setup, engine, width, jax.device_count())
    mesh = mesh_of(-(-width // each))
    return Layout(mesh, each * mesh.size)


def lanes_on_each(setup: Setup, engine: Engine, width: int, devices: int) -> int:
    """The lanes on each device, of which `engine.devices` says the number, or else `devices`."""
    devices = min(engine.devices or devices, width)
    return -(-min(engine.at_once(devices, setup.training.vmap_lanes), width) // devices)


def filled(lanes: Sequence[Lane], width: int) -> list[Lane]:
    """These lanes and copies of them, `width` lanes in all; the results of copies are dropped."""
    return [lanes[i % len(lanes)] for i in range(width)]


def place(part: str, data: Source, lanes: Sequence[Lane], mesh: Mesh) -> Split | Shared:
    """Puts a part of the data on the devices: once on each if all lanes share it (`Shared`), else each lane's own."""
    if not data.each_seed:
        return Shared(put_on_all(getattr(data.of(lanes[0].seed), part), mesh))
    own = {seed: jax.device_get(getattr(dispatch(data.of, seed), part)) for seed in {lane.seed for lane in lanes}}
    return put_by_lane(jax.tree.map(lambda *arrays: np.stack(arrays), *(own[lane.seed] for lane in lanes)), mesh)


def start(setup: Setup, classes: int, mesh: Mesh, lanes: Sequence[Lane], train: Split | Shared) -> tuple[State, Tuned]:
    """Initial states and tuned values of some lanes, spread over the devices; `train` is what `place` returns."""

    def field(name: str, dtype: Any) -> jax.Array:
        values = np.array([getattr(lane, name) for lane in lanes], dtype)
        return put_by_lane(values, mesh)

    tuned = Tuned(
        *(field(name, kind) for name, kind in zip(Tuned._fields, (np.float32, np.float32, bool), strict=True))
    )
    return _init_lanes(setup, classes, mesh, field("seed", np.int32), train), tuned


def run_steps(
    setup: Setup,
    classes: int,
    mesh: Mesh,
    total: int,
    engine: Engine,
    state: State,
    tuned: Tuned,
    order: jax.Array,
    train: Split | Shared,
) -> tuple[State, Any]:
    """Trains on the examples of `order` `[lanes, steps, batch]`; returns the new state and each lane's mean loss."""
    if engine.steps == "scan":
        return scan_lanes(setup, classes, mesh, total, state, tuned, order, train)
    losses = []
    for _ in range(order.shape[1]):
        state, loss = step_lanes(setup, classes, mesh, total, state, tuned, order, train)
        losses.append(loss)
    return state, np.mean(jax.device_get(losses), axis=0)


def over_lanes(function: Callable, mesh: Mesh, *arguments: Any) -> Any:
    """Applies `function` to all lanes at once, with vmap within a device and shard_map across devices.

    The arguments have a leading axis of lanes, except those that are `Shared`. With one lane per device there is no
    vmap, which would turn convolutions into grouped ones, slow on a CPU. If the devices share a lane, XLA partitions
    the function by the examples (`over_examples`), and every device gets all of the result.
    """
    shared = [isinstance(argument, Shared) for argument in arguments]
    values = [argument.value if isinstance(argument, Shared) else argument for argument in arguments]
    spread = EXAMPLES in mesh.axis_names
    count = jax.tree.leaves(arguments[shared.index(False)])[0].shape[0] // (1 if spread else mesh.size)

    def mapped(*local):
        if count > 1:
            return jax.vmap(function, in_axes=tuple(None if s else 0 for s in shared))(*local)
        only = (value if s else jax.tree.map(lambda a: a[0], value) for value, s in zip(local, shared, strict=True))
        return jax.tree.map(lambda a: a[None], function(*only))

    if spread:
        return jax.lax.with_sharding_constraint(mapped(*values), NamedSharding(mesh, PartitionSpec()))
    lanes, everywhere = PartitionSpec("lanes"), PartitionSpec()
    specs = tuple(everywhere if s else lanes for s in shared)
    # While JAX checks what varies over devices, it has no collective over an axis of vmap, which norms of Equinox need.
    return jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=lanes, check_vma=False)(*values)


# Every arm is a program of its own, so compile time counts. Two CPU cores, MLP of the digits config: initialization
# compiles in 0.7 s instead of 5.7 at level 0 and runs once; an epoch compiles in 1.0 s instead of 2.2 at level 1 and
# runs as fast (84 ms against 81). Convolutions at level 0 are two to seven times slower than at level 1.
@program(_ONCE, static_argnums=(0, 1, 2))
def _init_lanes(setup, classes, mesh, seeds, train):
    return over_lanes(lambda seed, train: init(setup, classes, seed, train.x), mesh, seeds, train)


@program(_ONCE, static_argnums=(0, 1))
def in_batches(size, mesh, split):
    if isinstance(split, Shared):
        return Shared(batches(split.value, size))
    return over_lanes(partial(batches, size=size), mesh, split)


@program(_OFTEN, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def scan_lanes(setup, classes, mesh, steps, state, tuned, order, train):
    def epoch(state, tuned, order, train):
        def step(state, indices):
            indices = over_examples(indices, mesh)
            return train_step(setup, classes, steps, state, tuned, indices, train)

        state, losses = jax.lax.scan(step, state, order)
        return state, losses.mean()

    return over_lanes(epoch, mesh, state, tuned, order, train)


@program(_OFTEN, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def step_lanes(setup, classes, mesh, steps, state, tuned, order, train):
    def step(state, tuned, order, train):
        indices = over_examples(order[state.step % len(order)], mesh)
        return train_step(setup, classes, steps, state, tuned, indices, train)

    return over_lanes(step, mesh, state, tuned, order, train)


@program(_OFTEN, static_argnums=(0, 1, 2, 3))
def evaluate_lanes(setup, classes, mesh, by_batch, state, split):
    def evaluated(state, split):
        return evaluate(setup, classes, state, over_examples(split, mesh, axis=1), by_batch=by_batch)

    return over_lanes(evaluated, mesh, state, split)


@program(_OFTEN, static_argnums=(0, 1, 2))
def population_lanes(setup, classes, mesh, state, train):
    def measured(state, train):
        return with_population_statistics(setup, classes, state, over_examples(train, mesh, axis=1))

    return over_lanes(measured, mesh, state, train)


# One lane per call, because on a CPU a convolution's gradient is slow in a compiled loop and under vmap.
@program(_OFTEN, static_argnums=(0, 1))
def observe_lane(setup, classes, state, examples):
    return observe(setup, classes, state, examples)


@program(_OFTEN, static_argnums=(0, 1))
def curvature_lane(setup, classes, state, frozen, examples):
    return measure_curvature(setup, classes, state, frozen, examples)
