"""Several domains in one layer, each with its own running statistics and, optionally, its own scale and bias.

    y = (x - mean_d) / sqrt(var_d + epsilon) · scale_d + bias_d,      d the domain of the batch, or of each example

One layer for clean and adversarial examples (auxiliary batch norm: Xie et al. 2020, "Adversarial Examples Improve Image
Recognition"), for source and target (Chang et al. 2019, "Domain-Specific Batch Normalization for Unsupervised Domain
Adaptation"). The domain is a traced number, so that one compiled step serves all.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jbn import _axes, _meshes
from jbn._axes import Axis
from jbn._batch_norm import Info, batch_norm
from jbn._moments import Moments
from jbn._running_stats import BatchStats, UpdateRule, follow, init_stats
from jbn._typed import vmap

T = TypeVar("T")


@_meshes.by_compiler
def domain_batch_norm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    stats: BatchStats,
    domain: int | jax.Array,
    *,
    train: bool,
    update: bool | None = None,
    axis: Axis = -1,
    where: jax.Array | None = None,
    **options: Any,
) -> tuple[jax.Array, BatchStats, Info]:
    """Batch norm with statistics of one domain among several.

    ::

        y = (x - mean_d) / sqrt(var_d + epsilon) · scale_d + bias_d

    Args:
      x: `[..., features, ...]`, floating or complex.
      scale: gamma, `[*features]` shared by all domains, `[domains, *features]` separate, or None for 1.
      bias: beta, likewise.
      stats: running statistics of all domains, each leaf with a leading axis of domains: `init_domain_stats`.
      domain: `[]`, int, the domain of this batch; or `[batch]`, one for each example (along the first reduced axis):
        then the examples of each domain form one batch, at the cost of one batch norm per domain. May be traced; if a
        traced number is out of range, y is NaN and the statistics stay.
      train: as in `batch_norm`. In training only the statistics of domains with examples move.
      update: as in `batch_norm`.
      axis: the feature axis or axes.
      where: boolean, broadcastable to `x`: True where an element counts.
      **options: all others of `batch_norm`. They apply to all domains together: `skip_nonfinite` skips and counts a
        batch for all domains, and every call is one micro-batch of `accumulate_steps`, whatever its domain.

    Returns:
      y, the running statistics of all domains, and Info of the domain, or with a leading axis of domains.

    Raises:
      ValueError: as `batch_norm`; and a domain that is not an integer, is out of range, or has another shape.

    Example:
      >>> import jax, jax.numpy as jnp, jbn
      >>> x, stats = jnp.array([[1.0], [3.0]]), jbn.init_domain_stats(2, 1)
      >>> _, stats, _ = jbn.domain_batch_norm(x, None, None, stats, 1, train=True, momentum=0.0)
      >>> print(stats.mean.ravel(), stats.var.ravel())
      [0. 2.] [1. 1.]

    Reference: Chang et al. 2019 (https://arxiv.org/abs/1906.03950); Xie et al. 2020 (https://arxiv.org/abs/1911.09665).
    """
    domains, axes = stats.mean.shape[0], _axes.canonical(axis, x.ndim)
    features = axes.feature_shape(x.shape)
    for name, value in (("stats.mean", stats.mean), ("stats.var", stats.var)):
        if value.shape[1:] != features:
            raise ValueError(
                f"{name} has shape {value.shape}; for an input of shape {x.shape} with axis={axis} pass one of shape "
                f"{('domains', *features)}, such as jbn.init_domain_stats(domains, {features})"
            )
    domain = _checked(domain, domains)
    update = train if update is None else update
    rule = UpdateRule(**{field.name: options.pop(field.name) for field in fields(UpdateRule) if field.name in options})

    def norm(d: Any, keep: jax.Array | None) -> tuple[jax.Array, Info]:
        own = BatchStats(stats.mean[d], stats.var[d])  # moved below, with all others
        gamma, beta = (p if p is None or p.ndim == len(features) else p[d] for p in (scale, bias))
        y, _, info = batch_norm(x, gamma, beta, own, train=train, update=update, axis=axis, where=keep, **options)
        return y, info

    if domain.ndim == 0:
        y, info = norm(domain, where)
        here = jnp.arange(domains) == domain
        known = jnp.any(here)
        if update:
            assert info.moments is not None
            batch = Moments(*(jnp.where(here.reshape(-1, *[1] * m.ndim), m, 0) for m in info.moments))
            moved = _follow(stats, batch, rule)
            stats = _chosen(known, moved, stats)
            info = info._replace(skipped=None if stats.skipped is None else stats.skipped[domain])
        return jnp.where(known, y, jnp.nan), stats, info

    reduced = axes.reduced
    if not reduced or domain.shape != (x.shape[reduced[0]],):
        raise ValueError(
            f"domain has shape {domain.shape}; pass one number for the batch, or one for each of the "
            f"{x.shape[reduced[0]] if reduced else 0} examples of an input of shape {x.shape}"
        )
    each = jnp.expand_dims(domain, [a for a in range(x.ndim) if a != reduced[0]])
    valid = True if where is None else _axes.expand_mask(where, x.shape)
    ys, infos = zip(*(norm(d, (each == d) & valid) for d in range(domains)), strict=True)
    y = jnp.full_like(ys[0], jnp.nan)
    for d, one in enumerate(ys):
        y = jnp.where(each == d, one, y)
    info = _stacked(*infos)
    if update:
        assert info.moments is not None
        stats = _follow(stats, info.moments, rule)
        info = info._replace(skipped=stats.skipped)
    return y, stats, info


def init_domain_stats(domains: int, features: int | tuple[int, ...], **options: Any) -> BatchStats:
    """Running statistics of several domains before the first batch.

    Args:
      domains: their number.
      features: number of features, or the feature shape.
      **options: those of `init_stats`.

    Returns:
      BatchStats, each leaf with a leading axis of domains.

    Example:
      >>> import jbn
      >>> jbn.init_domain_stats(2, 3).mean.shape
      (2, 3)
    """
    return _stacked(*[init_stats(features, **options)] * domains)


def _follow(stats: BatchStats, batch: Moments, rule: UpdateRule) -> BatchStats:
    """The statistics of all domains after one batch of moments `[domains, ...]`; count is 0 without examples."""

    def alike(a: jax.Array) -> jax.Array:
        worst = jnp.max(jnp.abs(a), initial=0)
        return jnp.where(jnp.isfinite(worst), a, worst.astype(a.dtype))

    if rule.skip_nonfinite:
        batch = Moments(*map(alike, batch))

    def one(stats: BatchStats, batch: Moments) -> BatchStats:
        return follow(stats, batch, rule)

    return vmap(one)(stats, batch)


def _stacked(*records: T) -> T:
    """The records as one, each leaf with a leading axis."""

    def stack(*leaves: jax.Array) -> jax.Array:
        return jnp.stack(leaves)

    return jax.tree.map(stack, *records)


def _chosen(condition: jax.Array, new: BatchStats, old: BatchStats) -> BatchStats:
    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(condition, new, old)

    return jax.tree.map(choose, new, old)


def _checked(domain: Any, domains: int) -> jax.Array:
    given, domain = domain, jnp.asarray(domain)
    if not jnp.issubdtype(domain.dtype, jnp.integer):
        raise ValueError(f"domain has dtype {domain.dtype}; pass whole numbers from 0 to {domains - 1}")
    if not _axes.within(given, 0, domains - 1):
        raise ValueError(f"domain={given} is out of range; pass whole numbers from 0 to {domains - 1}")
    return domain
