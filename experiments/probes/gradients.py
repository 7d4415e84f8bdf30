"""Statistics of a network's gradients on one batch: their norms by layer, and the loss along their direction.

These are pure functions of arrays, for use under jit and vmap. Results are float32 (float64 for float64 input).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from experiments.probes.activations import widened
from experiments.vocabulary import LAST_MODULES


def gradient_norms(grads: PyTree) -> OrderedDict[str, Float[Array, ""]]:
    """Euclidean norm of the gradient of each module's parameters, kernel and bias together.

    Norm layers are modules of their own, so their scale and bias do not count towards the layer's gradient.

    Returns:
      Norms by the module's path, such as "block_0/layer", "block_0/norm", "head". Blocks come in the order of the
      forward pass, modules within a block by name. An OrderedDict keeps this order under jit and vmap, which sort a
      plain dict by name.

    Example:
      >>> import jax.numpy as jnp
      >>> from experiments.probes.gradients import gradient_norms
      >>> grads = {"head": {"kernel": jnp.array([[3.0]]), "bias": jnp.array([4.0])}}
      >>> {name: float(norm) for name, norm in gradient_norms(grads).items()}
      {'head': 5.0}
    """
    return OrderedDict((name, _norm(leaves.values())) for name, leaves in _modules(grads).items())


def mean_logit_gradients(
    mean_logit_fn: Callable[[PyTree], Float[Array, "*batch classes"]], params: PyTree, index: int = 0
) -> OrderedDict[str, Float[Array, ""]]:
    """Squared gradient of one logit's mean over the batch with respect to each layer's kernel: ‖∂ mean(logit) / ∂W‖².

    Args:
      mean_logit_fn: function from parameters to logits `[batch, classes]` or to their mean `[classes]`. It decides
        whether norms use batch or running statistics, on which the result depends.
      params: the point at which to differentiate.
      index: the class of the logit.

    Returns:
      Values by the layer's path, in the order of `gradient_norms`; modules without a kernel are left out.

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
      smoothness: effective β: the largest `gradient_change / (|η|·‖g(x)‖)`, `[]`; 0 if there are no steps or the
        gradient is 0.
    """

    start: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    loss: Float[Array, " steps"]
    gradient_change: Float[Array, " steps"]
    smoothness: Float[Array, ""]


def gradient_predictiveness(
    loss: Callable[[PyTree], Float[Array, ""]], params: PyTree, steps: Float[Array, " steps"]
) -> Predictiveness:
    """Loss and gradient along the direction of the gradient, which show how well the gradient predicts the loss.

    Args:
      loss: function from parameters to the loss *of a fixed batch*. Between batches, gradients would also differ by
        sampling noise; many replications measure that: ‖g_t - g_(t-1)‖ of successive training steps.
      params: x, the starting point.
      steps: the step sizes η.

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
    # The loop is unrolled because on a CPU a convolution's gradient is 28 times slower in a compiled loop.
    found = [along(steps[k]) for k in range(len(steps))]
    values, changes = (
        jnp.stack(column) if column else steps for column in (list(zip(*found, strict=True)) or ((), ()))
    )
    moved = jnp.abs(steps) * length
    ratios = jnp.where(moved == 0, 0, changes / jnp.where(moved == 0, 1, moved))
    return Predictiveness(start, length, values, changes, ratios.max(initial=0))


def _norm(leaves: Iterable[Array]) -> Float[Array, ""]:
    """Euclidean norm of all leaves as one vector, scaled so that squares neither underflow nor overflow in float32."""
    wide = [widened(leaf) for leaf in leaves]
    largest = jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in wide]).max()
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    squares = jnp.stack([jnp.square(leaf / unit).sum() for leaf in wide])
    return unit * jnp.sqrt(squares.sum())


def _modules(tree: PyTree) -> OrderedDict[str, dict[str, Array]]:
    """The leaves of each module, by the module's path; blocks come in the order of the forward pass."""
    found: dict[tuple[str, ...], dict[str, Array]] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        *parents, name = (str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        found.setdefault(tuple(parents), {})[name] = leaf

    return OrderedDict(("/".join(parents), found[parents]) for parents in sorted(found, key=position))


def position(parents: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """Sort key that puts module paths into the order of the forward pass."""
    return (LAST_MODULES.index(parents[0]) + 1 if parents and parents[0] in LAST_MODULES else 0), parents
