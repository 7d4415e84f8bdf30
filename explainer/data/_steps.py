"""Trainings of the digits' network, with what each of their steps saw and left; several scenes look at them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jbn
from explainer.data._training import digits, runs
from explainer.programs._digits import BATCH, Digits, applied

SEEDS, STEPS, RATE = 16, 400, 0.3
CONFIG = f"digits, 3 x (Dense 32, batch norm, ReLU), SGD with rate {RATE}, batches of {BATCH}, {STEPS} steps"
BLOCKS = ("block_0", "block_1", "block_2")
WIDTH = 32
# With momentum 0, the running statistics after a step are those of its batch.
NETWORK = Digits("before", momentum=0.0)


class Steps(NamedTuple):
    """Arrays begin with axes of seeds and steps; the statistics of the three norms stand one behind the other."""

    params: Any
    """After each step."""
    batch: jbn.Moments
    """Of the batch that the step saw."""


@cache
def steps() -> Steps:
    """All trainings. They depend on no momentum, because training normalizes by the batch."""
    run = runs(NETWORK, range(SEEDS), [RATE], STEPS, measure=lambda state: state)
    after = jax.tree.map(
        lambda old, last: jnp.concatenate([old[0, :, 1:], last[0, :, None]], 1), run.measured, run.state
    )
    return Steps(after.params, joined(after.batch_stats))


def joined(stats: Any) -> jbn.Moments:
    """The statistics of all norms, one behind the other."""
    mean, var = (jnp.concatenate([stats[name]["norm"][key] for name in BLOCKS], -1) for key in ("mean", "var"))
    return jbn.Moments(mean, var, jnp.full(mean.shape[:-1], BATCH, jnp.float32))


def parted(mean: jax.Array, var: jax.Array) -> Any:
    """The way back from `joined`."""
    places = {name: slice(k * WIDTH, (k + 1) * WIDTH) for k, name in enumerate(BLOCKS)}
    return {name: {"norm": {"mean": mean[..., at], "var": var[..., at]}} for name, at in places.items()}


def population(params: Any) -> jbn.Moments:
    """The statistics of all training digits under these weights: of one batch, to which parts of it would merge."""
    images = jnp.asarray(digits()[0].images, jnp.float32)
    start = parted(jnp.zeros(3 * WIDTH), jnp.ones(3 * WIDTH))
    variables = {"params": params, "batch_stats": start}
    _, updates = applied(NETWORK, variables, images, train=True, mutable=["batch_stats"])
    return joined(updates["batch_stats"])


def right(params: Any, mean: jax.Array, var: jax.Array) -> jax.Array:
    """The share of test digits that inference names rightly, normalized by these statistics."""
    images, labels = (jnp.asarray(part, jnp.float32) for part in digits()[1])
    logits = applied(NETWORK, {"params": params, "batch_stats": parted(mean, var)}, images, train=False)
    return jnp.mean(jnp.argmax(logits, -1) == labels)
