"""The passes over the large array: its sums, and the multiply-add, and what differentiation makes of both.

Their derivatives say which sum belongs to which: left to itself, automatic differentiation keeps x - c for several
uses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jbn import _axes
from jbn._axes import Axis
from jbn._dtypes import abs2
from jbn._kernels import reference
from jbn._kernels.materialize import downcast, materialize_vector
from jbn._kernels.paired_sums import broadcast_pair, sum_pair
from jbn._kernels.plain import plain
from jbn._kernels.tuning import FEW, MANY


def power_sums(x: jax.Array, shift: jax.Array, axis: Axis) -> tuple[jax.Array, jax.Array]:
    """Σ d and Σ |d|² of d = x - shift over all but the feature axes.

    Args:
      x: `[..., features, ...]`, in the dtype of the sums (float32 or wider).
      shift: `[*features]`, of the same dtype; a constant to differentiation.
      axis: the feature axis or axes.

    Returns:
      Both sums, `[*features]`.
    """
    shift = lax.stop_gradient(shift)
    return reference.power_sums(x, shift, axis) if jnp.iscomplexobj(x) or plain() else _power_sums(axis, x, shift)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _power_sums(axis: Axis, x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    def both(k: int, x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        d = _distance(x, shift, axis)
        first, second = sum_pair(d, abs2(d), _axes.reduction_axes(axis, d.ndim))
        return (first, second) if k == 1 else (first.reshape(k, -1).sum(0), second.reshape(k, -1).sum(0))

    return _pack_rows_into_features(both, axis, x, shift)


@_power_sums.defjvp
def _power_sums_jvp(axis: Axis, primals: Any, tangents: Any) -> Any:
    """(Σ ẋ, 2·Σ d·ẋ)."""
    (x, shift), (dx, _) = primals, tangents
    first, second = sum_pair(dx, _distance(x, shift, axis) * dx, _axes.reduction_axes(axis, x.ndim))
    return _power_sums(axis, x, shift), (materialize_vector(first, x), 2 * materialize_vector(second, x))


def affine(
    x: jax.Array,
    shift: jax.Array,
    factor: jax.Array,
    offset: jax.Array | None,
    axis: Axis,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """(x - shift) · factor + offset.

    Args:
      x: `[..., features, ...]`, float32 or wider.
      shift, factor: `[*features]`, of the same dtype.
      offset: the same, or None for 0.
      axis: the feature axis or axes.
      dtype: of the result; by default that of `x`.
    """
    dtype = jnp.dtype(dtype or x.dtype)
    if jnp.iscomplexobj(x) or plain():
        return reference.affine(x, shift, factor, offset, axis, dtype)
    return _affine(axis, dtype, x, shift, factor, jnp.zeros_like(factor) if offset is None else offset)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _affine(
    axis: Axis, dtype: jnp.dtype, x: jax.Array, shift: jax.Array, factor: jax.Array, offset: jax.Array
) -> jax.Array:
    return reference.affine(x, shift, factor, offset, axis, dtype)


@_affine.defjvp
def _affine_jvp(axis: Axis, dtype: jnp.dtype, primals: Any, tangents: Any) -> Any:
    """(ẋ - shiftˈ) · factor + d · factorˈ + offsetˈ."""
    (x, shift, factor, _), (dx, dshift, dfactor, doffset) = primals, tangents
    shape = x.shape

    def turned(_: int, x: jax.Array, shift: jax.Array, dfactor: jax.Array, doffset: jax.Array) -> jax.Array:
        factors, offsets = broadcast_pair(dfactor, doffset, x, _axes.reduction_axes(axis, x.ndim))
        return (_distance(x, shift, axis) * factors + offsets).reshape(shape)

    moved = _distance(dx, dshift, axis) * _axes.expand(factor, axis, x.ndim)
    dy = moved + _pack_rows_into_features(turned, axis, x, shift, dfactor, doffset)
    return _affine(axis, dtype, *primals), downcast(dy, dtype)


def _distance(x: jax.Array, shift: jax.Array, axis: Axis) -> jax.Array:
    return x - _axes.expand(shift, axis, x.ndim)


def _rows_to_pack(x: jax.Array, axis: Axis) -> int:
    """How many elements of the next axis to take side by side, where features are few and last; 1 is none."""
    last = x.ndim > 1 and _axes.feature_axes(axis, x.ndim) == (x.ndim - 1,)
    if not (last and _axes.large(*x.shape) and x.shape[-1] < FEW):
        return 1
    return next(k for k in range(MANY // x.shape[-1], 0, -1) if x.shape[-2] % k == 0)


def _pack_rows_into_features(f: Callable[..., Any], axis: Axis, x: jax.Array, *vectors: jax.Array) -> Any:
    """`f` of how many neighbours stand side by side as if they were features, of `x` so and of vectors to match."""
    if (k := _rows_to_pack(x, axis)) == 1:
        return f(1, x, *vectors)

    def cpu(x: jax.Array, *vectors: jax.Array) -> Any:
        x = x.reshape(*x.shape[:-2], x.shape[-2] // k, k * x.shape[-1])
        return f(k, x, *(materialize_vector(jnp.tile(v, k), x) for v in vectors))

    def default(x: jax.Array, *vectors: jax.Array) -> Any:
        return f(1, x, *vectors)

    return lax.platform_dependent(x, *vectors, cpu=cpu, default=default)
