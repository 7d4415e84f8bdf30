"""The layers that folding knows: batch norms that are s·x + t at inference, and layers that are W·x + b."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from flax.linen.dtypes import canonicalize_dtype
from jax.core import Tracer

import jbn.linen
import jbn.nnx
from jbn import _axes
from jbn.fold._neighbours import Path, mark

Known = dict[type, str]

# Each with what keeps it from being folded, which is mostly nothing.
NORMS: Known = dict.fromkeys((nn.BatchNorm, nnx.BatchNorm), "")
NORMS |= dict.fromkeys((jbn.linen.BatchNorm, jbn.linen.BatchRenorm, jbn.linen.FrozenBatchNorm), "")
NORMS |= dict.fromkeys((jbn.nnx.BatchNorm, jbn.nnx.BatchRenorm, jbn.nnx.FrozenBatchNorm), "")
NORMS |= dict.fromkeys((jbn.linen.AdaptiveBatchNorm, jbn.nnx.AdaptiveBatchNorm), "normalizes by the test batch, too")
NORMS |= dict.fromkeys((jbn.linen.DomainBatchNorm, jbn.nnx.DomainBatchNorm), "has the statistics of several domains")
LINEARS: Known = dict.fromkeys((nn.Dense, nn.Conv, nn.ConvTranspose, nnx.Linear, nnx.Conv, nnx.ConvTranspose), "")
TRANSPOSED = (nn.ConvTranspose, nnx.ConvTranspose)
FROZEN = (jbn.linen.FrozenBatchNorm, jbn.nnx.FrozenBatchNorm)
NAMES = ("mean", "var", "scale", "bias", "kernel")


def known(kind: type) -> Known | None:
    """The table that a class is in, or is derived from one in."""
    return next((table for table in (NORMS, LINEARS) if issubclass(kind, tuple(table))), None)


def strange(kind: type, own: bool) -> str:
    """Why a layer is not known to be what its base class is, or nothing.

    Args:
      kind: its class, with a base class that is known.
      own: whether it computes with the very variables of the model.
    """
    table: Known = known(kind) or {}
    base = next(c for c in kind.__mro__ if c in table)
    name = f"is {'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
    if table[base]:
        return f"{name}, which {table[base]}"
    fields = getattr(kind, "__dataclass_fields__", {})  # among them functions, such as initializers
    methods = {
        method
        for c in kind.__mro__
        if not issubclass(base, c)
        for method, value in vars(c).items()
        if hasattr(base, method) and method not in fields and isinstance(value, types.FunctionType | property)
        if not method.startswith("__") or method == "__call__"
    }
    if methods:
        return f"{name}, with its own {' and '.join(sorted(methods))} in place of that of {base.__name__}"
    if not own:
        return "computes with other variables than the model has for it (by vmap, WeightNorm, nn.map_variables, ...)"
    return ""


def marked(layer: Any, path: Path, why: str, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """A layer's call, to be seen in the program, where a batch norm of a known kind does nothing else."""
    kind = "norm" if known(type(layer)) is NORMS else "linear"
    if kind == "norm" and not why:
        return _marked_norm(path, _not_affine(layer, *args, **kwargs), *args, **kwargs)

    def to(side: str) -> Callable[[Any], Any]:
        arrays = jax.Array | np.ndarray
        return lambda v: mark(jnp.asarray(v), kind, side, path, why) if isinstance(v, arrays) else v

    args, kwargs = jax.tree.map(to("in"), (args, kwargs))
    return jax.tree.map(to("out"), run(*args, **kwargs))


def _not_affine(layer: Any, x: jax.Array, use_running_average: Any = None, **_: Any) -> str:
    """Why a batch norm, of a known kind, is not s·x + t over the last axis in this call, or nothing."""
    running = layer.use_running_average if use_running_average is None else use_running_average
    if not isinstance(layer, FROZEN) and (isinstance(running, Tracer) or not running):
        return (
            "normalizes by the batch here, as in training; write use_running_average=True, model.eval() with nnx, or "
            "what the model takes, as in call=lambda m, x: m(x, train=False)"
        )
    if _axes.canonical(layer.axis, x.ndim).features != (x.ndim - 1,):
        return f"has axis={layer.axis}, while Flax's linear layers have their features last; write axis=-1"
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return "is called with complex numbers, for which folding is not written"
    return ""


def _marked_norm(path: Path, why: str, x, use_running_average=None, *, activation=None, placement="before", **_: Any):
    """A norm that does nothing but to be seen, and the activation that it was called with."""
    if activation is not None and placement == "after":
        x = activation(x)
    x = mark(mark(jnp.asarray(x), "norm", "in", path, why), "norm", "out", path, why)
    return activation(x) if activation is not None and placement == "before" else x


def remainder(x, use_running_average=None, *, dtype: Any, affine: Any, activation=None, **_: Any) -> jax.Array:
    """What is left of a folded norm: the dtype of its result, and the activation that was called within it.

    Args:
      x: the norm's input.
      use_running_average: as the norm takes it.
      dtype: the norm's attribute.
      affine: dtype of those of its variables that decide that of the result; None where there are none.
      activation: as the norm takes it.
    """
    given = [x] if affine is None else [x, jnp.zeros((), affine)]
    x = jnp.asarray(x, canonicalize_dtype(*given, dtype=dtype))
    return x if activation is None else activation(x)


def add_bias(y: jax.Array, bias: jax.Array, name: str) -> jax.Array:
    """The output of a layer and the bias that a norm has left there: a vector, or an array over positions."""
    if bias.ndim > 1 and y.shape[-bias.ndim :][1:] != bias.shape[1:]:
        raise ValueError(
            f"{name} has an output of shape {y.shape}, but its batch norm was folded for outputs {bias.shape[1:]} "
            "(the border of a zero-padded convolution depends on the size); fold again with an x of this size"
        )
    return y + bias.astype(y.dtype)
