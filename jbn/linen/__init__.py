"""Batch normalization and its variants as Flax linen modules: variables in, one functional call, variables out."""

from jbn import _needs_flax as _needs_flax  # first

# isort: split
from jbn.linen._batch_norm import BatchNorm as BatchNorm
from jbn.linen._convert import converted as converted
from jbn.linen._variants import AdaptiveBatchNorm as AdaptiveBatchNorm
from jbn.linen._variants import BatchRenorm as BatchRenorm
from jbn.linen._variants import DomainBatchNorm as DomainBatchNorm
from jbn.linen._variants import FrozenBatchNorm as FrozenBatchNorm

__all__ = ["AdaptiveBatchNorm", "BatchNorm", "BatchRenorm", "DomainBatchNorm", "FrozenBatchNorm", "converted"]
