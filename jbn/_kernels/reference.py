"""The kernels in plain jax.numpy: what each of them means, right on every platform and under every transformation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jbn import _axes, _dtypes
from jbn._axes import Axis

upcast = upcast_once = _dtypes.upcast


def power_sums(x: jax.Array, shift: jax.Array, axis: Axis) -> tuple[jax.Array, jax.Array]:
    """Σ d and Σ |d|² of d = x - shift over all but the feature axes; `shift` is a constant to differentiation."""
    d, reduce = x - _axes.expand(lax.stop_gradient(shift), axis, x.ndim), _axes.reduction_axes(axis, x.ndim)
    return jnp.sum(d, reduce), jnp.sum(_dtypes.abs2(d), reduce)


def affine(
    x: jax.Array,
    shift: jax.Array,
    factor: jax.Array,
    offset: jax.Array | None,
    axis: Axis,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """(x - shift) · factor + offset, computed in the dtype of `x`, in `dtype`."""
    y = (x - _axes.expand(shift, axis, x.ndim)) * _axes.expand(factor, axis, x.ndim)
    return (y if offset is None else y + _axes.expand(offset, axis, x.ndim)).astype(dtype or x.dtype)


def scale_over_root(scale: jax.Array | None, square: jax.Array) -> jax.Array:
    """scale / sqrt(square)."""
    factor = lax.rsqrt(square)
    return factor if scale is None else factor.astype(scale.dtype) * scale


def materialize_vector(vector: jax.Array, x: jax.Array) -> jax.Array:
    """`vector`, of which a pass over `x` reads every element many times."""
    return vector


def fusion_barrier(x: jax.Array) -> jax.Array:
    """`x`, which several passes read."""
    return x
