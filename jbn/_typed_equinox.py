"""Equinox' functions whose own annotations are incomplete, with the types that jbn relies on."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from typing import Any

import equinox as eqx
import jax.numpy as jnp


def static() -> Any:
    """A field of a module that is no leaf of it."""
    return eqx.field(static=True)


def default_dtype() -> Any:
    """JAX's dtype of numbers that come without one, as Equinox takes it."""
    return jnp.result_type(float)
