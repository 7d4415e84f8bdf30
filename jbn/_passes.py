"""The passes over the large array: its sums, and the multiply-add. Each is written so that compilers make it one pass.

Their derivatives say which sum belongs to which: left to itself, automatic differentiation keeps x - c for several
uses. What that costs on a CPU, `_hints` tells; other platforms fuse by themselves, and see one and the same c.

Half precision comes widened, with `stored`, the dtype that it has in memory. So its cotangents add up in float32 and
are rounded once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jbn import _axes
from jbn._axes import Axis
from jbn._hints import apart, reread, settled, small, written


def abs2(x: jax.Array) -> jax.Array:
    """|x|², real and differentiable at 0."""
    return lax.square(x.real) + lax.square(x.imag) if jnp.iscomplexobj(x) else lax.square(x)


def power_sums(
    x: jax.Array, shift: jax.Array, axis: Axis, stored: DTypeLike | None = None
) -> tuple[jax.Array, jax.Array]:
    """Σ d and Σ |d|² of d = x - shift over all but the feature axes.

    Args:
      x: `[..., features, ...]`, in the dtype of the sums (float32 or wider).
      shift: `[*features]`, of the same dtype; a constant to differentiation.
      axis: the feature axis or axes.
      stored: the dtype that `x` was widened from; by default its own.

    Returns:
      Both sums, `[*features]`.
    """
    shift = lax.stop_gradient(shift)
    if jnp.iscomplexobj(x):
        return plain_power_sums(x, shift, axis)
    return _power_sums(axis, jnp.dtype(stored or x.dtype), x, shift)


def plain_power_sums(x: jax.Array, shift: jax.Array, axis: Axis) -> tuple[jax.Array, jax.Array]:
    """As `power_sums`, with the derivative that automatic differentiation finds."""
    d, reduce = x - _axes.expand(shift, axis, x.ndim), _axes.reduction_axes(axis, x.ndim)
    return jnp.sum(d, reduce), jnp.sum(abs2(d), reduce)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _power_sums(axis: Axis, stored: jnp.dtype, x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    def sums(k: int, x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        def total(d: jax.Array) -> jax.Array:
            found = jnp.sum(d, _axes.reduction_axes(axis, x.ndim))
            return found if k == 1 else found.reshape(k, -1).sum(0)

        distance = partial(_distance, axis, stored, x, shift, k)
        return total(distance(1)), total(lax.square(distance(2)))

    return _by_neighbours(sums, axis, x, shift)


@_power_sums.defjvp
def _power_sums_jvp(axis: Axis, stored: jnp.dtype, primals: Any, tangents: Any) -> Any:
    """(Σ ẋ, 2·Σ d·ẋ)."""
    (x, shift), (dx, _) = primals, tangents
    reduce = _axes.reduction_axes(axis, x.ndim)
    first = jnp.sum(reread(4, dx, stored), reduce)
    second = jnp.sum(_distance(axis, stored, x, shift, 1, 3) * reread(5, dx, stored), reduce)
    return _power_sums(axis, stored, x, shift), (settled(first), 2 * settled(second))


def affine(
    x: jax.Array,
    shift: jax.Array,
    factor: jax.Array,
    offset: jax.Array | None,
    axis: Axis,
    stored: DTypeLike | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """(x - shift) · factor + offset.

    Args:
      x: `[..., features, ...]`, float32 or wider.
      shift, factor: `[*features]`, of the same dtype.
      offset: the same, or None for 0.
      axis: the feature axis or axes.
      stored: the dtype that `x` was widened from; by default its own.
      dtype: of the result; by default that of `x`.
    """
    dtype = jnp.dtype(dtype or x.dtype)
    if jnp.iscomplexobj(x):
        return plain_affine(x, shift, factor, offset, axis).astype(dtype)
    offset = jnp.zeros_like(factor) if offset is None else offset
    return _affine(axis, jnp.dtype(stored or x.dtype), dtype, x, shift, factor, offset)


def plain_affine(x: jax.Array, shift: jax.Array, factor: jax.Array, offset: jax.Array | None, axis: Axis) -> jax.Array:
    """As `affine`, in the dtype of `x`, with the derivative that automatic differentiation finds."""

    def expand(value: jax.Array) -> jax.Array:
        return _axes.expand(value, axis, x.ndim)

    y = (x - expand(shift)) * expand(factor)
    return y if offset is None else y + expand(offset)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _affine(
    axis: Axis,
    stored: jnp.dtype,
    dtype: jnp.dtype,
    x: jax.Array,
    shift: jax.Array,
    factor: jax.Array,
    offset: jax.Array,
) -> jax.Array:
    return plain_affine(x, shift, factor, offset, axis).astype(dtype)


@_affine.defjvp
def _affine_jvp(axis: Axis, stored: jnp.dtype, dtype: jnp.dtype, primals: Any, tangents: Any) -> Any:
    """(ẋ - shiftˈ) · factor + d · factorˈ + offsetˈ."""
    (x, shift, factor, _), (dx, dshift, dfactor, doffset) = primals, tangents

    def expand(value: jax.Array) -> jax.Array:
        return _axes.expand(value, axis, x.ndim)

    def stretched(k: int, x: jax.Array, shift: jax.Array, dfactor: jax.Array, doffset: jax.Array) -> jax.Array:
        turned = _distance(axis, stored, x, shift, k, 6) * expand(_tile(dfactor, k))
        shifted = jnp.broadcast_to(expand(_tile(doffset, k)), turned.shape)
        return written(6, turned.reshape(x.shape), dtype) + written(7, shifted.reshape(x.shape), dtype)

    turned = _by_neighbours(stretched, axis, x, shift, dfactor, doffset)
    moved = written(8, (dx - expand(dshift)) * expand(factor), dtype)
    return _affine(axis, stored, dtype, *primals), (moved + turned).astype(dtype)


# On a CPU, sums over few columns run at a fraction of the speed of sums over many: 0.75 ms for 1.6 MB in 3 columns,
# 0.22 in 48, which are 16 neighbours side by side.
FEW, MANY = 16, 64


def _neighbours(x: jax.Array, axis: Axis) -> int:
    """How many elements of the next axis to take side by side, where features are few and last; 1 is none."""
    last = x.ndim > 1 and _axes.feature_axes(axis, x.ndim) == (x.ndim - 1,)
    if not (last and _axes.known(x.shape) and 0 < x.shape[-1] < FEW and x.size >= _axes.SMALL):
        return 1
    return next(k for k in range(MANY // x.shape[-1], 0, -1) if x.shape[-2] % k == 0)


def _by_neighbours(f: Any, axis: Axis, x: jax.Array, *vectors: jax.Array) -> Any:
    """`f` of how many neighbours to take side by side, `x` and `vectors`."""
    if (k := _neighbours(x, axis)) == 1:
        return f(1, x, *vectors)
    return lax.platform_dependent(x, *vectors, cpu=partial(f, k), default=partial(f, 1))


def _tile(vector: jax.Array, k: int) -> jax.Array:
    return vector if k == 1 else jnp.tile(vector, k)


def _distance(axis: Axis, stored: jnp.dtype, x: jax.Array, shift: jax.Array, k: int, use: int) -> jax.Array:
    """x - shift for one use, with `k` neighbours side by side."""
    x, shift = reread(use, x, stored), _tile(shift, k)
    if k > 1:
        x = x.reshape(*x.shape[:-2], x.shape[-2] // k, k * x.shape[-1])
    return x - _axes.expand(shift if small(x) else apart(use, shift), axis, x.ndim)
