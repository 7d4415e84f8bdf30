"""Feature axes, reduction axes, and the way back from one value per feature to the shape of the input.

The only file that reshapes. Statistics and parameters have the *feature shape*: the sizes of the feature axes, in the
order in which those axes stand in the input, whatever order the caller names them in.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

Axis = int | Sequence[int]
SMALL = 2**14  # for fewer elements the plain way is as fast


def feature_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The feature axes, counted from 0 and sorted.

    Raises:
      ValueError: an axis out of range, named twice, or none at all.
      TypeError: an axis that is not an integer.
    """
    named = tuple(operator.index(a) for a in (axis if isinstance(axis, Sequence) else (axis,)))
    if not named:
        raise ValueError("axis=() names no feature axis; write the axis to keep, such as axis=-1")
    for a in named:
        if not -ndim <= a < ndim:
            raise ValueError(
                f"axis={axis} is out of range for an input of rank {ndim}; write "
                + (f"axes from {-ndim} to {ndim - 1}, such as axis=-1 for channels last" if ndim else "x[None]")
            )
    axes = sorted(a % ndim for a in named)
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis={axis} names an axis of the rank-{ndim} input twice; write each feature axis once")
    return tuple(axes)


def reduction_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes that statistics reduce over: all but the feature axes, sorted."""
    features = feature_axes(axis, ndim)
    return tuple(a for a in range(ndim) if a not in features)


def feature_shape(axis: Axis, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of statistics and parameters for an input of `shape`."""
    return tuple(shape[a] for a in feature_axes(axis, len(shape)))


def reduced_size(axis: Axis, shape: Sequence[int]) -> int:
    """Elements per feature of an input of `shape`."""
    return math.prod(shape[a] for a in reduction_axes(axis, len(shape)))


def known(shape: Sequence[int]) -> bool:
    """Whether no size is a symbol."""
    return all(isinstance(size, int) for size in shape)


def concrete(value: Any) -> np.ndarray | None:
    """The numbers of `value` if they are known while the program is traced, as all constants' are; else None.

    A NumPy array, for a `jax.Array` may be known and what is computed from it under `jax.jit` is not.
    """
    traced = isinstance(value, Tracer) or not getattr(value, "is_fully_addressable", True)
    return None if traced else np.asarray(value)


def within(value: Any, low: float, high: float) -> bool:
    """Whether no number that is known lies outside of [low, high]."""
    numbers = concrete(value)
    return numbers is None or bool(np.all((numbers >= low) & (numbers <= high)))


def large(*shape: int) -> bool:
    """Whether an array of this shape is known to have enough elements for more than the plain way."""
    return known(shape) and math.prod(shape) >= SMALL


def sample(
    x: jax.Array, axis: Axis, every: int, mask: jax.Array | None = None, *, spread: Sequence[int] = ()
) -> jax.Array:
    """About one in so many elements of each feature, never fewer than one in twice that; of those that `mask` keeps.

    All of a small input, of one with few elements per feature, or of one whose size is a symbol (`jax.export`). With a
    mask, which has the rank of `x`, the axis that is sampled is one along which it does not change, so that it fits the
    sample as it is, and keeps the same share of it; all of `x` where there is no such axis.

    Not a part of the examples (the first axis), which may be spread over devices, but a part of each; where there are
    examples alone, one of every few neighbours. None of what is known to be `spread`.
    """
    reduce = reduction_axes(axis, x.ndim)
    if not large(*x.shape) or reduced_size(axis, x.shape) < every:
        return x
    free = [a for a in reduce if a not in spread and (mask is None or mask.shape[a] == 1)]
    if not free:
        return x
    along = max(free, key=lambda a: (a > 0 and x.shape[a] > 1, x.shape[a]))
    if along == 0:
        size = next((k for k in range(every, 1, -1) if x.shape[0] % k == 0), 1)
        return x.reshape(x.shape[0] // size, size, *x.shape[1:])[:, size // 2]
    step = min(every, x.shape[along])
    return lax.slice_in_dim(x, step // 2, None, stride=step, axis=along)


def varying_as(value: jax.Array, x: jax.Array) -> jax.Array:
    """`value`, differing between the devices of a `jax.shard_map` wherever `x` does."""
    return value + lax.full_like(x, 0, value.dtype, value.shape)


def expand(value: jax.Array, axis: Axis, ndim: int) -> jax.Array:
    """One value per feature (or one for all), shaped to broadcast against the input."""
    return jnp.expand_dims(value, reduction_axes(axis, ndim)) if value.ndim else value.reshape((1,) * ndim)


def expand_mask(where: jax.Array, shape: Sequence[int]) -> jax.Array:
    """`where` as a boolean array of the input's rank.

    Raises:
      ValueError: the mask is neither boolean nor integers 0 and 1, or does not broadcast to the input's shape.
    """
    where = _flags(where)
    aligned = where.shape[max(0, where.ndim - len(shape)) :]
    fits = where.ndim <= len(shape) and all(
        m in (1, n) for m, n in zip(reversed(aligned), reversed(tuple(shape)), strict=False)
    )
    if not fits:
        raise ValueError(
            f"where has shape {where.shape}, which does not broadcast to the input's {tuple(shape)}; write one of the "
            "same rank with 1 for every axis that it does not depend on, such as mask[:, None] for one flag an example"
        )
    return where.reshape((1,) * (len(shape) - where.ndim) + where.shape)


def _flags(where: jax.Array) -> jax.Array:
    """`where` as booleans, if it is a mask and not weights or what is added to logits, which would be inverted."""
    remedy = (
        "pass booleans or integers 0 and 1, True or 1 where an element counts: `mask > 0.5` of floating flags, "
        "`mask >= 0` of an additive mask (0 counts, -1e9 is padding); weights are not supported"
    )
    flags = jnp.asarray(where)
    if flags.dtype == jnp.bool_:
        return flags
    if not jnp.issubdtype(flags.dtype, jnp.integer):
        raise ValueError(f"where has dtype {flags.dtype}; {remedy}")
    if (numbers := concrete(where)) is not None and (others := numbers[(numbers != 0) & (numbers != 1)]).size:
        raise ValueError(f"where has dtype {flags.dtype} and holds {others[0]}; {remedy}")
    return flags == 1


def check_static(**options: object) -> None:
    """Raises TypeError where an option that decides what is traced is a traced value itself."""
    for name, value in options.items():
        if isinstance(value, Tracer):
            raise TypeError(
                f"{name} is a traced array of dtype {value.dtype}, whose value is not known yet; it decides which "
                "program is traced, and must be a Python value: close over it, set it by functools.partial, or name it "
                f"in jax.jit(f, static_argnames={name!r})"
            )
