"""Mean, variance and count of each feature, right also where the mean is large against the spread.

    mean = Σ x / n,    var = Σ |x - mean|² / n        (biased: divided by n)

The textbook shortcut E[x²] - E[x]² cancels: in float32, at mean 1e4 and unit variance, nothing of the variance is left.
Here the input is first shifted by a rough mean c, and one pass computes both sums of d = x - c:

    mean = c + E[d],    var = E[|d|²] - |E[d]|²

(the corrected two-pass algorithm; Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance"). Since
E[d] is about 0, little cancels. c need not be accurate, and is a constant to differentiation, because mean and var do
not depend on it.

Parts of a batch, on several devices or from several batches, combine exactly (Chan, Golub & LeVeque 1979).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jbn import _axes, _devices, _meshes
from jbn._axes import Axes, Axis, one_hot
from jbn._devices import AxisName, Groups
from jbn._dtypes import abs2
from jbn._kernels import power_sums, rough_mean, upcast
from jbn._shapes import Input, Mask, Parts, RealVector, Vector, checked
from jbn._typed import finfo


class Moments(NamedTuple):
    """Mean and biased variance of each feature, and over how many elements.

    Attributes:
      mean: `[*features]`, at least float32 (float64 or complex for such input).
      var: `[*features]`, real, at least float32; the mean squared distance from the mean (divided by `count`).
      count: float32, number of elements per feature: `[]`, or `[*features]` if the mask differs between features.
        0 means that nothing was seen; then mean and var are 0.

    Example:
      >>> import jax.numpy as jnp, jbn
      >>> m = jbn.moments(jnp.array([[1.0], [3.0], [100.0]]), where=jnp.array([[True], [True], [False]]))
      >>> print(m.mean, m.var, m.count)
      [2.] [1.] 2.0
    """

    mean: jax.Array
    var: jax.Array
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  (tuple.count)


@_meshes.by_compiler
def moments(
    x: jax.Array,
    *,
    axis: Axis = -1,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
    axis_index_groups: Groups = None,
) -> Moments:
    """Mean, biased variance and count of each feature of `x`.

    ::

        mean = Σ x / n,    var = Σ |x - mean|² / n

    Args:
      x: `[..., features, ...]`, floating or complex. Half precision is accumulated in float32.
      axis: the feature axis or axes, which are kept; all others are reduced.
      where: boolean, broadcastable to `x`: True where an element counts. What is False may hold anything, NaN included.
      axis_name: mapped axis or axes (vmap, shard_map, pmap) over which the batch is spread; the result is that of the
        whole batch, also for unequal counts, at the price of one collective. Under jit with sharded arrays the batch is
        global by itself, and this stays None.
      axis_index_groups: groups of indices of `axis_name`; each group is a batch of its own.

    Returns:
      Moments, in at least float32.

    Raises:
      ValueError: `x` is not floating or complex, `axis` does not fit its rank, or `where` its shape.

    Example:
      >>> import jax.numpy as jnp, jbn
      >>> m = jbn.moments(jnp.array([[1.0, 10.0], [3.0, 10.0]]))
      >>> print(m.mean, m.var, m.count)
      [ 2. 10.] [1. 0.] 2.0

    Reference: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance: analysis and recommendations".
    """
    mask = None if where is None else _axes.expand_mask(where, x.shape)
    return unshifted(*shifted_moments(upcast(x), _axes.canonical(axis, x.ndim), mask, axis_name, axis_index_groups))


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of two disjoint parts of a batch together: exact, associative, commutative.

    ::

        n = n_a + n_b,    mean = mean_a + (mean_b - mean_a)·n_b/n
        var = (n_a·var_a + n_b·var_b)/n + |mean_b - mean_a|²·n_a·n_b/n²

    Args:
      a: moments of one part.
      b: moments of the other, over the same features.

    Returns:
      Moments of both. Moments with count 0 are the identity.

    Raises:
      ValueError: moments over different features.

    Example:
      >>> import jax.numpy as jnp, jbn
      >>> x = jnp.arange(10.0).reshape(5, 2)
      >>> m = jbn.merge(jbn.moments(x[:2]), jbn.moments(x[2:]))
      >>> print(m.mean, m.var, m.count)
      [4. 5.] [8. 8.] 5.0

    Reference: Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """
    shapes = [(m.mean.shape, m.var.shape) for m in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"merge got moments over features of shape {a.mean.shape} and {b.mean.shape}; "
            "pass moments over the same features (the same axis of arrays alike)"
        )
    n = a.count + b.count
    share = b.count.astype(b.var.dtype) / jnp.maximum(n, 1).astype(b.var.dtype)  # of b; 0 where both are empty
    delta = b.mean - a.mean
    return Moments(
        a.mean + delta * share.astype(delta.dtype),
        a.var * (1 - share) + b.var * share + abs2(delta) * (share * (1 - share)),
        n,
    )


@checked
def shifted_moments(
    x: Input,
    axes: Axes,
    mask: Mask | None = None,
    axis_name: AxisName = None,
    axis_index_groups: Groups = None,
) -> tuple[Vector, Moments]:
    """As `moments`, but of `x - shift`, with the constant `shift` beside them.

    Batch norm is invariant to a shift of its input, so a caller that normalizes `x - shift` by these never rounds a
    large mean: x - shift is exact where x is close to shift (Sterbenz's lemma).

    Args:
      x: in the dtype of the arithmetic.
      axes: of `x`.
      mask: boolean, of the rank of `x`, or None.
      axis_name: as in `moments`, as are the groups.
      axis_index_groups: groups of its indices.

    Returns:
      shift `[*features]`, a constant to differentiation, and the moments of `x - shift`, whose mean is close to 0.
    """
    shift = rough_mean(x, axes, mask)
    if mask is not None:  # padding becomes the shift, so that it adds 0 to both sums
        x = jnp.where(mask, x, axes.expand(shift))
    first, second = power_sums(x, shift, axes)
    count = _axes.count(axes, x.shape, mask)
    weight = 1 / jnp.maximum(count, 1).astype(second.dtype)
    mean = first * weight.astype(x.dtype)
    var = _zero_rounding_noise(second * weight - abs2(mean), mean)
    if axis_name is None and axis_index_groups is None:
        return shift, Moments(mean, var, count)
    (shift, mean, var, count), mine = _devices.gather((shift, mean, var, count), axis_name, axis_index_groups)
    count = jnp.where(mine.reshape(-1, *[1] * (count.ndim - 1)), count, 0)
    return merge_all(shift, Moments(mean, var, count))


@checked
def unshifted(shift: Vector, centred: Moments) -> Moments:
    """The moments of x from those of x - shift."""
    return centred._replace(mean=shift + centred.mean)


@checked
def _zero_rounding_noise(var: RealVector, mean: Vector) -> RealVector:
    """`var`, but 0 where it is no larger than the rounding error of mean²: a constant feature has variance 0.

    Not by jnp.maximum, which would halve the derivative of a constant feature.
    """
    noise = 8 * finfo(var.dtype).eps * abs2(mean)
    return var - lax.stop_gradient(jnp.where(var <= noise, var, 0))


@checked
def merge_all(shift: Parts, parts: Moments) -> tuple[Vector, Moments]:
    """Merges moments that are stacked on a leading axis. Each is relative to its own shift, the result to one of these.

    The result's shift is that of the part with the largest count, since an empty part has shift 0, far from the data.
    """
    total = jnp.sum(parts.count, 0)
    chosen = one_hot(jnp.argmax(parts.count, 0), parts.count.shape[0])
    chosen = chosen.reshape(chosen.shape + (1,) * (shift.ndim - chosen.ndim))
    common = lax.stop_gradient(jnp.where(total > 0, jnp.sum(jnp.where(chosen, shift, 0), 0), 0))
    share = parts.count.astype(parts.var.dtype) / jnp.maximum(total, 1)[None].astype(parts.var.dtype)
    share = share.reshape(share.shape + (1,) * (parts.var.ndim - share.ndim))
    means = jnp.where(share > 0, lax.stop_gradient(shift - common[None]) + parts.mean, 0)
    mean = jnp.sum(share.astype(means.dtype) * means, 0)
    var = jnp.sum(share * jnp.where(share > 0, parts.var + abs2(means - mean[None]), 0), 0)
    return common, Moments(mean, _zero_rounding_noise(var, mean), total)
