"""What a batch norm does while it is measured, in linen as in nnx."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

import jbn.linen
import jbn.nnx
from jbn._activation import activate
from jbn._batch_norm import batch_norm
from jbn._moments import Moments, merge, moments
from jbn._running_stats import BatchStats, promote_stats
from jbn._variants.adapt import adaptive_layer

Mode = Literal["together", "layer by layer"]
Path = tuple[Any, ...]

# The variables of a layer that is measured, beside its own: the moments of all batches so far.
MEASURED = ("population_mean", "population_var", "population_count")
_FROZEN = (jbn.linen.FrozenBatchNorm, jbn.nnx.FrozenBatchNorm)  # their statistics are constants
_ADAPTIVE = (jbn.linen.AdaptiveBatchNorm, jbn.nnx.AdaptiveBatchNorm)
_DOMAINS = (jbn.linen.DomainBatchNorm, jbn.nnx.DomainBatchNorm)


@dataclass(eq=False)
class Watch:
    """What tracing the model tells of its batch norms.

    Attributes:
      mode: how they normalize meanwhile.
      measured: paths of those whose `__call__` is known and ran, in the order of their first calls, and whether each
        leaves out what is not finite.
    """

    mode: Mode
    measured: dict[Path, bool] = field(default_factory=dict)

    def called(self, path: Path, kind: type) -> None:
        """After the call of a batch norm's subclass: did it come to a `__call__` that is known here?"""
        if path not in self.measured:
            raise ValueError(
                f"{shown(path)} is a {kind.__name__}, whose __call__ does its own arithmetic, and so cannot be "
                "measured; normalize by super().__call__(x, ...) in it, with your own steps around"
            )


def shown(path: Path) -> str:
    return "/".join(map(str, path)) or "the model"


def watchable(layer: Any, kinds: tuple[type, ...], path: Path) -> bool:
    """Whether it is a batch norm whose statistics are estimated."""
    if isinstance(layer, _DOMAINS):
        raise ValueError(
            f"{shown(path)} is a DomainBatchNorm, whose statistics are those of several data sets; write for each "
            "domain a model with BatchNorm in its place, and the results along the leading axis"
        )
    return isinstance(layer, kinds) and not isinstance(layer, _FROZEN)


def measure(
    watch: Watch,
    path: Path,
    layer: Any,
    stats: BatchStats,
    scale: Any,
    bias: Any,
    dtype: Any,
    sofar: Moments,
    x: jax.Array,
    mask: Any,
    activation: Any,
    placement: Literal["before", "after"],
) -> tuple[jax.Array, Moments]:
    """y, and the moments of all batches so far with this one's."""
    watch.measured[path] = getattr(layer, "skip_nonfinite", False)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):  # as the layers take it
        x = x.astype(dtype)
    axis_name = _mapped(layer.axis_name)
    reduced: dict[str, Any] = dict(
        axis=layer.axis,
        where=mask,
        axis_name=axis_name,
        axis_index_groups=layer.axis_index_groups if axis_name else None,
    )
    forward: dict[str, Any] = dict(
        reduced, epsilon=layer.epsilon, activation=activation, placement=placement, dtype=dtype
    )
    if watch.mode == "together":
        groups = {
            name: getattr(layer, name) for name in ("virtual_batch_size", "ragged_groups") if hasattr(layer, name)
        }
        y, _, info = batch_norm(x, scale, bias, None, train=True, **forward, **groups)
        batch = info.moments
        assert batch is not None
    else:
        norm = batch_norm
        if isinstance(layer, _ADAPTIVE):
            norm = functools.partial(adaptive_layer, source_weight=layer.source_weight)
        y = norm(x, scale, bias, promote_stats(started(stats), x.dtype), train=False, **forward)[0]
        batch = moments(activate(activation, x, mask) if activation and placement == "after" else x, **reduced)
    both = merge(sofar, batch)
    return y, both._replace(count=jnp.broadcast_to(both.count, sofar.count.shape))


def _mapped(axis_name: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Those of the axes that are there; where none is, the batch is not spread, and whole as it is given."""

    def there(name: str) -> bool:
        try:
            lax.axis_size(name)
        except NameError:
            return False
        return True

    names = (axis_name,) if isinstance(axis_name, str) else axis_name or ()
    return tuple(filter(there, names)) or None


def started(stats: BatchStats) -> BatchStats:
    """The statistics to start from: mean 0 and variance 1 where they are not finite."""
    mean, var = (jnp.where(jnp.isfinite(a), a, start).astype(a.dtype) for a, start in ((stats.mean, 0), (stats.var, 1)))
    return stats._replace(mean=mean, var=var)
