"""The rough mean: the mean of a subsample, at a small fraction of the cost of a pass.

If the subsample is a fraction f of the batch, the variance between it and the rest is a part of var, so

    |E[x - c]|² <= var · (1 - f)/f

for every batch: with 1/f = 64, at most six bits of the variance cancel, and usually none.
"""

from __future__ import annotations

import jax
from jax import lax

from jbn import _meshes
from jbn._axes import Axes
from jbn._kernels import reference
from jbn._kernels.materialize import materialize_vector
from jbn._kernels.tuning import SAMPLED, large


def rough_mean(x: jax.Array, axes: Axes, mask: jax.Array | None = None) -> jax.Array:
    """The mean of about one in 64 elements of each feature, to shift by."""
    part = subsample(x, axes, SAMPLED, mask, sharded=_meshes.sharded_axes(x))
    return materialize_vector(reference.rough_mean(part, axes, mask), x)


def subsample(
    x: jax.Array, axes: Axes, every: int, mask: jax.Array | None = None, *, sharded: tuple[int, ...] = ()
) -> jax.Array:
    """About one in `every` elements of each feature, and at least one in twice that: a slice with steps along one axis.

    Returns all of `x` if it is small, has few elements per feature, or has a symbolic size (`jax.export`). The axis is
    preferably not the first, the examples, which may be sharded over devices; where that is the only reduced axis, one
    example of every few neighbours is taken. With a mask, of the rank of `x`, the axis is one along which the mask does
    not change, so that the same mask fits the subsample. Axes in `sharded` are not sliced.
    """
    if not large(*x.shape) or axes.size(x.shape) < every:
        return x
    free = [a for a in axes.reduced if a not in sharded and (mask is None or mask.shape[a] == 1)]
    if not free:
        return x
    along = max(free, key=lambda a: (a > 0 and x.shape[a] > 1, x.shape[a]))
    if along == 0:
        size = next((k for k in range(every, 1, -1) if x.shape[0] % k == 0), 1)
        return x.reshape(x.shape[0] // size, size, *x.shape[1:])[:, size // 2]
    step = min(every, x.shape[along])
    return lax.slice_in_dim(x, step // 2, None, stride=step, axis=along)
