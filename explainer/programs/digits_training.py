"""A digit classifier trains: three dense layers of 32, without batch norm or with it before the activation."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jbn.linen
from explainer.programs import Program
from jbn.placement import Block, Placement

BATCH, EVALUATED, WIDTH, LAYERS, CLASSES = 64, 360, 32, 3, 10


class State(NamedTuple):
    """What a step of the training moves on."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    momentum: Any


class Classifier(nn.Module):
    """Pixels to the logits of ten digits."""

    placement: Placement
    train: bool

    @nn.compact
    def __call__(self, images: jax.Array, where: jax.Array | None = None) -> jax.Array:
        x, norm = images, partial(jbn.linen.BatchNorm, use_running_average=not self.train)
        for _ in range(LAYERS):
            x = Block(partial(nn.Dense, WIDTH), norm, nn.relu, self.placement)(x)
        return nn.Dense(CLASSES)(x)


def optimizer(learning_rate: Any) -> optax.GradientTransformation:
    """Gradient descent with momentum, whose rate may change from step to step."""
    return optax.chain(optax.trace(decay=0.9), optax.scale_by_learning_rate(learning_rate))


def init(placement: Placement, seed: int) -> State:
    """The state before the first step; a seed gives the dense layers the same weights for every placement."""
    variables = Classifier(placement, True).init(jax.random.key(seed), jnp.zeros((BATCH, 64)))
    params, stats = variables["params"], variables.get("batch_stats", {})
    return State(params, stats, optimizer(0.0).init(params)[0].trace)


def train_step(
    placement: Placement, state: State, images: jax.Array, labels: jax.Array, learning_rate: jax.Array
) -> dict[str, Any]:
    """One step of gradient descent with momentum: the new state, and the loss before it."""

    def loss(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, new = Classifier(placement, True).apply(variables, images, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), new.get("batch_stats", {})

    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    transform = optimizer(learning_rate)
    updates, moved = transform.update(gradient, (optax.TraceState(state.momentum), optax.EmptyState()))
    return {"state": State(optax.apply_updates(state.params, updates), stats, moved[0].trace), "loss": value}


def evaluate(
    placement: Placement, state: State, images: jax.Array, labels: jax.Array, where: jax.Array
) -> dict[str, jax.Array]:
    """Loss, accuracy and predicted digits by the running statistics, over the examples where `where` is True."""
    logits = Classifier(placement, False).apply({"params": state.params, "batch_stats": state.batch_stats}, images)
    losses, predicted = optax.softmax_cross_entropy_with_integer_labels(logits, labels), jnp.argmax(logits, -1)
    return {
        "loss": jnp.mean(losses, where=where),
        "accuracy": jnp.mean(predicted == labels, where=where),
        "predicted": predicted,
    }


def digits() -> tuple[jax.Array, jax.Array]:
    """All digits, each pixel standardized, and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = np.asarray(images, np.float32)
    spread = images.std(0)
    return jnp.asarray((images - images.mean(0)) / np.where(spread > 0, spread, 1)), jnp.asarray(labels, jnp.int32)


def _programs() -> dict[str, Program]:
    images, labels = digits()
    batch = {"images": images[:BATCH], "labels": labels[:BATCH], "learning_rate": jnp.float32(0.1)}
    held_out = {"images": images[-EVALUATED:], "labels": labels[-EVALUATED:], "where": jnp.ones(EVALUATED, bool)}
    found = {}
    for placement in ("none", "before"):
        state = init(placement, seed=0)
        for function, arguments in ((train_step, batch), (evaluate, held_out)):
            made = Program(partial(function, placement), {"state": state} | arguments)
            found[f"{function.__name__}_{placement}"] = made
    return found


PROGRAMS = _programs()
