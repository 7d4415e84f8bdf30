"""How running statistics follow the batches.

Libraries give the word momentum two meanings. Here, as in Flax, it is the weight of the old value; torch's 0.1 is 0.9
here. All rules are weighted averages, and differ in the weights:

    new = keep · old + take · batch

    moving average            keep = m             take = 1 - m
    debiased                  keep = m·w/w',       take = (1 - m)/w',     w' = m·w + 1 - m
    cumulative (m is None)    keep = w/w',         take = 1/w',           w' = w + 1

w is the total weight of the batches seen so far, 0 at the start: the last two drop the initial value at step 1.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from jbn import _axes, _dtypes, _meshes
from jbn._moments import Moments, merge
from jbn._shapes import Mask, Vector, checked
from jbn._typed import finfo

Momentum = float | jax.Array | None | Callable[[jax.Array], Any]
Variance = Literal["biased", "unbiased"]


@dataclass(frozen=True)
class UpdateRule:
    """How running statistics follow the batches: the options of `update_stats`, checked once."""

    momentum: Momentum = 0.99
    debias: bool = False
    variance: Variance = "biased"
    skip_nonfinite: bool = False
    accumulate_steps: int = 1

    def __post_init__(self) -> None:
        _axes.check_static(
            debias=self.debias, skip_nonfinite=self.skip_nonfinite, accumulate_steps=self.accumulate_steps
        )
        if (error := self._error()) is not None:
            raise ValueError(error)

    def _error(self) -> str | None:
        if self.momentum is None and self.debias:
            return (
                "momentum=None with debias=True: the cumulative average has no bias; set debias=False, or a momentum "
                "such as 0.99"
            )
        if self.momentum is not None and not callable(self.momentum) and not _axes.within(self.momentum, 0, 1):
            return (
                f"momentum={self.momentum} is not between 0 and 1; pass the weight kept on the old value, such as 0.99 "
                "(torch's 0.1 is 0.9 here)"
            )
        if operator.index(self.accumulate_steps) < 1:
            return f"accumulate_steps={self.accumulate_steps}; pass the number of micro-batches, 1 for no accumulation"
        if self.variance not in ("biased", "unbiased"):
            return f"variance is {self.variance!r}; choose 'biased' (Flax, Keras) or 'unbiased' (torch)"
        return None

    @property
    def weighs(self) -> bool:
        """Whether the total weight of the batches seen is kept."""
        return self.debias or self.momentum is None

    @property
    def needs(self) -> dict[str, bool]:
        """Which optional fields of `BatchStats` the options need."""
        pending = self.accumulate_steps > 1
        flags = self.weighs, callable(self.momentum), self.skip_nonfinite, *[pending] * 4
        return dict(zip(BatchStats._fields[2:], flags, strict=True))


class BatchStats(NamedTuple):
    """Running statistics over the stream of batches.

    All fields but mean and var are None unless an option needs them.

    Attributes:
      mean: `[*features]`, running mean; starts at 0.
      var: `[*features]`, real, running variance; starts at 1.
      weight: `[*features]`, float32, with `debias` or a momentum of None: the total weight of the batches seen, 0 to 1
        if debiased, their number if cumulative.
      step: `[]`, int32, where momentum is a schedule, or other ramps go by it: number of updates so far.
      skipped: `[]`, int32, with `skip_nonfinite`: number of batches left out because they were not finite.
      pending_mean: `[*features]`, with `accumulate_steps`: mean of the micro-batches since the last update.
      pending_var: `[*features]`, their biased variance.
      pending_count: `[*features]`, float32, their number of elements.
      pending_steps: `[]`, int32, their number, without those that gradient accumulation does not count either.

    Example:
      >>> import jax.numpy as jnp, jbn
      >>> stats = jbn.BatchStats(mean=jnp.array([1.0]), var=jnp.array([4.0]))
      >>> y, _, _ = jbn.batch_norm(jnp.array([[5.0]]), None, None, stats, train=False)
      >>> print(y.round(3), jbn.init_stats(1, skip_nonfinite=True).skipped)
      [[2.]] 0
    """

    mean: jax.Array
    var: jax.Array
    weight: jax.Array | None = None
    step: jax.Array | None = None
    skipped: jax.Array | None = None
    pending_mean: jax.Array | None = None
    pending_var: jax.Array | None = None
    pending_count: jax.Array | None = None
    pending_steps: jax.Array | None = None


def average_weight(count: Any, momentum: Any) -> np.ndarray:
    """1 - momentum^count: the total weight of so many batches in a debiased average; 1 for infinitely many."""
    count = np.asarray(count, np.float64)
    return np.where(np.isinf(count), 1.0, 1 - np.float64(momentum) ** np.where(np.isinf(count), 1, count))


def init_stats(
    features: int | Sequence[int],
    *,
    dtype: DTypeLike = jnp.float32,
    momentum: Momentum = 0.99,
    debias: bool = False,
    skip_nonfinite: bool = False,
    accumulate_steps: int = 1,
    count_steps: bool = False,
) -> BatchStats:
    """Running statistics before the first batch: mean 0, variance 1.

    Args:
      features: number of features, or the feature shape where there are several feature axes.
      dtype: of the mean; the variance has its real counterpart. Below float32 a moving average stalls: the last few
        percent of every step are rounded away.
      momentum: as in `update_stats`; None adds `weight`, a schedule adds `step`.
      debias: as in `update_stats`; adds `weight`.
      skip_nonfinite: as in `update_stats`; adds `skipped`.
      accumulate_steps: as in `update_stats`; more than 1 adds the `pending_...` moments.
      count_steps: add `step` in any case, as the ramps of `batch_renorm` need it.

    Returns:
      BatchStats for these features, with the state that the options need.

    Raises:
      ValueError: options that contradict each other.

    Example:
      >>> import jbn
      >>> jbn.init_stats(3).var
      Array([1., 1., 1.], dtype=float32)
      >>> jbn.init_stats(2, momentum=0.9, debias=True).weight
      Array([0., 0.], dtype=float32)
    """
    needs = UpdateRule(momentum, debias, "biased", skip_nonfinite, accumulate_steps).needs
    needs["step"] |= count_steps
    shape = tuple(features) if isinstance(features, Sequence) else (operator.index(features),)
    mean = jnp.zeros(shape, dtype)

    def zeros(name: str, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array | None:
        return jnp.zeros(shape, dtype) if needs[name] else None

    return BatchStats(
        mean=mean,
        var=jnp.ones(shape, mean.real.dtype),
        weight=zeros("weight", shape, jnp.float32),
        step=zeros("step", (), jnp.int32),
        skipped=zeros("skipped", (), jnp.int32),
        pending_mean=zeros("pending_mean", shape, _dtypes.wide(mean.dtype)),
        pending_var=zeros("pending_var", shape, _dtypes.wide(mean.real.dtype)),
        pending_count=zeros("pending_count", shape, jnp.float32),
        pending_steps=zeros("pending_steps", (), jnp.int32),
    )


@_meshes.by_compiler
def update_stats(
    stats: BatchStats,
    batch: Moments,
    *,
    momentum: Momentum = 0.99,
    debias: bool = False,
    variance: Variance = "biased",
    skip_nonfinite: bool = False,
    accumulate_steps: int = 1,
) -> BatchStats:
    """Running statistics after one more batch.

    ::

        mean ← momentum · mean + (1 - momentum) · batch.mean        (and var alike)

    Args:
      stats: running statistics so far, from `init_stats` with the same options.
      batch: moments of one batch. A feature with count 0 (all masked) leaves its statistics as they are.
      momentum: weight kept on the old value, in [0, 1]; 0.99 remembers about 100 batches. torch's 0.1 is 0.9 here.
        None averages all batches alike (torch's `momentum=None`). A function is called with the number of updates
        so far (`[]`, int32): a schedule, such as one of optax's.
      debias: divide by the total weight of what was seen, so that the start value has no part in the average and it is
        right from the first batch on (Kingma & Ba 2015, section 3). Needs `stats.weight`.
      variance: "biased" keeps the batch variance as it is (Flax, Keras); "unbiased" keeps n/(n-1) of it (torch).
      skip_nonfinite: leave out a batch whose mean or variance is not finite in any feature, and count it in
        `stats.skipped`.
      accumulate_steps: number of micro-batches whose moments are merged before the statistics move once, as by the
        full batch: that of gradient accumulation, the ``every_k_schedule`` of `optax.MultiSteps`, so that all that is
        merged was measured under the same weights. With `skip_nonfinite`, a batch whose output is not finite is as if
        it had never come, as for `optax.MultiSteps(..., should_skip_update_fn=optax.skip_not_finite)`. See below. A
        layer that is called n times in a step takes n times that number.

    Returns:
      BatchStats in the dtypes of `stats`, so that a scan can carry them whatever the input's dtype.

    Raises:
      ValueError: statistics and moments over different features, a complex mean for real statistics, options that
        contradict each other, or statistics without the state that an option needs.

    Example:
      >>> import jax.numpy as jnp, jbn
      >>> batch = jbn.moments(jnp.array([[1.0], [3.0]]))
      >>> stats = jbn.update_stats(jbn.init_stats(1), batch, momentum=0.9)
      >>> print(stats.mean.round(3), stats.var)
      [0.2] [1.]
      >>> stats = jbn.update_stats(jbn.init_stats(1, debias=True), batch, momentum=0.9, debias=True)
      >>> print(stats.mean, stats.var)
      [2.] [1.]

    A layer sees what reaches it, not what comes after. Where a loss or a later layer may be the first that is not
    finite, or an optimizer skips steps by another rule, take back the statistics of each skipped step::

        updates, opt_state = optimizer.update(grads, opt_state, params)  # optax.MultiSteps
        skipped = opt_state.skip_state["should_skip"]
        new_stats = jax.tree.map(lambda old, new: jnp.where(skipped, old, new), old_stats, new_stats)

    Reference: Ioffe & Szegedy 2015, "Batch Normalization", section 3.1 (https://arxiv.org/abs/1502.03167).

    Differs from Flax, where a fully masked batch turns the running statistics into NaN for good.
    """
    return follow(stats, batch, UpdateRule(momentum, debias, variance, skip_nonfinite, accumulate_steps))


def follow(stats: BatchStats, batch: Moments, rule: UpdateRule) -> BatchStats:
    """As `update_stats`."""
    if stats.mean.shape != batch.mean.shape or stats.var.shape != batch.var.shape:
        raise ValueError(_other_features(stats, batch))
    if jnp.iscomplexobj(batch.mean) and not jnp.iscomplexobj(stats.mean):
        raise ValueError(_too_narrow(stats, batch))
    if any(needed and getattr(stats, name) is None for name, needed in rule.needs.items()):
        raise ValueError(_lacking(stats, rule))
    if rule.skip_nonfinite:
        stats, batch, counts = _skip_nonfinite(stats, batch)
    else:
        counts = jnp.asarray(True)
    if rule.accumulate_steps > 1:
        stats, batch = _accumulate(stats, batch, rule.accumulate_steps, counts)

    seen = batch.count > 0
    keep, take, stats = _weights(stats, seen, rule)
    if stats.step is not None:
        stats = stats._replace(step=stats.step + jnp.any(seen).astype(jnp.int32))
    n = batch.count.astype(batch.var.dtype)
    var = batch.var if rule.variance == "biased" else batch.var * (n / jnp.maximum(n - 1, 1))

    def moved(old: Vector, new: Vector) -> Vector:
        wide = _dtypes.wide(old.dtype, new.dtype)
        both = keep.astype(wide) * old.astype(wide) + take.astype(wide) * new.astype(wide)
        return jnp.where(seen, both.astype(old.dtype), old)

    return stats._replace(mean=moved(stats.mean, batch.mean), var=moved(stats.var, var))


def promote_stats(stats: BatchStats, dtype: DTypeLike) -> BatchStats:
    """Statistics that can hold those of input of `dtype`: means turn complex with it, as in Flax."""
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return stats
    turned = {k: v.astype(_dtypes.wide(dtype)) for k, v in stats._asdict().items() if v is not None and "mean" in k}
    return stats._replace(**turned)


@checked
def drift(stats: BatchStats, batch: Moments, *, epsilon: float | jax.Array) -> Vector:
    """How far the batch lies from the running statistics: |batch.mean - mean| / sqrt(var + epsilon), `[*features]`."""
    wide = _dtypes.wide(batch.mean.dtype, stats.mean.dtype)
    var = stats.var.astype(finfo(wide).dtype)
    return jnp.abs(batch.mean.astype(wide) - stats.mean.astype(wide)) * lax.rsqrt(var + jnp.asarray(epsilon, var.dtype))


@checked
def _weights(stats: BatchStats, seen: Mask, rule: UpdateRule) -> tuple[jax.Array, jax.Array, BatchStats]:
    """`keep` and `take` of the module's docstring, and the statistics with their weight moved on."""
    wide = _dtypes.wide(stats.mean.real.dtype)
    m = rule.momentum
    if callable(m):
        assert stats.step is not None
        m = m(stats.step)
    # 1 - m is computed in Python if m is a number, so that no digit is lost.
    keep, take = (1, 1) if m is None else (m, 1 - m)
    keep, take = jnp.asarray(keep, wide), jnp.asarray(take, wide)
    if not rule.weighs:
        return keep, take, stats
    assert stats.weight is not None
    weight = stats.weight.astype(wide)
    total = keep * weight + take
    # With momentum 1 a first batch has weight 0, and the division would be 0/0.
    divisor = jnp.where(total > 0, total, 1)
    stats = stats._replace(weight=jnp.where(seen, total, weight).astype(stats.weight.dtype))
    return jnp.where(total > 0, keep * weight / divisor, 1), take / divisor, stats


def _skip_nonfinite(stats: BatchStats, batch: Moments) -> tuple[BatchStats, Moments, jax.Array]:
    """Empty moments if the batch is not finite, and whether gradient accumulation counts it.

    It counts if only the variance overflowed: then y and its gradients are 0, and optax takes the step.
    """
    assert stats.skipped is not None
    counts = jnp.all(jnp.isfinite(batch.mean) & ~jnp.isnan(batch.var))
    finite = jnp.all(jnp.isfinite(batch.mean)) & jnp.all(jnp.isfinite(batch.var))
    stats = stats._replace(skipped=stats.skipped + jnp.where(finite, 0, 1).astype(jnp.int32))
    return stats, _nothing_unless(finite, batch), counts


def _accumulate(stats: BatchStats, batch: Moments, k: int, counts: jax.Array) -> tuple[BatchStats, Moments]:
    """Merges micro-batches: the k-th of those that count returns the moments of all k, the others return empty ones."""
    mean, var, count, steps = stats[-4:]
    assert mean is not None and var is not None and count is not None and steps is not None
    pending, steps = Moments(mean, var, count), steps + jnp.asarray(counts, steps.dtype)
    merged = merge(pending, batch)
    both = Moments(*(jnp.broadcast_to(m, p.shape).astype(p.dtype) for m, p in zip(merged, pending, strict=True)))
    due = steps >= k
    mean, var, count = _nothing_unless(~due, both)
    stats = stats._replace(
        pending_mean=mean, pending_var=var, pending_count=count, pending_steps=jnp.where(due, 0, steps)
    )
    return stats, _nothing_unless(due, both)


def _nothing_unless(condition: jax.Array, m: Moments) -> Moments:
    """`m` if `condition` holds, else empty moments."""
    return Moments(*(jnp.where(condition, a, 0).astype(a.dtype) for a in m))


def _other_features(stats: BatchStats, batch: Moments) -> str:
    return (
        f"running statistics have the feature shape {stats.mean.shape}, the batch's moments {batch.mean.shape}; "
        "pass statistics of the same features, such as jbn.init_stats(batch.mean.shape)"
    )


def _too_narrow(stats: BatchStats, batch: Moments) -> str:
    return (
        f"the batch's mean is {batch.mean.dtype}, but the running mean {stats.mean.dtype}, which cannot hold it; "
        "use jbn.init_stats(features, dtype=jnp.complex64)"
    )


def _lacking(stats: BatchStats, rule: UpdateRule) -> str:
    options = {
        "weight": "debias=True" if rule.debias else "momentum=None",
        "step": "momentum=<schedule>",
        "skipped": "skip_nonfinite=True",
    }
    missing = next(name for name, needed in rule.needs.items() if needed and getattr(stats, name) is None)
    option = options.get(missing, f"accumulate_steps={rule.accumulate_steps}")
    return (
        f"{option} needs state that these running statistics lack (they have "
        f"{', '.join(name for name, value in stats._asdict().items() if value is not None)}); "
        f"use jbn.init_stats(features, {option})"
    )
