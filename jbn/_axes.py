"""Feature axes, reduced axes, and the way back from one value per feature to the shape of the input.

Statistics and parameters have the *feature shape*: the sizes of the feature axes, in the order in which those axes
stand in the input, whatever order the caller names them in.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

Axis = int | Sequence[int]


class Axes(NamedTuple):
    """The axes of an input, counted from 0 and sorted. `canonical` makes them, once, from the caller's `axis`.

    Attributes:
      features: the axes that are kept.
      reduced: all others, over which statistics are taken.
      given: the caller's `axis`, for error messages.
    """

    features: tuple[int, ...]
    reduced: tuple[int, ...]
    given: int | tuple[int, ...]

    def feature_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of statistics and parameters for an input of `shape`."""
        return tuple(shape[a] for a in self.features)

    def size(self, shape: Sequence[int]) -> int:
        """Elements per feature of an input of `shape`."""
        return math.prod(shape[a] for a in self.reduced)

    def expand(self, value: jax.Array) -> jax.Array:
        """One value per feature (or one for all), shaped to broadcast against the input."""
        ndim = len(self.features) + len(self.reduced)
        return jnp.expand_dims(value, self.reduced) if value.ndim else value.reshape((1,) * ndim)


def canonical(axis: Axis, ndim: int) -> Axes:
    """The axes of an input of rank `ndim` whose feature axes are `axis`.

    Raises:
      ValueError: an axis out of range, named twice, or none at all.
      TypeError: an axis that is not an integer.
    """
    axis = tuple(axis) if isinstance(axis, Sequence) else axis
    named = tuple(map(operator.index, axis if isinstance(axis, tuple) else (axis,)))
    features = {a % ndim for a in named if -ndim <= a < ndim}
    if not named or len(features) < len(named):
        raise ValueError(_complaint(axis, named, ndim))
    return Axes(tuple(sorted(features)), tuple(a for a in range(ndim) if a not in features), axis)


def _complaint(axis: object, named: tuple[int, ...], ndim: int) -> str:
    if not named:
        return "axis=() names no feature axis; pass the axis to keep, such as axis=-1"
    if all(-ndim <= a < ndim for a in named):
        return f"axis={axis} names an axis of the rank-{ndim} input twice; name each feature axis once"
    remedy = f"choose axes from {-ndim} to {ndim - 1}, such as axis=-1 for channels last" if ndim else "pass x[None]"
    return f"axis={axis} is out of range for an input of rank {ndim}; {remedy}"


def known(shape: Sequence[Any]) -> bool:
    """Whether every size is a number; under `jax.export` sizes may be symbols."""
    return all(isinstance(size, int) for size in shape)


def concrete(value: object) -> np.ndarray[Any, Any] | None:
    """The numbers of `value` if they are known at trace time, as those of all constants are; else None.

    A NumPy array, because what is computed from a concrete `jax.Array` under `jax.jit` is traced again.
    """
    traced = isinstance(value, Tracer) or not getattr(value, "is_fully_addressable", True)
    return None if traced else np.asarray(value)


def within(value: Any, low: float, high: float) -> bool:
    """Whether all numbers lie in [low, high], as far as they are known at trace time."""
    numbers = concrete(value)
    return numbers is None or bool(np.all((numbers >= low) & (numbers <= high)))


def varying_as(value: jax.Array, x: jax.Array) -> jax.Array:
    """`value`, with the type that varies over the devices of a `jax.shard_map` as that of `x` does."""
    return value + lax.full_like(x, 0, value.dtype, value.shape)


def one_hot(index: jax.Array, size: int) -> jax.Array:
    """A new first axis of `size`, True at `index` for each of its entries: to select without a gather."""
    return jnp.expand_dims(jnp.arange(size, dtype=index.dtype), tuple(range(1, index.ndim + 1))) == index[None]


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
            f"where has shape {where.shape}, which does not broadcast to the input's {tuple(shape)}; pass one of the "
            "same rank with 1 for every axis that it does not depend on, such as mask[:, None] for one flag an example"
        )
    return where.reshape((1,) * (len(shape) - where.ndim) + where.shape)


def _flags(where: jax.Array) -> jax.Array:
    """`where` as booleans. Weights and additive masks, which would be inverted, are errors."""
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


def count(axes: Axes, shape: Sequence[int], mask: jax.Array | None = None) -> jax.Array:
    """Unmasked elements per feature, float32: `[]` if the mask does not depend on the feature, else `[*features]`."""
    if mask is None:
        return jnp.asarray(axes.size(shape), jnp.float32)
    repeats = math.prod(shape[a] for a in axes.reduced if mask.shape[a] == 1)
    total = jnp.sum(mask, axes.reduced, dtype=jnp.float32) * repeats
    if all(size == 1 for size in total.shape):
        return total.reshape(())
    return jnp.broadcast_to(total, axes.feature_shape(shape))


def check_features(axes: Axes, shape: Sequence[int], **values: jax.Array | None) -> None:
    """Raises ValueError unless each value is None or has the feature shape of an input of `shape`."""
    expected = axes.feature_shape(shape)
    for name, value in values.items():
        if value is not None and np.shape(value) != expected:
            raise ValueError(
                f"{name} has shape {np.shape(value)}, but axis={axes.given} of an input of shape "
                f"{tuple(shape)} has the feature shape {expected}; pass a {name} of that shape, or another axis"
            )


def check_static(**options: object) -> None:
    """Raises TypeError if an option that must be static is traced."""
    for name, value in options.items():
        if isinstance(value, Tracer):
            raise TypeError(
                f"{name} is a traced array of dtype {value.dtype}, whose value is not known yet; it decides which "
                "program is traced, and must be a Python value: close over it, set it by functools.partial, or name it "
                f"in jax.jit(f, static_argnames={name!r})"
            )
