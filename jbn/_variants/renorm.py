"""Batch renormalization: training that sees what inference will see.

    y = ((x - E[x]) / σ_B · r + d) · scale + bias,       σ_B = sqrt(Var[x] + epsilon),  σ = sqrt(stats.var + epsilon)
    r = clip(σ_B / σ, 1/r_max, r_max),    d = clip((E[x] - stats.mean) / σ, -d_max, d_max)

r and d are constants to the gradient. Within the limits, y equals the output of inference, (x - stats.mean) / σ · scale
+ bias; with r_max = 1 and d_max = 0 this is batch norm. Training starts there, and a ramp over the steps widens the
limits.

Reference: Ioffe 2017, "Batch Renormalization" (https://arxiv.org/abs/1702.03275).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbn import _axes, _dtypes, _meshes
from jbn._batch_norm import Info, Vector, batch_norm, corrected
from jbn._moments import Moments
from jbn._running_stats import BatchStats
from jbn._virtual_batches import VirtualBatches

Limit = float | jax.Array | Callable[[jax.Array], Any]


def renorm_ramp(final: float, *, start: int, end: int, initial: float) -> Callable[[jax.Array], jax.Array]:
    """A limit that stays at `initial` until step `start`, then grows linearly to `final` at step `end`.

    Args:
      final: the limit from step `end` on.
      start: step (number of updates) at which the limit begins to grow.
      end: step at which it reaches `final`.
      initial: the limit before: 1 for r_max, 0 for d_max, which is batch norm.

    Returns:
      A function of the step.

    Raises:
      ValueError: an end before the start.

    Example:
      >>> import jbn
      >>> d_max = jbn.renorm_ramp(5.0, start=5000, end=25000, initial=0.0)
      >>> [float(d_max(step)) for step in (0, 5000, 15000, 25000, 10**6)]
      [0.0, 0.0, 2.5, 5.0, 5.0]

    Reference: Ioffe 2017, section 4.1 (r_max from 1 to 3 in steps 5k to 40k, d_max from 0 to 5 in steps 5k to 25k).
    """
    if end < start:
        raise ValueError(f"a ramp from step {start} to step {end} runs backwards; choose start <= end")

    def limit(step: jax.Array) -> jax.Array:
        share = (jnp.asarray(step, jnp.float32) - start) / max(end - start, 1)
        return initial + (final - initial) * jnp.clip(share, 0.0, 1.0)

    return limit


@_meshes.by_compiler
def batch_renorm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    stats: BatchStats | None,
    *,
    train: bool,
    r_max: Limit = 3.0,
    d_max: Limit = 5.0,
    epsilon: float | jax.Array = 1e-5,
    **options: Any,
) -> tuple[jax.Array, BatchStats, Info]:
    """Batch renormalization: batch norm, corrected towards the running statistics within limits.

    ::

        y = ((x - E[x]) / σ_B · r + d) · scale + bias
        r = clip(σ_B / σ, 1/r_max, r_max),    d = clip((E[x] - stats.mean) / σ, -d_max, d_max)

    with σ_B² = Var[x] + epsilon and σ² = stats.var + epsilon; r and d are constants to the gradient.

    Args:
      x: `[..., features, ...]`, floating.
      scale: gamma, `[*features]`, or None for 1.
      bias: beta, `[*features]`, or None for 0.
      stats: running statistics, those before this batch; `init_stats(features, count_steps=True)` where a limit is a
        ramp.
      train: as in `batch_norm`.
      r_max: limit of the correction of the spread, at least 1; a number, or a function of the step (`renorm_ramp`).
      d_max: limit of the correction of the mean, in running standard deviations; likewise.
      epsilon: added to both variances.
      **options: all others of `batch_norm`: masks, axis names, virtual batches, momentum, ...

    Returns:
      y, the new running statistics, and Info.

    Raises:
      ValueError: as `batch_norm`; and no running statistics, a ramp without `stats.step`, or a limit out of range.

    Example:
      >>> import jax, jax.numpy as jnp, jbn
      >>> x, stats = 5 + jax.random.normal(jax.random.key(0), (8, 3)), jbn.init_stats(3)
      >>> y, _, _ = jbn.batch_renorm(x, None, None, stats, train=True, r_max=100.0, d_max=100.0)
      >>> bool(jnp.allclose(y, jbn.batch_norm(x, None, None, stats, train=False)[0], atol=1e-5))  # as at inference
      True

    Reference: Ioffe 2017, "Batch Renormalization", Algorithm 1 (https://arxiv.org/abs/1702.03275).
    """
    if stats is None:
        raise ValueError("stats is None, but batch_renorm corrects towards them; pass jbn.init_stats(features)")
    # Inference corrects nothing, so the state needs no step there.
    r_limit, d_limit = (
        _limit(name, limit, least, stats) if train or not callable(limit) else least
        for name, limit, least in (("r_max", r_max, 1.0), ("d_max", d_max, 0.0))
    )

    def correction(
        scale: Vector, bias: Vector, shift: jax.Array, batch: Moments, groups: VirtualBatches | None
    ) -> tuple[Vector, Vector]:
        shift, batch = lax.stop_gradient((shift, batch))
        wide = _dtypes.wide(batch.var.dtype, stats.var.dtype)
        mean, var = (a.astype(_dtypes.wide(a.dtype, wide)) for a in (stats.mean, stats.var))
        if groups is not None:
            mean, var = groups.expand(mean), groups.expand(var)
        sigma = jnp.sqrt(var + epsilon)
        r = jnp.clip(jnp.sqrt(batch.var + epsilon) / sigma, 1 / r_limit, r_limit)
        d = jnp.clip(((shift - mean) + batch.mean) / sigma, -d_limit, d_limit)
        # Features with no unmasked element are not corrected.
        seen = batch.count.reshape(batch.count.shape + (1,) * (r.ndim - batch.count.ndim)) > 0
        r, d = jnp.where(seen, r, 1), jnp.where(seen, d, 0)
        if scale is not None:
            r, d = r * scale, d * scale
        return r, d if bias is None else bias + d

    with corrected(correction):
        y, new, info = batch_norm(x, scale, bias, stats, train=train, epsilon=epsilon, **options)
    assert new is not None
    return y, new, info


def _limit(name: str, limit: Limit, least: float, stats: BatchStats) -> Any:
    if callable(limit):
        if stats.step is None:
            raise ValueError(
                f"{name} is a function of the step, but the running statistics count none; use "
                "jbn.init_stats(features, count_steps=True)"
            )
        return limit(stats.step)
    if not _axes.within(limit, least, math.inf):
        raise ValueError(f"{name}={limit} is out of range; choose at least {least:g}, which is batch norm's")
    return limit
