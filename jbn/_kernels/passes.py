"""The two passes over the large array, sums and multiply-add, with derivatives that are passes of the same kind.

The derivatives are written out so that sums over the same array are taken together; automatic differentiation would
store x - c for several uses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jbn._axes import Axes
from jbn._dtypes import abs2
from jbn._kernels import reference
from jbn._kernels.materialize import divided_by_one, downcast, materialize_vector
from jbn._kernels.paired_sums import broadcast_pair, sum_pair
from jbn._kernels.plain import plain
from jbn._kernels.tuning import FEW, MANY, large
from jbn._shapes import Input, RealVector, Vector, checked
from jbn._typed import custom_jvp, platform_dependent


@checked
def power_sums(x: Input, shift: Vector, axes: Axes) -> tuple[Vector, RealVector]:
    """Σ d and Σ |d|² of d = x - shift over the reduced axes.

    Args:
      x: `[..., features, ...]`, in the dtype of the sums (float32 or wider).
      shift: `[*features]`, of the same dtype; a constant to differentiation.
      axes: of `x`.

    Returns:
      Both sums, `[*features]`.
    """
    shift = lax.stop_gradient(shift)
    if jnp.iscomplexobj(x) or plain():
        return reference.power_sums(x, shift, axes)
    first, second = _power_sums(axes, x, shift)
    return first, second


@partial(custom_jvp, nondiff_argnums=(0,))
def _power_sums(axes: Axes, x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    def both(k: int, x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        d = _distance(x, shift, axes)
        first, second = sum_pair(d, abs2(d), axes.reduced)
        return (first, second) if k == 1 else (first.reshape(k, -1).sum(0), second.reshape(k, -1).sum(0))

    return _pack_rows_into_features(both, axes, x, shift)


@_power_sums.defjvp
def _power_sums_jvp(axes: Axes, primals: Any, tangents: Any) -> Any:
    """(Σ ẋ, 2·Σ d·ẋ)."""
    (x, shift), (dx, _) = primals, tangents
    first, second = sum_pair(dx, _distance(x, shift, axes) * dx, axes.reduced)
    return _power_sums(axes, x, shift), (materialize_vector(first, x), 2 * materialize_vector(second, x))


@checked
def affine(
    x: Input,
    shift: Vector,
    factor: Vector,
    offset: Vector | None,
    axes: Axes,
    dtype: DTypeLike | None = None,
    *,
    once: bool = False,
) -> Input:
    """(x - shift) · factor + offset.

    Args:
      x: `[..., features, ...]`, float32 or wider.
      shift, factor: `[*features]`, of the same dtype.
      offset: the same, or None for 0.
      axes: of `x`.
      dtype: of the result; by default that of `x`.
      once: whether this is the only pass over `x`, as at inference, whose programs hold no primitive of ours.
    """
    dtype = jnp.dtype(dtype or x.dtype)
    if jnp.iscomplexobj(x) or plain():
        return reference.affine(x, shift, factor, offset, axes, dtype)
    offset = jnp.zeros_like(factor) if offset is None else offset
    if once:
        factor = divided_by_one(factor)
    else:
        factor, shift, offset = (materialize_vector(v, x) for v in (factor, shift, offset))
    return _affine(axes, dtype, x, shift, factor, offset)


@partial(custom_jvp, nondiff_argnums=(0, 1))
def _affine(
    axes: Axes, dtype: jnp.dtype, x: jax.Array, shift: jax.Array, factor: jax.Array, offset: jax.Array
) -> jax.Array:
    return reference.affine(x, shift, factor, offset, axes, dtype)


@_affine.defjvp
def _affine_jvp(axes: Axes, dtype: jnp.dtype, primals: Any, tangents: Any) -> Any:
    """(ẋ - shiftˈ) · factor + d · factorˈ + offsetˈ."""
    (x, shift, factor, _), (dx, dshift, dfactor, doffset) = primals, tangents
    shape = x.shape

    def turned(_: int, x: jax.Array, shift: jax.Array, dfactor: jax.Array, doffset: jax.Array) -> jax.Array:
        factors, offsets = broadcast_pair(dfactor, doffset, x, axes.reduced)
        return (_distance(x, shift, axes) * factors + offsets).reshape(shape)

    moved = _distance(dx, dshift, axes) * axes.expand(factor)
    dy = moved + _pack_rows_into_features(turned, axes, x, shift, dfactor, doffset)
    return _affine(axes, dtype, *primals), downcast(dy, dtype)


def _distance(x: jax.Array, shift: jax.Array, axes: Axes) -> jax.Array:
    return x - axes.expand(shift)


def _rows_to_pack(x: jax.Array, axes: Axes) -> int:
    """How many rows to pack into one, if the features are few and last; else 1."""
    last = x.ndim > 1 and axes.features == (x.ndim - 1,)
    if not (last and large(*x.shape) and x.shape[-1] < FEW):
        return 1
    return next(k for k in range(MANY // x.shape[-1], 0, -1) if x.shape[-2] % k == 0)


def _pack_rows_into_features(f: Callable[..., Any], axes: Axes, x: jax.Array, *vectors: jax.Array) -> Any:
    """`f(k, x, *vectors)`, on a CPU with k rows of `x` packed into one as features, and `vectors` tiled."""
    if (k := _rows_to_pack(x, axes)) == 1:
        return f(1, x, *vectors)

    def cpu(x: jax.Array, *vectors: jax.Array) -> Any:
        x = x.reshape(*x.shape[:-2], x.shape[-2] // k, k * x.shape[-1])
        return f(k, x, *(materialize_vector(jnp.tile(v, k), x) for v in vectors))

    def default(x: jax.Array, *vectors: jax.Array) -> Any:
        return f(1, x, *vectors)

    return platform_dependent(x, *vectors, cpu=cpu, default=default)
