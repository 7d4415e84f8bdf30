"""The networks of the placement experiments, built from placement blocks or from residual units.

    mlp            hidden layers 100-100-100, or any others
    strided_cnn    five strided convolutions, of which the last yields the logits; for MNIST
    cnn9           nine convolutions of 64 features at full resolution
    vgg16          thirteen convolutions, pooled five times
    simple8        Page's seven convolutions and a linear layer; scale and bias frozen
    resnet         ResNet-(6n+2); takes `unit` instead of `placement`
    wrn            WRN-(6n+4)-k; takes `unit` instead of `placement`
    airbench94     whitening, then six convolutions; 94% on CIFAR-10 in seconds

All take images `[batch, height, width, channels]`, return logits `[batch, classes]` and work with any norm. The options
of the modules (`final_norm`, `use_bias`, `padding`, `pooling`) and of the norm are the controls of an ablation.

Example:
  >>> from functools import partial
  >>> import jax, jbn.linen
  >>> from experiments.networks import NETWORKS, PUBLISHED_NORM, parameter_count
  >>> norm = partial(jbn.linen.BatchNorm, use_running_average=False, **PUBLISHED_NORM["resnet"])
  >>> network = NETWORKS["resnet"](depth=20, unit="original", classes=10, activation=jax.nn.relu, norm=norm)
  >>> parameter_count(network, (32, 32, 3))
  269722
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jbn
from experiments.networks.counts import flops as flops
from experiments.networks.counts import multiply_adds as multiply_adds
from experiments.networks.counts import parameter_count as parameter_count
from experiments.networks.parts import ConvNetwork as ConvNetwork
from experiments.networks.parts import Network as Network
from experiments.networks.parts import no_norm as no_norm
from experiments.networks.plain import MLP as MLP
from experiments.networks.plain import Layer as Layer
from experiments.networks.plain import PlainCNN as PlainCNN
from experiments.networks.plain import airbench94, cnn9, simple8, strided_cnn, vgg16
from experiments.networks.residual import ResNet as ResNet
from experiments.networks.residual import resnet, wrn
from experiments.networks.whitening import Whitening as Whitening
from experiments.networks.whitening import whiten as whiten
from experiments.networks.whitening import whitening_weights as whitening_weights
from experiments.vocabulary import UNITS as UNITS

NETWORKS: Mapping[str, Callable[..., Network]] = MappingProxyType(
    {
        "mlp": MLP,
        "strided_cnn": strided_cnn,
        "cnn9": cnn9,
        "vgg16": vgg16,
        "simple8": simple8,
        "resnet": resnet,
        "wrn": wrn,
        "airbench94": airbench94,
    }
)

# The norm published with each network, as options of jbn.linen.BatchNorm. The MLP's paper does not report its options;
# those below are our choice.
PUBLISHED_NORM: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: jbn.preset("torch") for name in NETWORKS}
    | {
        "mlp": {"momentum": 0.9, "epsilon": 1e-5},
        "simple8": jbn.preset("torch") | {"trainable": False},
        "airbench94": jbn.preset("torch") | {"use_scale": False, "momentum": 0.6, "epsilon": 1e-12},
    }
)
