"""The variants of batch normalization as Flax linen modules: each differs from `BatchNorm` in what it calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from jbn._activation import Activation, Side
from jbn._batch_norm import batch_norm
from jbn._running_stats import BatchStats, init_stats
from jbn._variants.adapt import adaptive_layer
from jbn._variants.domains import domain_batch_norm, init_domain_stats
from jbn._variants.renorm import Limit, batch_renorm
from jbn.linen._batch_norm import BatchNorm


class BatchRenorm(BatchNorm):
    """Batch renormalization, `jbn.batch_renorm`: batch norm, corrected towards the running statistics within limits.

    Attributes beyond those of `BatchNorm`:
      r_max: limit of the correction of the spread, at least 1; a number, or a function of the step such as
        `jbn.renorm_ramp`: then `batch_stats` keep a `step`, and a checkpoint goes on with the ramp where it was.
      d_max: limit of the correction of the mean, in running standard deviations; likewise.

    Example:
      >>> import jax, jax.numpy as jnp, jbn, jbn.linen
      >>> ramp = jbn.renorm_ramp(3.0, start=5000, end=40000, initial=1.0)
      >>> layer = jbn.linen.BatchRenorm(use_running_average=False, r_max=ramp, d_max=0.0)
      >>> sorted(layer.init(jax.random.key(0), jnp.ones((8, 3)))["batch_stats"])
      ['mean', 'step', 'var']
    """

    r_max: Limit = 3.0
    d_max: Limit = 5.0

    @nn.nowrap
    def _function(self, running: bool) -> Callable[..., Any]:
        return functools.partial(batch_renorm, r_max=self.r_max, d_max=self.d_max)

    @nn.nowrap
    def _initial_stats(self, features: tuple[int, ...], **options: Any) -> BatchStats:
        return init_stats(features, count_steps=callable(self.r_max) or callable(self.d_max), **options)


class FrozenBatchNorm(BatchNorm):
    """Frozen batch norm, `jbn.frozen_batch_norm`: an affine map by constants, in training as at inference.

    Whatever `use_running_average` says, in attribute or call, the running statistics normalize, nothing is updated, and
    no gradient reaches scale and bias. A checkpoint of `BatchNorm` loads into it, and back.

    An optimizer may still move scale and bias, which have no gradient, by weight decay: `jbn.optim.frozen_mask`, as
    below, stops that. `jbn.optim.decay_mask` leaves them out of weight decay alone.

    Example:
      >>> import jax, jax.numpy as jnp, jbn.linen
      >>> layer, x = jbn.linen.FrozenBatchNorm(), jnp.array([[1.0], [3.0]])
      >>> print(layer.apply(layer.init(jax.random.key(0), x), x, use_running_average=False).round(2).ravel())
      [1. 3.]
      >>> import optax
      >>> from jbn import optim
      >>> params = layer.init(jax.random.key(0), x)["params"]
      >>> still = optax.masked(optax.set_to_zero(), optim.frozen_mask(params, layer, x))
      >>> opt = optax.chain(optax.adamw(1e-2, weight_decay=0.1), still)
      >>> print(opt.update(params, opt.init(params), params)[0]["scale"])
      [0.]
    """

    trainable: bool = False

    @nn.nowrap
    def _switches(self, running: bool | None, update: bool | None) -> tuple[bool, bool]:
        return True, False


class AdaptiveBatchNorm(BatchNorm):
    """Batch norm that at inference blends its running statistics with those of the test batch.

    In training as `BatchNorm`; at inference as `jbn.adaptive_batch_norm`. A checkpoint of `BatchNorm` loads into it,
    and back.

    Attributes beyond those of `BatchNorm`:
      source_weight: w, in [0, 1]: 1 is inference as usual, 0 the test batch alone, which then needs more than one value
        per feature; for a single example pass N / (N + 1), such as 16 / 17.
      max_drift: d, larger than 0: the most that the blend may move from the running statistics, the mean in running
        standard deviations, the standard deviation by a factor of 1 + d; None is no bound.

    Example:
      >>> import jax, jax.numpy as jnp, jbn.linen
      >>> layer, x = jbn.linen.AdaptiveBatchNorm(use_running_average=True), jnp.array([[1.0], [3.0]])
      >>> print(layer.apply(layer.init(jax.random.key(0), x), x).round(2).ravel())  # by the test batch alone
      [-1.  1.]
    """

    source_weight: float | jax.Array = 0.0
    max_drift: float | jax.Array | None = None

    @nn.nowrap
    def _switches(self, running: bool | None, update: bool | None) -> tuple[bool, bool]:
        running, update = super()._switches(running, update)
        return running, update and not running

    @nn.nowrap
    def _function(self, running: bool) -> Callable[..., Any]:
        if not running or self.is_initializing():
            return batch_norm
        return functools.partial(adaptive_layer, source_weight=self.source_weight, max_drift=self.max_drift)


class DomainBatchNorm(BatchNorm):
    """Batch norm of several domains in one layer, each with running statistics of its own: `jbn.domain_batch_norm`.

    Attributes beyond those of `BatchNorm`:
      domains: their number; `batch_stats` have a leading axis of that size.
      separate_affine: whether scale and bias are separate, too; else one of each serves all.

    Example:
      >>> import jax, jax.numpy as jnp, jbn.linen
      >>> layer, x = jbn.linen.DomainBatchNorm(domains=2, momentum=0.0), jnp.array([[1.0], [3.0]])
      >>> variables = layer.init(jax.random.key(0), x, 0, use_running_average=False)
      >>> _, updates = layer.apply(variables, x, 1, use_running_average=False, mutable=["batch_stats"])
      >>> print(updates["batch_stats"]["mean"].ravel())
      [0. 2.]
    """

    domains: int = 2
    separate_affine: bool = False

    @nn.compact
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

    @nn.nowrap
    def _initial_stats(self, features: tuple[int, ...], **options: Any) -> BatchStats:
        return init_domain_stats(self.domains, features, **options)

    @nn.nowrap
    def _affine_shape(self, features: tuple[int, ...]) -> tuple[int, ...]:
        return (self.domains, *features) if self.separate_affine else features
