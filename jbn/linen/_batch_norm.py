"""Batch normalization as a Flax linen module: variables in, one functional call, variables out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.module import merge_param
from jax.nn import initializers
from jax.typing import DTypeLike

from jbn import _axes, _shell
from jbn._activation import Activation, Side
from jbn._batch_norm import batch_norm
from jbn._refusal import called_from, excused
from jbn._running_stats import BatchStats, Momentum, Variance, init_stats, promote_stats
from jbn._typed_flax import canonicalize_dtype, param, variable
from jbn._virtual_batches import Ragged

Initializer = Callable[..., jax.Array]


def tabulated() -> bool:
    """Whether `nn.tabulate` counts the operations of a module, which it lowers to that end and does not run."""
    return called_from("flax.linen.summary")


class BatchNorm(nn.Module):
    """Batch normalization; a drop-in for `flax.linen.BatchNorm`.

    ::

        training:   y = (x - E[x]) / sqrt(Var[x] + epsilon) · scale + bias
                    mean ← momentum · mean + (1 - momentum) · E[x],    var alike
        inference:  y = (x - mean) / sqrt(var + epsilon) · scale + bias

    Takes the arguments of Flax's module and makes the same variables: `params` with `scale` and `bias`, and the mutable
    collection `batch_stats` with `mean` and `var`, all of the feature shape. Change the import and nothing else.

    Attributes:
      use_running_average: True normalizes by `batch_stats` (inference), False by the batch (training). Give it here or
        in the call.
      axis: the feature axis or axes.
      momentum: weight kept on the old running statistics; torch's 0.1 is 0.9 here. Beyond Flax: None for the cumulative
        average, or a function of the step.
      epsilon: added to the variance.
      dtype: of the result (default: that of input and parameters together, as in Flax).
      param_dtype: of scale and bias.
      use_bias: whether to add a learned bias (beta).
      use_scale: whether to multiply by a learned scale (gamma).
      bias_init: initializer of the bias.
      scale_init: initializer of the scale.
      axis_name: mapped axis or axes that the batch is spread over (vmap, shard_map, pmap); None under jit with sharded
        arrays.
      axis_index_groups: groups of indices of `axis_name`, each a batch of its own.
      use_fast_variance: accepted and ignored: the only algorithm is as accurate as Flax's slow one, and needs as few
        collectives as the fast one.
      force_float32_reductions: False keeps `batch_stats` in `param_dtype`, as in Flax. Sums are in float32 or wider in
        any case.

    Attributes beyond Flax's, all off by default; see `jbn.batch_norm` and `jbn.update_stats`:
      update_running_average: whether this batch moves the running statistics; by default where it normalizes.
      trainable: False makes scale and bias constants to differentiation; see `FrozenBatchNorm` for weight decay.
      debias: running statistics that are right from the first batch on. In a checkpoint without `weight`, such as
        Flax's, the first batch replaces the statistics.
      variance: "biased" or "unbiased" running variance; `BatchNorm(**jbn.preset("torch"))` is torch's layer.
      skip_nonfinite: leave batches with NaN or infinity out of the running statistics, and count these batches.
      accumulate_steps: micro-batches for each update of the running statistics, in step with optax.MultiSteps.
      virtual_batch_size: examples in a virtual batch with statistics of its own (ghost batch norm).
      ragged_groups: "refuse" or "exact", where that does not divide the batch.
      sow_info: sow what the call measured (`jbn.Info`) as ``batch_norm_info`` in the collection `intermediates`.

    Some options add to `batch_stats`: `momentum=None` and `debias` add `weight`, a schedule `step`,
    `skip_nonfinite` `skipped`, and `accumulate_steps` the `pending_...` moments.

    Raises:
      ValueError: as `jbn.batch_norm`; and if the running statistics are to be updated and `batch_stats` is not mutable.

    Example:
      >>> import jax, jax.numpy as jnp, jbn.linen
      >>> x = 5 + jax.random.normal(jax.random.key(0), (64, 3))
      >>> layer = jbn.linen.BatchNorm(momentum=0.9)
      >>> variables = layer.init(jax.random.key(1), x, use_running_average=False)
      >>> y, updates = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
      >>> print(y.std(0).round(3), updates["batch_stats"]["mean"].round(1))
      [1. 1. 1.] [0.5 0.5 0.5]

    Differs from Flax: the variance is right also where the mean is large; a mask together with `axis_name` gives the
    statistics of the whole batch, not the mean of the devices' means; a fully masked batch leaves the running
    statistics as they are; NaN under the mask becomes bias; `axis_index_groups` also work under vmap and shard_map.

    Reference: Ioffe & Szegedy 2015, "Batch Normalization" (https://arxiv.org/abs/1502.03167).
    """

    use_running_average: bool | None = None
    axis: int | Sequence[int] = -1
    momentum: Momentum = 0.99
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer = initializers.ones
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    update_running_average: bool | None = None
    trainable: bool = True
    debias: bool = False
    variance: Variance = "biased"
    skip_nonfinite: bool = False
    accumulate_steps: int = 1
    virtual_batch_size: int | None = None
    ragged_groups: Ragged = "refuse"
    sow_info: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
        update_running_average: bool | None = None,
        activation: Activation | None = None,
        placement: Side = "before",
    ) -> jax.Array:
        """Normalizes `x`.

        Args:
          x: `[..., features, ...]`.
          use_running_average: as the attribute; give it in one of the two places.
          mask: boolean, broadcastable to `x`: True where an element counts.
          update_running_average: as the attribute, which it overrides.
          activation: function of arrays, such as `jax.nn.relu`, applied within, so that backpropagation keeps no more
            than `x` for both.
          placement: where the norm sits around that activation: "before" or "after".

        Returns:
          y, shaped as `x`. While the module is initialized the running statistics stay as they are, and `axis_name`
          need not exist.
        """
        running, update = self._switches(use_running_average, update_running_average)
        return self._forward(self._function(running), x, mask, running, update, activation, placement)

    @nn.nowrap
    def _switches(self, running: bool | None, update: bool | None) -> tuple[bool, bool]:
        """Whether the running statistics normalize, and whether they move: by attribute or call."""
        running = merge_param("use_running_average", self.use_running_average, running)
        return _shell.switches(running, self.update_running_average if update is None else update)

    @nn.nowrap
    def _function(self, running: bool) -> Callable[..., Any]:
        """The function of the core that this layer calls."""
        return batch_norm

    @nn.nowrap
    def _initial_stats(self, features: tuple[int, ...], **options: Any) -> BatchStats:
        return init_stats(features, **options)

    @nn.nowrap
    def _affine_shape(self, features: tuple[int, ...]) -> tuple[int, ...]:
        return features

    @nn.nowrap  # what the tables of nn.tabulate show is __call__ alone
    def _forward(
        self,
        function: Callable[..., Any],
        x: jax.Array,
        mask: jax.Array | None,
        running: bool,
        update: bool,
        activation: Activation | None,
        placement: Side,
    ) -> jax.Array:
        """Variables in, one call of the core, variables out."""
        x = jnp.asarray(x)
        features = _axes.canonical(self.axis, x.ndim).feature_shape(x.shape)
        start = self._initial_stats(
            features,
            dtype=jnp.float32 if self.force_float32_reductions else self.param_dtype,
            momentum=self.momentum,
            debias=self.debias,
            skip_nonfinite=self.skip_nonfinite,
            accumulate_steps=self.accumulate_steps,
        )
        # What only an update needs, a checkpoint of Flax need not have for inference.
        needed = start._fields if update or self.is_initializing() else ("mean", "var")
        state: dict[str, nn.Variable[jax.Array]] = {
            name: variable(self, "batch_stats", name, value)
            for name, value in start._asdict().items()
            if value is not None and name in needed
        }
        shape = self._affine_shape(features)
        scale = param(self, "scale", self.scale_init, shape, self.param_dtype) if self.use_scale else None
        bias = param(self, "bias", self.bias_init, shape, self.param_dtype) if self.use_bias else None
        dtype = canonicalize_dtype(*(a for a in (x, scale, bias) if a is not None), dtype=self.dtype)
        if not jnp.issubdtype(x.dtype, jnp.inexact):  # as Flax takes it: images, say
            x = x.astype(dtype)
        within: dict[str, Any] = dict(where=mask, activation=activation, placement=placement, dtype=dtype)
        if self.is_initializing():
            if not running:
                with excused(lambda: True):  # of one example, often: one value per feature, and no virtual batches
                    scale, bias = (p if p is None or p.shape == features else p[0] for p in (scale, bias))
                    return batch_norm(x, scale, bias, None, train=True, epsilon=self.epsilon, axis=self.axis, **within)[
                        0
                    ]
            update = False
        if update and not self.is_mutable_collection("batch_stats"):
            raise ValueError(
                f"{'/'.join(self.path) or 'BatchNorm'} is to update its running statistics, but batch_stats is not "
                "mutable here; use y, updates = model.apply(variables, x, ..., mutable=['batch_stats']), or "
                "use_running_average=True for inference"
            )
        stats = promote_stats(BatchStats(**{name: held.value for name, held in state.items()}), x.dtype)
        with excused(tabulated):
            y, new, info = function(
                x, scale, bias, stats, train=not running, update=update, **_shell.options(self), **within
            )
        if update:
            for name, held in state.items():
                held.value = getattr(new, name)
        if self.sow_info:
            self.sow("intermediates", "batch_norm_info", info)
        return y
