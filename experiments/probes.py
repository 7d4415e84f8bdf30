"""What one batch shows of a network: its activations, its gradients, and the loss along them.

Pure functions of arrays: they may be jitted, and mapped over seeds. Activations are `[examples, ..., channels]`; a
channel's numbers are those of all examples and positions. Results are float32 (float64 of float64).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

# Of the names in a network, those that do not sort in the order of the forward pass: see `experiments.networks`.
_LAST = ("final_norm", "head")


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
        dead=dead(a).mean(dtype=_wide(a).dtype),
    )


def saturation(a: Float[Array, "examples *positions channels"]) -> Float[Array, " channels"]:
    """How close the numbers of each channel come, on average, to the largest of them.

    ::

        t = mean |a| / max |a|

    1 where all are as large, 1/n where all but one of n are 0. A channel of zeros has 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from experiments.probes import saturation
      >>> print(saturation(jnp.array([[1.0, 0.0], [-1.0, 4.0]])))
      [1.  0.5]

    Reference: Kim, Kim & Kim 2023, "Tanh Works Better with Asymmetry" (NeurIPS 2023).
    """
    size = jnp.abs(_wide(a))
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
    a, near = _wide(a), margin * (upper - lower)
    return ((a <= lower + near) | (a >= upper - near)).mean(dtype=a.dtype)


def zero_share(a: Float[Array, "examples *positions channels"]) -> Float[Array, ""]:
    """Share of the numbers that are exactly 0."""
    return (a == 0).mean(dtype=_wide(a).dtype)


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


def gradient_norms(grads: PyTree) -> OrderedDict[str, Float[Array, ""]]:
    """Euclidean norm of the gradient of each module's parameters, kernel and bias together.

    Norms are modules of their own, so that their scale and bias are apart from the layer's parameters.

    Returns:
      By the module's path, such as "block_0/layer", "block_0/norm", "head". Blocks come in the order of the forward
      pass, modules of one block by name; the order outlives jit and vmap, which sort a plain dict by name.

    Example:
      >>> import jax.numpy as jnp
      >>> from experiments.probes import gradient_norms
      >>> grads = {"head": {"kernel": jnp.array([[3.0]]), "bias": jnp.array([4.0])}}
      >>> {name: float(norm) for name, norm in gradient_norms(grads).items()}
      {'head': 5.0}
    """
    return OrderedDict((name, _norm(leaves.values())) for name, leaves in _modules(grads).items())


def mean_logit_gradients(
    mean_logit_fn: Callable[[PyTree], Float[Array, "*batch classes"]], params: PyTree, index: int = 0
) -> OrderedDict[str, Float[Array, ""]]:
    """How much each layer's kernel W shifts the mean of one logit over the batch: ‖∂ mean(logit) / ∂W‖².

    Args:
      mean_logit_fn: parameters to logits `[batch, classes]`, or to their mean `[classes]` already. Whether norms use
        the statistics of the batch or running ones is up to it, and decides the result.
      params: where.
      index: of the logit.

    Returns:
      By the layer's path, in the order of `gradient_norms`; modules without a kernel are left out.

    Reference: Page 2019 (https://github.com/davidcpage/cifar10-fast, batch_norm_post.ipynb).
    """
    grads = jax.grad(lambda params: mean_logit_fn(params)[..., index].mean())(params)
    modules = _modules(grads).items()
    return OrderedDict((name, _norm([leaves["kernel"]]) ** 2) for name, leaves in modules if "kernel" in leaves)


class Predictiveness(NamedTuple):
    """Loss L and gradient g along the line x - η·g(x), for each step size η.

    Attributes:
      start: L(x), `[]`.
      gradient_norm: ‖g(x)‖, `[]`.
      loss: L(x - η·g(x)), `[steps]`.
      gradient_change: ‖g(x - η·g(x)) - g(x)‖, `[steps]`.
      smoothness: effective β: the largest gradient_change / (|η|·‖g(x)‖), `[]`. Without any step, or where the gradient
        is 0, it is 0.
    """

    start: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    loss: Float[Array, " steps"]
    gradient_change: Float[Array, " steps"]
    smoothness: Float[Array, ""]


def gradient_predictiveness(
    loss: Callable[[PyTree], Float[Array, ""]], params: PyTree, steps: Float[Array, " steps"]
) -> Predictiveness:
    """How far the gradient can be trusted: loss and gradient along its own direction.

    Args:
      loss: parameters to the loss *of a fixed batch*. Gradients of different batches would differ by their sampling
        noise, too, which is what many replications measure: ‖g_t - g_(t-1)‖ of successive training steps.
      params: x, where to start.
      steps: η.

    Reference: Santurkar et al. 2018, "How Does Batch Normalization Help Optimization?"
    (https://arxiv.org/abs/1805.11604).
    """
    start, gradient = jax.value_and_grad(loss)(params)
    length = _norm(jax.tree.leaves(gradient))

    def along(step: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        moved = jax.tree.map(lambda x, g: x - (step * g).astype(x.dtype), params, gradient)
        value, there = jax.value_and_grad(loss)(moved)
        return value, _norm(jax.tree.leaves(jax.tree.map(jnp.subtract, there, gradient)))

    steps = jnp.asarray(steps, length.dtype)
    # Unrolled: on a CPU, a convolution's gradient is 28 times slower in a compiled loop.
    found = [along(steps[k]) for k in range(len(steps))]
    values, changes = (
        jnp.stack(column) if column else steps for column in (list(zip(*found, strict=True)) or ((), ()))
    )
    moved = jnp.abs(steps) * length
    ratios = jnp.where(moved == 0, 0, changes / jnp.where(moved == 0, 1, moved))
    return Predictiveness(start, length, values, changes, ratios.max(initial=0))


def _wide(a: Array) -> Array:
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def _over(a: Array) -> tuple[int, ...]:
    return tuple(range(a.ndim - 1))


def _centered(a: Array) -> tuple[Array, Array]:
    """Mean of each channel, and what is left without it."""
    a = _wide(a)
    mean = a.mean(_over(a))
    centered = a - mean
    # The first mean is rounded to its own size, which may be large against the spread.
    rest = centered.mean(_over(a))
    return mean + rest, centered - rest


def _norm(leaves: Iterable[Array]) -> Float[Array, ""]:
    """Euclidean norm of all leaves as one vector; vanishing and exploding gradients have squares beyond float32."""
    wide = [_wide(leaf) for leaf in leaves]
    largest = jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in wide]).max()
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    squares = jnp.stack([jnp.square(leaf / unit).sum() for leaf in wide])
    return unit * jnp.sqrt(squares.sum())


def _modules(tree: PyTree) -> OrderedDict[str, dict[str, Array]]:
    """The leaves of each module, by the module's path, blocks in the order of the forward pass."""
    found: dict[tuple[str, ...], dict[str, Array]] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        *parents, name = (str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        found.setdefault(tuple(parents), {})[name] = leaf

    return OrderedDict(("/".join(parents), found[parents]) for parents in sorted(found, key=position))


def position(parents: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """Sorts the paths of modules in the order of the forward pass."""
    return (_LAST.index(parents[0]) + 1 if parents and parents[0] in _LAST else 0), parents
