"""The layers that folding knows: batch norms, s·x + t at inference, and linear layers, W·x + b."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax.core import Tracer

import jbn.linen
import jbn.nnx
from jbn import _axes
from jbn._activation import Activation, Side
from jbn._paths import Path
from jbn._typed_flax import canonicalize_dtype
from jbn.fold._tags import Tag, tagged

TRANSPOSED = (nn.ConvTranspose, nnx.ConvTranspose)
FROZEN = (jbn.linen.FrozenBatchNorm, jbn.nnx.FrozenBatchNorm)
VARIABLES = ("mean", "var", "scale", "bias", "kernel")

_FOLDABLE = (
    *(nn.BatchNorm, jbn.linen.BatchNorm, jbn.linen.BatchRenorm, jbn.linen.FrozenBatchNorm),
    *(nnx.BatchNorm, jbn.nnx.BatchNorm, jbn.nnx.BatchRenorm, jbn.nnx.FrozenBatchNorm),
)
# Each class with the reason why it cannot be folded; empty if it can.
NORMS: Mapping[type, str] = {
    **dict.fromkeys(_FOLDABLE, ""),
    **dict.fromkeys((jbn.linen.AdaptiveBatchNorm, jbn.nnx.AdaptiveBatchNorm), "normalizes by the test batch, too"),
    **dict.fromkeys((jbn.linen.DomainBatchNorm, jbn.nnx.DomainBatchNorm), "has the statistics of several domains"),
}
LINEARS: Mapping[type, str] = dict.fromkeys(
    (nn.Dense, nn.Conv, nn.ConvTranspose, nnx.Linear, nnx.Conv, nnx.ConvTranspose), ""
)


def table_of(kind: type[Any]) -> Mapping[type, str] | None:
    """NORMS or LINEARS, whichever has the class or a base class of it; None if neither has."""
    return next((table for table in (NORMS, LINEARS) if issubclass(kind, tuple(table))), None)


def why_unknown(kind: type[Any], own_variables: bool) -> str:
    """Why a layer may compute something else than its base class; empty if it does not.

    Args:
      kind: the class of the layer, with a base class that is known.
      own_variables: whether the layer computes with the model's own arrays, and not with others made from them.
    """
    table: Mapping[type, str] = table_of(kind) or {}
    base = next(c for c in kind.__mro__ if c in table)
    name = f"is {'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
    if table[base]:
        return f"{name}, which {table[base]}"
    fields = getattr(kind, "__dataclass_fields__", {})  # some hold functions, such as initializers
    overridden = {
        method
        for c in kind.__mro__
        if not issubclass(base, c)
        for method, value in vars(c).items()
        if hasattr(base, method) and method not in fields and isinstance(value, types.FunctionType | property)
        if not method.startswith("__") or method == "__call__"
    }
    if overridden:
        return f"{name}, with its own {' and '.join(sorted(overridden))} in place of that of {base.__name__}"
    if not own_variables:
        return "computes with other variables than the model has for it (by vmap, WeightNorm, nn.map_variables, ...)"
    return ""


def tagged_call(
    layer: Any, path: Path, why: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The call of a layer with tags on its inputs and outputs. A batch norm that can be folded is only tags."""
    kind: type[Any] = layer.__class__
    is_norm = table_of(kind) is NORMS
    if is_norm and not why:
        return _tagged_norm(path, _why_not_affine(layer, *args, **kwargs), *args, **kwargs)

    def tag(side: Literal["in", "out"]) -> Callable[[Any], Any]:
        value = Tag("norm" if is_norm else "linear", side, path, why)
        return lambda v: tagged(jnp.asarray(v), value) if isinstance(v, jax.Array | np.ndarray) else v

    args, kwargs = jax.tree.map(tag("in"), (args, kwargs))
    return jax.tree.map(tag("out"), call(*args, **kwargs))


def _why_not_affine(layer: Any, x: jax.Array, use_running_average: bool | None = None, **_: Any) -> str:
    """Why a batch norm of a known class is not s·x + t over the last axis in this call; empty if it is."""
    running = layer.use_running_average if use_running_average is None else use_running_average
    if not isinstance(layer, FROZEN) and (isinstance(running, Tracer) or not running):
        return (
            "normalizes by the batch here, as in training; set use_running_average=True, call model.eval() with "
            "nnx, or pass the argument that the model takes, as in call=lambda m, x: m(x, train=False)"
        )
    if _axes.canonical(layer.axis, x.ndim).features != (x.ndim - 1,):
        return f"has axis={layer.axis}, but Flax's linear layers have their features last; use axis=-1"
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return "is called with complex numbers, which folding does not support"
    return ""


def _tagged_norm(
    path: Path,
    why: str,
    x: Any,
    use_running_average: bool | None = None,
    *,
    activation: Activation | None = None,
    placement: Side = "before",
    **_: Any,
) -> jax.Array:
    """The tags of a norm, and the activation that it was called with."""
    if activation is not None and placement == "after":
        x = activation(x)
    for side in ("in", "out"):
        x = tagged(jnp.asarray(x), Tag("norm", side, path, why))
    return activation(x) if activation is not None and placement == "before" else x


def folded_norm(
    x: Any,
    use_running_average: bool | None = None,
    *,
    dtype: Any,
    affine: Any,
    activation: Activation | None = None,
    **_: Any,
) -> jax.Array:
    """The call of a norm after folding: a cast to the dtype of its result, and the activation that it was called with.

    Args:
      x: the norm's input.
      use_running_average: as the norm takes it.
      dtype: the norm's attribute.
      affine: result dtype of those variables of the norm that take part in its result dtype; None if there are none.
      activation: as the norm takes it.
    """
    given = [x] if affine is None else [x, jnp.zeros((), affine)]
    x = jnp.asarray(x, canonicalize_dtype(*given, dtype=dtype))
    return x if activation is None else activation(x)


def add_bias(y: jax.Array, bias: jax.Array, name: str) -> jax.Array:
    """The output of a layer plus the bias that folding made: a vector, or an array over positions."""
    if bias.ndim > 1 and y.shape[-bias.ndim :][1:] != bias.shape[1:]:
        raise ValueError(
            f"{name} has an output of shape {y.shape}, but its batch norm was folded for outputs {bias.shape[1:]} "
            "(the border of a zero-padded convolution depends on the size); fold again with an x of this size"
        )
    return y + bias.astype(y.dtype)
