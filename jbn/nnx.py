"""Batch normalization and its variants as Flax nnx modules: variables in, one functional call, variables out."""

from __future__ import annotations

from jbn import _needs_flax as _needs_flax  # first

# isort: split
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from jax.nn import initializers
from jax.typing import DTypeLike

from jbn import _axes
from jbn._activation import Activation
from jbn._batch_norm import batch_norm
from jbn._refusal import called_from, excused
from jbn._running_stats import BatchStats, Momentum, Variance, init_stats, promote_stats
from jbn._variants.adapt import adaptive_layer
from jbn._variants.domains import domain_batch_norm
from jbn._variants.renorm import Limit, batch_renorm
from jbn._virtual_batches import Ragged

Initializer = Callable[..., jax.Array]


def result_dtype(layer: Any, x: jax.Array, stats: BatchStats, scale: Any, bias: Any) -> jnp.dtype:
    """The dtype of what a batch norm of jbn or Flax returns: its `dtype`, or what its `promote_dtype` leads to."""

    def result(*given: Any) -> jax.Array:
        x, _, _, scale, bias = layer.promote_dtype(given, dtype=layer.dtype)
        return jnp.zeros((), dtypes.canonicalize_dtype(x, scale, bias, dtype=layer.dtype))

    return jax.eval_shape(result, x, stats.mean, stats.var, scale, bias).dtype


def looked_at(layer: nnx.Module) -> bool:
    """Whether Flax calls the layer to initialize a model or to make a table of it, not to train it."""
    linen = nnx.bridge.wrappers.current_linen_module()
    initialized = layer._pytree__state.initializing or (linen is not None and linen.is_initializing())
    return initialized or called_from("flax.nnx.summary", "flax.linen.summary")


class BatchNorm(nnx.Module):
    """Batch normalization; a drop-in for `flax.nnx.BatchNorm`.

    ::

        training:   y = (x - E[x]) / sqrt(Var[x] + epsilon) · scale + bias
                    mean ← momentum · mean + (1 - momentum) · E[x],    var alike
        inference:  y = (x - mean) / sqrt(var + epsilon) · scale + bias

    Takes the arguments of Flax's module and holds the same variables: `scale` and `bias` (`nnx.Param`), `mean` and
    `var` (`nnx.BatchStat`). `train()` and `eval()` switch between the two, as does `nnx.view`.

    Args:
      num_features: number of features.
      use_running_average: True normalizes by the running statistics (inference), False by the batch (training).
      axis: the feature axis.
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
      use_fast_variance: accepted and ignored: one algorithm serves, as exact as the slow and as short of collectives as
        the fast one.
      promote_dtype: called with `(x, mean, var, scale, bias)` and `dtype=`, as in Flax; where `dtype` is None, what it
        returns decides the dtype of the result. The arithmetic is float32 or wider in any case.
      rngs: gives the keys of the initializers.
      bias_metadata: metadata of the bias variable.
      scale_metadata: metadata of the scale variable.

    Args beyond Flax's, all off by default; see `jbn.batch_norm` and `jbn.update_stats`:
      update_running_average: whether this batch moves the running statistics; by default where it normalizes.
      trainable: False makes scale and bias constants to differentiation; see `FrozenBatchNorm` for weight decay.
      debias: running statistics right from the first batch on.
      variance: "biased" or "unbiased" running variance; `BatchNorm(n, **jbn.preset("torch"), rngs=rngs)` is torch's.
      skip_nonfinite: leave batches with NaN or infinity out of the running statistics, and count them.
      accumulate_steps: micro-batches for each update of the running statistics, in step with optax.MultiSteps.
      virtual_batch_size: examples in a virtual batch with statistics of its own (ghost batch norm).
      ragged_groups: "refuse" or "exact", where that does not divide the batch.
      sow_info: sow what the call measured (`jbn.Info`) as `batch_norm_info`, an `nnx.Intermediate`, where the model is
        called through `nnx.capture(model, nnx.Intermediate)` (in a step of `nnx.scan`, inside of it). Elsewhere
        nothing is kept, so that the module stays as it is and a compiled step is traced once.

    These hold more `nnx.BatchStat` than mean and var: a momentum of None and `debias` a `weight`, a schedule a `step`,
    `skip_nonfinite` a number `skipped`, `accumulate_steps` the `pending` moments.

    Raises:
      ValueError: see `jbn.batch_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jbn.nnx
      >>> from flax import nnx
      >>> x = 5 + jax.random.normal(jax.random.key(0), (64, 3))
      >>> layer = jbn.nnx.BatchNorm(3, momentum=0.9, rngs=nnx.Rngs(0))
      >>> y = layer(x)
      >>> print(y.std(0).round(3), layer.mean[...].round(1))
      [1. 1. 1.] [0.5 0.5 0.5]

    Differs from Flax: as `jbn.linen.BatchNorm`; and the running statistics keep their precision at inference, where
    Flax rounds them to `dtype` first.

    Reference: Ioffe & Szegedy 2015, "Batch Normalization" (https://arxiv.org/abs/1502.03167).
    """

    def __init__(
        self,
        num_features: int,
        *,
        use_running_average: bool | None = False,
        axis: int = -1,
        momentum: Momentum = 0.99,
        epsilon: float = 1e-5,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Initializer = initializers.zeros,
        scale_init: Initializer = initializers.ones,
        axis_name: str | None = None,
        axis_index_groups: Any = None,
        use_fast_variance: bool = True,
        promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
        rngs: nnx.Rngs,
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
        scale_metadata: Mapping[str, Any] = MappingProxyType({}),
        update_running_average: bool | None = None,
        trainable: bool = True,
        debias: bool = False,
        variance: Variance = "biased",
        skip_nonfinite: bool = False,
        accumulate_steps: int = 1,
        virtual_batch_size: int | None = None,
        ragged_groups: Ragged = "refuse",
        sow_info: bool = False,
    ):
        start = init_stats(
            num_features,
            momentum=momentum,
            debias=debias,
            skip_nonfinite=skip_nonfinite,
            accumulate_steps=accumulate_steps,
        )
        for name, value in start._asdict().items():
            if value is not None:
                setattr(self, name, nnx.BatchStat(value))
        shape = (num_features,)
        self.scale: Any = nnx.data(None)
        self.bias: Any = nnx.data(None)
        if use_scale:
            self.scale = nnx.Param(scale_init(rngs.params(), shape, param_dtype), **scale_metadata)
        if use_bias:
            self.bias = nnx.Param(bias_init(rngs.params(), shape, param_dtype), **bias_metadata)

        self.num_features = num_features
        self.use_running_average = use_running_average
        self.axis = axis
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.axis_name = axis_name
        self.axis_index_groups = axis_index_groups
        self.use_fast_variance = use_fast_variance
        self.promote_dtype = promote_dtype
        self.update_running_average = update_running_average
        self.trainable = trainable
        self.debias = debias
        self.variance: Variance = variance
        self.skip_nonfinite = skip_nonfinite
        self.accumulate_steps = accumulate_steps
        self.virtual_batch_size = virtual_batch_size
        self.ragged_groups: Ragged = ragged_groups
        self.sow_info = sow_info

    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
        update_running_average: bool | None = None,
        activation: Activation | None = None,
        placement: Literal["before", "after"] = "before",
    ) -> jax.Array:
        """Normalizes `x`, and moves the running statistics in training.

        Args:
          x: `[..., features, ...]`.
          use_running_average: as in the constructor, which it overrides.
          mask: boolean, broadcastable to `x`: True where an element counts.
          update_running_average: as in the constructor, which it overrides.
          activation: function of arrays, such as `jax.nn.relu`, applied within, so that backpropagation keeps no more
            than `x` for both.
          placement: where the norm sits around that activation: "before" or "after".

        Returns:
          y, shaped as `x`.
        """
        running, update = self._switches(use_running_average, update_running_average)
        within = dict(activation=activation, placement=placement)
        return self._forward(batch_norm, x, mask, running, update, within)

    def _switches(self, running: bool | None, update: bool | None) -> tuple[bool, bool]:
        """Whether the running statistics normalize, and whether they move: by the call, else by the constructor."""
        running = self.use_running_average if running is None else running
        if running is None:
            raise ValueError(
                "use_running_average is None in the constructor and in the call; call layer.train() or layer.eval(), "
                "or use_running_average=False (training) or True (inference) in one of the two"
            )
        update = self.update_running_average if update is None else update
        _axes.check_static(use_running_average=running, update_running_average=update)
        return running, not running if update is None else update

    def _forward(
        self,
        norm: Callable[..., Any],
        x: jax.Array,
        mask: jax.Array | None,
        running: bool,
        update: bool,
        within: dict[str, Any],
    ) -> jax.Array:
        """Variables in, `norm`, variables out."""
        x = jnp.asarray(x)
        state = {name: value for name in BatchStats._fields if (value := getattr(self, name, None)) is not None}
        stats = promote_stats(BatchStats(**{name: variable[...] for name, variable in state.items()}), x.dtype)
        scale = None if self.scale is None else self.scale[...]
        bias = None if self.bias is None else self.bias[...]
        dtype = result_dtype(self, x, stats, scale, bias)
        if not jnp.issubdtype(x.dtype, jnp.inexact):  # as Flax takes it: images, say
            x = x.astype(dtype)
        with excused(functools.partial(looked_at, self)):
            y, new, info = norm(
                x,
                scale,
                bias,
                stats,
                train=not running,
                update=update,
                trainable=self.trainable,
                momentum=self.momentum,
                debias=self.debias,
                variance=self.variance,
                skip_nonfinite=self.skip_nonfinite,
                accumulate_steps=self.accumulate_steps,
                epsilon=self.epsilon,
                axis=self.axis,
                where=mask,
                axis_name=self.axis_name,
                axis_index_groups=self.axis_index_groups,
                virtual_batch_size=self.virtual_batch_size,
                ragged_groups=self.ragged_groups,
                dtype=dtype,
                **within,
            )
        if update:
            for name, variable in state.items():
                value = jax.lax.stop_gradient(getattr(new, name))
                if variable.dtype == value.dtype:
                    variable[...] = value
                else:  # real turns complex
                    variable.set_value(value)
        if self.sow_info and hasattr(self, "__captures__"):  # kept otherwise, it would change the module at every call
            self.sow(nnx.Intermediate, "batch_norm_info", info)
        return y

    def set_view(
        self,
        use_running_average: bool | None = None,
        update_running_average: bool | None = None,
        trainable: bool | None = None,
    ) -> None:
        """What `nnx.view` may set: which statistics normalize, whether they are updated, whether scale and bias train.

        Args:
          use_running_average: as in the constructor; None leaves it.
          update_running_average: as in the constructor; None leaves it.
          trainable: as in the constructor; None leaves it.
        """
        for name, value in (
            ("use_running_average", use_running_average),
            ("update_running_average", update_running_average),
            ("trainable", trainable),
        ):
            if value is not None:
                setattr(self, name, value)


class BatchRenorm(BatchNorm):
    """Batch renormalization: batch norm, corrected towards the running statistics within limits.

    ::

        training:   y = ((x - E[x]) / σ_B · r + d) · scale + bias
                    r = clip(σ_B / σ, 1/r_max, r_max),    d = clip((E[x] - mean) / σ, -d_max, d_max)
        inference:  as `BatchNorm`

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

    Reference: Ioffe 2017, "Batch Renormalization" (https://arxiv.org/abs/1702.03275). See `jbn.batch_renorm`.
    """

    def __init__(self, num_features: int, *, r_max: Limit = 3.0, d_max: Limit = 5.0, **options: Any):
        super().__init__(num_features, **options)
        self.r_max, self.d_max = r_max, d_max
        if (callable(r_max) or callable(d_max)) and not hasattr(self, "step"):
            self.step = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
        update_running_average: bool | None = None,
        activation: Activation | None = None,
        placement: Literal["before", "after"] = "before",
    ) -> jax.Array:
        """As `BatchNorm`."""
        running, update = self._switches(use_running_average, update_running_average)
        norm = functools.partial(batch_renorm, r_max=self.r_max, d_max=self.d_max)
        return self._forward(norm, x, mask, running, update, dict(activation=activation, placement=placement))


class FrozenBatchNorm(BatchNorm):
    """Frozen batch norm: an affine map by constants, in training as at inference.

    ::

        y = (x - mean) / sqrt(var + epsilon) · scale + bias

    Whatever `use_running_average` says, in constructor, view or call, the running statistics normalize, nothing is
    updated, and no gradient reaches scale and bias. Its state is that of `BatchNorm`.

    Frozen is what the layer does; what an optimizer does to scale and bias without a gradient, by weight decay, say, is
    stopped there: by `jbn.optim.frozen_mask`, as below. `jbn.optim.decay_mask` leaves them out of weight decay alone.

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

    Reference: He et al. 2017, "Mask R-CNN" (https://arxiv.org/abs/1703.06870). See `jbn.frozen_batch_norm`.
    """

    def __init__(self, num_features: int, **options: Any):
        super().__init__(num_features, **{"trainable": False, **options})

    def _switches(self, running: bool | None, update: bool | None) -> tuple[bool, bool]:
        return True, False


class AdaptiveBatchNorm(BatchNorm):
    """Batch norm that, at inference, blends the running statistics with those of the test batch.

    ::

        training:   as `BatchNorm`
        inference:  as `BatchNorm`, by w · mean + (1 - w) · E[x], and var alike

    Args:
      num_features: number of features.
      source_weight: w, in [0, 1]: 1 is inference as usual, 0 the test batch alone, which then needs more than one value
        per feature; for a single example pass N / (N + 1), such as 16 / 17.
      **options: those of `BatchNorm`, whose state it has.

    Example:
      >>> import jax.numpy as jnp, jbn.nnx
      >>> from flax import nnx
      >>> layer = jbn.nnx.AdaptiveBatchNorm(1, use_running_average=True, rngs=nnx.Rngs(0))
      >>> print(layer(jnp.array([[1.0], [3.0]])).round(2).ravel())  # by the test batch alone
      [-1.  1.]

    Reference: Schneider et al. 2020 (https://arxiv.org/abs/2006.16971). See `jbn.adaptive_batch_norm`.
    """

    def __init__(self, num_features: int, *, source_weight: float = 0.0, **options: Any):
        super().__init__(num_features, **options)
        self.source_weight = source_weight

    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
        update_running_average: bool | None = None,
    ) -> jax.Array:
        """As `BatchNorm`."""
        running, update = self._switches(use_running_average, update_running_average)
        if not running:
            return self._forward(batch_norm, x, mask, running, update, {})

        blend = functools.partial(adaptive_layer, source_weight=self.source_weight)
        return self._forward(blend, x, mask, True, False, {})


class DomainBatchNorm(BatchNorm):
    """Batch norm of several domains in one layer, each with running statistics of its own.

    ::

        y = (x - mean_d) / sqrt(var_d + epsilon) · scale_d + bias_d

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

    Reference: Chang et al. 2019 (https://arxiv.org/abs/1906.03950); Xie et al. 2020 (https://arxiv.org/abs/1911.09665).
    See `jbn.domain_batch_norm`.
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
        placement: Literal["before", "after"] = "before",
    ) -> jax.Array:
        """As `BatchNorm`, for the `domain` of this batch (`[]`, int) or of each example (`[batch]`)."""
        running, update = self._switches(use_running_average, update_running_average)
        norm = functools.partial(domain_batch_norm, domain=domain)
        return self._forward(norm, x, mask, running, update, dict(activation=activation, placement=placement))
