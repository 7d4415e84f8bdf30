"""The passes over the large array: its sums, and the multiply-add. Each is written so that compilers make it one pass.

XLA:CPU hands a sum to a library, and with it what computes the summands, if nobody else needs them; if somebody does,
they are written to memory first. Σ(x - c) and Σ(x - c)² of 26 MB took 4.8 ms so, and 1.9 ms where each has a c of its
own (two cores, jax 0.10.2). Hence `apart`, and derivatives that say which sum belongs to which: left to itself,
automatic differentiation keeps x - c for several uses. Other platforms fuse by themselves, and see one and the same c.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbn import _axes
from jbn._axes import Axis


def apart(use: int, *values: jax.Array) -> tuple[jax.Array, ...]:
    """The same values; on a CPU, what is computed from them is not known to be what another use computes from them.

    A barrier for each use, of a length of its own: those that are alike would become one again.
    """
    return lax.platform_dependent(
        *values, cpu=lambda *v: tuple(lax.optimization_barrier(v * use)[-len(v) :]), default=lambda *v: v
    )


def abs2(x: jax.Array) -> jax.Array:
    """|x|², real and differentiable at 0."""
    return lax.square(x.real) + lax.square(x.imag) if jnp.iscomplexobj(x) else lax.square(x)


def power_sums(x: jax.Array, shift: jax.Array, axis: Axis) -> tuple[jax.Array, jax.Array]:
    """Σ d and Σ |d|² of d = x - shift over all but the feature axes.

    Args:
      x: `[..., features, ...]`.
      shift: `[*features]`, in the dtype of the sums (float32 or wider); a constant to differentiation.
      axis: the feature axis or axes.

    Returns:
      Both sums, `[*features]`.
    """
    shift = lax.stop_gradient(shift)
    return plain_power_sums(x, shift, axis) if jnp.iscomplexobj(x) else _power_sums(axis, x, shift)


def plain_power_sums(x: jax.Array, shift: jax.Array, axis: Axis) -> tuple[jax.Array, jax.Array]:
    """As `power_sums`, with the derivative that automatic differentiation finds."""
    d, reduce = x.astype(shift.dtype) - _axes.expand(shift, axis, x.ndim), _axes.reduction_axes(axis, x.ndim)
    return jnp.sum(d, reduce), jnp.sum(abs2(d), reduce)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _power_sums(axis: Axis, x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    def sums(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        reduce = _axes.reduction_axes(axis, x.ndim)
        return jnp.sum(_distance(1, x, shift, axis), reduce), jnp.sum(lax.square(_distance(2, x, shift, axis)), reduce)

    def side_by_side(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        first, second = sums(x.reshape(_rows(x, k)), jnp.tile(shift, k))
        return first.reshape(k, -1).sum(0), second.reshape(k, -1).sum(0)

    if (k := _neighbours(x, axis)) == 1:
        return sums(x, shift)
    return lax.platform_dependent(x, shift, cpu=side_by_side, default=sums)


@_power_sums.defjvp
def _power_sums_jvp(axis: Axis, primals: Any, tangents: Any) -> Any:
    """(Σ ẋ, 2·Σ d·ẋ)."""
    (x, shift), (dx, _) = primals, tangents
    dx, reduce = dx.astype(shift.dtype), _axes.reduction_axes(axis, x.ndim)
    return _power_sums(axis, x, shift), (jnp.sum(dx, reduce), 2 * jnp.sum(_distance(3, x, shift, axis) * dx, reduce))


def affine(x: jax.Array, shift: jax.Array, factor: jax.Array, offset: jax.Array | None, axis: Axis) -> jax.Array:
    """(x - shift) · factor + offset, in the dtype of `factor`.

    Args:
      x: `[..., features, ...]`.
      shift, factor: `[*features]`, of one dtype.
      offset: the same, or None for 0.
      axis: the feature axis or axes.
    """
    if jnp.iscomplexobj(factor) or jnp.iscomplexobj(x):
        return plain_affine(x, shift, factor, offset, axis)
    return _affine(axis, x, shift, factor, jnp.zeros_like(factor) if offset is None else offset)


def plain_affine(x: jax.Array, shift: jax.Array, factor: jax.Array, offset: jax.Array | None, axis: Axis) -> jax.Array:
    """As `affine`, with the derivative that automatic differentiation finds."""

    def expand(value: jax.Array) -> jax.Array:
        return _axes.expand(value, axis, x.ndim)

    y = (x.astype(factor.dtype) - expand(shift)) * expand(factor)
    return y if offset is None else y + expand(offset)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _affine(axis: Axis, x: jax.Array, shift: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    return plain_affine(x, shift, factor, offset, axis)


@_affine.defjvp
def _affine_jvp(axis: Axis, primals: Any, tangents: Any) -> Any:
    """(ẋ - shiftˈ) · factor + d · factorˈ + offsetˈ."""
    (x, shift, factor, offset), (dx, dshift, dfactor, doffset) = primals, tangents

    def expand(value: jax.Array) -> jax.Array:
        return _axes.expand(value, axis, x.ndim)

    def stretched(x: jax.Array, shift: jax.Array, dfactor: jax.Array, doffset: jax.Array) -> jax.Array:
        return _distance(4, x, shift, axis) * expand(dfactor) + expand(doffset)

    def side_by_side(x: jax.Array, *vectors: jax.Array) -> jax.Array:
        return stretched(x.reshape(_rows(x, k)), *(jnp.tile(v, k) for v in vectors)).reshape(x.shape)

    moved = (dx.astype(factor.dtype) - expand(dshift)) * expand(factor)
    parts = x, shift, dfactor, doffset
    if (k := _neighbours(x, axis)) == 1:
        return _affine(axis, x, shift, factor, offset), moved + stretched(*parts)
    turned = lax.platform_dependent(*parts, cpu=side_by_side, default=stretched)
    return _affine(axis, x, shift, factor, offset), moved + turned


# On a CPU, sums over few columns run at a fraction of the speed of sums over many: 0.75 ms for 1.6 MB in 3 columns,
# 0.22 in 48, which are 16 neighbours side by side.
FEW, MANY = 16, 64


def _neighbours(x: jax.Array, axis: Axis) -> int:
    """How many elements of the next axis to take side by side, where features are few and last; 1 is none."""
    last = x.ndim > 1 and _axes.feature_axes(axis, x.ndim) == (x.ndim - 1,)
    if not (last and _axes.known(x.shape) and 0 < x.shape[-1] < FEW and x.size >= _axes.SMALL):
        return 1
    return next(k for k in range(MANY // x.shape[-1], 0, -1) if x.shape[-2] % k == 0)


def _rows(x: jax.Array, k: int) -> tuple[int, ...]:
    return (*x.shape[:-2], x.shape[-2] // k, k * x.shape[-1])


def _distance(use: int, x: jax.Array, shift: jax.Array, axis: Axis) -> jax.Array:
    """x - shift, for one use."""
    if x.dtype == shift.dtype:
        (shift,) = apart(use, shift)
    else:  # a conversion, too, would be written to memory
        x, shift = apart(use, x, shift)
    return x.astype(shift.dtype) - _axes.expand(shift, axis, x.ndim)
