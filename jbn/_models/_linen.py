"""Linen models: their batch norms are measured by method interception."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.core import meta

import jbn.linen
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
from jbn._paths import Path, path_name
from jbn._running_stats import BatchStats
from jbn._traces import own_traces
from jbn._typed_flax import InterceptorContext, canonicalize_dtype, flatten_dict, unflatten_dict

_NORMS = (nn.BatchNorm, jbn.linen.BatchNorm)
# The functions that Flax wraps in methods; the super().__call__ of a subclass calls one of them.
_CALLS: set[Any] = {vars(kind)["__call__"].__wrapped__ for kind in _NORMS}


def linen_model(model: nn.Module, variables: Mapping[str, Any], params: Any, rngs: Any) -> MeasuredModel:
    """A linen model with its variables, in which `params` stand instead of its own, if given."""
    variables = dict(variables) if params is None else {**variables, "params": params}
    if "batch_stats" not in variables:
        raise ValueError(
            f"variables have the collections {sorted(variables)}; pass all that model.init returned, "
            "also batch_stats, or a model that has a batch norm"
        )
    stats = flatten_dict(variables["batch_stats"], keep_empty_nodes=True)
    layers = [
        path[:-1]
        for path, leaf in stats.items()
        if path[-1] == "mean" and (*path[:-1], "var") in stats and np.ndim(leaf)
    ]
    running = {path: BatchStats(stats[*path, "mean"], stats[*path, "var"]) for path in layers}

    def written(new: dict[Path, BatchStats]) -> dict[str, Any]:
        values = {(*path, name): getattr(s, name) for path, s in new.items() for name in ("mean", "var")}
        return {**variables, "batch_stats": unflatten_dict(stats | values)}

    return MeasuredModel((variables, rngs), running, functools.partial(_run, model, layers), written)


def _run(
    model: Any,
    layers: list[Path],
    measurement: Measurement,
    call: Callable[[Any, Any], Any] | None,
    state: tuple[dict[str, Any], Any],
    running: list[BatchStats],
    batch: Any,
    number: jax.Array,
) -> tuple[Any, list[Moments]]:
    variables, rngs = state
    stats = flatten_dict(variables["batch_stats"], keep_empty_nodes=True)
    for path, given in zip(layers, running, strict=True):
        named = zip(("mean", "var", *MEASURED), (given.mean, given.var, *zero_moments(given)), strict=True)
        stats |= {(*path, name): value for name, value in named}

    def in_this_batch(key: jax.Array) -> jax.Array:
        return jax.random.fold_in(key, number)

    with own_traces(), nn.intercept_methods(functools.partial(_intercept, measurement)):
        y, updates = model.apply(
            {**variables, "batch_stats": unflatten_dict(stats)},
            batch,
            method=call or _plainly,
            rngs=jax.tree.map(in_this_batch, rngs),
            mutable=[collection for collection in variables if collection != "params"],
        )
    new = flatten_dict(updates["batch_stats"])
    return y, [Moments(*(new[*path, name] for name in MEASURED)) for path in layers]


def _plainly(model: Any, batch: Any) -> Any:
    return model(batch)


def _intercept(
    measurement: Measurement,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: InterceptorContext,
) -> Any:
    """Replaces the calls of batch norms by measurements."""
    layer: Any = context.module
    if context.method_name != "__call__" or not is_measured(layer, _NORMS, layer.path, measurement.as_it_is):
        return call(*args, **kwargs)
    method: Any = context.orig_method
    if method.func in _CALLS:
        return _measured_call(measurement, layer, *args, **kwargs)
    y = call(*args, **kwargs)
    measurement.check_called(layer.path, layer.__class__)
    return y


def _measured_call(
    measurement: Measurement,
    layer: Any,
    x: jax.Array,
    use_running_average: bool | None = None,
    *,
    mask: jax.Array | None = None,
    update_running_average: bool | None = None,
    activation: Activation | None = None,
    placement: Side = "before",
) -> jax.Array:
    """Takes the arguments of the layers' `__call__`; which statistics normalize is not theirs to decide here."""
    kind: type[Any] = layer.__class__
    if any(getattr(kind, name) is not getattr(nn.Module, name) for name in ("param", "variable")):
        raise ValueError(
            f"{path_name(layer.path)} is a {kind.__name__}, which changes what param or variable return, and so "
            "cannot be measured; change them in __call__, around super().__call__(x, ...)"
        )
    if not layer.has_variable("batch_stats", MEASURED[0]):
        raise ValueError(
            f"batch_stats have no mean and var for {path_name(layer.path)}; pass the variables that model.init returned"
        )
    scale, bias = (meta.unbox(layer.get_variable("params", name)) for name in ("scale", "bias"))
    stats = BatchStats(*(layer.get_variable("batch_stats", name) for name in ("mean", "var")))
    total = Moments(*(layer.get_variable("batch_stats", name) for name in MEASURED))
    dtype = canonicalize_dtype(*(a for a in (x, scale, bias) if a is not None), dtype=layer.dtype)
    variables = LayerVariables(scale, bias, stats, total)
    y, new_total = measure(
        measurement, layer.path, layer_options(layer), variables, dtype, x, mask, activation, placement
    )
    for name, value in zip(MEASURED, new_total, strict=True):
        layer.put_variable("batch_stats", name, value)
    return y
