"""The norms that a config names: as functions that make them, and as options of those in a model that exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from flax import linen as nn

import jbn
import jbn.linen
from experiments.config import ModelConfig
from experiments.config.errors import require
from experiments.networks import PUBLISHED_NORM
from experiments.vocabulary import Norm

LINEN: Mapping[Norm, Callable[..., Any]] = MappingProxyType(
    {
        "batch_norm": jbn.linen.BatchNorm,
        "batch_renorm": jbn.linen.BatchRenorm,
        "frozen_batch_norm": jbn.linen.FrozenBatchNorm,
        "layer_norm": nn.LayerNorm,
        "group_norm": nn.GroupNorm,
    }
)
KINDS: Mapping[str, str] = MappingProxyType(
    {"batch_norm": "batch_norm", "batch_renorm": "renorm", "frozen_batch_norm": "frozen"}
)
"""What `convert` of jbn.nnx and jbn.equinox calls the batch norms."""
AFFINE = ("norm_scale", "norm_bias", "scale_init")
"""Fields that decide about the parameters of a norm, which `convert` keeps."""
OPTIONS = ("momentum", "epsilon", "norm_trainable", "virtual_batch_size")
"""Fields that change what a batch norm computes."""


def norm_options(config: ModelConfig) -> dict[str, Any]:
    """Keyword arguments of the norm that the config names, published with the network or set in it."""
    affine = {"use_scale": config.norm_scale, "use_bias": config.norm_bias, "epsilon": config.epsilon}
    given: dict[str, Any] = {key: value for key, value in affine.items() if value is not None}
    if config.scale_init == "uniform":
        given["scale_init"] = nn.initializers.uniform(1.0)
    if config.norm == "group_norm":
        return {"num_groups": config.groups, **given}
    if config.norm not in KINDS:
        return given
    own = {"momentum": config.momentum, "trainable": config.norm_trainable}
    return {
        "virtual_batch_size": config.virtual_batch_size,
        **PUBLISHED_NORM.get(config.network, {"momentum": 0.9}),
        **given,
        **{key: value for key, value in own.items() if value is not None},
        **_limits(config),
    }


def conversion(config: ModelConfig) -> dict[str, Any]:
    """Keyword arguments of `convert`: the kind and the options that the config sets; others stay the layer's."""
    named = ("momentum", "epsilon", "trainable", "virtual_batch_size")
    options = {name: getattr(config, field) for name, field in zip(named, OPTIONS, strict=True)}
    return {
        "kind": KINDS[config.norm],
        "batches_seen": 0,  # the layers are new, but have no values while they are traced
        **{name: value for name, value in options.items() if value is not None},
        **_limits(config),
    }


def refuse_without_effect(config: ModelConfig, fields: Iterable[str], reason: str, advice: str) -> None:
    """Refuses fields that the config sets, because the user's network has no use for them.

    A momentum of 0 is let through: `as_plain_batch_norm` sets it wherever statistics are measured.
    """
    default = ModelConfig()
    for field in fields:
        value = getattr(config, field, None)
        require(
            value == getattr(default, field, None) or (field, value) == ("momentum", 0.0),
            f"model.{field} is {value!r}, but {config.network} {reason}, so it would have no effect; {advice}, or "
            "leave it out",
        )


def _limits(config: ModelConfig) -> dict[str, Any]:
    """Limits of batch renormalization."""
    if config.norm != "batch_renorm":
        return {}
    start, end = config.renorm_ramp
    return {
        "r_max": jbn.renorm_ramp(config.r_max, start=start, end=end, initial=1.0),
        "d_max": jbn.renorm_ramp(config.d_max, start=start, end=end, initial=0.0),
    }
