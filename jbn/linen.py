"""Batch normalization and its variants as Flax linen modules: variables in, one functional call, variables out."""

from __future__ import annotations

from jbn import _needs_flax as _needs_flax  # first

# isort: split
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype
from flax.linen.module import merge_param
from jax.nn import initializers
from jax.typing import DTypeLike

from jbn import _axes
from jbn._activation import Activation
from jbn._batch_norm import batch_norm
from jbn._refusal import called_from, excused
from jbn._running_stats import BatchStats, Momentum, Variance, init_stats, promote_stats
from jbn._variants.adapt import adaptive_layer
from jbn._variants.domains import domain_batch_norm, init_domain_stats
from jbn._variants.renorm import Limit, batch_renorm
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
      use_fast_variance: accepted and ignored: one algorithm serves, as exact as the slow and as short of collectives as
        the fast one.
      force_float32_reductions: False keeps `batch_stats` in `param_dtype`, as in Flax. Sums are in float32 or wider in
        any case.

    Attributes beyond Flax's, all off by default; see `jbn.batch_norm` and `jbn.update_stats`:
      update_running_average: whether this batch moves the running statistics; by default where it normalizes.
      trainable: False makes scale and bias constants to differentiation; see `FrozenBatchNorm` for weight decay.
      debias: running statistics right from the first batch on. Of a checkpoint without `weight`, such as Flax's, the
        first batch takes the place.
      variance: "biased" or "unbiased" running variance; `BatchNorm(**jbn.preset("torch"))` is torch's layer.
      skip_nonfinite: leave batches with NaN or infinity out of the running statistics, and count them.
      accumulate_steps: micro-batches for each update of the running statistics, in step with optax.MultiSteps.
      virtual_batch_size: examples in a virtual batch with statistics of its own (ghost batch norm).
      ragged_groups: "refuse" or "exact", where that does not divide the batch.
      sow_info: sow what the call measured (`jbn.Info`) as `batch_norm_info` in the collection `intermediates`.

    These keep more in `batch_stats` than mean and var: a momentum of None and `debias` a `weight`, a schedule a `step`,
    `skip_nonfinite` a number `skipped`, `accumulate_steps` the `pending` moments.

    Raises:
      ValueError: see `jbn.batch_norm`; and `batch_stats` that are to be updated but were not made mutable.

    Example:
      >>> import jax, jax.numpy as jnp, jbn.linen
      >>> x = 5 + jax.random.normal(jax.random.key(0), (64, 3))
      >>> layer = jbn.linen.BatchNorm(momentum=0.9)
      >>> variables = layer.init(jax.random.key(1), x, use_running_average=False)
      >>> y, updates = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
      >>> print(y.std(0).round(3), updates["batch_stats"]["mean"].round(1))
      [1. 1. 1.] [0.5 0.5 0.5]

    Differs from Flax: the variance is right also where the mean is large; a mask together with `axis_name` gives the
    statistics of the whole batch, not the mean of the devices' means; a batch with nothing unmasked leaves the running
    statistics alone; NaN under the mask comes out as bias; `axis_index_groups` also work under vmap and shard_map.

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
        placement: Literal["before", "after"] = "before",
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
        within = dict(activation=activation, placement=placement)
        return self._forward(batch_norm, x, mask, running, update, within)

    @nn.nowrap
    def _switches(self, running: bool | None, update: bool | None) -> tuple[bool, bool]:
        """Whether the running statistics normalize, and whether they move: by attribute or call."""
        running = merge_param("use_running_average", self.use_running_average, running)
        update = self.update_running_average if update is None else update
        _axes.check_static(use_running_average=running, update_running_average=update)
        return running, not running if update is None else update

    @nn.nowrap  # what the tables of nn.tabulate show is __call__ alone
    def _forward(
        self,
        norm: Callable[..., Any],
        x: jax.Array,
        mask: jax.Array | None,
        running: bool,
        update: bool,
        within: dict[str, Any],
        count_steps: bool = False,
        domains: int | None = None,
        separate_affine: bool = False,
    ) -> jax.Array:
        """Variables in, `norm`, variables out. With `domains`, each has statistics (and affine) of its own."""
        x = jnp.asarray(x)
        features = _axes.canonical(self.axis, x.ndim).feature_shape(x.shape)
        init = init_stats if domains is None else functools.partial(init_domain_stats, domains)
        start = init(
            features,
            dtype=jnp.float32 if self.force_float32_reductions else self.param_dtype,
            momentum=self.momentum,
            debias=self.debias,
            skip_nonfinite=self.skip_nonfinite,
            accumulate_steps=self.accumulate_steps,
            count_steps=count_steps,
        )
        # What only an update needs, a checkpoint of Flax need not have for inference.
        needed = start._fields if update or self.is_initializing() else ("mean", "var")
        state = {
            name: self.variable("batch_stats", name, lambda v: v, value)
            for name, value in start._asdict().items()
            if value is not None and name in needed
        }
        shape = (domains, *features) if domains is not None and separate_affine else features
        scale = self.param("scale", self.scale_init, shape, self.param_dtype) if self.use_scale else None
        bias = self.param("bias", self.bias_init, shape, self.param_dtype) if self.use_bias else None
        given = [a for a in (x, scale, bias) if a is not None]
        dtype = canonicalize_dtype(*given, dtype=self.dtype)
        if not jnp.issubdtype(x.dtype, jnp.inexact):  # as Flax takes it: images, say
            x = x.astype(dtype)
        forward: dict[str, Any] = dict(within, epsilon=self.epsilon, axis=self.axis, where=mask, dtype=dtype)
        groups: dict[str, Any] = dict(virtual_batch_size=self.virtual_batch_size, ragged_groups=self.ragged_groups)
        if self.is_initializing():
            if not running:
                scale, bias = (p if p is None or p.shape == features else p[0] for p in (scale, bias))
                with excused(lambda: True):  # of one example, often: no virtual batches, and one value per feature
                    return batch_norm(x, scale, bias, None, train=True, **forward)[0]
            update = False
        if update and not self.is_mutable_collection("batch_stats"):
            raise ValueError(
                f"{'/'.join(self.path) or 'BatchNorm'} is to update its running statistics, but batch_stats is not "
                "mutable here; use y, updates = model.apply(variables, x, ..., mutable=['batch_stats']), or "
                "use_running_average=True for inference"
            )
        stats = promote_stats(BatchStats(**{name: variable.value for name, variable in state.items()}), x.dtype)
        with excused(tabulated):
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
                axis_name=self.axis_name,
                axis_index_groups=self.axis_index_groups,
                **groups,
                **forward,
            )
        if update:
            for name, variable in state.items():
                variable.value = getattr(new, name)
        if self.sow_info:
            self.sow("intermediates", "batch_norm_info", info)
        return y


class BatchRenorm(BatchNorm):
    """Batch renormalization: batch norm, corrected towards the running statistics within limits.

    ::

        training:   y = ((x - E[x]) / σ_B · r + d) · scale + bias
                    r = clip(σ_B / σ, 1/r_max, r_max),    d = clip((E[x] - mean) / σ, -d_max, d_max)
        inference:  as `BatchNorm`

    Attributes:
      r_max: limit of the correction of the spread, at least 1; a number, or a function of the step such as
        `jbn.renorm_ramp`: then `batch_stats` keep a `step`, and a checkpoint goes on with the ramp where it was.
      d_max: limit of the correction of the mean, in running standard deviations; likewise.

    All other attributes and arguments are those of `BatchNorm`.

    Example:
      >>> import jax, jax.numpy as jnp, jbn, jbn.linen
      >>> ramp = jbn.renorm_ramp(3.0, start=5000, end=40000, initial=1.0)
      >>> layer = jbn.linen.BatchRenorm(use_running_average=False, r_max=ramp, d_max=0.0)
      >>> sorted(layer.init(jax.random.key(0), jnp.ones((8, 3)))["batch_stats"])
      ['mean', 'step', 'var']

    Reference: Ioffe 2017, "Batch Renormalization" (https://arxiv.org/abs/1702.03275). See `jbn.batch_renorm`.
    """

    r_max: Limit = 3.0
    d_max: Limit = 5.0

    @nn.compact
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
        within = dict(activation=activation, placement=placement)
        ramps = callable(self.r_max) or callable(self.d_max)
        return self._forward(norm, x, mask, running, update, within, ramps)


class FrozenBatchNorm(BatchNorm):
    """Frozen batch norm: an affine map by constants, in training as at inference.

    ::

        y = (x - mean) / sqrt(var + epsilon) · scale + bias

    Whatever `use_running_average` says, in attribute or call, the running statistics normalize, nothing is
    updated, and no gradient reaches scale and bias. A checkpoint of `BatchNorm` loads into it, and back.

    Frozen is what the layer does; what an optimizer does to scale and bias without a gradient, by weight decay, say, is
    stopped there: by `jbn.optim.frozen_mask`, as below. `jbn.optim.decay_mask` leaves them out of weight decay alone.

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

    Reference: He et al. 2017, "Mask R-CNN" (https://arxiv.org/abs/1703.06870). See `jbn.frozen_batch_norm`.
    """

    trainable: bool = False

    @nn.compact
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
        """As `BatchNorm` at inference."""
        return self._forward(batch_norm, x, mask, True, False, dict(activation=activation, placement=placement))


class AdaptiveBatchNorm(BatchNorm):
    """Batch norm that, at inference, blends the running statistics with those of the test batch.

    ::

        training:   as `BatchNorm`
        inference:  as `BatchNorm`, by w · mean + (1 - w) · E[x], and var alike

    Attributes:
      source_weight: w, in [0, 1]: 1 is inference as usual, 0 the test batch alone, which then needs more than one value
        per feature; for a single example pass N / (N + 1), such as 16 / 17.

    A checkpoint of `BatchNorm` loads into it, and back.

    Example:
      >>> import jax, jax.numpy as jnp, jbn.linen
      >>> layer, x = jbn.linen.AdaptiveBatchNorm(use_running_average=True), jnp.array([[1.0], [3.0]])
      >>> print(layer.apply(layer.init(jax.random.key(0), x), x).round(2).ravel())  # by the test batch alone
      [-1.  1.]

    Reference: Schneider et al. 2020 (https://arxiv.org/abs/2006.16971). See `jbn.adaptive_batch_norm`.
    """

    source_weight: float | jax.Array = 0.0

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
        update_running_average: bool | None = None,
    ) -> jax.Array:
        """As `BatchNorm`."""
        running, update = self._switches(use_running_average, update_running_average)
        if not running or self.is_initializing():
            return self._forward(batch_norm, x, mask, running, update, {})

        blend = functools.partial(adaptive_layer, source_weight=self.source_weight)
        return self._forward(blend, x, mask, True, False, {})


class DomainBatchNorm(BatchNorm):
    """Batch norm of several domains in one layer, each with running statistics of its own.

    ::

        y = (x - mean_d) / sqrt(var_d + epsilon) · scale_d + bias_d

    Attributes:
      domains: their number; `batch_stats` have a leading axis of that size.
      separate_affine: whether scale and bias are separate, too; else one of each serves all.

    All other attributes are those of `BatchNorm`.

    Example:
      >>> import jax, jax.numpy as jnp, jbn.linen
      >>> layer, x = jbn.linen.DomainBatchNorm(domains=2, momentum=0.0), jnp.array([[1.0], [3.0]])
      >>> variables = layer.init(jax.random.key(0), x, 0, use_running_average=False)
      >>> _, updates = layer.apply(variables, x, 1, use_running_average=False, mutable=["batch_stats"])
      >>> print(updates["batch_stats"]["mean"].ravel())
      [0. 2.]

    Reference: Chang et al. 2019 (https://arxiv.org/abs/1906.03950); Xie et al. 2020 (https://arxiv.org/abs/1911.09665).
    See `jbn.domain_batch_norm`.
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
        placement: Literal["before", "after"] = "before",
    ) -> jax.Array:
        """As `BatchNorm`, for the `domain` of this batch (`[]`, int) or of each example (`[batch]`)."""
        running, update = self._switches(use_running_average, update_running_average)
        within = dict(activation=activation, placement=placement)
        return self._forward(
            functools.partial(domain_batch_norm, domain=domain),
            x,
            mask,
            running,
            update,
            within,
            domains=self.domains,
            separate_affine=self.separate_affine,
        )
