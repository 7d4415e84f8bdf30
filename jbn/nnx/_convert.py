"""Replaces the batch norm in models that exist already: Flax's by jbn's, and back."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from jbn import _shell
from jbn._paths import path_name
from jbn._running_stats import BatchStats, average_weight
from jbn.nnx._batch_norm import BatchNorm
from jbn.nnx._variants import AdaptiveBatchNorm, BatchRenorm, DomainBatchNorm, FrozenBatchNorm

Model = TypeVar("Model", bound=nnx.Module)
_KINDS: dict[str, type[BatchNorm]] = {
    "batch_norm": BatchNorm,
    "frozen": FrozenBatchNorm,
    "renorm": BatchRenorm,
    "adaptive": AdaptiveBatchNorm,
}
_VARIABLES = ("scale", "bias", "mean", "var")
# Arguments of Flax's constructor that are attributes of its layers, with their defaults.
_FLAX = {
    name: parameter.default
    for name, parameter in inspect.signature(nnx.BatchNorm.__init__).parameters.items()
    if name not in ("self", "num_features", "rngs", "bias_init", "scale_init", "bias_metadata", "scale_metadata")
}
# What decides about scale and bias, which are kept as they are.
_KEPT = (
    *("num_features", "use_scale", "use_bias", "param_dtype", "rngs"),
    *("bias_init", "scale_init", "bias_metadata", "scale_metadata"),
)
# Options that Flax lacks and that change what a layer computes, with the defaults that compute as Flax's does.
_BEYOND = {
    name: parameter.default
    for name, parameter in inspect.signature(BatchNorm.__init__).parameters.items()
    if name not in (*_FLAX, *_KEPT, "self", "sow_info", "ragged_groups")
}


def convert(
    model: Model,
    *,
    kind: _shell.Kind = "batch_norm",
    only: Callable[[str], bool] = lambda path: True,
    batches_seen: float | None = None,
    **options: Any,
) -> Model:
    """A copy of an nnx model in which jbn's batch norm stands wherever `flax.nnx.BatchNorm` stood.

    Scale, bias and running statistics are kept, at the same paths, so that checkpoints fit as before. A layer that is
    shared is replaced once; layers that `nnx.vmap` has made are stacks before and after.

    Args:
      model: any nnx module, which is not changed. Make an `nnx.Optimizer` from the converted model.
      kind: "batch_norm", "frozen" (`FrozenBatchNorm`), "renorm" (`BatchRenorm`) or "adaptive" (`AdaptiveBatchNorm`).
      only: called with the path of each layer, such as "encoder/layers/0/norm"; True replaces it.
      batches_seen: batches that the running statistics are made of. Only `debias`, `momentum=None`, and a momentum or
        limit that depends on the step ask for it. By default 0 where they are as a new layer has them (mean 0, variance
        1); otherwise so many that nothing is left to debias, and an error for the others.
      **options: of the new layers, such as `virtual_batch_size=32`; all others are those of Flax's layer.

    Returns:
      A new model of the same class.

    Raises:
      ValueError: no layer to replace, a subclass with methods of its own, an option that would change scale or bias, or
        running statistics of an unknown number of batches.
      TypeError: an option that jbn's layer does not have.

    Example:
      >>> import jax, jbn.nnx
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.relu)
      >>> ours = jbn.nnx.convert(model, skip_nonfinite=True)
      >>> type(ours.layers[1]).__module__.split(".")[0], ours(jax.numpy.ones((2, 3))).shape
      ('jbn', (2, 4))
    """
    _shell.check_conversion(kind, _KINDS, options, _KEPT, "scale and bias", batches_seen)
    result = nnx.clone(model)
    for path, layer in _chosen(result, nnx.BatchNorm, only, "flax.nnx.BatchNorm"):
        given = {name: getattr(layer, name) for name in _FLAX} | options
        new = _KINDS[kind](layer.num_features, rngs=nnx.Rngs(0), **given)
        lead = layer.mean.shape[:-1]  # of a stack
        for name in BatchStats._fields[2:]:
            if (variable := getattr(new, name, None)) is not None:
                start = _counted(name, path, layer, new, batches_seen)
                value = variable[...] if start is None else jnp.full_like(variable[...], start)
                variable.set_value(jnp.broadcast_to(value, (*lead, *value.shape)))
        _become(layer, new)
    return result


def revert(model: Model, *, only: Callable[[str], bool] = lambda path: True, exact: bool = True) -> Model:
    """The way back: a copy of an nnx model in which `flax.nnx.BatchNorm` stands wherever jbn's stood.

    Args:
      model: any nnx module, which is not changed.
      only: as in `convert`.
      exact: False drops options that Flax lacks: training goes on without them. At inference nothing changes, except
        in an `AdaptiveBatchNorm`, which no longer adapts.

    Returns:
      A new model of the same class.

    Raises:
      ValueError: no layer to replace, or one with an option that Flax lacks.

    Example:
      >>> import jbn.nnx
      >>> from flax import nnx
      >>> layer = jbn.nnx.BatchNorm(4, virtual_batch_size=32, rngs=nnx.Rngs(0))
      >>> jbn.nnx.revert(nnx.List([layer]))
      Traceback (most recent call last):
      ValueError: 0 has virtual_batch_size=32, which Flax lacks; pass exact=False to drop it
      >>> type(jbn.nnx.revert(nnx.List([layer]), exact=False)[0]) is nnx.BatchNorm
      True
    """
    result = nnx.clone(model)
    for path, layer in _chosen(result, BatchNorm, only, "batch norm of jbn"):
        lacking = {name: value for name in _BEYOND if (value := getattr(layer, name)) != _BEYOND[name]}
        if callable(layer.momentum) or layer.momentum is None:
            lacking["momentum"] = layer.momentum
        names = [f"{name}={value!r}" for name, value in lacking.items()]
        variant = next(c for c in layer.__class__.__mro__ if c in _KINDS.values())
        names = [f"the class {variant.__name__}", *names] if variant is not BatchNorm else names
        if names and exact:
            raise ValueError(f"{path} has {', '.join(names)}, which Flax lacks; pass exact=False to drop it")
        given = {name: getattr(layer, name) for name in _FLAX if name not in lacking}
        new = nnx.BatchNorm(layer.num_features, rngs=nnx.Rngs(0), **given)
        _become(layer, new)
    return result


def _chosen(model: nnx.Module, kind: type[Any], only: Callable[[str], bool], what: str) -> list[tuple[str, Any]]:
    """The layers of this kind, each once, with their paths."""
    all_of_them = [(path_name(path), layer) for path, layer in nnx.iter_graph(model) if isinstance(layer, kind)]
    chosen = [(path, layer) for path, layer in all_of_them if only(path)]
    if not chosen:
        there = f"{', '.join(path for path, _ in all_of_them)}, all left out by `only`" if all_of_them else "none"
        raise ValueError(f"there is no {what} to replace ({there}); pass a model that has one, or another `only`")
    for path, layer in chosen:
        if isinstance(layer, DomainBatchNorm):
            raise ValueError(f"{path} is a DomainBatchNorm, which has several statistics; leave it out by `only`")
        if own := _own_methods(layer.__class__, kind):
            raise ValueError(
                f"{path} is a {type(layer).__name__} with its own {' and '.join(own)}, which would be lost; leave it "
                "out by `only`"
            )
    return chosen


def _own_methods(kind: type[Any], base: type[Any]) -> list[str]:
    """The methods of a class that override those of Flax's or jbn's layer."""
    return sorted(
        {
            name
            for c in kind.__mro__
            if not issubclass(base, c)
            for name, value in vars(c).items()
            if isinstance(value, types.FunctionType | property) and hasattr(base, name)
            if not c.__module__.startswith("jbn.")
            if not name.startswith("__") or name == "__call__"
        }
    )


def _become(layer: Any, new: Any) -> None:
    """Makes a layer of `new` in place, so that whatever refers to it goes on to do so; keeps scale, bias, mean and var.

    What a subclass has added is kept, too.
    """
    mine: dict[str, Any] = layer.__dict__
    theirs: set[str] = {"scale", "bias", *BatchStats._fields}
    classes: tuple[type[Any], ...] = layer.__class__.__mro__
    for c in classes:
        if c is nnx.BatchNorm or c.__module__.startswith("jbn."):
            theirs |= inspect.signature(c.__init__).parameters.keys()
    own = {name: value for name, value in mine.items() if not name.startswith("_") and name not in theirs}
    variables = {name: mine[name] for name in _VARIABLES}
    mine.clear()
    mine.update(new.__dict__)
    mine.update(variables)
    object.__setattr__(layer, "__class__", new.__class__)  # Flax would note it as an attribute
    for name, value in own.items():
        setattr(layer, name, value)


def _counted(name: str, path: str, layer: Any, new: BatchNorm, batches_seen: float | None) -> float | None:
    """What a variable that counts batches starts from; None for those that start as in a new layer."""
    if name not in ("weight", "step"):
        return None
    if batches_seen is None:
        mean, var = layer.mean[...], layer.var[...]
        if isinstance(mean, Tracer | jax.ShapeDtypeStruct):
            raise ValueError(f"{path}: pass batches_seen, because the running statistics have no values here")
        if not np.any(np.asarray(mean)) and np.all(np.asarray(var) == 1):
            batches_seen = 0
        elif name == "weight" and new.momentum is not None:
            batches_seen = math.inf
        else:
            raise ValueError(
                f"{path}: the new layer needs the number of batches that the running statistics are made of; pass "
                "batches_seen"
            )
    if name == "step" or new.momentum is None:
        return batches_seen
    if batches_seen and callable(new.momentum):
        raise ValueError(
            f"{path}: a momentum that depends on the step does not say which weight {batches_seen} batches have in a "
            "debiased average; leave out debias, or set momentum to a number"
        )
    return float(average_weight(batches_seen, 0.0 if callable(new.momentum) else new.momentum))
