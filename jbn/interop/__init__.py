"""Batch norm to and from torch, Keras, Haiku, Equinox and both Flax: one layer (`Layer`), or whole trees of variables.

::

    jbn, Flax    scale    bias     mean                var                   weight
    torch        weight   bias     running_mean        running_var           num_batches_tracked
    Keras        gamma    beta     moving_mean         moving_variance
    Haiku        scale    offset   mean_ema/average    var_ema/average       counter; hidden = average · (1 - m^counter)
    Equinox      weight   bias     hidden/(1 - m^n)    hidden/(1 - m^n)      counter n

Every `from_...` returns a layer that has the original's outputs at inference, and whose `options()` make jbn train as
the original does. Every `to_...` keeps the outputs at inference. What the other library cannot do is lost::

    torch        unbiased running variance; no debiased average; its momentum is 1 - momentum
    Keras        biased running variance; no debiased average
    Haiku        biased; always debiased: an average that is not debiased becomes one of very many batches
    Equinox      as Haiku, but debiases a variance that starts at 1; its mode "ema" is not debiased, and normalizes by
                 the running statistics in training

No other library is imported: arguments are its objects or mappings of arrays, results are mappings of arrays.
"""

from jbn.interop._equinox import from_equinox as from_equinox
from jbn.interop._equinox import to_equinox as to_equinox
from jbn.interop._flax import from_linen as from_linen
from jbn.interop._flax import from_nnx as from_nnx
from jbn.interop._flax import linen_from_nnx as linen_from_nnx
from jbn.interop._flax import nnx_from_linen as nnx_from_linen
from jbn.interop._flax import to_linen as to_linen
from jbn.interop._flax import to_nnx as to_nnx
from jbn.interop._haiku import from_haiku as from_haiku
from jbn.interop._haiku import to_haiku as to_haiku
from jbn.interop._jbn import from_jbn as from_jbn
from jbn.interop._jbn import to_jbn as to_jbn
from jbn.interop._keras import from_keras as from_keras
from jbn.interop._keras import to_keras as to_keras
from jbn.interop._layer import Layer as Layer
from jbn.interop._torch import from_torch as from_torch
from jbn.interop._torch import linen_from_torch as linen_from_torch
from jbn.interop._torch import to_torch as to_torch
from jbn.interop._torch import torch_from_linen as torch_from_linen

__all__ = [
    "Layer",
    "from_equinox",
    "from_haiku",
    "from_jbn",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_torch",
    "linen_from_nnx",
    "linen_from_torch",
    "nnx_from_linen",
    "to_equinox",
    "to_haiku",
    "to_jbn",
    "to_keras",
    "to_linen",
    "to_nnx",
    "to_torch",
    "torch_from_linen",
]
