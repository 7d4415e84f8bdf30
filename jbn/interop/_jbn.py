"""A layer of batch norm from and to the arguments of `jbn.batch_norm`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbn._running_stats import BatchStats
from jbn.interop._arrays import array
from jbn.interop._layer import Layer, batch_count, debiased_weight, known_count, make_layer


def from_jbn(scale: Any, bias: Any, stats: BatchStats | None, **options: Any) -> Layer:
    """The layer of `jbn.batch_norm`'s arguments.

    Args:
      scale: `[features]`, or None.
      bias: `[features]`, or None.
      stats: running statistics, or None. What they count of skipped batches, and pending batches of an accumulation,
        is dropped.
      **options: momentum, epsilon, variance, debias, as given to `jbn.batch_norm`.

    Returns:
      Layer.

    Raises:
      ValueError: shapes differ, an option does not exist, or the statistics were made with other options.

    Example:
      >>> import jbn
      >>> from jbn import interop
      >>> interop.from_jbn(None, None, jbn.init_stats(2), momentum=0.9).momentum
      0.9
    """
    layer = make_layer("jbn", (scale, bias, *(stats[:2] if stats else (None, None))), **options)
    if stats is None:
        return layer
    if callable(layer.momentum):
        return layer if stats.step is None else layer._replace(count=array(stats.step))
    if stats.weight is None:
        return layer
    weight = array(stats.weight).astype(np.float64)
    if layer.momentum is None:
        return layer._replace(count=weight)
    if not layer.debias:
        raise ValueError(
            "the running statistics have a weight, which belongs to momentum=None or debias=True; pass the options "
            "of the layer, such as debias=True"
        )
    with np.errstate(divide="ignore", invalid="ignore"):  # the n of weight = 1 - m^n
        count = np.log1p(-weight) / np.log(np.float64(layer.momentum))
    return layer._replace(count=np.where(weight >= 1, np.inf, np.where(weight <= 0, 0, count)))


def to_jbn(layer: Layer) -> tuple[jax.Array | None, jax.Array | None, BatchStats | None]:
    """Scale, bias and running statistics for `jbn.batch_norm(x, scale, bias, stats, ..., **layer.options())`.

    Args:
      layer: a layer.

    Returns:
      Scale, bias and stats; None for what the layer does not have.

    Raises:
      ValueError: the options need the number of batches seen, and it is unknown.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> layer = interop.Layer(None, None, np.zeros(2), np.ones(2), count=np.array(5), momentum=None)
      >>> interop.to_jbn(layer)[2].weight
      Array([5., 5.], dtype=float32)
    """
    scale, bias, mean, var = (None if v is None else jnp.array(v) for v in layer[:4])
    if mean is None or var is None:
        return scale, bias, None
    stats = BatchStats(mean, var)
    if layer.momentum is None or layer.debias:
        weight = known_count(layer, "momentum=None" if layer.momentum is None else "debias=True")
        weight = debiased_weight(weight, layer.momentum) if layer.debias else weight
        stats = stats._replace(weight=jnp.broadcast_to(jnp.asarray(weight, jnp.float32), mean.shape))
    if callable(layer.momentum):
        stats = stats._replace(step=jnp.asarray(batch_count(layer, "a schedule"), jnp.int32))
    return scale, bias, stats
