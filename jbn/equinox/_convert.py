"""Replaces the batch norm in models that exist already: Equinox' by jbn's, and back."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax

from jbn import _shell
from jbn._typed import keystr
from jbn._typed_equinox import assign, flatten_with_path, forgotten, index_of, state_from, state_items
from jbn.equinox._batch_norm import BatchNorm
from jbn.equinox._values import to_equinox, to_stats
from jbn.equinox._variants import AdaptiveBatchNorm, BatchRenorm, FrozenBatchNorm

Model = TypeVar("Model")
_KINDS: dict[str, type[BatchNorm]] = {
    "batch_norm": BatchNorm,
    "frozen": FrozenBatchNorm,
    "renorm": BatchRenorm,
    "adaptive": AdaptiveBatchNorm,
}
# Arguments that both constructors have and that a layer is asked for; `mode` is dealt with by itself.
_SHARED = ("input_size", "axis_name", "eps", "channelwise_affine", "momentum", "inference")
# What decides about weight, bias and the arrays of the state, which are kept as they are.
_KEPT = ("input_size", "channelwise_affine", "dtype")
# Options that Equinox lacks and that change what a layer computes, with the defaults that compute as Equinox does.
_BEYOND = {
    name: parameter.default
    for name, parameter in inspect.signature(BatchNorm.__init__).parameters.items()
    if name not in (*_SHARED, *_KEPT, "self", "mode", "debias", "ragged_groups")
}


def convert(
    model: Model,
    state: eqx.nn.State,
    *,
    kind: _shell.Kind = "batch_norm",
    only: Callable[[str], bool] = lambda path: True,
    batches_seen: float | None = None,
    **options: Any,
) -> tuple[Model, eqx.nn.State]:
    """A copy of an Equinox model, and its state, in which jbn's batch norm stands wherever `eqx.nn.BatchNorm` stood.

    Weight, bias and running statistics are kept, and the leaves of the model, in their order, so that files of its
    parameters fit as before. Layers that `eqx.filter_vmap` has made are stacks before and after; layers that share
    state go on to share it.

    Args:
      model: any model, which is not changed.
      state: its `eqx.nn.State`, which is not changed and stays valid.
      kind: "batch_norm", "frozen" (`FrozenBatchNorm`), "renorm" (`BatchRenorm`) or "adaptive" (`AdaptiveBatchNorm`).
      only: called with the path of each layer, such as "blocks/0/norm"; True replaces it.
      batches_seen: batches that the running statistics are made of; by default, what the layer has counted. A layer of
        mode "ema" counts none: then only `momentum=None` and a momentum or limit that depends on the step ask for it.
      **options: of the new layers, such as `skip_nonfinite=True`; all others are those of Equinox' layer. A layer of
        mode "ema" is replaced only with `mode="batch"`, because it trains differently.

    Returns:
      The new model and the new state.

    Raises:
      ValueError: no layer to replace, one of mode "ema" without `mode="batch"`, a subclass with methods or fields of
        its own, an option that would change weight or bias, or running statistics of an unknown number of batches.
      TypeError: an option that jbn's layer does not have.

    Example:
      >>> import equinox as eqx, jax, jbn.equinox
      >>> layers = [eqx.nn.BatchNorm(3, "batch", mode="batch"), eqx.nn.Lambda(jax.nn.relu)]
      >>> model, state = eqx.nn.make_with_state(eqx.nn.Sequential)(layers)
      >>> ours, state = jbn.equinox.convert(model, state, skip_nonfinite=True)
      >>> type(ours[0]).__module__.split(".")[0], int(state.get(ours[0].state_index).skipped)
      ('jbn', 0)
    """
    _shell.check_conversion(kind, _KINDS, options, _KEPT, "weight and bias", batches_seen)

    def replace(path: str, layer: Any) -> BatchNorm:
        if layer.mode != "batch" and "mode" not in options:
            raise ValueError(
                f"{path} has mode={layer.mode!r}, which normalizes training by moving averages; jbn's layers normalize "
                "it by the batch: pass mode='batch' to have that, or leave the layer out by `only`"
            )
        given: dict[str, Any] = {name: getattr(layer, name) for name in _SHARED}
        return _KINDS[kind](**given | options)

    def values(path: str, layer: Any, new: Any, found: list[Any]) -> list[Any]:
        return [to_stats(path, layer, new, found, batches_seen)]

    return _replaced(model, state, eqx.nn.BatchNorm, only, replace, values)


def revert(
    model: Model, state: eqx.nn.State, *, only: Callable[[str], bool] = lambda path: True, exact: bool = True
) -> tuple[Model, eqx.nn.State]:
    """The way back: a copy of a model, and its state, in which `eqx.nn.BatchNorm` stands wherever jbn's stood.

    Args:
      model: any model, which is not changed.
      state: its `eqx.nn.State`, which is not changed and stays valid.
      only: as in `convert`.
      exact: False drops options that Equinox lacks: training goes on without them. At inference nothing changes, except
        in an `AdaptiveBatchNorm`, which no longer adapts.

    Returns:
      The new model and the new state, with layers of mode "batch".

    Raises:
      ValueError: no layer to replace, one with an option that Equinox lacks, or one whose features have seen different
        numbers of batches.

    Example:
      >>> import equinox as eqx, jbn.equinox
      >>> model, state = eqx.nn.make_with_state(jbn.equinox.BatchNorm)(3, "batch", virtual_batch_size=32)
      >>> jbn.equinox.revert(model, state)
      Traceback (most recent call last):
      ValueError: the model itself has virtual_batch_size=32, which Equinox lacks; pass exact=False to drop it
      >>> model, state = jbn.equinox.revert(model, state, exact=False)
      >>> type(model) is eqx.nn.BatchNorm
      True
    """

    def replace(path: str, layer: Any) -> Any:
        lacking = {name: value for name in _BEYOND if (value := getattr(layer, name)) != _BEYOND[name]}
        lacking |= {"momentum": m} if callable(m := layer.momentum) or m is None else {}
        lacking |= {"axis_name": None} if layer.axis_name is None else {}
        variant = next(c for c in type(layer).__mro__ if c in _KINDS.values())
        names = [] if variant is BatchNorm else [f"the class {variant.__name__}"]
        names += [f"{name}={value!r}" for name, value in lacking.items()]
        if names and exact:
            raise ValueError(f"{path} has {', '.join(names)}, which Equinox lacks; pass exact=False to drop it")
        given: dict[str, Any] = {name: getattr(layer, name) for name in _SHARED if name not in lacking}
        dtype = getattr(layer.weight, "dtype", None)
        return eqx.nn.BatchNorm(**dict[str, Any](axis_name="batch", dtype=dtype, mode="batch") | given)

    def values(path: str, layer: Any, new: Any, found: list[Any]) -> list[Any]:
        return to_equinox(path, layer, new, found[0])

    return _replaced(model, state, BatchNorm, only, replace, values)


def _replaced(
    model: Any,
    state: eqx.nn.State,
    kind: type[Any],
    only: Callable[[str], bool],
    replace: Callable[[str, Any], Any],
    values: Callable[[str, Any, Any, list[Any]], list[Any]],
) -> Any:
    """Model and state with the chosen layers replaced, and their values in the order of the new layers' indices."""

    def is_layer(node: Any) -> bool:
        return isinstance(node, kind)

    leaves, tree = flatten_with_path(model, is_leaf=is_layer)
    there = [(i, layer_name(path), leaf) for i, (path, leaf) in enumerate(leaves) if isinstance(leaf, kind)]
    chosen = [(i, path, layer) for i, path, layer in there if only(path)]
    if not chosen:
        found = f"{', '.join(path for _, path, _ in there)}, all left out by `only`" if there else "none"
        what = "batch norm of jbn" if kind is BatchNorm else "eqx.nn.BatchNorm"
        raise ValueError(f"there is no {what} to replace ({found}); pass a model that has one, or another `only`")
    items, moved, markers = state_items(state), dict[Any, Any](), dict[Any, Any]()
    result = [leaf for _, leaf in leaves]
    for i, path, layer in chosen:
        check_own(path, layer, kind)
        new, old = replace(path, layer), _indices(path, layer)
        if missing := [name for name, index in old.items() if index.marker not in items]:
            raise ValueError(f"the state has no entry for {path}/{missing[0]}; pass the state of this model")
        value = values(path, layer, new, [items[index.marker] for index in old.values()])
        initial = [index.init for index in old.values()]
        # A model that make_with_state did not make still holds what its state began with.
        initial = None if forgotten(initial) else values(path, layer, new, initial)
        last, of = list(old.items())[-1]
        for k, name in enumerate(_indices(path, new)):
            marker = markers.setdefault((of.marker, name), _renamed(of.marker, last, name))
            moved[marker] = value[k]
            assign(new, name, index_of(marker, None if initial is None else initial[k]))
        assign(new, "weight", layer.weight)
        assign(new, "bias", layer.bias)
        result[i] = new
    before = {index.marker for _, path, layer in chosen for index in _indices(path, layer).values()}
    model = jax.tree.unflatten(tree, result)
    after: list[Any] = [index.marker for index in jax.tree.leaves(model, is_leaf=_is_index) if _is_index(index)]
    if before & set(after):
        raise ValueError("some of the layers that `only` leaves out share their state with others; replace all of them")
    moved = {k: v for k, v in items.items() if k not in before} | moved
    order = dict.fromkeys([k for k in after if k in moved] + list(moved))  # of the state of a model made anew
    return model, state_from({k: moved[k] for k in order})


def layer_name(path: tuple[Any, ...]) -> str:
    """A path as `only` and error messages see it."""
    return keystr(path, simple=True, separator="/") or "the model itself"


def _is_index(node: Any) -> bool:
    return isinstance(node, eqx.nn.StateIndex)


def _indices(path: str, layer: Any) -> dict[str, Any]:
    """The indices of a layer's state, by the names of its fields."""
    names = ("ema_first_time_index", "ema_state_index", "batch_counter", "batch_state_index", "state_index")
    found = {name: index for name in names if (index := getattr(layer, name, None)) is not None}
    if other := [name for name, index in found.items() if not _is_index(index)]:
        raise ValueError(f"{path} has no {other[0]} of its own (eqx.nn.Shared took it); leave it out by `only`")
    return found


def _renamed(marker: Any, old: str, new: str) -> Any:
    """The key of a new entry of the state: the one that `make_with_state` would choose, if it chose the old one."""
    return marker.removesuffix(old) + new if isinstance(marker, str) and marker.endswith(f".{old}") else object()


def check_own(path: str, layer: Any, base: type[Any]) -> None:
    """Refuses a subclass whose methods or fields would be lost."""
    own = [c for c in type(layer).__mro__ if not issubclass(base, c) and not c.__module__.startswith("jbn.")]
    methods = {
        name
        for c in own
        for name, value in vars(c).items()
        if isinstance(value, types.FunctionType | property) and (not name.startswith("__") or name == "__call__")
    }
    kept: Any = next(c for c in type(layer).__mro__ if c not in own)
    fields = {field.name for field in dataclasses.fields(layer)} - {field.name for field in dataclasses.fields(kept)}
    if names := sorted(methods | fields):
        raise ValueError(
            f"{path} is a {type(layer).__name__} with its own {' and '.join(names)}, which would be lost; leave it "
            "out by `only`"
        )
