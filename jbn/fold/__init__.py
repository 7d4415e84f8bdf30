"""Batch norm folded into the neighbouring linear layer, for inference: the same numbers, one layer less.

At inference batch norm is the affine map y = s·x + t, with s = scale / sqrt(var + epsilon) and t = bias - mean·s, which
a linear layer beside it can take over:

    before the activation    norm(W·x + b)  =  (s·W)·x + (s·b + t)             into the layer before, always exact
    after the activation     W·norm(x) + b  =  (W·s)·x + (b + W·t)             into the layer after

Where a layer after pads with zeros, its border sees 0 and not t: then W·t is an array over the output's positions,
which is added in place of a vector. That, and the norms that stand next to no linear layer (after the sum of a residual
branch, before an activation), is what the placement costs at inference.

Only layers whose `__call__` is jbn's or Flax's own are folded, and never on trust: at the end both models are run on
random inputs, with other numbers in place of the parameters and the statistics, and a norm without which the outputs
differ is refused, or kept, like one without a neighbour.

Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks", section 3.2
(https://arxiv.org/abs/1712.05877), for the fold into the layer before.
"""

from jbn import _needs_flax as _needs_flax  # first
from jbn.fold._linen import Folded as Folded
from jbn.fold._linen import fold_linen as fold_linen
from jbn.fold._nnx import Identity as Identity
from jbn.fold._nnx import fold_nnx as fold_nnx

__all__ = ["Folded", "Identity", "fold_linen", "fold_nnx"]
