"""Shapes of the core's arrays, as annotations: jaxtyping's where pytest checks them, plain arrays elsewhere.

jbn depends on jax alone, and checking costs time: outside of pytest, `checked` does nothing. Within one call of a
checked function, each name in the annotations stands for one shape.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import jax

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING or {"jaxtyping", "pytest"} <= sys.modules.keys():
    import numpy as np
    from jaxtyping import Bool, Float, Inexact, Shaped

    Array = jax.Array if TYPE_CHECKING else jax.Array | np.ndarray  # users may pass what NumPy holds, too
    Given = Shaped[Array, "*shape"]  # x of the caller, before its dtype is checked
    Input = Inexact[Array, "*shape"]  # x or y
    Vector = Inexact[Array, "*features"]  # a mean, a factor or an offset
    Param = Inexact[Array, "..."]  # scale or bias; with virtual batches it broadcasts against the features
    RealVector = Float[Array, "*features"]  # a variance
    Parts = Inexact[Array, "parts *features"]  # vectors of several parts of a batch
    Mask = Bool[Array, "..."]
else:
    Given = Input = Param = Vector = RealVector = Parts = Mask = jax.Array


def checked(function: F) -> F:
    """Decorates a function whose shapes pytest checks at every call."""
    if not TYPE_CHECKING and Input is not jax.Array:
        from beartype import beartype
        from jaxtyping import jaxtyped

        return jaxtyped(function, typechecker=beartype)
    return function
