"""Builds the network that a config names."""

from __future__ import annotations

import importlib
import inspect
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
from experiments.config import ConfigError, ModelConfig
from experiments.config.errors import raised
from experiments.networks import NETWORKS, PUBLISHED_NORM, Network, no_norm
from experiments.vocabulary import RESIDUAL, Activation, Initialization, Norm

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
BATCH_NORMS: Mapping[Norm, Callable[..., nn.Module]] = MappingProxyType(
    {
        "batch_norm": jbn.linen.BatchNorm,
        "batch_renorm": jbn.linen.BatchRenorm,
        "frozen_batch_norm": jbn.linen.FrozenBatchNorm,
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


def build(config: ModelConfig, classes: int, *, train: bool) -> Network:
    """The network of a config.

    Args:
      config: the network, its norm, and the placement of the norm.
      classes: number of classes.
      train: whether batch norm normalizes by the batch (True) or by its running statistics (False).

    A user's function, `module:function`, must return a linen module of one argument. Of classes, activation, norm,
    placement, final_norm, dtype, unit, depth, width, use_bias, hidden, padding, pooling and kernel_init it receives
    those that its signature names and the config sets.

    Raises:
      ConfigError: there is no such function, it needs another argument, or it lacks an argument that the config sets.
    """
    options: dict[str, Any] = {
        "classes": classes,
        "activation": ACTIVATIONS[config.activation],
        "norm": _norm(config, train),
        "final_norm": config.final_norm,
        "dtype": None if config.dtype == "float32" else jnp.dtype(config.dtype),
    }
    if config.init != "published":
        kernel_init = nn.initializers.normal(config.init_std) if config.init == "normal" else INITIALIZERS[config.init]
        options["kernel_init"] = kernel_init
    if config.own:
        return _own(config, options)
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


def _own(config: ModelConfig, options: dict[str, Any]) -> Any:
    """Calls the user's function with the options that its signature names."""
    module, _, name = config.network.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's module may raise anything
        reason = error if isinstance(error, ImportError | AttributeError) else raised(error)
        raise ConfigError(
            f"model.network is {config.network!r}, but {reason}; give module:function of a module that Python finds, "
            "such as a file in the folder from which you run"
        ) from None
    fields = ("placement", "unit", "depth", "width", "use_bias", "hidden", "padding", "pooling")
    options = options | {field: getattr(config, field) for field in fields}
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    needed = {p.name for p in parameters if p.name in named and p.default is p.empty}
    unknown = sorted(needed - options.keys())
    if unknown:
        raise ConfigError(
            f"{config.network} needs {', '.join(unknown)}, which a config does not have; write a function of some of "
            f"{', '.join(options)}, or give a default"
        )
    default = ModelConfig()
    fields_of = {"kernel_init": "init"}
    for option in () if takes_all else options.keys() - named:
        field = fields_of.get(option, option)
        if getattr(config, field, None) != getattr(default, field, None):
            raise ConfigError(
                f"model.{field} is {getattr(config, field)!r}, but {config.network} takes no {option}, so it would "
                "have no effect; add it to the function, or leave it out"
            )
    said = {key: value for key, value in options.items() if value is not None or key in needed}
    return function(**{key: value for key, value in said.items() if takes_all or key in named})


def as_plain_batch_norm(config: ModelConfig) -> ModelConfig:
    """The same network, but with norms whose running statistics equal those of the last batch, to measure statistics.

    Batch renormalization and virtual batches do not normalize by the batch, so plain batch norm replaces them.
    """
    norm = "batch_norm" if config.norm == "batch_renorm" else config.norm
    return replace(config, norm=norm, virtual_batch_size=None, momentum=0.0)


def without_virtual_batches(config: ModelConfig) -> ModelConfig:
    """The same network with the same variables but without virtual batches, so that a batch may have any size."""
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
