"""Normalize, scale and shift: y = (x - mean) / sqrt(var + epsilon) · scale + bias, in three roundings an element.

Factor and offset are computed per feature first, so that each element takes one subtraction and one multiply-add. The
subtraction comes first, because it is exact where x is close to the mean; x·factor - mean·factor would cancel.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jbn import _axes, _meshes
from jbn._axes import Axes, Axis
from jbn._kernels import affine, upcast
from jbn._shapes import Given, Input, Mask, Param, RealVector, Vector, checked
from jbn._typed import finfo


@_meshes.by_compiler
def normalize(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    epsilon: float | jax.Array = 1e-5,
    axis: Axis = -1,
    where: jax.Array | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Normalizes each feature of `x` by the given statistics, then scales and shifts it.

    ::

        y = (x - mean) / sqrt(var + epsilon) · scale + bias

    Args:
      x: `[..., features, ...]`, floating or complex.
      mean: `[*features]`.
      var: `[*features]`, real, not negative.
      scale: gamma, `[*features]`, or None for 1.
      bias: beta, `[*features]`, or None for 0.
      epsilon: added to the variance, in the units of x²; may be traced.
      axis: the feature axis or axes of `x`.
      where: boolean, broadcastable to `x`: False where `x` is padding. Padding is normalized like all else, but where
        the result would not be finite (or exceed 99% of the largest number) it is bias, a constant to differentiation:
        NaN in padding never reaches a gradient.
      dtype: of the result; by default that of `x`. The arithmetic is float32 or wider in any case.

    Returns:
      y, shaped as `x`.

    Raises:
      ValueError: a statistic or parameter that does not have the feature shape.

    Example:
      >>> import jax.numpy as jnp, jbn
      >>> x = jnp.array([[1.0, 10.0], [3.0, 10.0]])
      >>> print(jbn.normalize(x, mean=jnp.array([2.0, 10.0]), var=jnp.array([1.0, 0.0]), epsilon=1e-5).round(4))
      [[-1.  0.]
       [ 1.  0.]]

    Reference: Ioffe & Szegedy 2015, "Batch Normalization", Algorithm 1 (https://arxiv.org/abs/1502.03167).
    """
    axes = _axes.canonical(axis, x.ndim)
    _axes.check_features(axes, x.shape, mean=mean, var=var, scale=scale, bias=bias)
    mask = None if where is None else _axes.expand_mask(where, x.shape)
    return normalize_shifted(x, mean, None, var, scale, bias, axes, mask, epsilon, dtype)


@checked
def normalize_shifted(
    x: Given,
    shift: Vector,
    mean: Vector | None,
    var: RealVector,
    scale: Param | None,
    bias: Param | None,
    axes: Axes,
    mask: Mask | None,
    epsilon: float | jax.Array,
    dtype: DTypeLike | None,
) -> Input:
    """As `normalize`, with the mean given in two parts, `shift + mean`, of which the second is small.

    A `mean` of None is 0, and means that this is the only pass over `x`: its own statistics were not computed.
    """
    once, result = mean is None, x.dtype if dtype is None else dtype
    x = upcast(x, *(a.dtype for a in (shift, mean, var, scale, bias) if a is not None), once=once)
    shift = shift.astype(x.dtype)
    mean, scale, offset = (None if a is None else a.astype(x.dtype) for a in (mean, scale, bias))
    var = var.astype(finfo(x.dtype).dtype)
    factor = lax.rsqrt(var + jnp.asarray(epsilon, var.dtype)).astype(x.dtype)
    factor = factor if scale is None else factor * scale
    if mean is not None:
        offset = -mean * factor if offset is None else offset - mean * factor
    if mask is None:
        return affine(x, shift, factor, offset, axes, result, once=once)

    # 0 · NaN is NaN: without this, NaN in padding would reach the gradients of scale and bias.
    keep = mask | _stays_finite(x, shift, factor, offset, axes, result)
    y = affine(jnp.where(keep, x, axes.expand(shift)), shift, factor, offset, axes, result, once=once)
    padding = jnp.zeros((), result) if bias is None else lax.stop_gradient(bias).astype(result)
    return jnp.where(keep, y, axes.expand(padding))


@checked
def _stays_finite(
    x: Input, shift: Vector, factor: Vector, offset: Vector | None, axes: Axes, result: DTypeLike
) -> Mask:
    """Where (x - shift) · factor + offset is finite in the dtype `result`, judged by |x - shift| with a 1% margin."""
    x, shift, factor = lax.stop_gradient((x, shift, factor))
    size = jnp.abs(factor)
    largest = 0.99 * min(float(finfo(dtype).max) for dtype in (result, x.dtype))
    room = largest - (0 if offset is None else jnp.abs(lax.stop_gradient(offset)))
    reach = jnp.where(size == 0, jnp.inf, room / jnp.where(size == 0, 1, size))  # with factor 0, no distance is too far
    return jnp.abs(x - axes.expand(shift)) < axes.expand(reach)
