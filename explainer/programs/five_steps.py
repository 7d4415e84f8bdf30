"""Batch norm in five steps, as jbn takes them, with what each of them returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_wine

import jbn
from explainer.programs import Program

EXAMPLES, FEATURES = 8, 4


class Steps(NamedTuple):
    """What five_steps computes, in this order."""

    mean: jax.Array
    var: jax.Array
    count: jax.Array
    normalized: jax.Array
    y: jax.Array
    running_mean: jax.Array
    running_var: jax.Array


def five_steps(
    x: jax.Array,
    where: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    momentum: jax.Array,
    epsilon: jax.Array,
) -> Steps:
    """Mean, variance, normalized, scaled and shifted, and the running statistics `mean` and `var` moved on.

    `where` is True for the examples that count.
    """
    batch = jbn.moments(x, where=where)
    normalized = jbn.normalize(x, batch.mean, batch.var, epsilon=epsilon, where=where)
    y = jbn.normalize(x, batch.mean, batch.var, scale, bias, epsilon=epsilon, where=where)
    running = jbn.update_stats(jbn.BatchStats(mean, var), batch, momentum=momentum)
    return Steps(*batch, normalized, y, running.mean, running.var)


def inference(
    x: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array, epsilon: jax.Array
) -> jax.Array:
    """The same input normalized by the running statistics."""
    return jbn.normalize(x, mean, var, scale, bias, epsilon=epsilon)


def example() -> dict[str, Any]:
    """Eight wines, four of their measurements; statistics as they are before the first batch."""
    wines = np.asarray(load_wine(return_X_y=True)[0], np.float32)
    rows = np.linspace(0, len(wines) - 1, EXAMPLES).astype(int)
    stats = jbn.init_stats(FEATURES)
    return {
        "x": jnp.asarray(wines[rows, :FEATURES]),
        "where": jnp.ones((EXAMPLES, 1), bool),
        "scale": jnp.ones(FEATURES),
        "bias": jnp.zeros(FEATURES),
        "mean": stats.mean,
        "var": stats.var,
        "momentum": jnp.float32(0.9),
        "epsilon": jnp.float32(1e-5),
    }


PROGRAMS = {
    "five_steps": Program(five_steps, example()),
    "inference": Program(inference, {k: v for k, v in example().items() if k not in ("where", "momentum")}),
}
