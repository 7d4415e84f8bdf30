"""An activation before or after a norm, inside the same checkpoint: together they keep only their input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jbn import _dtypes
from jbn._typed import jvp

Activation = Callable[[jax.Array], jax.Array]
Side = Literal["before", "after"]
T = TypeVar("T")


def with_activation(
    activation: Activation | None,
    side: Side,
    norm: Callable[[jax.Array, DTypeLike], tuple[jax.Array, T]],
    x: jax.Array,
    mask: jax.Array | None,
    dtype: DTypeLike,
    wide: DTypeLike,
) -> tuple[jax.Array, T]:
    """`norm(x, dtype)` with the activation; the numbers between the two have the dtype `wide`."""
    if activation is None:
        return norm(x, dtype)
    if side == "after":
        return norm(activate(activation, x, mask), dtype)
    y, measured = norm(x, wide)
    return activate(activation, y, mask).astype(dtype), measured


def activate(activation: Activation, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The activation in float32 or wider; its input is 0 where padding would make the derivative infinite or NaN."""
    x = x.astype(_dtypes.wide(x.dtype))
    if mask is not None:
        value, slope = jvp(activation, (fixed := lax.stop_gradient(x),), (jnp.ones_like(fixed),))
        x = jnp.where(mask | (jnp.isfinite(value) & jnp.isfinite(slope)), x, 0)
    return activation(x)
