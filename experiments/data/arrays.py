"""Data as arrays: split once, standardized by the training set, shuffled by the seed.

Standardization is batch norm with the whole training set as the batch: `jbn.moments` of the training set, applied to
every split with `jbn.normalize`.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jbn
from experiments.config import ConfigError, DataConfig, TrainingConfig
from experiments.data import cache
from experiments.data.carve import carve


class Split(NamedTuple):
    """Examples and their classes."""

    x: Float[Array, "examples ..."]
    y: Int[Array, " examples"]


class Batches(NamedTuple):
    """A split in batches of equal size, the last one padded; `where` is False for padding."""

    x: Float[Array, "batches size ..."]
    y: Int[Array, "batches size"]
    where: Bool[Array, "batches size"]


class Data(NamedTuple):
    """The three standardized splits, and a description of the data for data.json."""

    train: Split
    validation: Split
    test: Split
    classes: int
    description: dict[str, Any]


def load(config: DataConfig) -> Data:
    """Loads the data set of `config`, splits it by its seed with stratification by class, and standardizes it."""
    raw, source, classes, checksum = _digits(config) if config.name == "digits" else _images(config)
    if config.train_examples is not None:
        raw = (_first(raw[0], config), *raw[1:])
    moments = jbn.moments(raw[0].x, axis=_features(config, raw[0].x.ndim))
    train, validation, test = raw
    if config.standardize != "none":
        train, validation, test = (Split(standardize(split.x, moments), split.y) for split in raw)
    description = {
        "name": config.name,
        "source": source,
        "checksum": checksum,
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
    """Standardizes each feature of `x` by `moments`: mean 0 and variance 1 on the data of the moments.

    A feature that is constant in that data becomes 0 in every split, whatever its value there.
    """
    varies = moments.var > 0
    var = jnp.where(varies, moments.var, 1)
    axis = tuple(range(x.ndim - moments.mean.ndim, x.ndim))
    return jbn.normalize(x, moments.mean, var, scale=varies.astype(x.dtype), epsilon=0.0, axis=axis)


def batches(split: Split, size: int) -> Batches:
    """Cuts `split` into batches of `size`, in order: no example is lost or counted twice.

    The last batch is padded with examples from the start, for which `where` is False. They are real examples so that
    the batch statistics of a padded batch are realistic, too.
    """
    count = -(-len(split.y) // size)
    rows = jnp.arange(count * size)
    where = (rows < len(split.y)).reshape(count, size)
    rows = (rows % len(split.y)).reshape(count, size)
    return Batches(split.x[rows], split.y[rows], where)


def batch_order(
    training: TrainingConfig, y: Int[np.ndarray, " examples"], seed: int, epoch: int
) -> Int[np.ndarray, "steps batch"]:
    """Indices of the examples of each step of an epoch, the same for every arm, so that arms are paired.

    NumPy draws them, so they depend only on the seed and not on the device, the number of lanes or the version of jax.

    Raises:
      ConfigError: `classes_per_batch` does not divide the batch, or exceeds what the data have.
    """
    size, rng = training.batch_size, np.random.default_rng((seed, epoch))
    steps = len(y) // size
    if training.classes_per_batch is None:
        order = rng.permutation(len(y))[: steps * size].reshape(steps, size)
    else:
        order = _by_class(rng, y, steps, size, training.classes_per_batch)
    return order.astype(np.int32)


def _by_class(rng: np.random.Generator, y: np.ndarray, steps: int, size: int, classes: int) -> np.ndarray:
    """Batches with equal numbers of examples from a few classes, which are drawn for each batch."""
    labels, counts = np.unique(y, return_counts=True)
    if classes > len(labels) or size % classes or counts.min() < size // classes:
        raise ConfigError(
            f"training.classes_per_batch is {classes}, with training.batch_size {size} and {len(labels)} classes of at "
            f"least {counts.min()} examples; use a divisor of the batch size, at most the number of classes"
        )
    part = size // classes
    shuffled = [rng.permutation(np.flatnonzero(y == label)) for label in labels]
    used = np.zeros(len(labels), int)
    batches = []
    for _ in range(steps):
        chosen = []
        left = np.array([len(rows) for rows in shuffled]) // part - used
        if (left > 0).sum() < classes:  # too few classes have examples left, so all start over
            used[:] = 0
            left = np.array([len(rows) for rows in shuffled]) // part
        # Classes with more examples left are more likely, so that all run out together.
        for label in rng.choice(len(labels), classes, replace=False, p=left / left.sum()):
            chosen.append(shuffled[label][used[label] * part : (used[label] + 1) * part])
            used[label] += 1
        batches.append(rng.permutation(np.concatenate(chosen)))
    return np.array(batches)


def _digits(config: DataConfig) -> tuple[tuple[Split, Split, Split], str, int, str]:
    x, y = (np.asarray(a) for a in load_digits(return_X_y=True))
    held_out = config.validation_fraction + config.test_fraction
    seed = config.split_seed
    share = config.test_fraction / held_out
    try:
        x_train, x_rest, y_train, y_rest = train_test_split(x, y, test_size=held_out, random_state=seed, stratify=y)
        x_validation, x_test, y_validation, y_test = train_test_split(
            x_rest, y_rest, test_size=share, random_state=seed, stratify=y_rest
        )
    except ValueError:  # sklearn cannot stratify a part smaller than the number of classes
        raise _too_small(config, f"of {len(y)} examples a part with fewer than the {len(set(y))} classes") from None
    parts = ((x_train, y_train), (x_validation, y_validation), (x_test, y_test))
    source = "scikit-learn load_digits (UCI handwritten digits, 8 x 8 pixels, 17 grey levels)"
    train, validation, test = (_arrays(*part) for part in parts)
    return (train, validation, test), source, int(y.max()) + 1, _checksum(x, y)


def _too_small(config: DataConfig, leaves: str) -> ConfigError:
    return ConfigError(
        f"data.validation_fraction {config.validation_fraction:g} and data.test_fraction {config.test_fraction:g} "
        f"leave {leaves}; use other shares, such as 0.15 and 0.25"
    )


def _images(config: DataConfig) -> tuple[tuple[Split, Split, Split], str, int, str]:
    """A set of images in [0, 1]. Validation data comes from the training part; the test part is the set's own."""
    found = cache.load(
        config.name, image_column=config.image_column, label_column=config.label_column, subset=config.subset
    )
    train, validation = carve(found.train_y, config.validation_fraction, config.split_seed)
    if len(validation) < len(found.classes):
        raise _too_small(config, f"{len(validation)} examples for validation, fewer than {len(found.classes)} classes")

    def part(x: np.ndarray, y: np.ndarray) -> Split:
        return _arrays(_shrunk(x, config.shrink) / np.float32(255), y)

    splits = (
        part(found.train_x[train], found.train_y[train]),
        part(found.train_x[validation], found.train_y[validation]),
        part(found.test_x, found.test_y),
    )
    small = f", averaged over {config.shrink} x {config.shrink}" if config.shrink > 1 else ""
    size = f"({'x'.join(map(str, found.train_x.shape[1:]))} pixels{small})"
    return splits, f"{found.source['name']} {size}", len(found.classes), _checksum(*found[:4])


def _checksum(*arrays: np.ndarray) -> str:
    """Identifies a data set, so that a resumed run can check that it uses the same one."""
    return hashlib.sha256("".join(map(cache.fast_checksum, arrays)).encode()).hexdigest()


def _shrunk(x: np.ndarray, by: int) -> np.ndarray:
    """Images `[n, height, width, channels]` averaged over squares, as float32; incomplete squares are dropped."""
    n, height, width, channels = x.shape
    if by > min(height, width):
        raise ConfigError(f"data.shrink is {by}, but images have {height} x {width} pixels; use less")
    if by == 1:
        return x.astype(np.float32)
    cut = x[:, : height // by * by, : width // by * by]
    return cut.reshape(n, height // by, by, width // by, by, channels).mean((2, 4), dtype=np.float32)


def _arrays(x: Any, y: Any) -> Split:
    return Split(jnp.asarray(np.asarray(x, np.float32)), jnp.asarray(np.asarray(y, np.int32)))


def _first(train: Split, config: DataConfig) -> Split:
    count = config.train_examples or len(train.y)
    if count > len(train.y):
        raise ConfigError(
            f"data.train_examples is {count}, but {config.name} has {len(train.y)} training examples after the "
            "validation part; use fewer"
        )
    chosen = np.sort(np.random.default_rng((config.split_seed, 1)).permutation(len(train.y))[:count])
    if len(np.unique(np.asarray(train.y)[chosen])) < 2:
        raise ConfigError(
            f"data.train_examples is {count}, and these examples of {config.name} are of one class; use more, or "
            "another data.split_seed"
        )
    return Split(train.x[chosen], train.y[chosen])


def _features(config: DataConfig, ndim: int) -> tuple[int, ...]:
    """The axes that are not reduced: all but the examples, or only the channels."""
    return (ndim - 1,) if config.standardize == "channel" else tuple(range(1, ndim))


def _describe(x: Float[Array, "examples ..."]) -> dict[str, list[float]]:
    values = np.asarray(x, np.float32).reshape(len(x), -1)
    # A subsample of at least 2000 examples gives the same histogram in a hundredth of the time.
    counts, edges = np.histogram(values[:: max(1, len(values) // 2000)], bins=48)
    return {
        "mean": values.mean(0, dtype=np.float64).tolist(),
        "std": values.std(0, dtype=np.float64).tolist(),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }
