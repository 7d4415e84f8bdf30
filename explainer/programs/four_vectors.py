"""Scene "four_vectors": networks with batch norm in linen and in nnx, and what 20 batches do to their variables.

Nothing here runs in the page: its figure shows the variables of these networks, as they were initialized at build.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import nnx

import jbn.linen
import jbn.nnx
from explainer.programs import Program
from jbn import interop
from jbn.placement import Block

CLASSES = 10


class Network(nn.Module):
    """Layers without bias, each followed by batch norm and ReLU, and a linear classifier; in training mode."""

    kind: str
    layers: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense, conv = partial(nn.Dense, use_bias=False), partial(nn.Conv, kernel_size=(3, 3), use_bias=False)
        norm = partial(jbn.linen.BatchNorm, momentum=0.9, use_running_average=False)
        if self.kind == "dense":
            x = x.reshape(len(x), -1)
        for i in range(self.layers):
            layer = partial(dense if self.kind == "dense" else conv, self.width)
            x = Block(layer, norm, nn.relu, name=f"block_{i}")(x)
        x = x.mean(range(1, x.ndim - 1))  # over the positions of a convolution
        return nn.Dense(CLASSES, name="head")(x)


def forward_only(network: Network, variables: Any, batches: jax.Array) -> Any:
    """Sends batches through the network in training mode, without loss or gradient; returns the statistics."""

    def forward(stats: Any, x: jax.Array) -> tuple[Any, None]:
        given = {"params": variables["params"], "batch_stats": stats}
        _, updates = network.apply(given, x, mutable=["batch_stats"])
        return updates["batch_stats"], None

    return jax.lax.scan(forward, variables["batch_stats"], batches)[0]


class NnxBlock(nnx.Module):
    """The dense block once more, as a module of nnx."""

    def __init__(self, inputs: int, width: int, rngs: nnx.Rngs):
        self.layer = nnx.Linear(inputs, width, use_bias=False, rngs=rngs)
        self.norm = jbn.nnx.BatchNorm(width, momentum=0.9, rngs=rngs)


def other_names() -> Mapping[str, dict[str, np.ndarray]]:
    """A layer's four vectors under torch's and Keras' names, told apart by their values."""
    scale, bias, mean, var = (np.full(1, value, np.float32) for value in (1, 2, 3, 4))
    layer = interop.Layer(scale, bias, mean, var)
    return {"torch": interop.to_torch(layer), "keras": interop.to_keras(layer)}


PROGRAMS: dict[str, Program] = {}
