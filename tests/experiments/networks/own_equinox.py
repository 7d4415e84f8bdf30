"""The network of `own_networks` in Equinox, with its norm named and with Equinox' own."""

import math
from itertools import pairwise

import equinox as eqx
import jax
from own_networks import WIDTHS

from experiments.networks.equinox import Block


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
        self.block_0, self.block_1 = (Block(layer, norm, activation, placement) for layer in layers[:-1])
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
