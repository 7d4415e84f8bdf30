"""Batch normalization as a Flax linen module: variables in, one functional call, variables out; no arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype
from flax.linen.module import merge_param
from jax.nn import initializers
from jax.typing import DTypeLike

from jbn import _axes
from jbn._batch_norm import batch_norm, normalize_batch
from jbn._stats import BatchStats

Initializer = Callable[..., jax.Array]


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
      momentum: weight kept on the old running statistics; torch's 0.1 is 0.9 here.
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
    momentum: float = 0.99
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

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalizes `x`.

        Args:
          x: `[..., features, ...]`.
          use_running_average: as the attribute; give it in one of the two places.
          mask: boolean, broadcastable to `x`: True where an element counts.

        Returns:
          y, shaped as `x`. While the module is initialized the running statistics stay as they are, and `axis_name`
          need not exist.
        """
        use_running_average = merge_param("use_running_average", self.use_running_average, use_running_average)
        x = jnp.asarray(x)
        features = _axes.feature_shape(self.axis, x.shape)
        stats_dtype = jnp.float32 if self.force_float32_reductions else self.param_dtype
        mean = self.variable("batch_stats", "mean", jnp.zeros, features, stats_dtype)
        var = self.variable("batch_stats", "var", jnp.ones, features, stats_dtype)
        scale = self.param("scale", self.scale_init, features, self.param_dtype) if self.use_scale else None
        bias = self.param("bias", self.bias_init, features, self.param_dtype) if self.use_bias else None
        given = [a for a in (x, scale, bias) if a is not None]
        dtype = canonicalize_dtype(*given, dtype=self.dtype)

        # As in Flax, statistics made real turn complex with the input.
        running_mean = mean.value.astype(_axes.wide(x.dtype)) if jnp.iscomplexobj(x) else mean.value
        if self.is_initializing() and not use_running_average:
            return normalize_batch(x, scale, bias, epsilon=self.epsilon, axis=self.axis, where=mask, dtype=dtype)[0]
        y, stats, _ = batch_norm(
            x,
            scale,
            bias,
            BatchStats(running_mean, var.value),
            train=not use_running_average,
            momentum=self.momentum,
            epsilon=self.epsilon,
            axis=self.axis,
            where=mask,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            dtype=dtype,
        )
        if not use_running_average:
            if not self.is_mutable_collection("batch_stats"):
                raise ValueError(
                    f"{'/'.join(self.path) or 'BatchNorm'} is to update its running statistics, but batch_stats is not "
                    "mutable here; write y, updates = model.apply(variables, x, ..., mutable=['batch_stats']), or "
                    "use_running_average=True for inference"
                )
            assert stats is not None
            mean.value, var.value = stats
        return y
