"""One training as pure functions of arrays: initialize, step, epoch, evaluate, probe.

The learning rate and the seed are arrays, so that `experiments.lanes` can run many trainings as one program.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

from experiments.config import Arm, Config, OptimizerConfig
from experiments.data import Batches, Split
from experiments.models import build
from jbn.optim import decay_mask


class State(NamedTuple):
    """All that a training step changes."""

    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree


class Evaluation(NamedTuple):
    """Mean cross-entropy in nats, and how many examples were classified correctly."""

    loss: Float[Array, ""]
    correct: Int[Array, ""]


def optimizer(
    config: OptimizerConfig, learning_rate: Float[Array, ""] | float, steps: int
) -> optax.GradientTransformation:
    """The optimizer of a config at one learning rate, which may be traced."""
    shape = optax.cosine_decay_schedule(1.0, steps) if config.schedule == "cosine" else optax.constant_schedule(1.0)
    decays = partial(decay_mask, norms=config.decay_scale_bias)

    def schedule(step):
        return learning_rate * shape(step)

    if config.name == "adamw":
        return optax.adamw(schedule, b1=config.momentum, weight_decay=config.weight_decay, mask=decays)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=decays) if config.weight_decay else optax.identity(),
        optax.sgd(schedule, momentum=config.momentum),
    )


def init(config: Config, arm: Arm, classes: int, shape: tuple[int, ...], seed: Int[Array, ""]) -> State:
    """Initial weights, running statistics and optimizer state; a function of the seed and the names of the layers."""
    model = build(config.model, arm, classes, train=True)
    variables = model.init(jax.random.key(seed), jnp.zeros((2, *shape)))
    params = variables["params"]
    return State(params, variables.get("batch_stats", {}), optimizer(config.optimizer, 0.0, 1).init(params))


def train_step(
    state: State,
    tx: optax.GradientTransformation,
    model: nn.Module,
    x: Float[Array, "batch ..."],
    y: Int[Array, " batch"],
) -> tuple[State, Float[Array, ""]]:
    """One step on one batch; returns the loss before it."""

    def loss_of(params):
        logits, updates = _apply(model, state._replace(params=params), x, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, updates.get("batch_stats", {})

    (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), batch_stats, opt_state), loss


def train_epoch(
    config: Config,
    arm: Arm,
    classes: int,
    state: State,
    learning_rate: Float[Array, ""],
    order: Int[Array, "steps batch"],
    train: Split,
    validation: Batches,
) -> tuple[State, Float[Array, ""], Evaluation]:
    """One pass over the training set in the given order, and a look at the validation set after it."""
    model = build(config.model, arm, classes, train=True)
    tx = optimizer(config.optimizer, learning_rate, len(order) * config.training.epochs)

    def step(state: State, indices):
        return train_step(state, tx, model, train.x[indices], train.y[indices])

    state, losses = jax.lax.scan(step, state, order)
    return state, losses.mean(), evaluate(config, arm, classes, state, validation)


def evaluate(config: Config, arm: Arm, classes: int, state: State, data: Batches) -> Evaluation:
    """Loss and correct answers over every example of a split, with running statistics."""
    model = build(config.model, arm, classes, train=False)

    def sums(batch: Batches):
        logits, _ = _apply(model, state, batch.x, mutable=[])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.y)
        correct = (logits.argmax(-1) == batch.y) & batch.where
        # where, not a product: padding may give any loss, and 0 · NaN is no 0.
        return jnp.where(batch.where, loss, 0).sum(), correct.sum()

    loss, correct = jax.lax.map(sums, data)
    return Evaluation(loss.sum() / data.where.sum(), correct.sum())


def _apply(model: nn.Module, state: State, x: Array, mutable: Sequence[str]) -> tuple[Array, dict[str, Any]]:
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return cast(tuple[Array, dict[str, Any]], model.apply(variables, x, mutable=list(mutable)))


class Probe(NamedTuple):
    """A look inside, over the whole training set as one batch; lists are over layers.

    Attributes:
      activation_inputs: per hidden layer, `[examples, units]`.
      mean_gap: per norm, mean over channels of |running mean - true mean| / true standard deviation.
      var_ratio: per norm, median over channels of running variance / true variance.
      scale: per norm, mean |scale|.
    """

    activation_inputs: list[Array]
    mean_gap: list[Array]
    var_ratio: list[Array]
    scale: list[Array]


def probe(config: Config, arm: Arm, classes: int, state: State, x: Float[Array, "examples ..."]) -> Probe:
    """Activation inputs, and how far the running statistics are from the true ones of the training set."""
    # With momentum 0 the updated running statistics are those of this one batch, the whole training set.
    model = build(config.model, arm, classes, train=True, momentum=0.0)
    _, seen = _apply(model, state, x, mutable=["batch_stats", "intermediates"])
    blocks = sorted(seen["intermediates"])
    gaps, ratios, scales = [], [], []
    for block, norms in sorted(state.batch_stats.items()):
        for norm, running in sorted(norms.items()):
            true = seen["batch_stats"][block][norm]
            std = jnp.sqrt(true["var"] + config.model.epsilon)
            gaps.append((jnp.abs(running["mean"] - true["mean"]) / std).mean())
            ratios.append(jnp.median((running["var"] + config.model.epsilon) / std**2))
            scales.append(jnp.abs(state.params[block][norm]["scale"]).mean())
    inputs = [seen["intermediates"][block]["activation_input"][0] for block in blocks]
    return Probe(inputs, gaps, ratios, scales)
