"""Folds batch norm into adjacent linear layers, for inference: the same outputs from fewer layers.

At inference batch norm is the affine map y = s·x + t, with s = scale / sqrt(var + epsilon) and t = bias - mean·s. A
linear layer before or after it can do the same::

    before the activation    norm(W·x + b)  =  (s·W)·x + (s·b + t)             into the layer before, always exact
    after the activation     W·norm(x) + b  =  (W·s)·x + (b + W·t)             into the layer after

If the layer after pads with zeros, its border sees 0 instead of t. Then W·t is an array over the output's positions,
and the bias is that array instead of a vector. This array, and the norms that have no adjacent linear layer (after the
sum of a residual branch, before an activation), are what the placement costs at inference.

A layer is folded only if its `__call__()` is jbn's or Flax's own, and the result is verified: both models run on random
inputs, with perturbed parameters and statistics. A norm whose folding would change the outputs is refused, or kept,
like one that has no adjacent linear layer.

Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks", section 3.2
(https://arxiv.org/abs/1712.05877), for folding into the layer before.
"""

from jbn import _needs_flax as _needs_flax  # first
from jbn.fold._linen import Folded as Folded
from jbn.fold._linen import fold_linen as fold_linen
from jbn.fold._nnx import Identity as Identity
from jbn.fold._nnx import fold_nnx as fold_nnx

__all__ = ["Folded", "Identity", "fold_linen", "fold_nnx"]
