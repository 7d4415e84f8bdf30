"""Batch normalization as a Flax nnx module: variables in, one functional call, variables out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jax.typing import DTypeLike

from jbn import _shell
from jbn._activation import Activation, Side
from jbn._batch_norm import batch_norm
from jbn._refusal import called_from, excused
from jbn._running_stats import BatchStats, Momentum, Variance, init_stats, promote_stats
from jbn._typed import eval_shape
from jbn._typed_flax import nnx_canonicalize_dtype, promote_dtype
from jbn._virtual_batches import Ragged

Initializer = Callable[..., jax.Array]


def result_dtype(layer: Any, x: jax.Array, stats: BatchStats, scale: Any, bias: Any) -> jnp.dtype:
    """The dtype of what a batch norm of jbn or Flax returns: its `dtype`, or what its `promote_dtype` leads to."""

    def result(*given: Any) -> jax.Array:
        x, _, _, scale, bias = layer.promote_dtype(given, dtype=layer.dtype)
        return jnp.zeros((), nnx_canonicalize_dtype(x, scale, bias, dtype=layer.dtype))

    return eval_shape(result, x, stats.mean, stats.var, scale, bias).dtype


def looked_at(layer: nnx.Module) -> bool:
    """Whether Flax calls the layer to initialize a model or to make a table of it, not to train it."""
    linen = nnx.bridge.wrappers.current_linen_module()
    state: Any = layer._pytree__state  # pyright: ignore[reportPrivateUsage]  (Flax has no public one)
    initialized = state.initializing or (linen is not None and linen.is_initializing())
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
      use_fast_variance: accepted and ignored: the only algorithm is as accurate as Flax's slow one, and needs as few
        collectives as the fast one.
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
      skip_nonfinite: leave batches with NaN or infinity out of the running statistics, and count these batches.
      accumulate_steps: micro-batches for each update of the running statistics, in step with optax.MultiSteps.
      virtual_batch_size: examples in a virtual batch with statistics of its own (ghost batch norm).
      ragged_groups: "refuse" or "exact", where that does not divide the batch.
      sow_info: sow what the call measured (`jbn.Info`) as ``batch_norm_info``, an `nnx.Intermediate`, where the model
        is called through `nnx.capture(model, nnx.Intermediate)` (in a step of `nnx.scan`, inside of it). Elsewhere
        nothing is kept, so that the module stays as it is and a compiled step is traced once.

    Some options add an `nnx.BatchStat`: `momentum=None` and `debias` add `weight`, a schedule `step`,
    `skip_nonfinite` `skipped`, and `accumulate_steps` the `pending_...` moments.

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
        promote_dtype: Callable[..., Any] = promote_dtype,
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
        placement: Side = "before",
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
        return self._forward(self._function(running), x, mask, running, update, activation, placement)

    def _switches(self, running: bool | None, update: bool | None) -> tuple[bool, bool]:
        """Whether the running statistics normalize, and whether they move: by the call, else by the constructor."""
        running = self.use_running_average if running is None else running
        if running is None:
            raise ValueError(
                "use_running_average is None in the constructor and in the call; call layer.train() or layer.eval(), "
                "or set use_running_average=False (training) or True (inference) in one of the two"
            )
        return _shell.switches(running, self.update_running_average if update is None else update)

    def _function(self, running: bool) -> Callable[..., Any]:
        """The function of the core that this layer calls."""
        return batch_norm

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
        state = {name: value for name in BatchStats._fields if (value := getattr(self, name, None)) is not None}
        stats = promote_stats(BatchStats(**{name: variable[...] for name, variable in state.items()}), x.dtype)
        scale = None if self.scale is None else self.scale[...]
        bias = None if self.bias is None else self.bias[...]
        dtype = result_dtype(self, x, stats, scale, bias)
        if not jnp.issubdtype(x.dtype, jnp.inexact):  # as Flax takes it: images, say
            x = x.astype(dtype)
        within: dict[str, Any] = dict(where=mask, activation=activation, placement=placement, dtype=dtype)
        with excused(functools.partial(looked_at, self)):
            y, new, info = function(
                x, scale, bias, stats, train=not running, update=update, **_shell.options(self), **within
            )
        if update:
            for name, variable in state.items():
                value = jax.lax.stop_gradient(getattr(new, name))
                if variable.dtype == value.dtype:
                    variable[...] = value
                else:  # real turns complex
                    variable.set_value(value)
        if self.sow_info and hasattr(self, "__captures__"):  # kept otherwise, it would change the module at every call
            self.sow(nnx.Intermediate, "batch_norm_info", info)  # pyright: ignore[reportUnknownArgumentType]
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
