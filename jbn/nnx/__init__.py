"""Batch normalization and its variants as Flax nnx modules: variables in, one functional call, variables out."""

from jbn import _needs_flax as _needs_flax  # first

# isort: split
from jbn.nnx._batch_norm import BatchNorm as BatchNorm
from jbn.nnx._batch_norm import result_dtype as result_dtype
from jbn.nnx._convert import convert as convert
from jbn.nnx._convert import revert as revert
from jbn.nnx._variants import AdaptiveBatchNorm as AdaptiveBatchNorm
from jbn.nnx._variants import BatchRenorm as BatchRenorm
from jbn.nnx._variants import DomainBatchNorm as DomainBatchNorm
from jbn.nnx._variants import FrozenBatchNorm as FrozenBatchNorm

__all__ = ["AdaptiveBatchNorm", "BatchNorm", "BatchRenorm", "DomainBatchNorm", "FrozenBatchNorm", "convert", "revert"]
