"""The running statistics of a layer, as Equinox keeps them and as jbn does.

    Equinox:  hidden averages that begin at mean 0 and var 1, and a counter n;    mean = hidden / (1 - momentum^n)
    jbn:      mean, and the total weight of what it averages:                     weight = 1 - momentum^n

Where n > 0 both go on alike: what is left of the 1 in Equinox' variance stays in it.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbn._axes import concrete
from jbn._running_stats import BatchStats, average_weight
from jbn.equinox._batch_norm import BatchNorm

# As many batches as leave nothing to debias; a counter of 32 bits can still count on from here.
_MANY = 2**30


def to_stats(path: str, layer: Any, new: BatchNorm, found: list[Any], batches_seen: float | None) -> BatchStats:
    """The running statistics that Equinox would use at inference, with as many batches behind them."""
    counted, (mean, var) = found
    start: Any = new.state_index.init
    if layer.mode == "batch":
        total = jnp.expand_dims(_total(layer, counted), -1)
        mean, var, seen = mean / total, var / total, counted
    else:
        first = jnp.expand_dims(counted, -1)  # then the averages are not yet anything
        mean, var = jnp.where(first, 0, mean), jnp.where(first, 1, var)
        flags = concrete(counted)
        seen = None if flags is None or not (flags.all() or not flags.any()) else 0 if flags.all() else math.inf
    seen = seen if batches_seen is None else batches_seen
    unknown = seen is None or (seen is math.inf and (new.momentum is None or start.step is not None))
    if unknown and (start.weight is not None or start.step is not None):
        raise ValueError(
            f"{path}: the new layer needs the number of batches that the running statistics are made of, which mode "
            "'ema' does not count; pass batches_seen"
        )
    lead = mean.shape[:-1]

    def filled(like: jax.Array | None, value: Any) -> jax.Array | None:
        if like is None:
            return None
        value = jnp.asarray(value, like.dtype)
        return jnp.broadcast_to(jnp.expand_dims(value, -1) if like.ndim and value.ndim else value, (*lead, *like.shape))

    others = {name: filled(value, 0) for name, value in start._asdict().items() if name not in ("mean", "var")}
    if start.weight is not None:
        others["weight"] = filled(start.weight, seen if new.momentum is None else _weight(seen, layer.momentum))
    if start.step is not None:
        others["step"] = filled(start.step, seen)
    return BatchStats(mean.astype(start.mean.dtype), var.real.astype(start.var.dtype), **others)


def to_equinox(path: str, layer: BatchNorm, new: Any, stats: BatchStats) -> list[Any]:
    """Counter and hidden averages, from which Equinox computes these running statistics."""
    lead, count = stats.mean.shape[:-1], np.full(stats.mean.shape[:-1], _MANY)
    if stats.weight is not None:
        weight = concrete(stats.weight)
        if weight is None:
            raise ValueError(f"{path}: the number of batches has no value here; call revert outside of jit")
        with np.errstate(divide="ignore", invalid="ignore"):  # the n of weight = 1 - momentum^n
            n = np.log1p(-np.float64(weight)) / np.log(np.float64(new.momentum))
        n = np.float64(weight) if layer.momentum is None else np.where(weight >= 1, _MANY, np.where(weight <= 0, 0, n))
        n = np.minimum(np.round(n), _MANY)
        if np.any(np.ptp(n, -1) > 0):
            raise ValueError(
                f"some features of {path} have seen {n.min():.0f} batches, others {n.max():.0f} (masks), but Equinox "
                "counts them for all together; leave the layer out by `only`"
            )
        count = n[..., 0].astype(int)
    counter = jnp.asarray(count) if lead else jnp.asarray(int(count))
    total = jnp.expand_dims(_total(new, counter), -1)
    hidden = new.batch_state_index.init
    return [counter, tuple((a * total).astype(h.dtype) for a, h in zip(stats[:2], hidden, strict=True))]


def _total(layer: Any, count: Any) -> jax.Array:
    """What Equinox divides by at inference, rounded as it rounds; 1 before the first step."""
    return jnp.where(count == 0, 1, 1 - layer.momentum**count)


def _weight(seen: Any, momentum: float) -> Any:
    """The total weight of so many batches."""
    known = concrete(seen)
    return 1 - momentum**seen if known is None else average_weight(known, momentum)
