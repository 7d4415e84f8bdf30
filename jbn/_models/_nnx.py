"""Nnx models: their batch norms are measured by classes that take the place of theirs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
from flax import nnx

import jbn.nnx
from jbn._activation import Activation, Side
from jbn._models._layer import (
    MEASURED,
    LayerVariables,
    MeasuredModel,
    Measurement,
    is_measured,
    layer_options,
    measure,
    zero_moments,
)
from jbn._moments import Moments
from jbn._paths import Path
from jbn._running_stats import BatchStats
from jbn._traces import own_traces
from jbn._typed_flax import nnx_merge, nnx_reseed, nnx_split, nnx_update

_CLASSES = (nnx.BatchNorm, jbn.nnx.BatchNorm, jbn.nnx.BatchRenorm, jbn.nnx.FrozenBatchNorm, jbn.nnx.AdaptiveBatchNorm)


def nnx_model(model: nnx.Module, params: Any, rngs: Any, as_it_is: bool = False) -> MeasuredModel:
    """A copy of an nnx model, with `params` in place of its own, if given."""
    result = nnx.clone(model)
    if params is not None:
        nnx_update(result, params)
    norms, measured = _norms(result, as_it_is), nnx.clone(result)
    for layer in _norms(measured, as_it_is).values():
        layer.__class__ = _measured_class(layer.__class__)
        for name, value in zip(MEASURED, zero_moments(_stats(layer)), strict=True):
            setattr(layer, name, nnx.BatchStat(value))
    running = {path: _stats(layer) for path, layer in norms.items()}

    def written(new: dict[Path, BatchStats]) -> nnx.Module:
        for path, stats in new.items():
            norms[path].mean.set_value(stats.mean)
            norms[path].var.set_value(stats.var)
        return result

    graph, state = nnx_split(measured)
    return MeasuredModel((state, rngs), running, functools.partial(_run, graph, list(norms)), written)


def _stats(layer: Any) -> BatchStats:
    return BatchStats(layer.mean[...], layer.var[...])


def _norms(model: nnx.Module, as_it_is: bool) -> dict[Path, Any]:
    return {path: layer for path, layer in nnx.iter_graph(model) if is_measured(layer, _CLASSES, path, as_it_is)}


def _run(
    graph: Any,
    paths: list[Path],
    measurement: Measurement,
    call: Callable[[Any, Any], Any] | None,
    state: tuple[Any, Any],
    running: list[BatchStats],
    batch: Any,
    number: jax.Array,
) -> tuple[Any, list[Moments]]:
    values, rngs = state
    model = nnx_merge(graph, values)
    nodes: dict[Path, Any] = dict(nnx.iter_graph(model))
    layers = [nodes[path] for path in paths]
    for path, layer, given in zip(paths, layers, running, strict=True):
        layer.measurement = (measurement, path)
        layer.mean.set_value(given.mean)
        layer.var.set_value(given.var)
    nnx_reseed(model, policy="match_shape", **rngs)
    for stream in (node for node in nodes.values() if isinstance(node, nnx.RngStream)):
        fold: Callable[..., jax.Array] = jax.random.fold_in
        for _ in range(stream.key.ndim):
            fold = jax.vmap(fold, (0, None))
        stream.key.set_value(fold(stream.key[...], number))
    with own_traces():
        y = model(batch) if call is None else call(model, batch)
    return y, [Moments(*(getattr(layer, name)[...] for name in MEASURED)) for layer in layers]


@functools.cache
def _measured_class(kind: Any) -> Any:
    """A class that measures where `kind` normalizes; a layer of class `kind` can become one of that class."""
    known: Any = next(base for base in kind.__mro__ if base in _CLASSES)
    inner = type(
        known.__name__,
        (known,),
        {"__call__": _measured_call, "set_view": _set_view, "__module__": known.__module__},
    )
    if kind is known:
        return inner

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        parent = cast(Any, super(outer, self))
        y = parent.__call__(*args, **kwargs)
        measurement, path = self.measurement
        measurement.check_called(path, kind)
        return y

    # In the method resolution order, `super()` in `kind` now finds `inner`.
    outer: Any = type(kind.__name__, (kind, inner), {"__call__": __call__})
    return outer


def _measured_call(
    self: Any,
    x: jax.Array,
    use_running_average: bool | None = None,
    *,
    mask: jax.Array | None = None,
    update_running_average: bool | None = None,
    activation: Activation | None = None,
    placement: Side = "before",
) -> jax.Array:
    """Takes the arguments of the layers' `__call__`; which statistics normalize is not theirs to decide here."""
    measurement, path = self.measurement
    scale, bias = (None if v is None else v[...] for v in (self.scale, self.bias))
    stats = _stats(self)
    total = Moments(*(getattr(self, name)[...] for name in MEASURED))
    dtype = jbn.nnx.result_dtype(self, x, stats, scale, bias)
    variables = LayerVariables(scale, bias, stats, total)
    y, new_total = measure(measurement, path, layer_options(self), variables, dtype, x, mask, activation, placement)
    for name, value in zip(MEASURED, new_total, strict=True):
        getattr(self, name).set_value(value)
    return y


def _set_view(self: Any, **_: Any) -> None:
    """Does nothing: the mode of the measurement decides how the layer normalizes."""
