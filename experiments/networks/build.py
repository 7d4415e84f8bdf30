"""Builds the network that a config names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.config import ModelConfig
from experiments.networks import NETWORKS, no_norm
from experiments.networks.adapter import Adapter
from experiments.networks.norms import KINDS, LINEN, norm_options
from experiments.networks.own import own_network
from experiments.vocabulary import RESIDUAL, Activation, Initialization

ACTIVATIONS: Mapping[Activation, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "relu": jax.nn.relu,
        "leaky_relu": jax.nn.leaky_relu,
        "elu": jax.nn.elu,
        "gelu": partial(jax.nn.gelu, approximate=False),
        "silu": jax.nn.silu,
        "softplus": jax.nn.softplus,
        "softplus10": lambda x: jax.nn.softplus(10 * x) / 10,
        "tanh": jax.numpy.tanh,
        "sigmoid": jax.nn.sigmoid,
        "identity": lambda x: x,
    }
)
INITIALIZERS: Mapping[Initialization, Any] = MappingProxyType(
    {
        "he": nn.initializers.he_normal(),
        "glorot": nn.initializers.glorot_normal(),
        "lecun": nn.initializers.lecun_normal(),
        "orthogonal": nn.initializers.orthogonal(),
    }
)


def build(config: ModelConfig, classes: int, *, train: bool) -> Any:
    """The network of a config.

    Args:
      config: the network, its norm, and the placement of the norm.
      classes: number of classes.
      train: whether batch norm normalizes by the batch (True) or by its running statistics (False).

    A user's function, `module:function`, must return a linen module of one argument. Of classes, activation, norm,
    placement, final_norm, dtype, unit, depth, width, use_bias, hidden, padding, pooling and kernel_init it receives
    those that its signature names and the config sets. A function that takes rngs must return an nnx module, one that
    takes key an Equinox module of one example; both may take input_shape, the shape of one example, too. If they take
    no norm, the batch norms of Flax or Equinox in the module become jbn's, with the options of the config.

    Raises:
      ConfigError: there is no such function, it needs another argument, or it lacks an argument that the config sets.
    """
    options: dict[str, Any] = {
        "classes": classes,
        "activation": ACTIVATIONS[config.activation],
        "norm": _linen_norm(config, train),
        "final_norm": config.final_norm,
        "dtype": None if config.dtype == "float32" else jnp.dtype(config.dtype),
    }
    if config.init != "published":
        kernel_init = nn.initializers.normal(config.init_std) if config.init == "normal" else INITIALIZERS[config.init]
        options["kernel_init"] = kernel_init
    if config.own:
        return own_network(config, options, train)
    if config.network in RESIDUAL:
        given = {"unit": config.unit, "depth": config.depth}
    else:
        options["placement"] = config.placement
        given = {"pooling": config.pooling}
    if config.network == "mlp":
        options["hidden"] = config.hidden
    else:
        options["padding"] = config.padding
    if "kernel_init" in options:
        options["head_init"] = options["kernel_init"]
    given |= {"width": config.width, "use_bias": config.use_bias}
    return NETWORKS[config.network](**options, **{key: value for key, value in given.items() if value is not None})


def layers(network: Any, x: jax.Array) -> tuple[Any, ...]:
    """What tells `jbn.optim` about the layers of a network, such as a linen module and its input."""
    return network.layers(x) if isinstance(network, Adapter) else (network, x)


def as_plain_batch_norm(config: ModelConfig) -> ModelConfig:
    """The same network, but with norms whose running statistics equal those of the last batch, to measure statistics.

    Batch renormalization and virtual batches do not normalize by the batch, so plain batch norm replaces them.
    """
    norm = "batch_norm" if config.norm == "batch_renorm" else config.norm
    return replace(config, norm=norm, virtual_batch_size=None, momentum=0.0)


def without_virtual_batches(config: ModelConfig) -> ModelConfig:
    """The same network with the same variables but without virtual batches, so that a batch may have any size."""
    return replace(config, virtual_batch_size=None)


def _linen_norm(config: ModelConfig, train: bool) -> Callable[..., Any]:
    if config.norm == "none":
        return no_norm
    mode = {"use_running_average": not train} if config.norm in KINDS else {}
    return partial(LINEN[config.norm], **norm_options(config), **mode)
