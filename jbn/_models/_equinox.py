"""Equinox models: their batch norms are replaced by modules that measure, when the model is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp

import jbn.equinox
from jbn._activation import Activation, Side
from jbn._models._layer import (
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
from jbn._typed_equinox import combine, flatten_with_path, index_of, partition, state_from, state_items, static
from jbn.equinox._batch_norm import result_dtype
from jbn.equinox._convert import check_own, layer_name
from jbn.equinox._values import MANY, total_weight

_NORMS = (eqx.nn.BatchNorm, jbn.equinox.BatchNorm)


def equinox_model(model: Any, state: Any, params: Any = None, as_it_is: bool = False) -> MeasuredModel:
    """An Equinox model and its state, with the arrays of `params` in place of the model's, if given.

    `written` returns a state.
    """
    if params is not None:
        model = combine(params, model)
    items = state_items(state)
    norms: dict[Any, tuple[Path, Any]] = {}  # by what they share their state through
    leaves, tree = flatten_with_path(model, is_leaf=_is_norm)
    for path, leaf in leaves:
        name = layer_name(path)
        if _is_norm(leaf) and is_measured(leaf, _NORMS, (name,), as_it_is):
            check_own(
                name, leaf, jbn.equinox.BatchNorm if isinstance(leaf, jbn.equinox.BatchNorm) else eqx.nn.BatchNorm
            )
            norms.setdefault(_marker(leaf), ((name,), leaf))
    running = {path: _running(layer, items) for path, layer in norms.values()}
    arrays, rest = partition([leaf for _, leaf in leaves], eqx.is_array)
    markers, values = list(items), list(items.values())

    def run(
        measurement: Measurement,
        call: Callable[..., Any] | None,
        given: tuple[Any, list[Any]],
        stats: list[BatchStats],
        batch: Any,
        number: jax.Array,
    ) -> tuple[Any, list[Moments]]:
        arrays, values = given
        measured = [
            _Measured(leaf, measurement, norms[_marker(leaf)][0]) if _is_norm(leaf) and _marker(leaf) in norms else leaf
            for leaf in jax.tree.leaves(combine(arrays, rest), is_leaf=_is_norm)
        ]
        entries = dict(zip(markers, values, strict=True))
        for marker, mine in zip(norms, stats, strict=True):
            entries[_Entry(marker)] = (mine, zero_moments(mine))
        before = state_from(entries)
        model = jax.tree.unflatten(tree, measured)
        y, after = _mapped(model, norms)(batch, before) if call is None else call(model, before, batch)
        found = state_items(after)
        return y, [found[_Entry(marker)][1] for marker in norms]

    def written(new: dict[Path, BatchStats]) -> Any:
        kept = dict(items)
        for path, layer in norms.values():
            if path in new:
                kept |= _entries(layer, items, new[path])
        return state_from(kept)

    return MeasuredModel((arrays, values), running, run, written)


class _Entry(str):
    """The key of what a layer measures, in the state."""

    def __new__(cls, marker: Any) -> _Entry:
        return super().__new__(cls, f"measured {marker if isinstance(marker, str) else id(marker)}")


class _Measured(eqx.Module):
    """Measures where a batch norm normalizes."""

    layer: Any
    index: eqx.nn.StateIndex[Any]
    measurement: Measurement = static()
    path: Path = static()

    def __init__(self, layer: Any, measurement: Measurement, path: Path):
        self.layer, self.measurement, self.path = layer, measurement, path
        self.index = index_of(_Entry(_marker(layer)), None)

    def __call__(
        self,
        x: jax.Array,
        state: Any,
        *,
        key: jax.Array | None = None,
        inference: bool | None = None,
        mask: jax.Array | None = None,
        update_running_average: bool | None = None,
        activation: Activation | None = None,
        placement: Side = "before",
    ) -> tuple[jax.Array, Any]:
        layer = self.layer
        stats, total = state.get(self.index)
        dtype = result_dtype(x, layer.weight, layer.bias)
        variables = LayerVariables(layer.weight, layer.bias, stats, total)
        debias = getattr(layer, "mode", "batch") == "batch" if isinstance(layer, eqx.nn.BatchNorm) else layer.debias
        options = layer_options(layer, epsilon=layer.eps, axis=0, debias=debias or layer.momentum is None)
        y, total = measure(self.measurement, self.path, options, variables, dtype, x, mask, activation, placement)
        return y, state.set(self.index, (stats, total))


def _is_norm(node: Any) -> bool:
    return isinstance(node, _NORMS)


def _marker(layer: Any) -> Any:
    """What the layers that share their state have in common."""
    index = getattr(layer, "state_index", None) or layer.batch_state_index or layer.ema_state_index
    return index.marker


def _running(layer: Any, items: dict[Any, Any]) -> BatchStats:
    """Mean and var as inference uses them."""
    if isinstance(layer, jbn.equinox.BatchNorm):
        stats = items[layer.state_index.marker]
        return BatchStats(stats.mean, stats.var)
    if layer.mode == "ema":
        return BatchStats(*items[layer.ema_state_index.marker])
    total = jnp.expand_dims(total_weight(layer, items[layer.batch_counter.marker]), -1)
    return BatchStats(*(hidden / total for hidden in items[layer.batch_state_index.marker]))


def _entries(layer: Any, items: dict[Any, Any], stats: BatchStats) -> dict[Any, Any]:
    """The entries of the state that make these the statistics of inference."""
    if isinstance(layer, jbn.equinox.BatchNorm):
        old = items[layer.state_index.marker]
        return {layer.state_index.marker: old._replace(mean=stats.mean, var=stats.var)}
    if layer.mode == "ema":
        first = items[layer.ema_first_time_index.marker]
        return {
            layer.ema_state_index.marker: (stats.mean, stats.var),
            layer.ema_first_time_index.marker: jnp.zeros_like(first),
        }
    count = items[layer.batch_counter.marker]
    count = jnp.where(count == 0, MANY, count).astype(count.dtype)  # before the first batch nothing is divided
    total = jnp.expand_dims(total_weight(layer, count), -1)
    hidden = tuple((a * total).astype(a.dtype) for a in (stats.mean, stats.var))
    return {layer.batch_counter.marker: count, layer.batch_state_index.marker: hidden}


def _mapped(model: Any, norms: dict[Any, tuple[Path, Any]]) -> Callable[..., Any]:
    """The model, mapped over the examples of a batch under the name that its layers give that axis."""
    names: set[Any] = set()
    for _, layer in norms.values():
        given: Any = layer.axis_name
        names.update(cast("tuple[Any, ...]", given) if isinstance(given, tuple) else (given,))
    names.discard(None)
    if len(names) > 1:
        raise ValueError(
            f"the layers name the axes {', '.join(sorted(map(str, names)))}, and so it is not clear how the model is "
            "mapped over a batch; pass call=lambda model, state, batch: ..., which returns outputs and state"
        )
    vmap: Any = jax.vmap
    return vmap(model, axis_name=next(iter(names), None), in_axes=(0, None), out_axes=(0, None))
