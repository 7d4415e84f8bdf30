"""The dtype of the arithmetic, and what depends on whether a number is complex."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike


def wide(*dtypes: DTypeLike) -> jnp.dtype:
    """The dtype of the arithmetic: float32 or wider (also where the caller forbids implicit promotion)."""
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes, jnp.dtype(jnp.float32))


def upcast(x: jax.Array, *others: DTypeLike) -> jax.Array:
    """`x` in the dtype of the arithmetic on it and on `others`.

    Raises:
      ValueError: `x` is neither floating nor complex.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ValueError(f"x has dtype {x.dtype}; batch norm needs floating input: pass x.astype(jnp.float32)")
    return x.astype(wide(x.dtype, *others))


def abs2(x: jax.Array) -> jax.Array:
    """|x|², real and differentiable at 0."""
    return lax.square(x.real) + lax.square(x.imag) if jnp.iscomplexobj(x) else lax.square(x)
