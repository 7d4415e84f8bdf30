"""Inference under a shift of the data: normalizing by the test batch's statistics, or by a blend with the running ones.

    mean = w · stats.mean + (1 - w) · E[x],    var = w · stats.var + (1 - w) · Var[x]

w = 1 is inference as usual, w = 0 the test batch alone (Nado et al. 2020, "Evaluating Prediction-Time Batch
Normalization under Covariate Shift"). Between them, w = N / (N + n) weighs the running statistics as N examples against
the n of the batch (Schneider et al. 2020, "Improving robustness against common corruptions by covariate shift
adaptation").

A batch that is no fair sample, such as one of a single class, moves both far. `max_drift` = d bounds how far, in
units of the source's standard deviation σ = sqrt(stats.var + epsilon)::

    |mean - stats.mean| ≤ d · σ,    σ / (1 + d) ≤ sqrt(var + epsilon) ≤ σ · (1 + d)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from jbn import _axes, _dtypes, _meshes
from jbn._activation import Activation, Side, with_activation
from jbn._axes import Axis
from jbn._batch_norm import SAVE_MOMENTS, How, Info, refuse_one_value
from jbn._devices import AxisName, Groups
from jbn._kernels.plain import checkpoint, named, plainly
from jbn._moments import Moments, shifted_moments, unshifted
from jbn._normalize import normalize_shifted
from jbn._running_stats import BatchStats
from jbn._typed import finfo


@_meshes.by_compiler
def adaptive_batch_norm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    stats: BatchStats,
    *,
    source_weight: float | jax.Array = 0.0,
    max_drift: float | jax.Array | None = None,
    epsilon: float | jax.Array = 1e-5,
    axis: Axis = -1,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    axis_index_groups: Groups = None,
    dtype: DTypeLike | None = None,
) -> tuple[jax.Array, Moments]:
    """Batch norm at inference by a blend of the running statistics and those of the test batch.

    ::

        mean = w · stats.mean + (1 - w) · E[x],    var = w · stats.var + (1 - w) · Var[x]
        y = (x - mean) / sqrt(var + epsilon) · scale + bias

    With `max_drift` = d, mean and standard deviation are then clipped to the neighbourhood of the source's::

        σ = sqrt(stats.var + epsilon)
        mean ← clip(mean, stats.mean - d · σ, stats.mean + d · σ)
        sqrt(var + epsilon) ← clip(sqrt(var + epsilon), σ / (1 + d), σ · (1 + d))

    Gradients flow through the test batch's statistics, as test-time training by entropy needs it; not through what is
    clipped.

    Args:
      x: `[..., features, ...]`, floating or complex.
      scale: gamma, `[*features]`, or None for 1.
      bias: beta, `[*features]`, or None for 0.
      stats: running statistics of the source data; they do not change.
      source_weight: w, in [0, 1]: 1 is inference as usual, 0 uses the test batch alone. N / (N + n) weighs the running
        statistics as N examples against the n of the test batch. May be traced. With one value per feature, which
        has no variance, it must be larger than 0.
      max_drift: d, larger than 0: the blended mean lies at most d source standard deviations from `stats.mean`, and the
        blended standard deviation within a factor 1 + d of the source's. None, or infinity, is no bound; d → 0 is
        inference as usual. May be traced. Means of complex data stay within a circle of that radius.
      epsilon: added to the variance.
      axis: the feature axis or axes.
      where: boolean, broadcastable to `x`: True where an element counts. A feature with no such element, or with a
        single one if w is 0, is normalized by the running statistics alone.
      axis_name: mapped axis or axes that the batch is spread over.
      axis_index_groups: groups of indices of `axis_name`, each a batch of its own.
      dtype: of y; by default that of `x`.

    Returns:
      y, shaped as `x`, and the moments of the test batch.

    Raises:
      ValueError: shapes that do not fit, a weight or a bound out of range, or one value per feature and a weight of 0.

    Example:
      >>> import jax, jax.numpy as jnp, jbn
      >>> x = 4 + jax.random.normal(jax.random.key(0), (512, 3))  # far from the source's mean of 0
      >>> y, _ = jbn.adaptive_batch_norm(x, None, None, jbn.init_stats(3), source_weight=0.5)
      >>> print(y.mean(0).round())
      [2. 2. 2.]
      >>> y, _ = jbn.adaptive_batch_norm(x, None, None, jbn.init_stats(3), max_drift=1.0)  # the mean moves by 1, not 4
      >>> print(y.mean(0).round())
      [3. 3. 3.]

    Reference: Nado et al. 2020 (https://arxiv.org/abs/2006.10963) for w = 0; Schneider et al. 2020
    (https://arxiv.org/abs/2006.16971), section 3.
    """
    axes = _axes.canonical(axis, x.ndim)
    _axes.check_features(axes, x.shape, scale=scale, bias=bias, **{"stats.mean": stats.mean, "stats.var": stats.var})
    where = None if where is None else _axes.expand_mask(where, x.shape)
    if not _axes.within(source_weight, 0, 1):
        raise ValueError(f"source_weight={source_weight} is not between 0 and 1; pass N / (N + n), such as 16 / 80")
    if max_drift is not None and not _axes.within(max_drift, np.nextafter(0, 1), np.inf):
        raise ValueError(
            f"max_drift={max_drift} is not larger than 0; pass a number of source standard deviations, such as 1.0, or "
            "None for no bound (source_weight=1 is inference as usual)"
        )
    if (known := _axes.concrete(source_weight)) is not None and np.any(known == 0):
        how = How(axes, where, axis_name, axis_index_groups)
        remedy = "source_weight=N / (N + n), such as 16 / 17, to blend in the running statistics"
        x = refuse_one_value(x, how, "source_weight=0", remedy)

    @plainly
    def forward(
        x: jax.Array,
        scale: jax.Array | None,
        bias: jax.Array | None,
        where: jax.Array | None,
        weight: float | jax.Array,
        drift: float | jax.Array | None,
    ) -> tuple[jax.Array, Moments]:
        result, x = x.dtype if dtype is None else dtype, _dtypes.upcast(x)
        shift, test = named(shifted_moments(x, axes, where, axis_name, axis_index_groups), "jbn_moments")
        wide = test.var.dtype
        w = jnp.asarray(weight, wide)
        w = jnp.where(test.count > jnp.where(w == 0, 1, 0), w, 1)
        # Relative to the shift, so that nothing cancels where both means are large.
        source = stats.mean.astype(test.mean.dtype) - shift
        mean = w.astype(source.dtype) * source + (1 - w).astype(source.dtype) * test.mean
        var = w * stats.var.astype(wide) + (1 - w) * test.var
        if drift is not None:
            mean, var = _bounded(mean, var, source, stats.var.astype(wide), epsilon, jnp.asarray(drift, wide))
        y = normalize_shifted(x, shift, mean, var, scale, bias, axes, where, epsilon, result)
        return y, lax.stop_gradient(unshifted(shift, test))

    return checkpoint(forward, x, scale, bias, where, source_weight, max_drift, policy=SAVE_MOMENTS)


def _bounded(
    mean: jax.Array,
    var: jax.Array,
    source_mean: jax.Array,
    source_var: jax.Array,
    epsilon: float | jax.Array,
    drift: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance, clipped to the neighbourhood of the source's that `max_drift` describes.

    What lies within is returned bit by bit. With q = d(2 + d), so that (1 + d)² = 1 + q, the bounds of the variance are
    differences from the source's, which do not cancel for small d.
    """
    drift = jnp.minimum(drift, float(finfo(drift.dtype).max) ** 0.5 / 2)  # infinity times a spread of 0 is NaN
    q, square = drift * (2 + drift), source_var + jnp.asarray(epsilon, var.dtype)
    var = jnp.clip(var, source_var - square / (1 + 1 / q), source_var + square * q)
    radius = drift * jnp.sqrt(square)
    if not jnp.iscomplexobj(mean):
        return jnp.clip(mean, source_mean - radius, source_mean + radius), var
    away = mean - source_mean
    distance = jnp.square(away.real) + jnp.square(away.imag)
    outside = distance > jnp.square(radius)
    on_circle = source_mean + away * (radius * lax.rsqrt(jnp.where(outside, distance, 1))).astype(away.dtype)
    return jnp.where(outside, on_circle, mean), var


def adaptive_layer(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    stats: BatchStats,
    *,
    source_weight: float | jax.Array,
    max_drift: float | jax.Array | None = None,
    where: jax.Array | None,
    activation: Activation | None = None,
    placement: Side = "before",
    dtype: DTypeLike | None = None,
    **options: Any,
) -> tuple[jax.Array, BatchStats, Info]:
    """`adaptive_batch_norm` behind the face of `batch_norm`, for the Flax modules; options of training do nothing."""
    used = {name: options[name] for name in ("epsilon", "axis", "axis_name", "axis_index_groups")}
    used |= {"source_weight": source_weight, "max_drift": max_drift}
    mask = None if where is None else _axes.expand_mask(where, x.shape)

    def norm(x: jax.Array, dtype: DTypeLike) -> tuple[jax.Array, Moments]:
        return adaptive_batch_norm(x, scale, bias, stats, where=where, dtype=dtype, **used)

    dtype = x.dtype if dtype is None else dtype
    wide = _dtypes.wide(*(a.dtype for a in (x, scale, bias) if a is not None))
    y, test = with_activation(activation, placement, norm, x, mask, dtype, wide)
    return y, stats, Info(moments=test)
