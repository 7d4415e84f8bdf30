"""Batch normalization on one page: moments, normalize, running statistics.

    training:    y = (x - E[x]) / sqrt(Var[x] + epsilon) · scale + bias,    stats follow E[x] and Var[x]
    inference:   y = (x - stats.mean) / sqrt(stats.var + epsilon) · scale + bias

Backpropagation needs the input and per-feature vectors, no more, so that is all that is kept: the forward pass is a
checkpoint whose moments are saved and whose large arrays are computed again. An activation beside the norm joins it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jbn import _axes, _dtypes, _meshes, _running_stats
from jbn._axes import Axis
from jbn._dtypes import abs2
from jbn._kernels import fusion_barrier, upcast
from jbn._kernels.plain import checkpoint, named
from jbn._moments import Moments, axis_members, moments, shifted_moments
from jbn._normalize import check_features, normalize_shifted
from jbn._refusal import refused
from jbn._running_stats import BatchStats, Momentum, Variance, update_stats
from jbn._virtual_batches import Ragged, VirtualBatches, virtual_batches

Activation = Callable[[jax.Array], jax.Array]
# What has the feature shape, broadcastable against moments of virtual batches.
Share = Callable[[Any], Any]
# scale and bias, changed by the moments (relative to a shift) that the batch is normalized by.
Correction = Callable[[Any, Any, jax.Array, Moments, Share], tuple[Any, Any]]

SAVE_MOMENTS = jax.checkpoint_policies.save_only_these_names("jbn_moments")


class Info(NamedTuple):
    """What a call measured; None where it measured nothing, because it took no statistics of the batch.

    Attributes:
      moments: mean, biased variance and effective count of this batch.
      drift: `[*features]`, distance of the batch mean from the running mean, in running standard deviations.
      var_to_epsilon: `[]`, the smallest variance of a feature over epsilon; below 1, epsilon and not the batch decides.
      dead: `[*features]`, bool, True where all the batch has one value (variance 0), so that y is bias.
      cancellation: `[*features]`, |mean|²/(var + epsilon): the factor by which E[x²] - E[x]² would have lost precision.
      skipped: `[]`, int32, batches left out so far, with `skip_nonfinite`.
    """

    moments: Moments | None = None
    drift: jax.Array | None = None
    var_to_epsilon: jax.Array | None = None
    dead: jax.Array | None = None
    cancellation: jax.Array | None = None
    skipped: jax.Array | None = None


@_meshes.by_compiler
def batch_norm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    stats: BatchStats | None,
    *,
    train: bool,
    use_running_average: bool | None = None,
    update: bool | None = None,
    trainable: bool = True,
    momentum: Momentum = 0.99,
    debias: bool = False,
    variance: Variance = "biased",
    skip_nonfinite: bool = False,
    accumulate_steps: int = 1,
    epsilon: float = 1e-5,
    axis: Axis = -1,
    where: jax.Array | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    virtual_batch_size: int | None = None,
    ragged_groups: Ragged = "refuse",
    activation: Activation | None = None,
    placement: Literal["before", "after"] = "before",
    dtype: DTypeLike | None = None,
    correction: Correction | None = None,
) -> tuple[jax.Array, BatchStats | None, Info]:
    """Batch normalization: a pure function of input, parameters and running statistics.

    ::

        train:  y = (x - E[x]) / sqrt(Var[x] + epsilon) · scale + bias,   stats ← momentum·stats + (1 - momentum)·batch
        else:   y = (x - stats.mean) / sqrt(stats.var + epsilon) · scale + bias

    `train` sets two of three switches: which statistics normalize, and whether the running ones are updated. The third
    is whether scale and bias are trained. All eight combinations work.

    Args:
      x: `[..., features, ...]`, floating or complex.
      scale: gamma, `[*features]`, or None for 1.
      bias: beta, `[*features]`, or None for 0.
      stats: running statistics, or None to keep none (where the batch normalizes).
      train: True normalizes by the batch's statistics and updates the running ones; False uses the running ones. Like
        the other options that are not arrays it is static: a Python value, not a traced one.
      use_running_average: normalize by the running statistics; by default where not `train`.
      update: update the running statistics by this batch; by default where `train`.
      trainable: False makes scale and bias constants to differentiation. With `train=False` that is frozen batch norm:
        an affine map, whose gradient dx = dy · scale / sqrt(stats.var + epsilon) takes no pass over the batch.
      momentum: weight kept on the old running statistics (Flax's meaning; torch's 0.1 is 0.9 here); None for the
        cumulative average, or a function of the step. See `update_stats`, also for the next four.
      debias: right from the first batch on.
      variance: "biased" or "unbiased" running variance. The batch is normalized by the biased one in any case.
      skip_nonfinite: leave batches with NaN or infinity out of the running statistics, and count them.
      accumulate_steps: micro-batches for each update of the running statistics, in step with optax.MultiSteps.
      epsilon: added to the variance.
      axis: the feature axis or axes, which are kept.
      where: boolean (or integers 0 and 1), broadcastable to `x`: True where an element counts. Masked elements have no
        part in the statistics; they are normalized like the others, and come out as bias, as a constant, where they
        would not come out finite. Of traced integers, whose values cannot be checked, those that are 1 count.
      axis_name: mapped axis or axes that the batch is spread over (vmap, shard_map, pmap). Not for jit with sharded
        arrays, where the batch is global by itself.
      axis_index_groups: groups of indices of `axis_name`, each a batch of its own.
      virtual_batch_size: examples in a virtual batch: the first reduced axis is groups into groups of that many, each
        normalized by its own statistics (ghost batch norm, Hoffer et al. 2017). With `axis_name`, group i is that of
        all devices together. The running statistics follow the whole batch.
      ragged_groups: what to do where that does not divide the batch: "refuse", or "exact", where the last group has
        the rest.
      activation: function of arrays, element by element, such as `jax.nn.relu`, applied within: backpropagation then
        keeps x alone for both, where batch norm and activation one after another keep twice or thrice that.
      placement: where the norm sits around that activation: "before", activation(norm(x)), or "after",
        norm(activation(x)).
      dtype: of y; by default that of `x`. Statistics are float32 or wider in any case.
      correction: called with scale, bias (or None), a shift, the moments of x - shift by which the batch is
        normalized, and a function that makes what has the feature shape broadcast against them (virtual batches add an
        axis); returns the scale and bias to use. For variants such as `batch_renorm`.

    Returns:
      y, shaped as `x`; the new running statistics, which carry no gradient (unchanged without `update`); and Info. On a
      mesh with explicit axes, y is spread as `x` is, and the statistics as they were (JAX takes gradients there within
      `jit` or `jax.set_mesh`).

    Raises:
      ValueError: shapes that do not fit, options that contradict each other, no `stats` where they are needed, a mask
        of weights, or one value per feature to take statistics of (by whoever computes: `jax.eval_shape` passes).
      TypeError: a static option that is traced.

    Example:
      >>> import jax, jax.numpy as jnp, jbn
      >>> x = 1e4 + jax.random.normal(jax.random.key(0), (512, 3))
      >>> y, stats, info = jbn.batch_norm(x, jnp.ones(3), jnp.zeros(3), jbn.init_stats(3), train=True)
      >>> print(y.std(0).round(3), info.moments.count)
      [1. 1. 1.] 512.0

    Reference: Ioffe & Szegedy 2015, "Batch Normalization", Algorithms 1 and 2 (https://arxiv.org/abs/1502.03167).

    Differs from Flax: right for large means, right for masks together with `axis_name`, and NaN in padding stays there;
    one value per feature, whose variance is 0, is refused in training, where Flax returns the bias.

    `jax.experimental.jet` goes through a call, also one under `jax.jit`; but a function under `jax.jit` that was called
    before without jet keeps a trace that jet cannot follow: jit a new function for it.
    """
    _axes.check_static(
        train=train,
        use_running_average=use_running_average,
        update=update,
        trainable=trainable,
        debias=debias,
        skip_nonfinite=skip_nonfinite,
        accumulate_steps=accumulate_steps,
        virtual_batch_size=virtual_batch_size,
    )
    for name, value in (("scale", scale), ("bias", bias)):
        check_features(name, value, axis, x.shape)
    where = None if where is None else _axes.expand_mask(where, x.shape)
    if stats is not None:
        check_features("stats.mean", stats.mean, axis, x.shape)
        check_features("stats.var", stats.var, axis, x.shape)
    if placement not in ("before", "after"):
        raise ValueError(f"placement is {placement!r}; write 'before' or 'after': the norm before or after activation")
    if ragged_groups not in ("refuse", "exact"):
        raise ValueError(f"ragged_groups is {ragged_groups!r}; write 'refuse' or 'exact'")
    running = not train if use_running_average is None else use_running_average
    update = train if update is None else update
    if not trainable:
        scale, bias = lax.stop_gradient((scale, bias))
    if running and stats is None:
        raise ValueError(
            f"stats is None and {'train is False' if not train else 'use_running_average is True'}; write running "
            "statistics, such as jbn.init_stats(n)"
        )
    if not running or update:
        groups = None if running else _split(x.shape, axis, virtual_batch_size)
        if groups is not None and ragged_groups == "refuse" and (error := groups.ragged):
            x = refused(x, error)
        remedy = "train=False to normalize by the running statistics"
        x = refuse_one_value(x, axis, groups, axis_name, axis_index_groups, who="training", remedy=remedy)

    fixed: dict[str, Any] = dict(
        epsilon=epsilon, axis=axis, where=where, activation=activation, placement=placement, dtype=dtype
    )
    spread: dict[str, Any] = dict(axis_name=axis_name, axis_index_groups=axis_index_groups)
    batch = None
    if running:
        assert stats is not None
        y = _by_running(x, scale, bias, lax.stop_gradient((stats.mean, stats.var)), **fixed)
        if update:
            given = lax.stop_gradient(x)
            given = _activate(activation, given, where) if activation and placement == "after" else given
            batch = moments(given, axis=axis, where=where, **spread)
    else:
        y, batch = normalize_batch(
            x,
            scale,
            bias,
            **fixed,
            **spread,
            virtual_batch_size=virtual_batch_size,
            correction=correction,
        )
        # Out of an eager checkpoint, a count that is a constant comes as a literal.
        batch = lax.stop_gradient(jax.tree.map(jnp.asarray, batch))
    info = _info(batch, stats, epsilon)
    if stats is None or batch is None or not update:
        return y, stats, info
    stats = update_stats(
        stats,
        batch,
        momentum=momentum,
        debias=debias,
        variance=variance,
        skip_nonfinite=skip_nonfinite,
        accumulate_steps=accumulate_steps,
    )
    return y, stats, info._replace(skipped=stats.skipped)


@_meshes.by_compiler
def normalize_batch(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    epsilon: float,
    axis: Axis,
    where: jax.Array | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    virtual_batch_size: int | None = None,
    activation: Activation | None = None,
    placement: Literal["before", "after"] = "before",
    dtype: DTypeLike | None = None,
    correction: Correction | None = None,
) -> tuple[jax.Array, Moments]:
    """`x` normalized by its own moments, and these; the stateless half of `batch_norm`."""
    groups = _split(x.shape, axis, virtual_batch_size)

    def norm(x, scale, bias, where, dtype):
        if groups is None:
            features, mask, padding = axis, where, where
        else:
            features, mask = groups.axis, groups.split_mask(where)
            padding = None if where is None else mask
            x, scale, bias = groups.split(x), groups.expand_params(scale), groups.expand_params(bias)
        # Widened for both, so that what comes back from both is added before it is rounded.
        dtype, x = x.dtype if dtype is None else dtype, upcast(x)
        measured = shifted_moments(
            x, axis=features, where=mask, axis_name=axis_name, axis_index_groups=axis_index_groups
        )
        shift, centred = named(measured, "jbn_moments")
        if correction is not None:
            scale, bias = correction(
                scale, bias, shift, centred, lambda v: v if groups is None else groups.expand_params(v)
            )
        y = normalize_shifted(
            x,
            shift,
            centred.mean,
            centred.var,
            scale,
            bias,
            epsilon=epsilon,
            axis=features,
            where=padding,
            dtype=dtype,
        )
        if groups is not None:
            y, (shift, centred) = groups.unsplit(y), groups.merge(shift, centred, where)
        return y, centred._replace(mean=shift + centred.mean)

    def forward(x, scale, bias, where):
        return _with_activation(activation, placement, norm, x, scale, bias, where, dtype)

    return checkpoint(forward, fusion_barrier(x), scale, bias, where, policy=SAVE_MOMENTS)


def _by_running(x, scale, bias, running, *, where, axis, epsilon, activation, placement, dtype) -> jax.Array:
    mean, var = running

    def norm(x, scale, bias, where, dtype):
        y = normalize_shifted(x, mean, None, var, scale, bias, epsilon=epsilon, axis=axis, where=where, dtype=dtype)
        return y, None

    def forward(x, scale, bias, where):
        return _with_activation(activation, placement, norm, x, scale, bias, where, dtype)[0]

    return checkpoint(forward, x, scale, bias, where)


def _with_activation(activation, placement, norm, x, scale, bias, where, dtype):
    """`norm` with the activation on its side; between the two the numbers stay in float32 or wider."""
    if activation is None:
        return norm(x, scale, bias, where, dtype)
    wide = _dtypes.wide(*(a.dtype for a in (x, scale, bias) if a is not None))
    if placement == "after":
        return norm(_activate(activation, x, where), scale, bias, where, x.dtype if dtype is None else dtype)
    y, measured = norm(x, scale, bias, where, wide)
    return _activate(activation, y, where).astype(x.dtype if dtype is None else dtype), measured


def _activate(activation: Activation, x: jax.Array, where: jax.Array | None) -> jax.Array:
    """The activation in float32 or wider, of 0 where padding would give it a derivative that is not finite."""
    x = x.astype(_dtypes.wide(x.dtype))
    if where is not None:
        value, slope = jax.jvp(activation, (fixed := lax.stop_gradient(x),), (jnp.ones_like(fixed),))
        keep = _axes.expand_mask(where, x.shape) | (jnp.isfinite(value) & jnp.isfinite(slope))
        x = jnp.where(keep, x, 0)
    return activation(x)


def _info(batch: Moments | None, stats: BatchStats | None, epsilon: float) -> Info:
    if batch is None:
        return Info()
    mean2 = abs2(batch.mean)
    return Info(
        moments=batch,
        drift=None if stats is None else _running_stats.drift(stats, batch, epsilon=epsilon),
        var_to_epsilon=jnp.min(batch.var, initial=jnp.inf) / epsilon,
        dead=(batch.var == 0) & (batch.count > 0),
        cancellation=mean2 / (batch.var + jnp.asarray(epsilon, batch.var.dtype)),
    )


def _split(shape, axis, virtual_batch_size) -> VirtualBatches | None:
    return None if virtual_batch_size is None else virtual_batches(tuple(shape), axis, virtual_batch_size)


def refuse_one_value(x, axis, groups: VirtualBatches | None, axis_name, axis_index_groups, *, who: str, remedy: str):
    """`x`, not to be computed where each feature has one value: its variance is 0, and y would be bias, whatever x."""
    sizes = {a: x.shape[a] for a in _axes.reduction_axes(axis, x.ndim)}
    what = f"an input of shape {tuple(x.shape)} with axis={axis}"
    if groups is not None:
        sizes[groups.batch] = groups.smallest
        what = f"a virtual batch of {groups.smallest} of {what}"
    if math.prod(sizes.values()) != 1 or (axis_name is not None and axis_members(axis_name, axis_index_groups) > 1):
        return x
    return refused(
        x,
        f"{what} has 1 value per feature, and {who} takes statistics of more than one: the variance would be 0 "
        f"and the output bias; write a larger batch, axis_name=... to share statistics between devices, or {remedy}",
    )
