"""Equinox' functions whose own annotations are incomplete, with the types that jbn relies on."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


def static() -> Any:
    """A field of a module that is no leaf of it."""
    return eqx.field(static=True)


def default_dtype() -> Any:
    """JAX's dtype of numbers that come without one, as Equinox takes it."""
    return jnp.result_type(float)


partition: Callable[[Any, Any], tuple[Any, Any]] = eqx.partition
combine: Callable[..., Any] = eqx.combine
flatten_with_path: Callable[..., Any] = jax.tree_util.tree_flatten_with_path
# For modules that are still being made: a finished one does not change.
assign: Callable[[Any, str, Any], None] = object.__setattr__
_deleted: Any = eqx.nn.delete_init_state(eqx.nn.StateIndex(0))


def index_of(marker: Any, init: Any | None) -> Any:
    """An index of the state, with what it begins with, or without, as `make_with_state` leaves it."""
    index: Any = eqx.nn.StateIndex(_deleted.init if init is None else init)
    assign(index, "marker", marker)
    return index


def forgotten(init: Any) -> bool:
    """Whether `make_with_state` has taken these initial values of a state away."""
    return any(type(value) is type(_deleted.init) for value in init)


def state_items(state: Any) -> dict[Any, Any]:
    """The entries of a state; an error of Equinox if it is no longer valid."""
    values, keys = state.tree_flatten()
    return dict(zip(keys, values, strict=True))


def state_from(items: dict[Any, Any]) -> Any:
    """A state with these entries."""
    return eqx.nn.State.tree_unflatten(tuple(items), tuple(items.values()))
