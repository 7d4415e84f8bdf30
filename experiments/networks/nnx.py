"""What a network in nnx is made of: a block with a placement, and the norm that a config names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx

import jbn.nnx
from experiments.config import ModelConfig
from experiments.config.errors import require
from experiments.networks.norms import norm_options
from experiments.vocabulary import Placement
from jbn.placement import order

NNX = {
    "batch_norm": jbn.nnx.BatchNorm,
    "batch_renorm": jbn.nnx.BatchRenorm,
    "frozen_batch_norm": jbn.nnx.FrozenBatchNorm,
    "layer_norm": nnx.LayerNorm,
    "group_norm": nnx.GroupNorm,
}


class Block(nnx.Module):
    """`jbn.placement.Block` for nnx: a layer, an activation, and a norm where `placement` puts it.

    Args:
      layer: a layer with `in_features` and `out_features`, such as `nnx.Linear(64, 32, rngs=rngs)` or an `nnx.Conv`.
      norm: makes a norm, called as `norm(features, rngs=rngs)`.
      activation: a function of arrays, such as `jax.nn.relu`.
      placement: where the norm is, see `jbn.placement`.
      rngs: handed to the norm.

    The names are those of the linen block: `layer`, `norm`, and ``norm_1`` for the second of both. The probes of the
    laboratory measure inside of blocks.

    Example:
      >>> from functools import partial
      >>> import jax, jax.numpy as jnp, jbn.nnx
      >>> from flax import nnx
      >>> from experiments.networks.nnx import Block
      >>> rngs = nnx.Rngs(0)
      >>> block = Block(nnx.Linear(3, 4, rngs=rngs), jbn.nnx.BatchNorm, jax.nn.relu, "pre_linear", rngs=rngs)
      >>> block(jnp.ones((8, 3))).shape, block.norm.num_features
      ((8, 4), 3)
    """

    def __init__(
        self,
        layer: Any,
        norm: Callable[..., Any],
        activation: Callable[[jax.Array], jax.Array],
        placement: Placement = "before",
        *,
        rngs: nnx.Rngs,
    ):
        self.layer, self.activation, self.steps = layer, activation, order(placement)
        features, norms = getattr(layer, "in_features", None), 0
        for step in self.steps:
            if step == "layer":
                features = getattr(layer, "out_features", None)
            elif step == "norm":
                require(
                    isinstance(features, int),
                    f"the layer of a block is a {type(layer).__name__}, which does not tell its features; give it "
                    "the attributes in_features and out_features, as nnx.Linear has",
                )
                setattr(self, f"norm_{norms}" if norms else "norm", norm(features, rngs=rngs))
                norms += 1

    def __call__(self, x: jax.Array) -> jax.Array:
        norms = 0
        for step in self.steps:
            if step == "layer":
                x = self.layer(x)
            elif step == "norm":
                x = getattr(self, f"norm_{norms}" if norms else "norm")(x)
                norms += 1
            else:
                self._seen("activation_input", x)
                x = self.activation(x)
        self._seen("__call__", x)
        return x

    def _seen(self, name: str, value: jax.Array) -> None:
        if hasattr(self, "__captures__"):  # otherwise it would stay in the module
            self.sow(nnx.Intermediate, name, value)


def norm_factory(config: ModelConfig) -> Callable[..., Any]:
    """The norm of a config, called as `norm(features, rngs=rngs)`.

    Norms draw from the stream `norm` of the `nnx.Rngs`. From the stream of the layers they would move the initial
    weights of every layer that follows, and arms would no longer be paired by them.
    """
    if config.norm == "none":
        return lambda features, *, rngs=None: lambda x: x
    make = partial(NNX[config.norm], **norm_options(config))
    return lambda features, *, rngs: make(features, rngs=nnx.Rngs(rngs.norm()))
