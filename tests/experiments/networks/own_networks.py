"""The same network of one's own written in each library, with its norm named and with the norm of the library."""

import math
from functools import partial

from flax import linen as nn
from flax import nnx

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
