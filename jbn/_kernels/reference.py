"""The kernels in plain jax.numpy: what each of them means, right on every platform and under every transformation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jbn import _axes, _dtypes
from jbn._axes import Axes
from jbn._shapes import Input, Mask, RealVector, Vector, checked
from jbn._typed import finfo


def upcast(x: jax.Array, *others: DTypeLike, once: bool = False) -> jax.Array:
    """`x` in the dtype of the arithmetic on it and on `others`; `once`: for one pass, as at inference."""
    return _dtypes.upcast(x, *others)


@checked
def rough_mean(x: Input, axes: Axes, mask: Mask | None = None) -> Vector:
    """About the mean of each feature, of what `mask` keeps: a constant to differentiation, and 0 where nothing counts.

    Without its last three bits, which pins it down. A compiler may compute sum · weight once for x - sum · weight as a
    fused multiply-add, unrounded, and once more, rounded, where the mean is returned: at 1e4 the two differ by 5e-4.
    """
    x, count = lax.stop_gradient(x), _axes.count(axes, x.shape, mask)
    total = jnp.sum(x if mask is None else jnp.where(mask, x, 0), axes.reduced)
    return _truncate_mantissa(total / jnp.maximum(count, 1).astype(x.dtype))


@checked
def power_sums(x: Input, shift: Vector, axes: Axes) -> tuple[Vector, RealVector]:
    """Σ d and Σ |d|² of d = x - shift over the reduced axes; `shift` is a constant to differentiation."""
    d = x - axes.expand(lax.stop_gradient(shift))
    return jnp.sum(d, axes.reduced), jnp.sum(_dtypes.abs2(d), axes.reduced)


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
    """(x - shift) · factor + offset, computed in the dtype of `x`, in `dtype`; `once`: the only pass over `x`."""
    y = (x - axes.expand(shift)) * axes.expand(factor)
    return (y if offset is None else y + axes.expand(offset)).astype(dtype or x.dtype)


def fusion_barrier(x: Input) -> Input:
    """`x`, which several passes read."""
    return x


@checked
def _truncate_mantissa(a: Vector) -> Vector:
    if jnp.iscomplexobj(a):
        return lax.complex(_truncate_mantissa(a.real), _truncate_mantissa(a.imag))
    bits = finfo(a.dtype)
    return lax.reduce_precision(a, exponent_bits=bits.nexp, mantissa_bits=bits.nmant - 3)
