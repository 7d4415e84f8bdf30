"""Data as arrays: split once, standardized by the training set, ordered by the seed.

Standardization is batch norm's own mathematics, with the whole training set as the batch: `jbn.moments` of the training
set, applied with `jbn.normalize` to every split. It is the first step of the story that the layer then repeats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jbn
from experiments.config import Config, DataConfig


class Split(NamedTuple):
    """Examples and their classes."""

    x: Float[Array, "examples features"]
    y: Int[Array, " examples"]


class Batches(NamedTuple):
    """A split in batches of equal size, the last one padded; `where` is True where an example is real."""

    x: Float[Array, "batches size features"]
    y: Int[Array, "batches size"]
    where: Bool[Array, "batches size"]


class Data(NamedTuple):
    """The three splits, standardized, and what standardization did, ready for data.json."""

    train: Split
    validation: Split
    test: Split
    classes: int
    description: dict[str, Any]


def load(config: DataConfig) -> Data:
    """The data set of `config`, split with its seed, alike in the shares of the classes, and standardized."""
    x, y = (np.asarray(a) for a in load_digits(return_X_y=True))
    raw_train, raw_validation, raw_test = _split(x.astype(np.float32), y.astype(np.int32), config)
    moments = jbn.moments(raw_train.x)
    train, validation, test = (
        Split(standardize(split.x, moments), split.y) for split in (raw_train, raw_validation, raw_test)
    )
    description = {
        "name": config.name,
        "source": "scikit-learn load_digits (UCI handwritten digits, 8 x 8 pixels, 17 grey levels)",
        "train": len(train.y),
        "validation": len(validation.y),
        "test": len(test.y),
        "features": x.shape[1],
        "classes": int(y.max()) + 1,
        "constant_features": int((moments.var == 0).sum()),
        "raw": _describe(raw_train.x),
        "standardized": _describe(train.x),
        "standardized_test": {key: value for key, value in _describe(test.x).items() if key in ("mean", "std")},
    }
    return Data(train, validation, test, description["classes"], description)


def standardize(x: Float[Array, "examples features"], moments: jbn.Moments) -> Float[Array, "examples features"]:
    """`x` with each feature on the scale of `moments`: mean 0, variance 1 on the data that these were taken from.

    A feature that is constant there tells nothing, and is 0 in every split, whatever value it takes elsewhere.
    """
    varies = moments.var > 0
    var = jnp.where(varies, moments.var, 1)
    return jbn.normalize(x, moments.mean, var, scale=varies.astype(x.dtype), epsilon=0.0)


def batches(split: Split, size: int) -> Batches:
    """`split` in batches of `size`, in order, the last one padded with zeros: no example is lost or counted twice."""
    count = -(-len(split.y) // size)
    pad = count * size - len(split.y)

    def cut(a: jax.Array) -> jax.Array:
        return jnp.pad(a, [(0, pad)] + [(0, 0)] * (a.ndim - 1)).reshape(count, size, *a.shape[1:])

    return Batches(cut(split.x), cut(split.y), cut(jnp.ones(len(split.y), jnp.bool_)))


def batch_orders(
    config: Config, seeds: tuple[int, ...], train_size: int
) -> Int[np.ndarray, "seeds epochs steps batch"]:
    """Which examples each step of each epoch sees, by seed: the same for every arm, so that arms are paired.

    Drawn by NumPy, because it depends on the seed alone, not on the device, the number of lanes or the version of jax.
    """
    steps, size = config.steps_per_epoch(train_size), config.training.batch_size

    def order(seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(train_size)[: steps * size].reshape(steps, size)

    return np.array([[order(seed, epoch) for epoch in range(config.training.epochs)] for seed in seeds], np.int32)


def _split(x: np.ndarray, y: np.ndarray, config: DataConfig) -> tuple[Split, Split, Split]:
    held_out = config.validation_fraction + config.test_fraction
    x_train, x_rest, y_train, y_rest = train_test_split(
        x, y, test_size=held_out, random_state=config.split_seed, stratify=y
    )
    x_validation, x_test, y_validation, y_test = train_test_split(
        x_rest, y_rest, test_size=config.test_fraction / held_out, random_state=config.split_seed, stratify=y_rest
    )
    return (
        Split(jnp.asarray(x_train), jnp.asarray(y_train)),
        Split(jnp.asarray(x_validation), jnp.asarray(y_validation)),
        Split(jnp.asarray(x_test), jnp.asarray(y_test)),
    )


def _describe(x: Float[Array, "examples features"]) -> dict[str, list[float]]:
    values = np.asarray(x, np.float64)
    counts, edges = np.histogram(values, bins=48)
    return {
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }
