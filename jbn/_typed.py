"""JAX's functions whose own annotations are incomplete, with the types that jbn relies on."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name as _checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec
from jax.sharding import reshard as _reshard
from jax.typing import DTypeLike

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

KeyPath = tuple[Any, ...]

eval_shape: Callable[..., Any] = jax.eval_shape
jit: Callable[[Callable[..., Any]], Callable[..., Any]] = jax.jit
make_jaxpr: Callable[[Callable[..., Any]], Callable[..., ClosedJaxpr]] = jax.make_jaxpr
make_user_context: Callable[[], Callable[[Any], AbstractContextManager[None]]] = jax.make_user_context
reshard: Callable[[jax.Array, PartitionSpec | NamedSharding], jax.Array] = _reshard
flatten_with_path: Callable[[Any], tuple[list[tuple[KeyPath, Any]], jax.tree_util.PyTreeDef]] = (
    jax.tree.flatten_with_path
)
leaves_with_path: Callable[[Any], list[tuple[KeyPath, Any]]] = jax.tree.leaves_with_path
jvp: Callable[[Callable[[jax.Array], jax.Array], tuple[jax.Array], tuple[jax.Array]], tuple[jax.Array, jax.Array]] = (
    jax.jvp
)
psum: Callable[[jax.Array, Any], jax.Array] = jax.lax.psum
all_gather: Callable[[jax.Array, Any], jax.Array] = jax.lax.all_gather
vmap: Callable[[Callable[..., Any]], Callable[..., Any]] = jax.vmap
pad: Callable[[jax.Array, list[tuple[int, int]]], jax.Array] = jnp.pad
platform_dependent: Callable[..., Any] = jax.lax.platform_dependent
checkpoint: Callable[..., Callable[..., Any]] = jax.checkpoint
checkpoint_name: Callable[[Any, str], Any] = _checkpoint_name
custom_jvp: Callable[..., Any] = jax.custom_jvp
finfo: Callable[[DTypeLike], Any] = jnp.finfo
keystr: Callable[..., str] = jax.tree_util.keystr
