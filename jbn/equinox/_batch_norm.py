"""Batch normalization as an Equinox module: state in, one functional call, state out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jbn import _axes, _devices, _dtypes, _shell
from jbn._activation import Activation, Side
from jbn._batch_norm import batch_norm
from jbn._running_stats import BatchStats, Momentum, Variance, init_stats
from jbn._typed_equinox import default_dtype, static
from jbn._virtual_batches import Ragged

Groups = tuple[tuple[int, ...], ...] | None


class BatchNorm(eqx.nn.StatefulLayer):
    """Batch normalization; a drop-in for `equinox.nn.BatchNorm` of mode "batch".

    ::

        training:   y = (x - E[x]) / sqrt(Var[x] + eps) · weight + bias
                    mean ← average of the E[x] so far, weighed by momentum,    var alike
        inference:  y = (x - mean) / sqrt(var + eps) · weight + bias

    Takes the arguments of Equinox' module and has the same parameters, `weight` and `bias`. It is called for each
    example within `jax.vmap(..., axis_name="batch")`; E and Var are over that axis and those of space. The running
    statistics are a `jbn.BatchStats` in the `eqx.nn.State`.

    Args:
      input_size: number of features, the first axis of an example.
      axis_name: mapped axis or axes that the batch is spread over (vmap, shard_map, pmap). Beyond Equinox: None for an
        input that holds a whole batch, `[features, batch, ...]`.
      eps: added to the variance.
      channelwise_affine: whether to learn weight and bias.
      momentum: weight kept on the old running statistics; torch's 0.1 is 0.9 here. Beyond Equinox: None for the
        cumulative average, or a function of the step.
      inference: True normalizes by the running statistics, False by the batch. `eqx.nn.inference_mode` sets it.
      dtype: of weight and bias, by default that of JAX. Running statistics are float32 or wider.
      mode: "batch", which Equinox has to be told.
      update_running_average: whether a batch moves the running statistics; by default where it normalizes.
      trainable: False makes weight and bias constants to differentiation; see `FrozenBatchNorm` for weight decay.
      debias: running statistics right from the first batch on. By default True, as in Equinox, unless `momentum` is
        None.
      variance: "biased" or "unbiased" running variance.
      skip_nonfinite: leave batches with NaN or infinity out of the running statistics, and count these batches.
      accumulate_steps: micro-batches for each update of the running statistics, in step with optax.MultiSteps.
      virtual_batch_size: examples in a virtual batch with statistics of its own (ghost batch norm). Under vmap, virtual
        batches are cut from the examples; without `axis_name`, from the second axis of the input.
      ragged_groups: "refuse" or "exact", where that does not divide the batch.
      axis_index_groups: groups of indices of `axis_name`, each a batch with running statistics of its own, so that the
        state has to be mapped, too.

    All options but `inference` are static: they are no leaves of the model. See `jbn.batch_norm` and
    `jbn.update_stats`, also for those that Equinox lacks.

    Raises:
      ValueError: as `jbn.batch_norm`; and a mode that normalizes training by moving averages.

    Example:
      >>> import equinox as eqx, jax, jbn.equinox
      >>> x = 5 + jax.random.normal(jax.random.key(0), (64, 3))
      >>> layer, state = eqx.nn.make_with_state(jbn.equinox.BatchNorm)(3, "batch")
      >>> y, state = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)
      >>> print(y.std(0).round(3), state.get(layer.state_index).mean.round())
      [1. 1. 1.] [5. 5. 5.]

    Differs from Equinox: after few batches the running variance is that of these batches, not larger; it is right also
    where the mean is large; and devices are synchronized by one collective, not two.

    Reference: Ioffe & Szegedy 2015, "Batch Normalization" (https://arxiv.org/abs/1502.03167).
    """

    weight: jax.Array | None
    bias: jax.Array | None
    state_index: eqx.nn.StateIndex[BatchStats]
    inference: bool
    axis_name: Any = static()
    input_size: int = static()
    eps: float = static()
    channelwise_affine: bool = static()
    momentum: Momentum = static()
    mode: str = static()
    update_running_average: bool | None = static()
    trainable: bool = static()
    debias: bool = static()
    variance: Variance = static()
    skip_nonfinite: bool = static()
    accumulate_steps: int = static()
    virtual_batch_size: int | None = static()
    ragged_groups: Ragged = static()
    axis_index_groups: Groups = static()

    def __init__(
        self,
        input_size: int,
        axis_name: Hashable | Sequence[Hashable] | None,
        eps: float = 1e-5,
        channelwise_affine: bool = True,
        momentum: Momentum = 0.99,
        inference: bool = False,
        dtype: DTypeLike | None = None,
        mode: Literal["batch"] = "batch",
        *,
        update_running_average: bool | None = None,
        trainable: bool = True,
        debias: bool | None = None,
        variance: Variance = "biased",
        skip_nonfinite: bool = False,
        accumulate_steps: int = 1,
        virtual_batch_size: int | None = None,
        ragged_groups: Ragged = "refuse",
        axis_index_groups: Sequence[Sequence[int]] | None = None,
    ):
        if mode != "batch":
            raise ValueError(
                f"mode is {mode!r}; jbn normalizes training by the batch: use mode='batch', or eqx.nn.BatchNorm if "
                "training is to be normalized by moving averages"
            )
        kept: Any = default_dtype() if dtype is None else dtype
        self.weight = jnp.ones(input_size, kept) if channelwise_affine else None
        self.bias = jnp.zeros(input_size, kept) if channelwise_affine else None
        self.inference = inference
        self.axis_name = tuple(axis_name) if isinstance(axis_name, list) else axis_name
        if not isinstance(self.axis_name, str | tuple | None):  # JAX takes any hashable name
            self.axis_name = (self.axis_name,)
        self.input_size = input_size
        self.eps = eps
        self.channelwise_affine = channelwise_affine
        self.momentum = momentum
        self.mode = mode
        self.update_running_average = update_running_average
        self.trainable = trainable
        self.debias = momentum is not None if debias is None else debias
        self.variance = variance
        self.skip_nonfinite = skip_nonfinite
        self.accumulate_steps = accumulate_steps
        self.virtual_batch_size = virtual_batch_size
        self.ragged_groups = ragged_groups
        self.axis_index_groups = None if axis_index_groups is None else tuple(map(tuple, axis_index_groups))
        self.state_index = eqx.nn.StateIndex(self._initial_stats(_dtypes.wide(kept)))

    def __call__(
        self,
        x: jax.Array,
        state: eqx.nn.State,
        *,
        key: jax.Array | None = None,
        inference: bool | None = None,
        mask: jax.Array | None = None,
        update_running_average: bool | None = None,
        activation: Activation | None = None,
        placement: Side = "before",
    ) -> tuple[jax.Array, eqx.nn.State]:
        """Normalizes `x`, and moves the running statistics in training.

        Args:
          x: `[features, ...]`, one example of a batch that is mapped over.
          state: the state of the model.
          key: ignored, as in Equinox.
          inference: as in the constructor, which it overrides.
          mask: boolean, broadcastable to `x`: True where an element counts.
          update_running_average: as in the constructor, which it overrides.
          activation: function of arrays, such as `jax.nn.relu`, applied within, so that backpropagation keeps no more
            than `x` for both.
          placement: where the norm sits around that activation: "before" or "after".

        Returns:
          y, shaped as `x`, and the new state.

        Raises:
          ValueError: as `jbn.batch_norm`; and complex input of a layer that is not.
          TypeError: a model that is traced as a whole, by `jax.jit` instead of `eqx.filter_jit`.
        """
        running = self.inference if inference is None else inference
        _axes.check_static(inference=running)
        running, update = self._switches(running, update_running_average)
        stats, x = state.get(self.state_index), jnp.asarray(x)
        dtype = result_dtype(x, self.weight, self.bias)
        x = x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(dtype)
        if update and jnp.iscomplexobj(x) and not jnp.iscomplexobj(stats.mean):
            raise ValueError(
                f"x is {x.dtype}, but the running mean {stats.mean.dtype}; make the layer with dtype=jnp.complex64"
            )
        within: dict[str, Any] = dict(activation=activation, placement=placement, dtype=dtype)

        def norm(x: jax.Array, where: jax.Array | None, axis: int, axis_name: Any) -> Any:
            options = _shell.options(self, epsilon=self.eps, axis=axis, axis_name=axis_name) | within
            function = self._function(running)
            return function(x, self.weight, self.bias, stats, train=not running, update=update, where=where, **options)

        if self.virtual_batch_size is None or running:
            y, new, _ = norm(x, mask, 0, self.axis_name)
        else:
            y, new, _ = _with_examples(norm, x, mask, self.axis_name)
        return y, state.set(self.state_index, new) if update else state

    def _initial_stats(self, dtype: DTypeLike, **others: Any) -> BatchStats:
        return init_stats(
            self.input_size,
            dtype=dtype,
            momentum=self.momentum,
            debias=self.debias,
            skip_nonfinite=self.skip_nonfinite,
            accumulate_steps=self.accumulate_steps,
            **others,
        )

    def _switches(self, running: bool, update: bool | None) -> tuple[bool, bool]:
        """Whether the running statistics normalize, and whether they move: by the call, else by the constructor."""
        return _shell.switches(running, self.update_running_average if update is None else update)

    def _function(self, running: bool) -> Callable[..., Any]:
        """The function of the core that this layer calls."""
        return batch_norm


def result_dtype(*arrays: jax.Array | None) -> Any:
    """Of input and parameters together, and floating."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*(a for a in arrays if a is not None))
        return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.promote_types(dtype, default_dtype())


def _with_examples(norm: Callable[..., Any], x: jax.Array, mask: jax.Array | None, axis_name: Any) -> Any:
    """`norm` of all examples that vmap goes over, as virtual batches need it, and of its result this example."""
    devices, mapped = _devices.device_and_array_axes(axis_name)
    if not mapped:
        return norm(x, mask, 0, axis_name)

    def batch(a: jax.Array) -> jax.Array:
        return _devices.stacked(a, mapped).reshape(-1, *a.shape)

    where = None if mask is None else batch(_axes.expand_mask(mask, x.shape))
    y, *others = norm(batch(x), where, 1, devices or None)
    return lax.dynamic_index_in_dim(y, lax.axis_index(mapped), keepdims=False), *others
