"""From a config to a network: names become functions here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import jbn
import jbn.linen
from experiments.config import Activation, ConfigError, ModelConfig
from experiments.config.model import RESIDUAL
from experiments.networks import NETWORKS, PUBLISHED_NORM, Network, no_norm

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
BATCH_NORMS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "batch_norm": jbn.linen.BatchNorm,
        "batch_renorm": jbn.linen.BatchRenorm,
        "frozen_batch_norm": jbn.linen.FrozenBatchNorm,
    }
)
INITIALIZERS = MappingProxyType(
    {
        "he": nn.initializers.he_normal(),
        "glorot": nn.initializers.glorot_normal(),
        "lecun": nn.initializers.lecun_normal(),
        "orthogonal": nn.initializers.orthogonal(),
    }
)


def build(config: ModelConfig, classes: int, *, train: bool) -> Network:
    """The network of a config.

    Args:
      config: network, norm and where it sits.
      classes: number of classes.
      train: whether batch norm normalizes by the batch (True) or by its running statistics (False).

    A network of the user's, `module:function`, is called with classes, activation, norm, final_norm, dtype and
    placement, and with unit, depth and width where the config has them; it returns a linen module of one argument.

    Raises:
      ConfigError: there is no such function.
    """
    options: dict[str, Any] = {
        "classes": classes,
        "activation": ACTIVATIONS[config.activation],
        "norm": _norm(config, train),
        "final_norm": config.final_norm,
        "dtype": None if config.dtype == "float32" else jnp.dtype(config.dtype),
    }
    if config.own:
        own = {"placement": config.placement, "unit": config.unit, "depth": config.depth, "width": config.width}
        return _own(config.network)(**options, **{key: value for key, value in own.items() if value is not None})
    if config.network in RESIDUAL:
        given = {"unit": config.unit, "depth": config.depth}
    else:
        options["placement"] = config.placement
        given = {"pooling": config.pooling}
    if config.network == "mlp":
        options["hidden"] = config.hidden
    else:
        options["padding"] = config.padding
    if config.init != "published":
        kernel_init = nn.initializers.normal(config.init_std) if config.init == "normal" else INITIALIZERS[config.init]
        options |= {"kernel_init": kernel_init, "head_init": kernel_init}
    given |= {"width": config.width, "use_bias": config.use_bias}
    return NETWORKS[config.network](**options, **{key: value for key, value in given.items() if value is not None})


def _own(name: str) -> Callable[..., Any]:
    """The user's function `module:function`."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"model.network is {name!r}, but {error}; write module:function of a module that Python finds from here"
        ) from None


def measuring(config: ModelConfig) -> ModelConfig:
    """The same network, its running statistics after one batch those of this batch alone: to measure statistics with.

    Batch renormalization and virtual batches, which normalize by other than the batch, become batch norm.
    """
    norm = "batch_norm" if config.norm == "batch_renorm" else config.norm
    return replace(config, norm=norm, virtual_batch_size=None, momentum=0.0)


def initializing(config: ModelConfig) -> ModelConfig:
    """The same network with the same variables, for a batch of any size: without virtual batches."""
    return replace(config, virtual_batch_size=None)


def _norm(config: ModelConfig, train: bool) -> Callable[..., Any]:
    affine = {"use_scale": config.norm_scale, "use_bias": config.norm_bias, "epsilon": config.epsilon}
    given: dict[str, Any] = {key: value for key, value in affine.items() if value is not None}
    if config.scale_init == "uniform":
        given["scale_init"] = nn.initializers.uniform(1.0)
    if config.norm == "none":
        return no_norm
    if config.norm == "layer_norm":
        return partial(nn.LayerNorm, **given)
    if config.norm == "group_norm":
        return partial(nn.GroupNorm, num_groups=config.groups, **given)
    own = {"momentum": config.momentum, "trainable": config.norm_trainable}
    given = {
        **PUBLISHED_NORM.get(config.network, {"momentum": 0.9}),
        **given,
        **{k: v for k, v in own.items() if v is not None},
    }
    given["use_running_average"] = not train
    if config.norm == "batch_renorm":
        start, end = config.renorm_ramp
        given["r_max"] = jbn.renorm_ramp(config.r_max, start=start, end=end, initial=1.0)
        given["d_max"] = jbn.renorm_ramp(config.d_max, start=start, end=end, initial=0.0)
    return partial(BATCH_NORMS[config.norm], virtual_batch_size=config.virtual_batch_size, **given)
