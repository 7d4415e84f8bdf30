"""One training as pure functions of arrays: initialize, step, evaluate.

Learning rate, weight decay and seed are arrays, so that `loop` can run many trainings in one program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float, Int, PyTree

from experiments.config import Setup
from experiments.data.arrays import Batches, Split
from experiments.data.augment import augment
from experiments.networks import whiten
from experiments.networks.adapter import Adapter
from experiments.networks.build import as_plain_batch_norm, build, layers, without_virtual_batches
from experiments.training.optimizers import Tuned, optimizer

WHITENED = 5000  # number of training images from which a whitening layer is computed


class State(NamedTuple):
    """Everything that a training step changes, and the seed.

    Attributes:
      params, batch_stats: collections of the network's variables.
      constants: collection that is set before the first step and never changes: the kernel of a whitening layer, or
        variables of an nnx module that are no parameters and no statistics.
      opt_state: state of the optimizer.
      step: number of optimizer steps taken, `[]`, int32.
      diverged: the first step with a loss that is not finite, `[]`, int32; -1 if there is none so far.
      seed: seed of initial weights, batch order and augmentation, `[]`, int32.
    """

    params: PyTree
    batch_stats: PyTree
    constants: PyTree
    opt_state: PyTree
    step: Int[Array, ""]
    diverged: Int[Array, ""]
    seed: Int[Array, ""]


class Evaluation(NamedTuple):
    """The evaluation of a network on a split.

    Attributes:
      loss: mean cross-entropy in nats, `[]`.
      correct: number of correctly classified examples, `[]`, int32.
      right: whether each example is classified correctly, `[batches, size]` in the order of the split, bool; False for
        padding.
    """

    loss: Float[Array, ""]
    correct: Int[Array, ""]
    right: Bool[Array, "batches size"]


def init(setup: Setup, classes: int, seed: Int[Array, ""], images: Float[Array, "examples ..."]) -> State:
    """Initial weights, running statistics and optimizer state; weights depend on the seed and the names of the layers.

    Args:
      images: the training set; the kernel of a whitening layer is computed from the first images.
    """
    model = build(without_virtual_batches(setup.model), classes, train=True)
    x = jnp.zeros((2, *images.shape[1:]))
    variables: Mapping[str, Any] = model.init(jax.random.key(seed), x)
    if "constants" in variables and isinstance(model, nn.Module):
        variables = whiten(variables, images[:WHITENED])
    params = variables["params"]
    opt_state = optimizer(setup.optimizer, Tuned(0.0, 0.0, False), 1, *layers(model, x)).init(params)
    stats, constants = variables.get("batch_stats", {}), variables.get("constants", {})
    return State(params, stats, constants, opt_state, jnp.int32(0), jnp.int32(-1), jnp.asarray(seed, jnp.int32))


def train_step(
    setup: Setup,
    classes: int,
    steps: int,
    state: State,
    tuned: Tuned,
    indices: Int[Array, " batch"],
    train: Split,
) -> tuple[State, Float[Array, ""]]:
    """One step on the examples at `indices`; also returns the loss before it. `steps` is that of the whole training."""
    x, y = train.x[indices], train.y[indices]
    if setup.augmentation.on:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(state.seed), 1), state.step)
        options = {field: getattr(setup.augmentation, field) for field in ("pad_crop", "flip", "cutout", "translate")}
        x = augment(key, x, **options)
    model = build(setup.model, classes, train=True)
    tx = optimizer(setup.optimizer, tuned, steps, *layers(model, x))

    def loss_of(params):
        logits, updates = apply(model, state._replace(params=params), x, "batch_stats")
        return smoothed_loss(setup, logits, y), updates.get("batch_stats", {})

    (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    first = (state.diverged < 0) & ~jnp.isfinite(loss)
    new = state._replace(
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        step=state.step + 1,
        diverged=jnp.where(first, state.step, state.diverged),
    )
    return new, loss


def smoothed_loss(setup: Setup, logits: Float[Array, "batch classes"], y: Int[Array, " batch"]) -> Float[Array, ""]:
    """The training loss: mean cross-entropy in nats, with the label smoothing of the config."""
    smoothing = setup.optimizer.label_smoothing
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    targets = optax.smooth_labels(jax.nn.one_hot(y, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def evaluate(setup: Setup, classes: int, state: State, data: Batches, *, by_batch: bool = False) -> Evaluation:
    """Mean loss over all examples of a split, and the examples that are classified correctly.

    Args:
      data: the split in batches.
      by_batch: whether to normalize each batch by its own statistics instead of the running ones.
    """
    model = build(as_plain_batch_norm(setup.model) if by_batch else setup.model, classes, train=by_batch)

    def of(batch: Batches):
        logits, _ = apply(model, state, batch.x, *(["batch_stats"] if by_batch else []))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.y)
        right = (logits.argmax(-1) == batch.y) & batch.where
        # `where` instead of a product: the loss of padding may be NaN, and 0 · NaN is NaN.
        return jnp.where(batch.where, loss, 0).sum(), right

    loss, right = jax.lax.map(of, data)
    return Evaluation(loss.sum() / data.where.sum(), right.sum(), right)


def with_population_statistics(setup: Setup, classes: int, state: State, data: Batches) -> State:
    """Replaces the running statistics by the statistics of all complete batches of a data set.

    ::

        mean = avg(mean_b),    var = avg(var_b) + avg(mean_b²) - avg(mean_b)²

    Each batch is normalized by its own statistics, as in training; `jbn.population` does the same batch by batch.
    """
    model = build(as_plain_batch_norm(setup.model), classes, train=True)

    def of(x):
        return apply(model, state, x, "batch_stats")[1]["batch_stats"]

    whole = data.x[: max(1, len(data.x) - 1)]  # without the last batch, which is padded
    measured: dict[tuple, Any] = flatten_dict(jax.lax.map(of, whole))  # type: ignore[assignment]
    flat: dict[tuple, Any] = flatten_dict(state.batch_stats)  # type: ignore[assignment]
    for *norm, field in measured:
        if field == "mean" and (*norm, "var") in measured:
            means, variances = measured[*norm, "mean"], measured[*norm, "var"]
            flat[*norm, "mean"], flat[*norm, "var"] = means.mean(0), variances.mean(0) + means.var(0)
    return state._replace(batch_stats=unflatten_dict(flat))


def apply(
    model: nn.Module | Adapter, state: State, x: Array, *mutable: str, **options: Any
) -> tuple[Array, dict[str, Any]]:
    """Logits, and the updated mutable collections."""
    variables = {"params": state.params, "batch_stats": state.batch_stats, "constants": state.constants}
    return cast(tuple[Array, dict[str, Any]], model.apply(variables, x, mutable=list(mutable), **options))


def batch_loss(
    setup: Setup, classes: int, state: State, *, train: bool = True
) -> Callable[[PyTree, Split], Float[Array, ""]]:
    """The loss as a function of parameters and a batch, with batch statistics or, if not `train`, with the state's."""
    model = build(as_plain_batch_norm(setup.model) if train else setup.model, classes, train=train)

    def loss(params, batch):
        logits, _ = apply(model, state._replace(params=params), batch.x, *(["batch_stats"] if train else []))
        return smoothed_loss(setup, logits, batch.y)

    return loss
