"""What one batch shows of the activations of a network.

Pure functions of arrays: they may be jitted, and mapped over seeds. Activations are `[examples, ..., channels]`; a
channel's numbers are those of all examples and positions. Results are float32 (float64 of float64).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class ActivationStats(NamedTuple):
    """An activation over one batch; means are over channels.

    Attributes:
      input_mean: per channel, mean of the input, `[channels]`.
      input_std: per channel, standard deviation of the input (divided by n), `[channels]`.
      input_skewness: mean |skewness| of the input, `[]`; see `skewness`.
      skewness: mean |skewness| of the output, `[]`.
      saturation: mean of `saturation` of the output, `[]`, 0 to 1.
      sparsity: mean of `sparsity` of the output, `[]`, 0 to 1.
      saturated_share: see there, `[]`, 0 to 1; None without bounds.
      zero_share: share of the output that is exactly 0, `[]`, 0 to 1.
      dead: share of channels that are `dead`, `[]`, 0 to 1.
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
    """All of the below at once.

    Args:
      z: the activation's input.
      a: its output. Sparsity as published is that of the *block's* output: `sparsity` of whatever follows the norm.
      bounds: infimum and supremum of the activation: (-1.0, 1.0) of tanh, (0.0, 1.0) of sigmoid; None without.
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
    """How close the numbers of each channel come, on average, to the largest of them.

    ::

        t = mean |a| / max |a|

    1 where all are as large, 1/n where all but one of n are 0. A channel of zeros has 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from experiments.probes.activations import saturation
      >>> print(saturation(jnp.array([[1.0, 0.0], [-1.0, 4.0]])))
      [1.  0.5]

    Reference: Kim, Kim & Kim 2023, "Tanh Works Better with Asymmetry" (NeurIPS 2023).
    """
    size = jnp.abs(widened(a))
    largest = size.max(_over(a))
    # Divided before the sum, which numbers near the largest float would overflow.
    return (size / jnp.where(largest == 0, 1, largest)).mean(_over(a))


def sparsity(a: Float[Array, "examples *positions channels"]) -> Float[Array, " channels"]:
    """1 - `saturation`: near 1 where few numbers of the channel are far from 0. A channel of zeros has 1.

    Reference: Kim, Kim & Kim 2023, at the block's output: after the norm, where one follows the activation.
    """
    return 1 - saturation(a)


def saturated_share(
    a: Float[Array, "examples *positions channels"], bounds: tuple[float, float], margin: float = 0.05
) -> Float[Array, ""]:
    """Share of the numbers that lie within `margin` · (upper - lower) of a bound.

    By default tanh is saturated at |z| > 1.47 and sigmoid at |z| > 2.94, where the slope is below 19 % of its maximum:
    one notion for both, since sigmoid(2z) = (1 + tanh z) / 2.
    """
    lower, upper = bounds
    a, near = widened(a), margin * (upper - lower)
    return ((a <= lower + near) | (a >= upper - near)).mean(dtype=a.dtype)


def zero_share(a: Float[Array, "examples *positions channels"]) -> Float[Array, ""]:
    """Share of the numbers that are exactly 0."""
    return (a == 0).mean(dtype=widened(a).dtype)


def skewness(a: Float[Array, "examples *positions channels"]) -> Float[Array, " channels"]:
    """Skewness of each channel: E[(a - μ)³] / σ³, where μ = E[a] and σ² = E[(a - μ)²]; 0 of a constant channel.

    Its size does not depend on scale and shift of the channel. Kim, Kim & Kim 2023 average |skewness| over channels.
    """
    _, centered = _centered(a)
    largest = jnp.abs(centered).max(_over(a))
    centered = centered / jnp.where(largest == 0, 1, largest)  # or else the cubes underflow
    second, third = (centered**2).mean(_over(a)), (centered**3).mean(_over(a))
    return jnp.where(dead(a), 0, third / jnp.where(second == 0, 1, second) ** 1.5)


def dead(a: Float[Array, "examples *positions channels"]) -> Bool[Array, " channels"]:
    """Whether a channel is the same number everywhere, 0 or not: what it says of the examples is nothing.

    Exactly the same. A unit of GELU or tanh that is saturated for good can be almost, and is not counted.
    """
    return a.max(_over(a)) == a.min(_over(a))


def widened(a: Array) -> Array:
    """`a` in float32, or in its own dtype where that is wider."""
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def _over(a: Array) -> tuple[int, ...]:
    return tuple(range(a.ndim - 1))


def _centered(a: Array) -> tuple[Array, Array]:
    """Mean of each channel, and what is left without it."""
    a = widened(a)
    mean = a.mean(_over(a))
    centered = a - mean
    # The first mean is rounded to its own size, which may be large against the spread.
    rest = centered.mean(_over(a))
    return mean + rest, centered - rest
