"""The variants of batch normalization as Equinox modules: each differs from `BatchNorm` in what it calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from jax.typing import DTypeLike

from jbn._batch_norm import batch_norm
from jbn._running_stats import BatchStats
from jbn._typed_equinox import static
from jbn._variants.adapt import adaptive_layer
from jbn._variants.renorm import Limit, batch_renorm
from jbn.equinox._batch_norm import BatchNorm

Names = Hashable | Sequence[Hashable] | None


class BatchRenorm(BatchNorm):
    """Batch renormalization, `jbn.batch_renorm`: batch norm, corrected towards the running statistics within limits.

    Args:
      input_size: number of features.
      axis_name: as in `BatchNorm`.
      r_max: limit of the correction of the spread, at least 1; a number, or a function of the step such as
        `jbn.renorm_ramp`: then the state counts steps, and a checkpoint goes on with the ramp where it was.
      d_max: limit of the correction of the mean, in running standard deviations; likewise.
      **options: those of `BatchNorm`.

    Example:
      >>> import equinox as eqx, jbn, jbn.equinox
      >>> ramp = jbn.renorm_ramp(3.0, start=5000, end=40000, initial=1.0)
      >>> make = eqx.nn.make_with_state(jbn.equinox.BatchRenorm)
      >>> layer, state = make(3, "batch", r_max=ramp, d_max=0.0)
      >>> print(state.get(layer.state_index).step)
      0
    """

    r_max: Limit = static()
    d_max: Limit = static()

    def __init__(self, input_size: int, axis_name: Names, *, r_max: Limit = 3.0, d_max: Limit = 5.0, **options: Any):
        self.r_max, self.d_max = r_max, d_max
        super().__init__(input_size, axis_name, **options)

    def _initial_stats(self, dtype: DTypeLike, **others: Any) -> BatchStats:
        return super()._initial_stats(dtype, count_steps=callable(self.r_max) or callable(self.d_max), **others)

    def _function(self, running: bool) -> Callable[..., Any]:
        return functools.partial(batch_renorm, r_max=self.r_max, d_max=self.d_max)


class FrozenBatchNorm(BatchNorm):
    """Frozen batch norm, `jbn.frozen_batch_norm`: an affine map by constants, in training as at inference.

    Whatever inference says, in constructor, model or call, the running statistics normalize, nothing is updated, and
    no gradient reaches weight and bias. Its state is that of `BatchNorm`. An optimizer may still move them by weight
    decay: leave them out of what it is given, such as by `eqx.partition`.

    Args:
      input_size: number of features.
      axis_name: as in `BatchNorm`; it need not be bound.
      **options: those of `BatchNorm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jbn.equinox
      >>> layer, state = eqx.nn.make_with_state(jbn.equinox.FrozenBatchNorm)(2, "batch")
      >>> y, state = layer(jnp.array([1.0, 3.0]), state)
      >>> print(y.round(2))
      [1. 3.]
    """

    def __init__(self, input_size: int, axis_name: Names, **options: Any):
        options = {"trainable": False} | options
        super().__init__(input_size, axis_name, **options)

    def _switches(self, running: bool, update: bool | None) -> tuple[bool, bool]:
        return True, False


class AdaptiveBatchNorm(BatchNorm):
    """Batch norm that at inference blends its running statistics with those of the test batch.

    In training as `BatchNorm`; at inference as `jbn.adaptive_batch_norm`. Its state is that of `BatchNorm`.

    Args:
      input_size: number of features.
      axis_name: as in `BatchNorm`.
      source_weight: w, in [0, 1]: 1 is inference as usual, 0 the test batch alone, which then needs more than one value
        per feature; for a single example pass N / (N + 1), such as 16 / 17.
      max_drift: d, larger than 0: the most that the blend may move from the running statistics, the mean in running
        standard deviations, the standard deviation by a factor of 1 + d; None is no bound.
      **options: those of `BatchNorm`.

    Example:
      >>> import equinox as eqx, jax, jax.numpy as jnp, jbn.equinox
      >>> layer, state = eqx.nn.make_with_state(jbn.equinox.AdaptiveBatchNorm)(1, "batch", inference=True)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> y, _ = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)
      >>> print(y.round(2).ravel())  # by the test batch alone
      [-1.  1.]
    """

    source_weight: float = static()
    max_drift: float | None = static()

    def __init__(
        self,
        input_size: int,
        axis_name: Names,
        *,
        source_weight: float = 0.0,
        max_drift: float | None = None,
        **options: Any,
    ):
        self.source_weight, self.max_drift = source_weight, max_drift
        super().__init__(input_size, axis_name, **options)

    def _switches(self, running: bool, update: bool | None) -> tuple[bool, bool]:
        running, update = super()._switches(running, update)
        return running, update and not running

    def _function(self, running: bool) -> Callable[..., Any]:
        if not running:
            return batch_norm
        return functools.partial(adaptive_layer, source_weight=self.source_weight, max_drift=self.max_drift)
