"""Scene "shift": what each layer gets from the layers before it, while networks without and with batch norm train."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from explainer.programs import Program
from explainer.programs import _digits as digits
from explainer.programs._digits import BATCH, Digits, State, init

NETWORKS = {"none": Digits("none"), "before": Digits("before")}
BLOCKS = len(NETWORKS["none"].hidden)
PERCENTILES = (15, 50, 85)
PROBED = 256


def train_step(
    network: Digits, state: State, images: jax.Array, labels: jax.Array, learning_rate: jax.Array, trains: jax.Array
) -> dict[str, Any]:
    """One step of gradient descent on a batch; a block that `trains` says False of keeps its parameters."""
    done = digits.train_step(network, state, images, labels, learning_rate)
    params = dict(done["state"].params)
    for k in range(BLOCKS):
        name = f"block_{k}"
        params[name] = jax.tree.map(partial(jnp.where, trains[k]), params[name], state.params[name])
    return {"state": done["state"]._replace(params=params), "loss": done["loss"]}


def activation_inputs(network: Digits, state: State, images: jax.Array) -> jax.Array:
    """What goes into each block's ReLU in training mode, `[blocks, images, units]`: a `Block` sows it."""
    _, found = network.apply(state._asdict(), images, train=True, mutable=["batch_stats", "intermediates"])
    blocks: Any = found["intermediates"]
    return jnp.stack([blocks[f"block_{k}"]["activation_input"][0] for k in range(BLOCKS)])


def percentiles(network: Digits, state: State, images: jax.Array) -> jax.Array:
    """The 15th, 50th and 85th percentile over the images of each of these, `[blocks, percentiles, units]`."""
    found = jnp.percentile(activation_inputs(network, state, images), jnp.array(PERCENTILES, jnp.float32), axis=1)
    return jnp.swapaxes(found, 0, 1)


def _programs() -> dict[str, Program]:
    pixels = np.random.default_rng(0).integers(0, 17, (PROBED, 64)).astype(np.float32)
    batch = {"images": pixels[:BATCH], "labels": np.arange(BATCH, dtype=np.int32) % 10}
    found = {}
    for name, network in NETWORKS.items():
        state = init(network, 0)
        step = batch | {"learning_rate": np.float32(0.1), "trains": np.ones(BLOCKS, bool)}
        found[f"train_step_{name}"] = Program(partial(train_step, network), {"state": state} | step)
        found[f"percentiles_{name}"] = Program(partial(percentiles, network), {"state": state, "images": pixels})
    return found


PROGRAMS = _programs()
