"""What a batch norm does while it is measured, whatever the library."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jbn._activation import Activation, Side, activate
from jbn._batch_norm import batch_norm
from jbn._moments import Moments, merge, moments
from jbn._paths import Path, path_name
from jbn._running_stats import BatchStats, promote_stats
from jbn._variants.adapt import adaptive_layer

Mode = Literal["together", "layer by layer"]

# Variables that a layer has only while it is measured: the moments of what it has normalized in this batch so far.
MEASURED = ("population_mean", "population_var", "population_count")


class LayerOptions(NamedTuple):
    """What a batch norm was made with, whatever its library.

    Attributes:
      kind: name of its class, such as "flax.linen.BatchNorm".
      momentum: weight kept on the old running statistics.
      debias: whether the running statistics are free of their start value.
      epsilon: added to the variance.
      skips: whether it leaves batches that are not finite out of its statistics.
      fast_variance: whether it computes E[x²] - E[x]², which cancels.
      frozen: whether its statistics are constants.
      adapts: how it blends the running statistics with those of the batch, by the names of the options; None if it does
        not.
      axis: the feature axis or axes.
      axis_name: mapped axes that the batch is spread over.
      axis_index_groups: groups of their indices.
      groups: options of virtual batches.
    """

    kind: str
    momentum: Any
    debias: bool
    epsilon: float
    skips: bool
    fast_variance: bool
    frozen: bool
    adapts: dict[str, Any] | None
    axis: Any
    axis_name: Any
    axis_index_groups: Any
    groups: dict[str, Any]


def layer_options(layer: Any, **options: Any) -> LayerOptions:
    """The options of a layer of Flax, of jbn's linen or nnx, or of another library that names them in `options`."""
    kinds: tuple[type[Any], ...] = layer.__class__.__mro__
    known = next(c for c in kinds if c.__module__.startswith(("flax.", "jbn.", "equinox.")))
    given: dict[str, Any] = dict(
        kind=f"{'.'.join(known.__module__.split('.')[:2])}.{known.__name__}",
        momentum=layer.momentum,
        debias=layer.momentum is None or getattr(layer, "debias", False),
        skips=getattr(layer, "skip_nonfinite", False),
        fast_variance=not known.__module__.startswith("jbn.") and getattr(layer, "use_fast_variance", False),
        frozen=is_variant(layer, "FrozenBatchNorm"),
        adapts=(
            {name: getattr(layer, name) for name in ("source_weight", "max_drift")}
            if is_variant(layer, "AdaptiveBatchNorm")
            else None
        ),
        axis_name=layer.axis_name,
        axis_index_groups=getattr(layer, "axis_index_groups", None),
        groups={name: getattr(layer, name) for name in ("virtual_batch_size", "ragged_groups") if hasattr(layer, name)},
    )
    if not options:
        options = dict(epsilon=layer.epsilon, axis=layer.axis)
    return LayerOptions(**given | options)


class Facts(NamedTuple):
    """What the trace of a model says about one of its batch norms.

    Attributes:
      options: what it was made with.
      masked: whether it was given a mask.
      dtype: of its input.
      elements: values of each feature in one call.
    """

    options: LayerOptions
    masked: bool
    dtype: jnp.dtype
    elements: int


@dataclass(eq=False)
class Measurement:
    """How a model's batch norms run while they are measured, and what is known of them once it was traced.

    Attributes:
      mode: how they normalize.
      as_it_is: False is for new statistics: layers whose statistics are constants are not measured, and statistics that
        are not finite are replaced. True shows all faults of the model, and takes batches of any size.
      layers: each batch norm that was measured, in the order of their first calls.
    """

    mode: Mode
    as_it_is: bool = False
    layers: dict[Path, Facts] = field(default_factory=dict[Path, Facts])

    def check_called(self, path: Path, kind: type[Any]) -> None:
        """Raises if the `__call__` of a subclass did not call one that can be measured."""
        if path not in self.layers:
            raise ValueError(
                f"{path_name(path)} is a {kind.__name__}, whose __call__ does its own arithmetic, and so cannot be "
                "measured; normalize by super().__call__(x, ...) in it, with your own steps before and after"
            )


class MeasuredModel(NamedTuple):
    """A model, ready to run with other statistics.

    Attributes:
      state: its arrays.
      running: mean and var of each batch norm.
      run: `run(measurement, call, state, stats, batch, number)` calls the model with the statistics of each layer, in
        the order of `running`; it returns what `call` returns, and the moments of each layer's input. It may be traced.
      written: `written(stats)` is the model, or its variables, with the statistics of these layers.
    """

    state: Any
    running: dict[Path, BatchStats]
    run: Callable[..., tuple[Any, list[Moments]]]
    written: Callable[[dict[Path, BatchStats]], Any]


class LayerVariables(NamedTuple):
    """The variables of a layer that is measured.

    Attributes:
      scale: `[features]`, or None.
      bias: `[features]`, or None.
      stats: running statistics.
      total: moments of what the layer has normalized in this batch so far, by earlier calls.
    """

    scale: Any
    bias: Any
    stats: BatchStats
    total: Moments


def is_measured(layer: Any, kinds: tuple[type[Any], ...], path: Path, as_it_is: bool) -> bool:
    """Whether a layer is a batch norm whose statistics are estimated."""
    if is_variant(layer, "DomainBatchNorm"):
        raise ValueError(
            f"{path_name(path)} is a DomainBatchNorm, which has the statistics of several data sets; estimate those of "
            "each domain with a BatchNorm in its place, and stack them along the leading axis"
        )
    return isinstance(layer, kinds) and (as_it_is or not is_variant(layer, "FrozenBatchNorm"))


def is_variant(layer: Any, name: str) -> bool:
    """Whether a layer is one of jbn's variants, in any of the libraries, which are not imported for that."""
    classes: tuple[type[Any], ...] = layer.__class__.__mro__
    return any(c.__name__ == name and c.__module__.startswith("jbn.") for c in classes)


def zero_moments(stats: BatchStats) -> Moments:
    """Moments with a count of 0, in float32 or wider."""
    mean, var = (jnp.zeros(a.shape, jnp.promote_types(a.dtype, jnp.zeros(()).dtype)) for a in (stats.mean, stats.var))
    return Moments(mean, var, jnp.zeros(mean.shape, jnp.float32))


def measure(
    measurement: Measurement,
    path: Path,
    layer: LayerOptions,
    variables: LayerVariables,
    dtype: Any,
    x: jax.Array,
    mask: jax.Array | None,
    activation: Activation | None,
    placement: Side,
) -> tuple[jax.Array, Moments]:
    """The output of a layer, and the moments of what it has normalized in this batch, with this call."""
    scale, bias, stats, total = variables
    x = jnp.asarray(x)
    axis_name = _mapped_axes(layer.axis_name)
    spread = math.prod(map(lax.axis_size, axis_name or ()))
    measurement.layers[path] = Facts(layer, mask is not None, x.dtype, x.size * spread // stats.mean.size)
    if not jnp.issubdtype(x.dtype, jnp.inexact):  # integers are cast as the layers cast them
        x = x.astype(dtype)
    reduction: dict[str, Any] = dict(
        axis=layer.axis,
        where=mask,
        axis_name=axis_name,
        axis_index_groups=layer.axis_index_groups if axis_name else None,
    )
    within: dict[str, Any] = dict(epsilon=layer.epsilon, activation=activation, placement=placement, dtype=dtype)
    options = reduction | within
    if measurement.mode == "together" and not layer.frozen:
        groups: dict[str, Any] = layer.groups | ({"ragged_groups": "exact"} if measurement.as_it_is else {})
        y, _, info = batch_norm(x, scale, bias, None, train=True, **options, **groups)
        batch = info.moments
        assert batch is not None
    else:
        norm: Any = batch_norm
        if layer.adapts is not None:
            norm = functools.partial(adaptive_layer, **layer.adapts)
        given = stats if measurement.as_it_is else finite_or_initial(stats)
        y = norm(x, scale, bias, promote_stats(given, x.dtype), train=False, **options)[0]
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


def as_keys(rngs: Any) -> Any:
    """Random keys, made from seeds where there are integers."""

    def as_key(key: Any) -> Any:
        return jax.random.key(key) if isinstance(key, int) else key

    return jax.tree.map(as_key, rngs)
