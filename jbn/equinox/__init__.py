"""Batch normalization and its variants as Equinox modules: state in, one functional call, state out."""

from jbn import _needs_equinox as _needs_equinox  # first

# isort: split
from jbn.equinox._batch_norm import BatchNorm as BatchNorm
from jbn.equinox._convert import convert as convert
from jbn.equinox._convert import revert as revert
from jbn.equinox._variants import AdaptiveBatchNorm as AdaptiveBatchNorm
from jbn.equinox._variants import BatchRenorm as BatchRenorm
from jbn.equinox._variants import FrozenBatchNorm as FrozenBatchNorm

__all__ = ["AdaptiveBatchNorm", "BatchNorm", "BatchRenorm", "FrozenBatchNorm", "convert", "revert"]
