"""Data as arrays: split once, standardized by the training set, ordered by the seed.

Standardization is batch norm's own mathematics, with the whole training set as the batch: `jbn.moments` of the training
set, applied with `jbn.normalize` to every split. It is the first step of the story that the layer then repeats.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jbn
from experiments import images
from experiments.config import Config, ConfigError, DataConfig


class Split(NamedTuple):
    """Examples and their classes."""

    x: Float[Array, "examples ..."]
    y: Int[Array, " examples"]


class Batches(NamedTuple):
    """A split in batches of equal size, the last one padded; `where` is True where an example is real."""

    x: Float[Array, "batches size ..."]
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
    raw, source, classes = _digits(config) if config.name == "digits" else _images(config)
    if config.train_examples is not None:
        raw = (_first(raw[0], config), *raw[1:])
    moments = jbn.moments(raw[0].x, axis=_features(config, raw[0].x.ndim))
    train, validation, test = (Split(standardize(split.x, moments), split.y) for split in raw)
    description = {
        "name": config.name,
        "source": source,
        "train": len(train.y),
        "validation": len(validation.y),
        "test": len(test.y),
        "shape": list(train.x.shape[1:]),
        "features": math.prod(train.x.shape[1:]),
        "classes": classes,
        "constant_features": int((moments.var == 0).sum()),
        "raw": _describe(raw[0].x),
        "standardized": _describe(train.x),
        "standardized_test": {key: value for key, value in _describe(test.x).items() if key in ("mean", "std")},
    }
    return Data(train, validation, test, classes, description)


def standardize(x: Float[Array, "examples ..."], moments: jbn.Moments) -> Float[Array, "examples ..."]:
    """`x` with each feature on the scale of `moments`: mean 0, variance 1 on the data that these were taken from.

    A feature that is constant there tells nothing, and is 0 in every split, whatever value it takes elsewhere.
    """
    varies = moments.var > 0
    var = jnp.where(varies, moments.var, 1)
    axis = tuple(range(x.ndim - moments.mean.ndim, x.ndim))
    return jbn.normalize(x, moments.mean, var, scale=varies.astype(x.dtype), epsilon=0.0, axis=axis)


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


def _digits(config: DataConfig) -> tuple[tuple[Split, Split, Split], str, int]:
    x, y = (np.asarray(a) for a in load_digits(return_X_y=True))
    held_out = config.validation_fraction + config.test_fraction
    seed = config.split_seed
    x_train, x_rest, y_train, y_rest = train_test_split(x, y, test_size=held_out, random_state=seed, stratify=y)
    share = config.test_fraction / held_out
    x_validation, x_test, y_validation, y_test = train_test_split(
        x_rest, y_rest, test_size=share, random_state=seed, stratify=y_rest
    )
    parts = ((x_train, y_train), (x_validation, y_validation), (x_test, y_test))
    source = "scikit-learn load_digits (UCI handwritten digits, 8 x 8 pixels, 17 grey levels)"
    train, validation, test = (_arrays(*part) for part in parts)
    return (train, validation, test), source, int(y.max()) + 1


def _images(config: DataConfig) -> tuple[tuple[Split, Split, Split], str, int]:
    """A set of images in [0, 1]; validation is carved from train, test is the set's own."""
    found = images.load(
        config.name, image_column=config.image_column, label_column=config.label_column, config=config.subset
    )
    train, validation = images.carve(found.train_y, config.validation_fraction, config.split_seed)

    def part(x: np.ndarray, y: np.ndarray) -> Split:
        return _arrays(x.astype(np.float32) / 255, y)

    splits = (
        part(found.train_x[train], found.train_y[train]),
        part(found.train_x[validation], found.train_y[validation]),
        part(found.test_x, found.test_y),
    )
    return splits, f"{found.source['name']} ({'x'.join(map(str, found.train_x.shape[1:]))} pixels)", len(found.classes)


def _arrays(x: Any, y: Any) -> Split:
    return Split(jnp.asarray(np.asarray(x, np.float32)), jnp.asarray(np.asarray(y, np.int32)))


def _first(train: Split, config: DataConfig) -> Split:
    count = config.train_examples or len(train.y)
    if count > len(train.y):
        raise ConfigError(
            f"data.train_examples is {count}, but {config.name} has {len(train.y)} training examples after the "
            "validation part; write fewer"
        )
    chosen = np.sort(np.random.default_rng((config.split_seed, 1)).permutation(len(train.y))[:count])
    return Split(train.x[chosen], train.y[chosen])


def _features(config: DataConfig, ndim: int) -> tuple[int, ...]:
    """The axes that keep statistics of their own: all but examples, or the last."""
    return (ndim - 1,) if config.standardize == "channel" else tuple(range(1, ndim))


def _describe(x: Float[Array, "examples ..."]) -> dict[str, list[float]]:
    values = np.asarray(x, np.float32).reshape(len(x), -1)
    # Of many examples, some thousands give the same picture in a hundredth of the time.
    counts, edges = np.histogram(values[:: max(1, len(values) // 2000)], bins=48)
    return {
        "mean": values.mean(0, dtype=np.float64).tolist(),
        "std": values.std(0, dtype=np.float64).tolist(),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }
