"""The same network of one's own written in each library, with its norm named and with the norm of the library."""

import math
from functools import partial
from itertools import pairwise

import equinox as eqx
import jax
from flax import linen as nn
from flax import nnx

from experiments.networks.equinox import Block as EquinoxBlock
from experiments.networks.nnx import Block as NNXBlock
from jbn.placement import Block

WIDTHS = (8, 6)


class Linen(nn.Module):
    classes: int
    activation: object
    norm: object
    placement: str = "before"

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for i, width in enumerate(WIDTHS):
            x = Block(partial(nn.Dense, width), self.norm, self.activation, self.placement, name=f"block_{i}")(x)
        return nn.Dense(self.classes, name="head")(x)


class Named(nnx.Module):
    def __init__(self, classes, activation, norm, placement, input_shape, rngs):
        features = math.prod(input_shape)
        for i, width in enumerate(WIDTHS):
            layer = nnx.Linear(features, width, rngs=rngs)
            setattr(self, f"block_{i}", NNXBlock(layer, norm, activation, placement, rngs=rngs))
            features = width
        self.head = nnx.Linear(features, classes, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for i in range(len(WIDTHS)):
            x = getattr(self, f"block_{i}")(x)
        return self.head(x)


class Plain(nnx.Module):
    """A layer, Flax's batch norm and the activation, under the names of the blocks."""

    def __init__(self, features, width, activation, rngs, **call):
        self.layer = nnx.Linear(features, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.activation, self.call = activation, call

    def __call__(self, x):
        return self.activation(self.norm(self.layer(x), **self.call))


class Converted(Named):
    def __init__(self, classes, activation, input_shape, rngs):
        features = math.prod(input_shape)
        for i, width in enumerate(WIDTHS):
            setattr(self, f"block_{i}", Plain(features, width, activation, rngs))
            features = width
        self.head = nnx.Linear(features, classes, rngs=rngs)


class OneExample(eqx.Module):
    """The same in Equinox, which is called with one example."""

    block_0: eqx.Module
    block_1: eqx.Module
    head: eqx.Module

    def __init__(self, classes, activation, norm, placement, input_shape, key):
        keys = jax.random.split(key, 3)
        layers = [
            eqx.nn.Linear(*sizes, key=key)
            for sizes, key in zip(pairwise((math.prod(input_shape), *WIDTHS, classes)), keys, strict=True)
        ]
        self.block_0, self.block_1 = (EquinoxBlock(layer, norm, activation, placement) for layer in layers[:-1])
        self.head = layers[-1]

    def __call__(self, x, state):
        for block in (self.block_0, self.block_1):
            x, state = block(x.reshape(-1), state)
        return self.head(x), state


class PlainExample(eqx.Module):
    """A layer, Equinox' batch norm and the activation, under the names of the blocks."""

    layer: eqx.Module
    norm: eqx.Module
    activation: object

    def __call__(self, x, state):
        x, state = self.norm(self.layer(x), state)
        return self.activation(x), state


class ConvertedExample(OneExample):
    def __init__(self, classes, activation, input_shape, key):
        def norm(features):
            return eqx.nn.BatchNorm(features, "examples", momentum=0.9, mode="batch")

        super().__init__(classes, activation, norm, "before", input_shape, key)
        self.block_0, self.block_1 = (
            PlainExample(block.layer, block.norm, activation) for block in (self.block_0, self.block_1)
        )
