"""Scene "axes": one function, four norms. They differ only in the axes that keep statistics of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jbn
from explainer.programs import Program

IMAGES, SIDE, CHANNELS = 4, 8, 4
GROUPS = (1, 2, 4)


class Normed(NamedTuple):
    """The output, and of how many numbers each mean and variance is."""

    y: jax.Array
    count: jax.Array


def standardize(x: jax.Array, kept: int | Sequence[int], where: jax.Array) -> Normed:
    """Each index of the axes `kept` by its own mean and variance, over all other axes."""
    m = jbn.moments(x, axis=kept, where=where)
    return Normed(jbn.normalize(x, m.mean, m.var, axis=kept, where=where), jnp.broadcast_to(m.count, m.mean.shape))


def norms(x: jax.Array, where: jax.Array) -> dict[str, Normed]:
    """`x` is `[image, row, column, channel]`; `where`, `[image, 1, 1, 1]`, says which images are in the batch."""
    results = {
        "batch": standardize(x, -1, where),
        "layer": standardize(x, 0, where),
        "instance": standardize(x, (0, -1), where),
    }
    for groups in GROUPS:
        grouped = x.reshape(*x.shape[:-1], groups, -1)  # [image, row, column, group, channel of the group]
        y, count = standardize(grouped, (0, 3), where[..., None])
        results[f"group_{groups}"] = Normed(y.reshape(x.shape), count)
    return results


EXAMPLE = np.random.default_rng(0).normal(1.0, 2.0, (IMAGES, SIDE, SIDE, CHANNELS)).astype(np.float32)
PROGRAMS = {"norms": Program(norms, {"x": EXAMPLE, "where": np.ones((IMAGES, 1, 1, 1), bool)})}
