"""What one batch shows of the gradients of a network: their norms by layer, and the loss along them.

Pure functions of arrays: they may be jitted, and mapped over seeds. Results are float32 (float64 of float64).
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

    Norms are modules of their own, so that their scale and bias are apart from the layer's parameters.

    Returns:
      By the module's path, such as "block_0/layer", "block_0/norm", "head". Blocks come in the order of the forward
      pass, modules of one block by name; the order outlives jit and vmap, which sort a plain dict by name.

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


def _norm(leaves: Iterable[Array]) -> Float[Array, ""]:
    """Euclidean norm of all leaves as one vector; vanishing and exploding gradients have squares beyond float32."""
    wide = [widened(leaf) for leaf in leaves]
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
    return (LAST_MODULES.index(parents[0]) + 1 if parents and parents[0] in LAST_MODULES else 0), parents
