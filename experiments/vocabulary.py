"""The names that configs, networks, tables and figures share, each defined once.

This file imports no jax, so reading a config or drawing a report need not wait for it. `jbn.placement` imports jax, so
`Placement` is repeated here; a test checks that both are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Placement = Literal["none", "before", "after", "both", "pre_linear"]
Unit = Literal[
    "original",
    "bn_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
    "no_relu_bn_before_addition",
    "no_relu_bn_after_addition",
]
Step = Literal["layer", "norm", "activation", "add"]
Activation = Literal[
    "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "softplus10", "tanh", "sigmoid", "identity"
]
Norm = Literal["batch_norm", "batch_renorm", "frozen_batch_norm", "layer_norm", "group_norm", "none"]
Padding = Literal["zero", "reflect", "valid"]
Pooling = Literal["after_block", "before_norm"]
Initialization = Literal["published", "normal", "he", "glorot", "lecun", "orthogonal"]
DType = Literal["float32", "bfloat16"]
Metric = Literal["test_accuracy", "test_accuracy_population", "test_accuracy_batch"]
"""Accuracy with running statistics, with statistics of the whole training set, and with those of each test batch."""

NETWORK_NAMES = ("mlp", "strided_cnn", "cnn9", "vgg16", "simple8", "resnet", "wrn", "airbench94")
RESIDUAL = ("resnet", "wrn")
"""Networks made of residual units; they have a `unit` instead of a placement."""
POOLED = ("vgg16", "simple8", "airbench94")
"""Networks that pool, so that `pooling` has an effect."""
LAST_MODULES = ("final_norm", "head")
"""Modules that come last in the forward pass although their names do not sort last."""

ORDERS: Mapping[Placement, tuple[Step, ...]] = MappingProxyType(
    {
        "none": ("layer", "activation"),
        "before": ("layer", "norm", "activation"),
        "after": ("layer", "activation", "norm"),
        "both": ("layer", "norm", "activation", "norm"),
        "pre_linear": ("norm", "layer", "activation"),
    }
)
"""The steps of a hidden layer."""

UNITS: Mapping[Unit, tuple[Step, ...]] = MappingProxyType(
    {
        "original": ("layer", "norm", "activation", "layer", "norm", "add", "activation"),
        "bn_after_addition": ("layer", "norm", "activation", "layer", "add", "norm", "activation"),
        "relu_before_addition": ("layer", "norm", "activation", "layer", "norm", "activation", "add"),
        "relu_only_preactivation": ("activation", "layer", "norm", "activation", "layer", "norm", "add"),
        "full_preactivation": ("norm", "activation", "layer", "norm", "activation", "layer", "add"),
        "no_relu_bn_before_addition": ("layer", "norm", "activation", "layer", "norm", "add"),
        "no_relu_bn_after_addition": ("layer", "norm", "activation", "layer", "add", "norm"),
    }
)
"""The steps of a residual unit. The first five come from He et al. 2016, "Identity Mappings in Deep Residual Networks",
figure 4 (https://arxiv.org/abs/1603.05027), the last two from https://github.com/gcr/torch-residual-networks."""
