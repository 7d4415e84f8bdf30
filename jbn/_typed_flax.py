"""Flax's functions whose own annotations are incomplete, with the types that jbn relies on."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

import jax
from flax import linen as nn
from flax import nnx, traverse_util
from flax.linen import dtypes
from flax.linen.module import InterceptorContext as InterceptorContext
from flax.nnx.nn import dtypes as nnx_dtypes
from jax.typing import DTypeLike

Key = tuple[Hashable, ...]


class Flatten(Protocol):
    """`{"a": {"b": 1}}` to `{("a", "b"): 1}`."""

    def __call__(self, xs: Mapping[str, Any], keep_empty_nodes: bool = False) -> dict[Key, Any]: ...


def variable(module: nn.Module, collection: str, name: str, start: jax.Array) -> nn.Variable[jax.Array]:
    """The variable of a linen module, made with the value `start`."""
    return module.variable(collection, name, lambda: start)


def param(module: nn.Module, name: str, init: Callable[..., Any], shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """The parameter of a linen module, initialized by `init(key, shape, dtype)`."""
    return module.param(name, init, shape, dtype)


canonicalize_dtype: Callable[..., DTypeLike] = dtypes.canonicalize_dtype
flatten_dict: Flatten = traverse_util.flatten_dict
unflatten_dict: Callable[[Mapping[Key, Any]], dict[str, Any]] = traverse_util.unflatten_dict
promote_dtype: Callable[..., Any] = nnx_dtypes.promote_dtype
nnx_canonicalize_dtype: Callable[..., DTypeLike] = nnx_dtypes.canonicalize_dtype
nnx_state: Callable[..., Any] = nnx.state
nnx_split: Callable[..., tuple[Any, Any]] = nnx.split
nnx_merge: Callable[..., Any] = nnx.merge
nnx_update: Callable[[Any, Any], None] = nnx.update
nnx_reseed: Callable[..., None] = nnx.reseed
nnx_filter_state: Callable[..., Any] = nnx.filter_state
