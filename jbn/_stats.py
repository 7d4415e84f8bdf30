"""How running statistics follow the batches: the only file that says "momentum".

Libraries give the word two meanings. Here, as in Flax, it is the weight kept on the old value; torch's 0.1 is 0.9 here.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jbn import _axes
from jbn._moments import Moments


class BatchStats(NamedTuple):
    """Running statistics: what a layer knows of the whole stream of batches.

    Attributes:
      mean: `[*features]`, running mean; starts at 0.
      var: `[*features]`, real, running (biased) variance; starts at 1.
    """

    mean: jax.Array
    var: jax.Array


def init_stats(features: int | Sequence[int], *, dtype: DTypeLike = jnp.float32) -> BatchStats:
    """Running statistics before the first batch: mean 0, variance 1.

    Args:
      features: number of features, or the feature shape where there are several feature axes.
      dtype: of the mean; the variance has its real counterpart. Below float32 a moving average stalls: the last few
        percent of every step are rounded away.

    Returns:
      BatchStats for these features.

    Example:
      >>> import jbn
      >>> print(jbn.init_stats(3))
      BatchStats(mean=Array([0., 0., 0.], dtype=float32), var=Array([1., 1., 1.], dtype=float32))
    """
    shape = tuple(features) if isinstance(features, Sequence) else (operator.index(features),)
    mean = jnp.zeros(shape, dtype)
    return BatchStats(mean, jnp.ones(shape, mean.real.dtype))


def update_stats(stats: BatchStats, batch: Moments, *, momentum: float | jax.Array = 0.99) -> BatchStats:
    """One step of the exponential moving average.

    ::

        mean ← momentum · mean + (1 - momentum) · batch.mean        (and var alike)

    Args:
      stats: running statistics so far.
      batch: moments of one batch. A feature with count 0 (all masked) leaves its statistics as they are.
      momentum: weight kept on the old value, in [0, 1]; 0.99 remembers about 100 batches. torch's 0.1 is 0.9 here.

    Returns:
      BatchStats in the dtypes of `stats`, so that a scan can carry them whatever the input's dtype.

    Raises:
      ValueError: statistics and moments over different features, or a complex mean for real statistics.

    Example:
      >>> import jax.numpy as jnp, jbn
      >>> batch = jbn.moments(jnp.array([[1.0], [3.0]]))
      >>> stats = jbn.update_stats(jbn.init_stats(1), batch, momentum=0.9)
      >>> print(stats.mean.round(3), stats.var)
      [0.2] [1.]

    Differs from Flax, where a fully masked batch turns the running statistics into NaN for good.
    """
    if stats.mean.shape != batch.mean.shape or stats.var.shape != batch.var.shape:
        raise ValueError(
            f"running statistics have the feature shape {stats.mean.shape}, the batch's moments {batch.mean.shape}; "
            "write statistics of the same features, such as jbn.init_stats(batch.mean.shape)"
        )
    if jnp.iscomplexobj(batch.mean) and not jnp.iscomplexobj(stats.mean):
        raise ValueError(
            f"the batch's mean is {batch.mean.dtype}, but the running mean {stats.mean.dtype}, which cannot hold it; "
            "write jbn.init_stats(features, dtype=jnp.complex64)"
        )

    def follow(old: jax.Array, new: jax.Array) -> jax.Array:
        wide = _axes.wide(old.dtype, new.dtype)
        keep = jnp.asarray(momentum, wide)
        moved = keep * old.astype(wide) + jnp.asarray(1 - momentum, wide) * new.astype(wide)
        return jnp.where(batch.count > 0, moved.astype(old.dtype), old)

    return BatchStats(follow(stats.mean, batch.mean), follow(stats.var, batch.var))


def drift(stats: BatchStats, batch: Moments, *, epsilon: float) -> jax.Array:
    """How far the batch lies from the running statistics: |batch.mean - mean| / sqrt(var + epsilon), `[*features]`."""
    wide = _axes.wide(batch.mean.dtype, stats.mean.dtype)
    var = stats.var.astype(jnp.finfo(wide).dtype)
    return jnp.abs(batch.mean.astype(wide) - stats.mean.astype(wide)) * lax.rsqrt(var + epsilon)
