"""Batch normalization on one page: moments, normalize, running statistics.

    training:    y = (x - E[x]) / sqrt(Var[x] + epsilon) · scale + bias,    stats follow E[x] and Var[x]
    inference:   y = (x - stats.mean) / sqrt(stats.var + epsilon) · scale + bias

Backpropagation needs the input and per-feature vectors, no more, so that is all that is kept: the forward pass is a
checkpoint whose moments are saved and whose large arrays are computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from jbn import _stats
from jbn._axes import Axis
from jbn._moments import Moments, shifted_moments
from jbn._normalize import check_features, normalize_shifted
from jbn._stats import BatchStats, update_stats

_KEPT = jax.checkpoint_policies.save_only_these_names("jbn_moments")


class Info(NamedTuple):
    """What a call measured; None where it measured nothing, because the running statistics normalized.

    Attributes:
      moments: mean, biased variance and count of this batch.
      drift: `[*features]`, distance of the batch mean from the running mean, in running standard deviations.
    """

    moments: Moments | None
    drift: jax.Array | None


def batch_norm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    stats: BatchStats | None,
    *,
    train: bool,
    momentum: float | jax.Array = 0.99,
    epsilon: float = 1e-5,
    axis: Axis = -1,
    where: jax.Array | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[jax.Array, BatchStats | None, Info]:
    """Batch normalization: a pure function of input, parameters and running statistics.

    ::

        train:  y = (x - E[x]) / sqrt(Var[x] + epsilon) · scale + bias,   stats ← momentum·stats + (1 - momentum)·batch
        else:   y = (x - stats.mean) / sqrt(stats.var + epsilon) · scale + bias

    Args:
      x: `[..., features, ...]`, floating or complex.
      scale: gamma, `[*features]`, or None for 1.
      bias: beta, `[*features]`, or None for 0.
      stats: running statistics, or None to keep none (training only).
      train: True normalizes by the batch's statistics and updates the running ones; False uses the running ones.
      momentum: weight kept on the old running statistics (Flax's meaning; torch's 0.1 is 0.9 here).
      epsilon: added to the variance.
      axis: the feature axis or axes, which are kept.
      where: boolean, broadcastable to `x`: True where an element counts. Masked elements have no part in the
        statistics; they are normalized like the others, and come out as bias where they would not come out finite.
      axis_name: mapped axis or axes that the batch is spread over (vmap, shard_map, pmap). Not for jit with sharded
        arrays, where the batch is global by itself.
      axis_index_groups: groups of indices of `axis_name`, each a batch of its own.
      dtype: of y; by default that of `x`. Statistics are float32 or wider in any case.

    Returns:
      y, shaped as `x`; the new running statistics, which carry no gradient (unchanged if not `train`); and Info.

    Raises:
      ValueError: shapes that do not fit, or no `stats` where they are needed.

    Example:
      >>> import jax, jax.numpy as jnp, jbn
      >>> x = 1e4 + jax.random.normal(jax.random.key(0), (512, 3))
      >>> y, stats, info = jbn.batch_norm(x, jnp.ones(3), jnp.zeros(3), jbn.init_stats(3), train=True)
      >>> print(y.std(0).round(3), info.moments.count)
      [1. 1. 1.] 512.0

    Reference: Ioffe & Szegedy 2015, "Batch Normalization", Algorithms 1 and 2 (https://arxiv.org/abs/1502.03167).

    Differs from Flax: right for large means, right for masks together with `axis_name`, and NaN in padding stays there.
    """
    for name, value in (("scale", scale), ("bias", bias)):
        check_features(name, value, axis, x.shape)
    if stats is not None:
        check_features("stats.mean", stats.mean, axis, x.shape)
        check_features("stats.var", stats.var, axis, x.shape)

    if not train:
        if stats is None:
            raise ValueError("stats is None and train is False; write running statistics, such as jbn.init_stats(n)")
        mean, var = lax.stop_gradient((stats.mean, stats.var))
        return _by_running(x, mean, var, scale, bias, where, axis, epsilon, dtype), stats, Info(None, None)

    y, moments = normalize_batch(
        x,
        scale,
        bias,
        epsilon=epsilon,
        axis=axis,
        where=where,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        dtype=dtype,
    )
    moments = lax.stop_gradient(moments)
    if stats is None:
        return y, None, Info(moments, None)
    drift = _stats.drift(stats, moments, epsilon=epsilon)
    return y, update_stats(stats, moments, momentum=momentum), Info(moments, drift)


def normalize_batch(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    epsilon: float,
    axis: Axis,
    where: jax.Array | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[jax.Array, Moments]:
    """`x` normalized by its own moments, and these; the stateless half of `batch_norm`."""

    def forward(x, scale, bias, where):
        measured = shifted_moments(x, axis=axis, where=where, axis_name=axis_name, axis_index_groups=axis_index_groups)
        shift, centred = checkpoint_name(measured, "jbn_moments")
        y = normalize_shifted(
            x, shift, centred.mean, centred.var, scale, bias, epsilon=epsilon, axis=axis, where=where, dtype=dtype
        )
        return y, centred._replace(mean=shift + centred.mean)

    return jax.checkpoint(forward, policy=_KEPT, prevent_cse=False)(x, scale, bias, where)


def _by_running(x, mean, var, scale, bias, where, axis, epsilon, dtype):
    def forward(x, scale, bias, where):
        return normalize_shifted(x, mean, None, var, scale, bias, epsilon=epsilon, axis=axis, where=where, dtype=dtype)

    return jax.checkpoint(forward, prevent_cse=False)(x, scale, bias, where)
