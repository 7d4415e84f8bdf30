"""A mean that may be off, at a small part of the cost of a pass: that of a part of the batch.

Where that part is a share f of the batch, the variance between the part and the rest is part of var, so

    |E[x - c]|² <= var · (1 - f)/f

whatever the batch holds: with 1/f = 64 at most six bits of the variance cancel, and usually none.
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
    """The mean of about one in 64 elements of each feature."""
    part = subsample(x, axes, SAMPLED, mask, spread=_meshes.spread_axes(x))
    return materialize_vector(reference.rough_mean(part, axes, mask), x)


def subsample(
    x: jax.Array, axes: Axes, every: int, mask: jax.Array | None = None, *, spread: tuple[int, ...] = ()
) -> jax.Array:
    """About one in so many elements of each feature, never fewer than one in twice that; of those that `mask` keeps.

    All of a small input, of one with few elements per feature, or of one whose size is a symbol (`jax.export`). With a
    mask, which has the rank of `x`, the axis that is sampled is one along which it does not change, so that it fits the
    sample as it is, and keeps the same share of it; all of `x` where there is no such axis.

    Not a part of the examples (the first axis), which may be spread over devices, but a part of each; where there are
    examples alone, one of every few neighbours. None of what is known to be `spread`.
    """
    if not large(*x.shape) or axes.size(x.shape) < every:
        return x
    free = [a for a in axes.reduced if a not in spread and (mask is None or mask.shape[a] == 1)]
    if not free:
        return x
    along = max(free, key=lambda a: (a > 0 and x.shape[a] > 1, x.shape[a]))
    if along == 0:
        size = next((k for k in range(every, 1, -1) if x.shape[0] % k == 0), 1)
        return x.reshape(x.shape[0] // size, size, *x.shape[1:])[:, size // 2]
    step = min(every, x.shape[along])
    return lax.slice_in_dim(x, step // 2, None, stride=step, axis=along)
