"""Frozen batch norm: an affine map by the running statistics, in training as at inference.

    y = (x - stats.mean) / sqrt(stats.var + epsilon) · scale + bias          (all four constants)

Fine-tuning with batches that are too small for batch statistics keeps the statistics of pretraining (He et al.
2017, "Mask R-CNN", section 3.1). The gradient dx = dy · scale / sqrt(stats.var + epsilon) takes no pass over the batch.

They are constants to differentiation only. An optimizer may still change parameters that have no gradient, as weight
decay does; `jbn.optim.frozen_mask` prevents that.
"""

from __future__ import annotations

from typing import Any

import jax

from jbn._batch_norm import batch_norm
from jbn._running_stats import BatchStats


def frozen_batch_norm(
    x: jax.Array, scale: jax.Array | None, bias: jax.Array | None, stats: BatchStats, **options: Any
) -> jax.Array:
    """Batch norm whose statistics, scale and bias are constants.

    ::

        y = (x - stats.mean) / sqrt(stats.var + epsilon) · scale + bias

    Args:
      x: `[..., features, ...]`, floating or complex.
      scale: gamma, `[*features]`, or None for 1; no gradient reaches it.
      bias: beta, `[*features]`, or None for 0; no gradient reaches it.
      stats: running statistics.
      **options: `epsilon`, `axis`, `where`, `activation`, `placement` and `dtype` of `batch_norm`.

    Returns:
      y, shaped as `x`.

    Raises:
      ValueError: as `batch_norm`.

    Example:
      >>> import jax.numpy as jnp, jbn
      >>> stats = jbn.BatchStats(mean=jnp.array([1.0]), var=jnp.array([4.0]))
      >>> print(jbn.frozen_batch_norm(jnp.array([[5.0]]), None, None, stats).round(3))
      [[2.]]

    Reference: He et al. 2017, "Mask R-CNN" (https://arxiv.org/abs/1703.06870).
    """
    return batch_norm(x, scale, bias, stats, train=False, trainable=False, **options)[0]
