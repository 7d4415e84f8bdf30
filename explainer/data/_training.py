"""The digits, the order of their batches, and whole trainings of programs/_digits.py, many seeds at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from explainer.programs._digits import BATCH, Digits, State, evaluate, init, train_step

SOURCE = (
    "1,797 handwritten digits of 8 × 8 pixels (Alpaydin & Kaynak 1998, in scikit-learn): 1,347 to train, 450 to test."
)


class Part(NamedTuple):
    """Images and their digits: uint8, `[n, 64]` of 0 to 16, and `[n]`."""

    images: np.ndarray
    labels: np.ndarray


class Run(NamedTuple):
    """Trainings side by side: `[learning rates, seeds, ...]`."""

    start: Any
    """The `State` before the first step."""
    state: Any
    """The `State` after the last step."""
    loss: jax.Array
    """Of the batch before each step, `[..., steps]`."""
    measured: Any
    """What `measure` found before each step, `[..., steps, ...]`."""


@cache
def digits() -> tuple[Part, Part]:
    """The digits to train and to test with, with equal shares of the classes; in each, any first rows are a sample."""
    images, labels = (np.asarray(part).astype(np.uint8) for part in load_digits(return_X_y=True))
    rows = train_test_split(np.arange(len(labels)), test_size=450, random_state=0, stratify=labels)
    train, test = (Part(images[part], labels[part]) for part in rows)
    return train, test


def batches(seed: int | jax.Array, steps: int, batch: int = BATCH) -> jax.Array:
    """The rows of each step's batch, `[steps, batch]`, int32: each epoch in an order of its own, its rest left out."""
    n = len(digits()[0].labels)
    epochs = -(-steps // (n // batch))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), epochs)
    orders = jax.vmap(lambda key: jax.random.permutation(key, n))(keys)
    return orders[:, : n // batch * batch].reshape(-1, batch)[:steps]


def runs(
    network: Digits,
    seeds: Sequence[int],
    learning_rates: Any,
    steps: int,
    measure: Callable[[Any], Any] = lambda state: None,
    step: Callable[..., dict[str, Any]] = train_step,
    start: Callable[..., Any] = init,
) -> Run:
    """Trains one network for each learning rate and seed; a seed decides on initial weights and batches.

    Args:
      network: of programs/_digits.py.
      learning_rates: one number for each run; for a step of your own any tree of arrays, one row for each run.
      measure: called with the state before each step.
      step: called as `train_step`, for another way to train.
      start: called as `init`, for other initial weights.
    """
    part = digits()[0]
    images, labels = jnp.asarray(part.images, jnp.float32), jnp.asarray(part.labels, jnp.int32)
    rates = jax.tree.map(jnp.float32, learning_rates, is_leaf=lambda node: isinstance(node, list | tuple))
    starts = jax.jit(lambda seeds: jax.lax.map(partial(start, network), seeds))(jnp.asarray(seeds))
    orders = _orders(tuple(seeds), steps)

    def run(learning_rate: jax.Array, start: Any, order: jax.Array) -> Run:
        def one(state: Any, rows: jax.Array) -> tuple[Any, tuple[jax.Array, Any]]:
            done = step(network, state, images[rows], labels[rows], learning_rate)
            return done["state"], (done["loss"], measure(state))

        state, (losses, measured) = jax.lax.scan(one, start, order)
        return Run(start, state, losses, measured)

    # One after the other: small programs compile fast, and vmap would not train them faster.
    every = jax.jit(lambda: jax.lax.map(lambda rate: jax.lax.map(lambda of: run(rate, *of), (starts, orders)), rates))
    return every()


@cache
def _orders(seeds: tuple[int, ...], steps: int) -> jax.Array:
    return jax.jit(lambda seeds: jax.lax.map(lambda seed: batches(seed, steps), seeds))(jnp.asarray(seeds))


def tested(network: Digits, state: State) -> dict[str, jax.Array]:
    """`evaluate` on the test digits of each of the states of a `Run`, `[learning rates, seeds]`."""
    images, labels = jnp.asarray(digits()[1].images, jnp.float32), jnp.asarray(digits()[1].labels, jnp.int32)
    return each(partial(evaluate, network, images=images, labels=labels), state)


def each(function: Callable[[Any], Any], state: Any) -> Any:
    """The function's results for each of the states of a `Run`, `[learning rates, seeds, ...]`."""
    return jax.jit(lambda state: jax.lax.map(lambda row: jax.lax.map(function, row), state))(state)
