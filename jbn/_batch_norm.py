"""Batch normalization on one page: moments, normalize, running statistics.

    training:    y = (x - E[x]) / sqrt(Var[x] + epsilon) · scale + bias,    stats follow E[x] and Var[x]
    inference:   y = (x - stats.mean) / sqrt(stats.var + epsilon) · scale + bias

Backpropagation keeps only the input and one vector per feature for each moment: the forward pass is a checkpoint that
saves the moments and recomputes all large arrays. An activation given to `batch_norm` is part of the same checkpoint.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jbn import _axes, _devices, _dtypes, _meshes
from jbn._activation import Activation, Side, activate, with_activation
from jbn._axes import Axes, Axis
from jbn._devices import AxisName, Groups
from jbn._dtypes import abs2
from jbn._kernels import fusion_barrier, upcast
from jbn._kernels.plain import checkpoint, named
from jbn._moments import Moments, shifted_moments, unshifted
from jbn._normalize import normalize_shifted
from jbn._refusal import refused
from jbn._running_stats import BatchStats, Momentum, UpdateRule, Variance, drift, follow
from jbn._virtual_batches import Ragged, VirtualBatches, virtual_batches

Vector = jax.Array | None
# scale, bias, a shift, and the moments of x - shift that normalize each batch -> scale and bias to use.
Correction = Callable[[Vector, Vector, jax.Array, Moments, VirtualBatches | None], tuple[Vector, Vector]]
_correction: ContextVar[Correction | None] = ContextVar("jbn_correction", default=None)

SAVE_MOMENTS = jax.checkpoint_policies.save_only_these_names("jbn_moments")


class Info(NamedTuple):
    """What a call measured. Fields are None where the call took no statistics of the batch.

    Attributes:
      moments: mean, biased variance and effective count of this batch.
      drift: `[*features]`, distance of the batch mean from the running mean, in running standard deviations.
      var_to_epsilon: `[]`, the smallest variance of a feature over epsilon; below 1, epsilon dominates.
      dead: `[*features]`, bool, True where the whole batch has a single value (variance 0): then y is bias.
      cancellation: `[*features]`, `|mean|²/(var + epsilon)`: the factor by which E[x²] - E[x]² would lose precision.
      skipped: `[]`, int32, batches left out so far, with `skip_nonfinite`.

    Example:
      >>> import jax.numpy as jnp, jbn
      >>> x = jnp.array([[1.0, 5.0], [3.0, 5.0]])
      >>> _, _, info = jbn.batch_norm(x, None, None, jbn.init_stats(2), train=True)
      >>> print(info.moments.mean, info.dead)
      [2. 5.] [False  True]
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
    epsilon: float | jax.Array = 1e-5,
    axis: Axis = -1,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    axis_index_groups: Groups = None,
    virtual_batch_size: int | None = None,
    ragged_groups: Ragged = "refuse",
    activation: Activation | None = None,
    placement: Side = "before",
    dtype: DTypeLike | None = None,
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
      debias: divide by the total weight, so that the running statistics are right from the first batch on.
      variance: "biased" or "unbiased" running variance. The batch is normalized by the biased one in any case.
      skip_nonfinite: leave batches with NaN or infinity out of the running statistics, and count them.
      accumulate_steps: micro-batches for each update of the running statistics, in step with optax.MultiSteps.
      epsilon: added to the variance; may be traced.
      axis: the feature axis or axes, which are kept.
      where: boolean (or integers 0 and 1), broadcastable to `x`: True where an element counts. Masked elements do not
        enter the statistics. They are normalized like the others; where the result would not be finite, it is bias, as
        a constant. In a traced integer mask, whose values cannot be checked, 1 counts.
      axis_name: mapped axis or axes that the batch is spread over (vmap, shard_map, pmap). Not for jit with sharded
        arrays, where the batch is global by itself.
      axis_index_groups: groups of indices of `axis_name`, each a batch of its own.
      virtual_batch_size: examples in a virtual batch: the first reduced axis is cut into groups of that size, and
        each is normalized by its own statistics (ghost batch norm, Hoffer et al. 2017). With `axis_name`, group i holds
        the i-th groups of all devices. The running statistics follow the whole batch.
      ragged_groups: what to do if that does not divide the batch: "refuse" raises an error, "exact" makes the last
        group smaller.
      activation: elementwise function, such as `jax.nn.relu`, applied inside this call: backpropagation then keeps
        only x for both, where separate calls of batch norm and activation keep two or three such arrays.
      placement: where the norm sits around that activation: "before", activation(norm(x)), or "after",
        norm(activation(x)).
      dtype: of y; by default that of `x`. Statistics are float32 or wider in any case.

    Returns:
      y, shaped as `x`; the new running statistics, which carry no gradient (unchanged without `update`); and Info. On a
      mesh with explicit axes, y is spread as `x` is, and the statistics as they were (JAX takes gradients there within
      `jax.jit` or `jax.set_mesh`).

    Raises:
      ValueError: shapes that do not fit, options that contradict each other, no `stats` where they are needed, a mask
        of weights, or one value per feature to take statistics of (when it is computed: `jax.eval_shape` passes).
      TypeError: a static option that is traced.

    Example:
      >>> import jax, jax.numpy as jnp, jbn
      >>> x = 1e4 + jax.random.normal(jax.random.key(0), (512, 3))
      >>> y, stats, info = jbn.batch_norm(x, jnp.ones(3), jnp.zeros(3), jbn.init_stats(3), train=True)
      >>> print(y.std(0).round(3), info.moments.count)
      [1. 1. 1.] 512.0

    Reference: Ioffe & Szegedy 2015, "Batch Normalization", Algorithms 1 and 2 (https://arxiv.org/abs/1502.03167).

    Differs from Flax: the variance is right for large means, and for masks together with `axis_name`; NaN in padding
    stays there; and training on one value per feature, whose variance is 0, raises an error, where Flax returns bias.

    `jax.experimental.jet` goes through a call, also one under `jax.jit`; but a function under `jax.jit` that was called
    before without jet keeps a trace that jet cannot follow: jit a new function for it.
    """
    _axes.check_static(train=train, use_running_average=use_running_average, update=update, trainable=trainable)
    running = not train if use_running_average is None else use_running_average
    update = train if update is None else update
    axes, rule = _axes.canonical(axis, x.ndim), UpdateRule(momentum, debias, variance, skip_nonfinite, accumulate_steps)
    if (error := _disagreement(stats, train, running, placement, ragged_groups)) is not None:
        raise ValueError(error)
    _axes.check_features(axes, x.shape, scale=scale, bias=bias)
    if stats is not None:
        _axes.check_features(axes, x.shape, **{"stats.mean": stats.mean, "stats.var": stats.var})
    where = None if where is None else _axes.expand_mask(where, x.shape)
    groups = None
    if virtual_batch_size is not None and not running:
        groups = virtual_batches(x.shape, axes, virtual_batch_size)
    if groups is not None and ragged_groups == "refuse" and (error := groups.ragged):
        x = refused(x, error)
    how = How(axes, where, axis_name, axis_index_groups, groups, activation, placement, epsilon, dtype)
    if not running or update:
        x = refuse_one_value(x, how, "training", "train=False to normalize by the running statistics")
    if not trainable:
        scale, bias = lax.stop_gradient((scale, bias))

    if running:
        assert stats is not None
        y = _normalize_by_running(x, scale, bias, stats, how)
        batch = _moments_of_constant(x, how) if update else None
    else:
        correction = _correction.get()
        with corrected(None):  # it is for this call, and not for a batch norm within the activation
            y, batch = _normalize_by_batch(x, scale, bias, how, correction)
    info = _info(batch, stats, epsilon)
    if stats is None or batch is None or not update:
        return y, stats, info
    stats = follow(stats, batch, rule)
    return y, stats, info._replace(skipped=stats.skipped)


class How(NamedTuple):
    """The options of `batch_norm` that say how an input is normalized, in canonical form."""

    axes: Axes
    where: jax.Array | None = None
    axis_name: AxisName = None
    axis_index_groups: Groups = None
    groups: VirtualBatches | None = None
    activation: Activation | None = None
    placement: Side = "before"
    epsilon: float | jax.Array = 1e-5
    dtype: DTypeLike | None = None

    def dtypes(self, x: jax.Array, scale: Vector, bias: Vector) -> tuple[DTypeLike, DTypeLike]:
        """Of y, and of the arithmetic."""
        wide = _dtypes.wide(*(a.dtype for a in (x, scale, bias) if a is not None))
        return x.dtype if self.dtype is None else self.dtype, wide


def _normalize_by_batch(
    x: jax.Array, scale: Vector, bias: Vector, how: How, correction: Correction | None
) -> tuple[jax.Array, Moments]:
    """`x` normalized by its own moments, and these."""
    groups, dtypes = how.groups, how.dtypes(x, scale, bias)

    def forward(x: jax.Array, scale: Vector, bias: Vector, where: jax.Array | None) -> tuple[jax.Array, Moments]:
        def norm(x: jax.Array, dtype: DTypeLike) -> tuple[jax.Array, Moments]:
            axes, mask, padding, gamma, beta = how.axes, where, where, scale, bias
            if groups is not None:
                axes, mask = groups.axes, groups.split_mask(where)
                padding = None if where is None else mask
                x, gamma, beta = groups.split(x), groups.expand_params(scale), groups.expand_params(bias)
            x = upcast(x)  # before both passes, so that their cotangents are added before they are rounded
            measured = shifted_moments(x, axes, mask, how.axis_name, how.axis_index_groups)
            shift, m = named(measured, "jbn_moments")
            if correction is not None:
                gamma, beta = correction(gamma, beta, shift, m, groups)
            y = normalize_shifted(x, shift, m.mean, m.var, gamma, beta, axes, padding, how.epsilon, dtype)
            if groups is not None:
                y, (shift, m) = groups.unsplit(y), groups.merge(shift, m, where)
            return y, unshifted(shift, m)

        return with_activation(how.activation, how.placement, norm, x, where, *dtypes)

    y, batch = checkpoint(forward, fusion_barrier(x), scale, bias, how.where, policy=SAVE_MOMENTS)
    # An eager checkpoint returns a constant count as a Python literal.
    return y, lax.stop_gradient(Moments(*map(jnp.asarray, batch)))


def _normalize_by_running(x: jax.Array, scale: Vector, bias: Vector, stats: BatchStats, how: How) -> jax.Array:
    """`x` normalized by the running statistics, which are constants."""
    mean, var = lax.stop_gradient((stats.mean, stats.var))
    dtypes = how.dtypes(x, scale, bias)

    def forward(x: jax.Array, scale: Vector, bias: Vector, where: jax.Array | None) -> tuple[jax.Array, None]:
        def norm(x: jax.Array, dtype: DTypeLike) -> tuple[jax.Array, None]:
            return normalize_shifted(x, mean, None, var, scale, bias, how.axes, where, how.epsilon, dtype), None

        return with_activation(how.activation, how.placement, norm, x, where, *dtypes)

    return checkpoint(forward, x, scale, bias, how.where)[0]


def _moments_of_constant(x: jax.Array, how: How) -> Moments:
    """The moments of the norm's input, without a gradient."""
    x = lax.stop_gradient(x)
    if how.activation is not None and how.placement == "after":
        x = activate(how.activation, x, how.where)
    return unshifted(*shifted_moments(upcast(x), how.axes, how.where, how.axis_name, how.axis_index_groups))


def _info(batch: Moments | None, stats: BatchStats | None, epsilon: float | jax.Array) -> Info:
    if batch is None:
        return Info()
    epsilon = jnp.asarray(epsilon, batch.var.dtype)
    return Info(
        moments=batch,
        drift=None if stats is None else drift(stats, batch, epsilon=epsilon),
        var_to_epsilon=jnp.min(batch.var, initial=jnp.inf) / epsilon,
        dead=(batch.var == 0) & (batch.count > 0),
        cancellation=abs2(batch.mean) / (batch.var + epsilon),
    )


@contextlib.contextmanager
def corrected(by: Correction | None) -> Generator[None]:
    """A context in which `batch_norm` passes scale and bias through `by`, together with the moments of the batch."""
    token = _correction.set(by)
    try:
        yield
    finally:
        _correction.reset(token)


def _disagreement(
    stats: BatchStats | None, train: bool, running: bool, placement: str, ragged_groups: str
) -> str | None:
    """The error message for options that contradict each other, or None."""
    if placement not in ("before", "after"):
        return f"placement is {placement!r}; choose 'before' or 'after': the norm before or after activation"
    if ragged_groups not in ("refuse", "exact"):
        return f"ragged_groups is {ragged_groups!r}; choose 'refuse' or 'exact'"
    if running and stats is None:
        option = "train is False" if not train else "use_running_average is True"
        return f"stats is None and {option}; pass running statistics, such as jbn.init_stats(n)"
    return None


def refuse_one_value(x: jax.Array, how: How, who: str, remedy: str) -> jax.Array:
    """`x`, with an error when it is computed if each feature has one value: then y would be bias, whatever x is."""
    sizes = {a: x.shape[a] for a in how.axes.reduced}
    if how.groups is not None:
        sizes[how.groups.batch] = how.groups.smallest
    one = math.prod(sizes.values()) == 1 and _devices.members(how.axis_name, how.axis_index_groups) == 1
    return refused(x, _one_value(x, how, who, remedy)) if one else x


def _one_value(x: jax.Array, how: How, who: str, remedy: str) -> str:
    what = "" if how.groups is None else f"a virtual batch of {how.groups.smallest} of "
    return (
        f"{what}an input of shape {tuple(x.shape)} with axis={how.axes.given} has 1 value per feature, and {who} takes "
        "statistics of more than one: the variance would be 0 and the output bias; pass a larger batch, "
        f"axis_name=... to share statistics between devices, or {remedy}"
    )
