"""Scene "average": what follows the batches of a training, so that inference can do without them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import jbn
from explainer.programs import Program

Averages = dict[str, jbn.BatchStats]


def start(like: jax.Array) -> Averages:
    """Before the first batch: mean 0 and variance 1 for each feature."""
    return {
        "moving": jbn.init_stats(like.size),
        "debiased": jbn.init_stats(like.size, debias=True),
        "cumulative": jbn.init_stats(like.size, momentum=None),
    }


def follow(averages: Averages, batch: jbn.Moments, momentum: jax.Array) -> Averages:
    """One more batch for three kinds of running statistics: `momentum` is the weight that the old value keeps."""
    return {
        "moving": jbn.update_stats(averages["moving"], batch, momentum=momentum),
        "debiased": jbn.update_stats(averages["debiased"], batch, momentum=momentum, debias=True),
        "cumulative": jbn.update_stats(averages["cumulative"], batch, momentum=None),
    }


FEATURES = jnp.zeros(3)
BATCH = jbn.Moments(mean=FEATURES + 2, var=FEATURES + 4, count=jnp.float32(64))
PROGRAMS = {
    "start": Program(start, {"like": FEATURES}),
    "follow": Program(follow, {"averages": start(FEATURES), "batch": BATCH, "momentum": jnp.float32(0.99)}),
}
