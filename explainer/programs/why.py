"""Scene "why": what a norm does to gradients, for weights that are scaled and along the direction of a step."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.probes.gradients import gradient_norms, gradient_predictiveness
from explainer.programs import Program
from explainer.programs._digits import BATCH, Digits, State, applied, init, loss

NETWORKS = {"none": Digits("none"), "before": Digits("before"), "after": Digits("after")}


def scaled(
    network: Digits, state: State, images: jax.Array, labels: jax.Array, factor: jax.Array
) -> dict[str, jax.Array]:
    """The second layer's weights times `factor`: the length of the logits, and of the gradient of these weights."""
    block = state.params["block_1"]
    larger = {**block, "layer": jax.tree.map(lambda leaf: factor * leaf, block["layer"])}
    params = {**state.params, "block_1": larger}
    gradient = jax.grad(partial(loss, network), has_aux=True)(params, state.batch_stats, images, labels)[0]
    variables = {"params": params, "batch_stats": state.batch_stats}
    logits, _ = applied(network, variables, images, train=True, mutable=["batch_stats"])
    return {"logits": jnp.linalg.norm(logits), "gradient": gradient_norms(gradient)["block_1/layer"]}


def along(network: Digits, state: State, images: jax.Array, labels: jax.Array, step: jax.Array) -> dict[str, jax.Array]:
    """A step of this size against the gradient: loss before and after, and the gradient's relative change."""

    def of_batch(params: Any) -> jax.Array:
        return loss(network, params, state.batch_stats, images, labels)[0]

    found = gradient_predictiveness(of_batch, state.params, step[None])
    return {"start": found.start, "loss": found.loss[0], "change": found.gradient_change[0] / found.gradient_norm}


def _programs() -> dict[str, Program]:
    pixels = np.random.default_rng(0).integers(0, 17, (BATCH, 64)).astype(np.float32)
    batch = {"images": pixels, "labels": np.arange(BATCH, dtype=np.int32) % 10}
    found = {}
    for name, network in NETWORKS.items():
        shared = {"state": init(network, 0), **batch}
        found[f"scaled_{name}"] = Program(partial(scaled, network), {**shared, "factor": np.float32(10)})
        # Two gradients that are subtracted from each other lose a digit.
        found[f"along_{name}"] = Program(partial(along, network), {**shared, "step": np.float32(0.1)}, tolerance=5e-6)
    return found


PROGRAMS = _programs()
