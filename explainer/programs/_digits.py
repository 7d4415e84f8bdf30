"""The network that several scenes train: a small MLP on scikit-learn's digits, with the norm at a placement.

    pixels (64)  ->  3 blocks: Dense 32, activation, and a norm where the placement puts it  ->  Dense 10

A scene makes its programs of these functions: `partial(train_step, Digits("before"))`. Initial weights are rounded to
float16, so that a page that is given them packed starts where JAX starts.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import jbn.linen
from jbn.placement import Block, Placement, order

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "sigmoid": nn.sigmoid}
BATCH = 64


class State(NamedTuple):
    """What training changes; without a norm, `batch_stats` is empty."""

    params: Any
    batch_stats: Any


class Digits(nn.Module):
    """The network, for `[images, 64]` pixels of 0 to 16; `train` normalizes by the batch, not by running statistics."""

    placement: Placement
    activation: str = "relu"
    hidden: tuple[int, ...] = (32, 32, 32)
    momentum: float = 0.9
    norm: Any = jbn.linen.BatchNorm

    @nn.compact
    def __call__(self, pixels: jax.Array, train: bool) -> jax.Array:
        norm = partial(self.norm, use_running_average=not train, momentum=self.momentum)
        start = nn.initializers.he_uniform() if self.activation == "relu" else nn.initializers.lecun_uniform()
        # A bias that goes straight into a norm would be subtracted again.
        bias = order(self.placement)[1] != "norm"
        x = pixels / 8 - 1
        for k, units in enumerate(self.hidden):
            dense = partial(nn.Dense, units, use_bias=bias, kernel_init=start)
            x = Block(dense, norm, ACTIVATIONS[self.activation], self.placement, name=f"block_{k}")(x)
        return nn.Dense(10, name="head")(x)


@partial(jax.jit, static_argnums=0)
def init(network: Digits, seed: int | jax.Array) -> State:
    """The state before the first step; a seed gives the same weights in every placement."""
    variables = network.init(jax.random.key(seed), jnp.zeros((2, 64)), train=True)
    packed = jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(jnp.float32), dict(variables))
    return State(packed["params"], packed.get("batch_stats", {}))


def applied(network: Digits, variables: dict[str, Any], images: jax.Array, **options: Any) -> Any:
    """The logits; with `mutable`, also the updated collections."""
    return network.apply(variables, images, **options)


def loss(network: Digits, params: Any, batch_stats: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
    """Cross-entropy of a batch in training mode, and the running statistics moved on."""
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updates = applied(network, variables, images, train=True, mutable=["batch_stats"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), updates.get("batch_stats", {})


def train_step(
    network: Digits, state: State, images: jax.Array, labels: jax.Array, learning_rate: jax.Array
) -> dict[str, Any]:
    """One step of gradient descent on a batch; returns the new `state` and the `loss` before it."""
    step = jax.value_and_grad(partial(loss, network), has_aux=True)
    (value, batch_stats), gradient = step(state.params, state.batch_stats, images, labels)
    updates, _ = (sgd := optax.sgd(learning_rate)).update(gradient, sgd.init(state.params))
    return {"state": State(optax.apply_updates(state.params, updates), batch_stats), "loss": value}


def evaluate(network: Digits, state: State, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Loss and share of right answers in inference mode, with the running statistics."""
    logits = applied(network, state._asdict(), images, train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return {"loss": losses.mean(), "accuracy": (logits.argmax(-1) == labels).mean()}
