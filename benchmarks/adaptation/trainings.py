"""A small CNN of Flax' own layers, trained by a plain loop that also averages its weights."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

EMA = 0.99  # kept at each step

Variables = dict[str, Any]


class Network(nn.Module):
    """Three 3x3 convolutions of stride 2, each with Flax' batch norm and ReLU, and a linear layer."""

    features: tuple[int, ...] = (8, 16, 32)
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for features in self.features:
            x = nn.Conv(features, (3, 3), strides=2, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(self.classes)(x.reshape(x.shape[0], -1))


class Size(NamedTuple):
    """How much is trained and judged.

    Attributes:
      train: training images of a seed, drawn by it from all.
      epochs: passes over them.
      batch: images of a training step.
      per_class: test images of each class; the test batches divide it.
      test_batches: their sizes.
    """

    train: int = 20_000
    epochs: int = 8
    batch: int = 128
    per_class: int = 512
    test_batches: tuple[int, ...] = (8, 64, 256)


class Trained(NamedTuple):
    """Params and batch_stats at the end, and their averages: over steps (EMA) and over the later epochs' ends (SWA)."""

    raw: Variables
    ema: Variables
    swa: Variables


network = Network()
optimizer = optax.sgd(0.1, momentum=0.9)


@partial(jax.jit, donate_argnums=(0, 1, 2))
def step(variables: Variables, state: Any, ema: Variables, x: jax.Array, y: jax.Array) -> tuple[Variables, Any, Any]:
    """One step of SGD, and of the exponential average of params and batch_stats."""

    def loss(params: Any) -> tuple[jax.Array, Any]:
        logits, updates = network.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updates

    gradients, updates = jax.grad(loss, has_aux=True)(variables["params"])
    deltas, state = optimizer.update(gradients, state)
    variables = {"params": optax.apply_updates(variables["params"], deltas), **updates}
    return variables, state, optax.incremental_update(variables, ema, 1 - EMA)


def train(x: np.ndarray, y: np.ndarray, seed: int, size: Size) -> Trained:
    """Trains one seed at a constant learning rate.

    Args:
      x: standardized images `[images, height, width, channels]`.
      y: their classes.
      seed: of weights and order.
      size: the epochs, of whose ends SWA averages the later half, and the batch.
    """
    rng = np.random.default_rng(seed)
    variables: Variables = dict(jax.jit(partial(network.init, train=False))(jax.random.key(seed), jnp.asarray(x[:2])))
    state, ema = optimizer.init(variables["params"]), jax.tree.map(jnp.copy, variables)
    ends = []
    for epoch in range(size.epochs):
        order = rng.permutation(len(y))
        for i in range(0, len(y) - size.batch + 1, size.batch):
            rows = order[i : i + size.batch]
            variables, state, ema = step(variables, state, ema, x[rows], y[rows])
        if epoch >= size.epochs // 2:
            ends.append(jax.tree.map(jnp.copy, variables))  # the next step takes the arrays
    swa = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]) / len(leaves), *ends)
    return Trained(variables, ema, swa)
