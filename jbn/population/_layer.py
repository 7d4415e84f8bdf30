"""What a batch norm does while it is measured, in linen as in nnx."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import jbn.linen
import jbn.nnx
from jbn._activation import Activation, Side, activate
from jbn._batch_norm import batch_norm
from jbn._moments import Moments, merge, moments
from jbn._paths import Path, path_name
from jbn._running_stats import BatchStats, promote_stats
from jbn._variants.adapt import adaptive_layer

Mode = Literal["together", "layer by layer"]

# LayerVariables that a layer has only while it is measured: the moments of all batches so far.
MEASURED = ("population_mean", "population_var", "population_count")
_FROZEN = (jbn.linen.FrozenBatchNorm, jbn.nnx.FrozenBatchNorm)  # their statistics are constants
_ADAPTIVE = (jbn.linen.AdaptiveBatchNorm, jbn.nnx.AdaptiveBatchNorm)
_DOMAINS = (jbn.linen.DomainBatchNorm, jbn.nnx.DomainBatchNorm)


@dataclass(eq=False)
class Measurement:
    """What is known of the model's batch norms once it was traced.

    Attributes:
      mode: how they normalize while they are measured.
      skips: for each batch norm that was measured, in the order of their first calls: whether it skips batches that are
        not finite.
    """

    mode: Mode
    skips: dict[Path, bool] = field(default_factory=dict[Path, bool])

    def check_called(self, path: Path, kind: type[Any]) -> None:
        """Raises if the `__call__` of a subclass did not call one that can be measured."""
        if path not in self.skips:
            raise ValueError(
                f"{path_name(path)} is a {kind.__name__}, whose __call__ does its own arithmetic, and so cannot be "
                "measured; normalize by super().__call__(x, ...) in it, with your own steps before and after"
            )


class LayerVariables(NamedTuple):
    """The variables of a layer that is measured.

    Attributes:
      scale: `[features]`, or None.
      bias: `[features]`, or None.
      stats: running statistics.
      total: moments of all batches so far.
    """

    scale: Any
    bias: Any
    stats: BatchStats
    total: Moments


def is_measured(layer: Any, kinds: tuple[type[Any], ...], path: Path) -> bool:
    """Whether a layer is a batch norm whose statistics are estimated."""
    if isinstance(layer, _DOMAINS):
        raise ValueError(
            f"{path_name(path)} is a DomainBatchNorm, which has the statistics of several data sets; estimate those of "
            "each domain with a BatchNorm in its place, and stack them along the leading axis"
        )
    return isinstance(layer, kinds) and not isinstance(layer, _FROZEN)


def measure(
    measurement: Measurement,
    path: Path,
    layer: Any,
    variables: LayerVariables,
    dtype: Any,
    x: jax.Array,
    mask: jax.Array | None,
    activation: Activation | None,
    placement: Side,
) -> tuple[jax.Array, Moments]:
    """The output of a layer, and the moments of all batches with this one."""
    measurement.skips[path] = getattr(layer, "skip_nonfinite", False)
    scale, bias, stats, total = variables
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):  # integers are cast as the layers cast them
        x = x.astype(dtype)
    axis_name = _mapped_axes(layer.axis_name)
    reduction: dict[str, Any] = dict(
        axis=layer.axis,
        where=mask,
        axis_name=axis_name,
        axis_index_groups=layer.axis_index_groups if axis_name else None,
    )
    options: dict[str, Any] = dict(
        reduction, epsilon=layer.epsilon, activation=activation, placement=placement, dtype=dtype
    )
    if measurement.mode == "together":
        groups: dict[str, Any] = {
            name: getattr(layer, name) for name in ("virtual_batch_size", "ragged_groups") if hasattr(layer, name)
        }
        y, _, info = batch_norm(x, scale, bias, None, train=True, **options, **groups)
        batch = info.moments
        assert batch is not None
    else:
        norm: Any = batch_norm
        if isinstance(layer, _ADAPTIVE):
            norm = functools.partial(adaptive_layer, source_weight=layer.source_weight)
        y = norm(x, scale, bias, promote_stats(finite_or_initial(stats), x.dtype), train=False, **options)[0]
        batch = moments(activate(activation, x, mask) if activation and placement == "after" else x, **reduction)
    both = merge(total, batch)
    return y, both._replace(count=jnp.broadcast_to(both.count, total.count.shape))


def _mapped_axes(axis_name: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Those of the axes that the model maps; None if it maps none, and the batch is whole."""

    def is_mapped(name: str) -> bool:
        try:
            lax.axis_size(name)
        except NameError:
            return False
        return True

    names = (axis_name,) if isinstance(axis_name, str) else axis_name or ()
    return tuple(filter(is_mapped, names)) or None


def finite_or_initial(stats: BatchStats) -> BatchStats:
    """The statistics, with mean 0 and variance 1 where they are not finite."""
    mean, var = (jnp.where(jnp.isfinite(a), a, start).astype(a.dtype) for a, start in ((stats.mean, 0), (stats.var, 1)))
    return stats._replace(mean=mean, var=var)
