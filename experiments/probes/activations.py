"""Statistics of a network's activations on one batch.

These are pure functions of arrays, for use under jit and vmap. Activations are `[examples, ..., channels]`; statistics
of a channel are taken over all examples and positions. Results are float32 (float64 for float64 input).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class ActivationStats(NamedTuple):
    """Statistics of one activation on one batch; "mean" without more is the mean over channels.

    Attributes:
      input_mean: mean of the input of each channel, `[channels]`.
      input_std: standard deviation of the input of each channel (divided by n), `[channels]`.
      input_skewness: mean absolute `skewness` of the input, `[]`.
      skewness: mean absolute `skewness` of the output, `[]`.
      saturation: mean of `saturation` of the output, `[]`, 0 to 1.
      sparsity: mean of `sparsity` of the output, `[]`, 0 to 1.
      saturated_share: `saturated_share` of the output, `[]`, 0 to 1; None without bounds.
      zero_share: fraction of the output that is exactly 0, `[]`, 0 to 1.
      dead: fraction of channels that are `dead`, `[]`, 0 to 1.
    """

    input_mean: Float[Array, " channels"]
    input_std: Float[Array, " channels"]
    input_skewness: Float[Array, ""]
    skewness: Float[Array, ""]
    saturation: Float[Array, ""]
    sparsity: Float[Array, ""]
    saturated_share: Float[Array, ""] | None
    zero_share: Float[Array, ""]
    dead: Float[Array, ""]


def activation_stats(
    z: Float[Array, "examples *positions channels"],
    a: Float[Array, "examples *positions channels"],
    bounds: tuple[float, float] | None = None,
    margin: float = 0.05,
) -> ActivationStats:
    """Computes all statistics of this file.

    Args:
      z: input of the activation.
      a: output of the activation. The published sparsity is that of the *block's* output, which is the norm's output
        if a norm follows: call `sparsity` on that.
      bounds: infimum and supremum of the activation, (-1.0, 1.0) for tanh, (0.0, 1.0) for sigmoid; None if unbounded.
      margin: see `saturated_share`.
    """
    mean, centered = _centered(z)
    return ActivationStats(
        input_mean=mean,
        input_std=jnp.sqrt((centered**2).mean(_over(z))),
        input_skewness=jnp.abs(skewness(z)).mean(),
        skewness=jnp.abs(skewness(a)).mean(),
        saturation=saturation(a).mean(),
        sparsity=sparsity(a).mean(),
        saturated_share=None if bounds is None else saturated_share(a, bounds, margin),
        zero_share=zero_share(a),
        dead=dead(a).mean(dtype=widened(a).dtype),
    )


def saturation(a: Float[Array, "examples *positions channels"]) -> Float[Array, " channels"]:
    """The mean absolute value of each channel, relative to its largest.

    ::

        t = mean |a| / max |a|

    It is 1 if all absolute values are equal, 1/n if all but one of n are 0, and 0 for a channel of zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> from experiments.probes.activations import saturation
      >>> print(saturation(jnp.array([[1.0, 0.0], [-1.0, 4.0]])))
      [1.  0.5]

    Reference: Kim, Kim & Kim 2023, "Tanh Works Better with Asymmetry" (NeurIPS 2023).
    """
    size = jnp.abs(widened(a))
    largest = size.max(_over(a))
    # Division comes before the sum, because the sum of values near the largest float would overflow.
    return (size / jnp.where(largest == 0, 1, largest)).mean(_over(a))


def sparsity(a: Float[Array, "examples *positions channels"]) -> Float[Array, " channels"]:
    """1 - `saturation`: close to 1 if few values of the channel are far from 0; 1 for a channel of zeros.

    Reference: Kim, Kim & Kim 2023, who measure it at the block's output: after the norm, if one follows the activation.
    """
    return 1 - saturation(a)


def saturated_share(
    a: Float[Array, "examples *positions channels"], bounds: tuple[float, float], margin: float = 0.05
) -> Float[Array, ""]:
    """Fraction of the values that lie within `margin` · (upper - lower) of a bound.

    By default tanh counts as saturated beyond z = ±1.47 and sigmoid beyond ±2.94, where the slope is below 19 % of its
    maximum. The two thresholds agree, since sigmoid(2z) = (1 + tanh z) / 2.
    """
    lower, upper = bounds
    a, near = widened(a), margin * (upper - lower)
    return ((a <= lower + near) | (a >= upper - near)).mean(dtype=a.dtype)


def zero_share(a: Float[Array, "examples *positions channels"]) -> Float[Array, ""]:
    """Fraction of the values that are exactly 0."""
    return (a == 0).mean(dtype=widened(a).dtype)


def skewness(a: Float[Array, "examples *positions channels"]) -> Float[Array, " channels"]:
    """Skewness of each channel: E[(a - μ)³] / σ³, where μ = E[a] and σ² = E[(a - μ)²]; 0 for a constant channel.

    Its absolute value is invariant to scale and shift. Kim, Kim & Kim 2023 average that over channels.
    """
    _, centered = _centered(a)
    largest = jnp.abs(centered).max(_over(a))
    centered = centered / jnp.where(largest == 0, 1, largest)  # otherwise cubes of small values would underflow
    second, third = (centered**2).mean(_over(a)), (centered**3).mean(_over(a))
    return jnp.where(dead(a), 0, third / jnp.where(second == 0, 1, second) ** 1.5)


def dead(a: Float[Array, "examples *positions channels"]) -> Bool[Array, " channels"]:
    """Whether a channel has exactly the same value everywhere, 0 or not, and so carries no information.

    A saturated unit of GELU or tanh can be almost constant; it does not count as dead.
    """
    return a.max(_over(a)) == a.min(_over(a))


def widened(a: Array) -> Array:
    """Casts `a` to float32, unless its dtype is wider."""
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def _over(a: Array) -> tuple[int, ...]:
    return tuple(range(a.ndim - 1))


def _centered(a: Array) -> tuple[Array, Array]:
    """The mean of each channel, and `a` minus that mean."""
    a = widened(a)
    mean = a.mean(_over(a))
    centered = a - mean
    # The rounding error of the first mean is relative to the mean, which may be much larger than the deviations.
    rest = centered.mean(_over(a))
    return mean + rest, centered - rest
