"""Networks made of placement blocks; a name in a config becomes a function here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
from flax import linen as nn

import jbn.linen
from experiments.config import Activation, Arm, ModelConfig
from jbn.placement import Block, Placement

ACTIVATIONS: Mapping[Activation, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "relu": jax.nn.relu,
        "leaky_relu": jax.nn.leaky_relu,
        "elu": jax.nn.elu,
        "gelu": jax.nn.gelu,
        "silu": jax.nn.silu,
        "tanh": jax.numpy.tanh,
        "sigmoid": jax.nn.sigmoid,
        "identity": lambda x: x,
    }
)


class MLP(nn.Module):
    """Dense blocks of the given widths and a linear classifier: flattened `[batch, ...]` to logits `[batch, classes]`.

    Layers keep their biases in every arm, so that all arms of an activation have the same linear parameters.
    """

    hidden: tuple[int, ...]
    classes: int
    placement: Placement
    activation: Callable[[jax.Array], jax.Array]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        for i, width in enumerate(self.hidden):
            x = Block(partial(nn.Dense, width), self.norm, self.activation, self.placement, name=f"block_{i}")(x)
        return nn.Dense(self.classes, name="head")(x)


def build(config: ModelConfig, arm: Arm, classes: int, *, train: bool, momentum: float | None = None) -> MLP:
    """The network of one arm.

    Args:
      config: widths, and batch norm's momentum and epsilon.
      arm: placement and activation.
      classes: number of classes.
      train: whether batch norm normalizes by the batch (True) or by its running statistics (False).
      momentum: in place of the config's; 0 makes the running statistics those of the last batch exactly.
    """
    norm = partial(
        jbn.linen.BatchNorm,
        use_running_average=not train,
        momentum=config.momentum if momentum is None else momentum,
        epsilon=config.epsilon,
    )
    return MLP(config.hidden, classes, arm.placement, ACTIVATIONS[arm.activation], norm)
