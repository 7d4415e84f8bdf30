"""From a config to a network: names become functions here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax

import jbn.linen
from experiments.config import Activation, Arm, ModelConfig
from experiments.networks import MLP

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
    return MLP(
        classes=classes,
        activation=ACTIVATIONS[arm.activation],
        norm=norm,
        placement=arm.placement,
        hidden=config.hidden,
    )
