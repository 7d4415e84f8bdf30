"""Scene "standardize": two features minus their means, divided by their standard deviations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jbn
from explainer.programs import Program


def standardize(x: jax.Array, subtract: jax.Array, divide: jax.Array) -> dict[str, Any]:
    """Standardizes each column of `x`; `subtract` and `divide` (0 or 1) leave one half of it out."""
    m = jbn.moments(x)
    z = jbn.normalize(x, m.mean, m.var, epsilon=0.0)
    std = jnp.sqrt(m.var)
    # Without "- mean", the column moves back; without "/ std", it is stretched back.
    y = (z + jnp.where(subtract > 0, 0.0, m.mean / std)) * jnp.where(divide > 0, 1.0, std)
    return {"mean": m.mean, "std": std, "y": y, "skewness": jbn.moments(z**3).mean, "after": jbn.moments(y)}


EXAMPLE = np.random.default_rng(0).normal(5.0, 2.0, (178, 2)).astype(np.float32)
PROGRAMS = {"standardize": Program(standardize, {"x": EXAMPLE, "subtract": np.float32(1), "divide": np.float32(1)})}
