"""Copies of arrays, whatever the library."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def array(value: Any) -> np.ndarray:
    """A NumPy copy of an array of any library, in its dtype."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # for which torch has no NumPy dtype
            return value.float().numpy().astype(jnp.bfloat16)
    return np.array(value.numpy() if hasattr(value, "numpy") else value)


def for_torch(value: Any) -> np.ndarray:
    """A NumPy copy that torch can read: contiguous, with float32 for bfloat16."""
    value = array(value)
    return np.array(value, np.float32 if value.dtype == jnp.bfloat16 else None, order="C")
