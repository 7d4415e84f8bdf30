"""The variants of batch normalization as Flax nnx modules: each differs from `BatchNorm` in what it calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbn._activation import Activation, Side
from jbn._batch_norm import batch_norm
from jbn._running_stats import BatchStats
from jbn._variants.adapt import adaptive_layer
from jbn._variants.domains import domain_batch_norm
from jbn._variants.renorm import Limit, batch_renorm
from jbn.nnx._batch_norm import BatchNorm


class BatchRenorm(BatchNorm):
    """Batch renormalization, `jbn.batch_renorm`: batch norm, corrected towards the running statistics within limits.

    Args:
      num_features: number of features.
      r_max: limit of the correction of the spread, at least 1; a number, or a function of the step such as
        `jbn.renorm_ramp`: then the layer holds a `step`, and a checkpoint goes on with the ramp where it was.
      d_max: limit of the correction of the mean, in running standard deviations; likewise.
      **options: those of `BatchNorm`.

    Example:
      >>> import jbn, jbn.nnx
      >>> from flax import nnx
      >>> ramp = jbn.renorm_ramp(3.0, start=5000, end=40000, initial=1.0)
      >>> sorted(nnx.state(jbn.nnx.BatchRenorm(3, r_max=ramp, d_max=0.0, rngs=nnx.Rngs(0)), nnx.BatchStat))
      ['mean', 'step', 'var']
    """

    def __init__(self, num_features: int, *, r_max: Limit = 3.0, d_max: Limit = 5.0, **options: Any):
        super().__init__(num_features, **options)
        self.r_max, self.d_max = r_max, d_max
        if (callable(r_max) or callable(d_max)) and not hasattr(self, "step"):
            self.step = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def _function(self, running: bool) -> Callable[..., Any]:
        return functools.partial(batch_renorm, r_max=self.r_max, d_max=self.d_max)


class FrozenBatchNorm(BatchNorm):
    """Frozen batch norm, `jbn.frozen_batch_norm`: an affine map by constants, in training as at inference.

    Whatever `use_running_average` says, in constructor, view or call, the running statistics normalize, nothing is
    updated, and no gradient reaches scale and bias. Its state is that of `BatchNorm`. An optimizer may still move scale
    and bias by weight decay: `jbn.optim.frozen_mask`, as below, stops that.

    Args:
      num_features: number of features.
      **options: those of `BatchNorm`.

    Example:
      >>> import jax.numpy as jnp, jbn.nnx
      >>> from flax import nnx
      >>> layer = jbn.nnx.FrozenBatchNorm(1, rngs=nnx.Rngs(0))
      >>> print(layer(jnp.array([[1.0], [3.0]])).round(2).ravel())
      [1. 3.]
      >>> import functools, optax
      >>> from jbn import optim
      >>> still = optax.masked(optax.set_to_zero(), functools.partial(optim.frozen_mask, model=layer))
      >>> opt = nnx.Optimizer(layer, optax.chain(optax.adamw(1e-2, weight_decay=0.1), still), wrt=nnx.Param)
      >>> _ = opt.update(layer, nnx.grad(lambda layer: layer(jnp.ones((2, 1))).sum())(layer))
      >>> print(layer.scale[...])
      [1.]
    """

    def __init__(self, num_features: int, **options: Any):
        options = {"trainable": False} | options
        super().__init__(num_features, **options)

    def _switches(self, running: bool | None, update: bool | None) -> tuple[bool, bool]:
        return True, False


class AdaptiveBatchNorm(BatchNorm):
    """Batch norm that at inference blends its running statistics with those of the test batch.

    In training as `BatchNorm`; at inference as `jbn.adaptive_batch_norm`. Its state is that of `BatchNorm`.

    Args:
      num_features: number of features.
      source_weight: w, in [0, 1]: 1 is inference as usual, 0 the test batch alone, which then needs more than one value
        per feature; for a single example pass N / (N + 1), such as 16 / 17.
      max_drift: d, larger than 0: the most that the blend may move from the running statistics, the mean in running
        standard deviations, the standard deviation by a factor of 1 + d; None is no bound.
      **options: those of `BatchNorm`.

    Example:
      >>> import jax.numpy as jnp, jbn.nnx
      >>> from flax import nnx
      >>> layer = jbn.nnx.AdaptiveBatchNorm(1, use_running_average=True, rngs=nnx.Rngs(0))
      >>> print(layer(jnp.array([[1.0], [3.0]])).round(2).ravel())  # by the test batch alone
      [-1.  1.]
    """

    def __init__(
        self, num_features: int, *, source_weight: float = 0.0, max_drift: float | None = None, **options: Any
    ):
        super().__init__(num_features, **options)
        self.source_weight, self.max_drift = source_weight, max_drift

    def _switches(self, running: bool | None, update: bool | None) -> tuple[bool, bool]:
        running, update = super()._switches(running, update)
        return running, update and not running

    def _function(self, running: bool) -> Callable[..., Any]:
        if not running:
            return batch_norm
        return functools.partial(adaptive_layer, source_weight=self.source_weight, max_drift=self.max_drift)


class DomainBatchNorm(BatchNorm):
    """Batch norm of several domains in one layer, each with running statistics of its own: `jbn.domain_batch_norm`.

    Args:
      num_features: number of features.
      domains: number of domains; the statistics have a leading axis of that size.
      separate_affine: whether scale and bias are separate, too; else one of each serves all.
      **options: those of `BatchNorm`.

    Example:
      >>> import jax.numpy as jnp, jbn.nnx
      >>> from flax import nnx
      >>> layer = jbn.nnx.DomainBatchNorm(1, domains=2, momentum=0.0, rngs=nnx.Rngs(0))
      >>> _ = layer(jnp.array([[1.0], [3.0]]), 1)
      >>> print(layer.mean[...].ravel())
      [0. 2.]
    """

    def __init__(self, num_features: int, *, domains: int = 2, separate_affine: bool = False, **options: Any):
        super().__init__(num_features, **options)
        self.domains = domains
        for name in BatchStats._fields:
            if (one := getattr(self, name, None)) is not None:
                setattr(self, name, nnx.BatchStat(jnp.stack([one[...]] * domains)))
        for param in (self.scale, self.bias) if separate_affine else ():
            if param is not None:
                param.set_value(jnp.stack([param[...]] * domains))

    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        domain: int | jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
        update_running_average: bool | None = None,
        activation: Activation | None = None,
        placement: Side = "before",
    ) -> jax.Array:
        """Normalizes `x` by the statistics of its domain, or of the domain of each example.

        Args:
          x: `[..., features, ...]`.
          domain: `[]`, int, of this batch, or `[batch]`, int, of each example; may be traced.
          use_running_average: as in `BatchNorm`, like all that follow.
          mask: boolean, broadcastable to `x`: True where an element counts.
          update_running_average: whether this batch moves the statistics of its domains.
          activation: function of arrays, applied within.
          placement: where the norm sits around that activation: "before" or "after".

        Returns:
          y, shaped as `x`.

        Raises:
          ValueError: as `jbn.domain_batch_norm`.
        """
        running, update = self._switches(use_running_average, update_running_average)
        function = functools.partial(domain_batch_norm, domain=domain)
        return self._forward(function, x, mask, running, update, activation, placement)
