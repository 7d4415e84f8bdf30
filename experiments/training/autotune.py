"""Chooses how steps and seeds run, by a short measurement of this network on this device.

On a CPU, XLA runs a convolution's gradient 5 to 28 times slower in a compiled loop, and vmap over seeds turns
convolutions into grouped ones, 2 to 6 times slower than one seed after another. Dense layers gain from both. On a GPU,
vmap over seeds fills the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import ConfigError, Setup
from experiments.data.arrays import Source, batch_order
from experiments.training.compiled import Engine, Lane, filled, layout, place, run_steps, start
from experiments.training.devices import is_out_of_memory, memory, put_by_lane
from experiments.training.step import init

MEASURED_STEPS = {"mlp": 30}
REPEATS = 2
NO_ROOM = (
    "no way to run this network fits into memory; choose a smaller training.batch_size, model.width or model.hidden, "
    "or training.lanes='sequence'"
)


class Measured(NamedTuple):
    """The chosen engine, and milliseconds per step and lane of each one tried; None if it did not fit into memory."""

    engine: Engine
    milliseconds: dict[str, float | None]


def choose(setup: Setup, data: Source, lanes: Sequence[Lane], devices: int | None = None) -> Measured:
    """The fastest engine, among those that the config allows.

    Args:
      lanes: as many as the `width` of `train_arm`.
      devices: `Engine.devices` of the engines.

    Raises:
      ConfigError: no engine fits into memory.
    """
    steps, sides = setup.training.steps, setup.training.lanes
    candidates = [
        Engine(s, side, devices)
        for side in (("sequence", "vmap") if sides == "auto" else (sides,))
        for s in (("loop", "scan") if steps == "auto" else (steps,))
    ]
    room = [engine for engine in candidates if _fits(setup, data, lanes, engine)]
    if candidates == room[:1]:
        return Measured(candidates[0], {})
    found: dict[Engine, float | None] = {
        engine: milliseconds(setup, data, lanes, engine) if engine in room else None for engine in candidates
    }
    fitting = {engine: value for engine, value in found.items() if value is not None}
    if not fitting:
        raise ConfigError(NO_ROOM)
    best = min(fitting, key=lambda engine: fitting[engine])
    return Measured(best, {f"{e.steps}, {e.lanes}": None if v is None else round(v, 4) for e, v in found.items()})


def _fits(setup: Setup, data: Source, lanes: Sequence[Lane], engine: Engine) -> bool:
    """Whether the states of these lanes fit into memory; on a CPU, running out of memory may kill the process."""
    state = jax.eval_shape(partial(init, setup, data.classes), jnp.int32(0), data.of(lanes[0].seed).train.x)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    mesh, width = layout(setup, engine, len(lanes))
    memories = 1 if jax.default_backend() == "cpu" else mesh.size
    return width * size <= memories * (memory() or math.inf)


def milliseconds(setup: Setup, data: Source, lanes: Sequence[Lane], engine: Engine) -> float | None:
    """Milliseconds per step and lane, compiling left out; None if the network does not fit into memory."""
    mesh, width = layout(setup, engine, len(lanes))
    some = filled(lanes, width)
    count = MEASURED_STEPS.get(setup.model.network, 3)
    y = np.asarray(data.of(some[0].seed).train.y)
    order = batch_order(setup.training, y, some[0].seed, 0)[:count]
    orders = put_by_lane(np.broadcast_to(order, (width, *order.shape)).copy(), mesh)
    split = place("train", data, some, mesh)
    try:
        state, tuned = start(setup, data.classes, mesh, some, split)
        run = partial(run_steps, setup, data.classes, mesh, len(order), engine)
        state, _ = jax.block_until_ready(run(state, tuned, orders, split))  # compiles
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            state, _ = jax.block_until_ready(run(state, tuned, orders, split))
            times.append(time.perf_counter() - began)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    return 1e3 * min(times) / (len(order) * width)
