"""A norm before or after the activation: one block, made of any layer, norm and activation.

::

    none         layer, activation
    before       layer, norm, activation          (Ioffe & Szegedy 2015)
    after        layer, activation, norm
    both         layer, norm, activation, norm
    pre_linear   norm, layer, activation          (the norm on the layer's input)

`ORDER` is this table, and the block applies its steps one by one.
"""

from __future__ import annotations

from jbn import _needs_flax as _needs_flax  # first

# isort: split
import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, get_args

import jax
from flax import linen as nn

__all__ = ["ORDER", "Block", "Placement", "order"]

Placement = Literal["none", "before", "after", "both", "pre_linear"]
Step = Literal["layer", "norm", "activation"]
Map = Callable[[jax.Array], jax.Array]

ORDER: Mapping[Placement, tuple[Step, ...]] = MappingProxyType(
    {
        "none": ("layer", "activation"),
        "before": ("layer", "norm", "activation"),
        "after": ("layer", "activation", "norm"),
        "both": ("layer", "norm", "activation", "norm"),
        "pre_linear": ("norm", "layer", "activation"),
    }
)


def order(placement: Placement) -> tuple[Step, ...]:
    """The steps of a block, first to last.

    Args:
      placement: "none", "before", "after", "both" or "pre_linear".

    Returns:
      The steps' names, "layer", "norm" and "activation".

    Raises:
      ValueError: an unknown placement.

    Example:
      >>> from jbn.placement import order
      >>> order("after")
      ('layer', 'activation', 'norm')
    """
    if placement not in ORDER:
        known = get_args(Placement)
        near = difflib.get_close_matches(str(placement), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"placement is {placement!r}; use one of {', '.join(known)}{hint}")
    return ORDER[placement]


class Block(nn.Module):
    """A layer, an activation, and a norm where `placement` puts it.

    Attributes:
      layer: called as `layer(name=...)`, returns the layer: `partial(nn.Dense, 100)`, `partial(nn.Conv, 64, (3, 3))`.
      norm: called likewise, returns a norm: `partial(jbn.linen.BatchNorm, use_running_average=False)`, `nn.LayerNorm`.
      activation: a function of arrays, such as `jax.nn.relu`.
      placement: where the norm is, see the module's table.

    The layer's parameters are always under `layer`, the norms' under `norm` (and ``norm_1`` for the second of both), so
    that a seed gives the layer the same initial weights in every placement. The activation's input is sown as
    ``activation_input`` in the collection `intermediates`.

    Example:
      >>> from functools import partial
      >>> import jax, jax.numpy as jnp, flax.linen as nn, jbn.linen
      >>> from jbn.placement import Block
      >>> norm = partial(jbn.linen.BatchNorm, use_running_average=False)
      >>> block = Block(partial(nn.Dense, 4), norm, jax.nn.relu, placement="after")
      >>> variables = block.init(jax.random.key(0), jnp.ones((8, 3)))
      >>> sorted(variables["params"])
      ['layer', 'norm']
    """

    layer: Callable[..., Map]
    norm: Callable[..., Map]
    activation: Map
    placement: Placement = "before"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the steps of `order(placement)`, first to last.

        Args:
          x: `[..., features]`, the input of the layer.

        Returns:
          What the last step returns.
        """
        norms = 0
        for step in order(self.placement):
            if step == "layer":
                x = self.layer(name="layer")(x)
            elif step == "norm":
                x = self.norm(name=f"norm_{norms}" if norms else "norm")(x)
                norms += 1
            else:
                self.sow("intermediates", "activation_input", x)
                x = self.activation(x)
        return x
