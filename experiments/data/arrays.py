"""Data as arrays: split once or by each seed, standardized by the training part, shuffled by the seed.

Standardization is batch norm with the whole training part as the batch: `jbn.moments` of the training part, applied to
every part with `jbn.normalize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

import jbn
from experiments.config import ConfigError, DataConfig, TrainingConfig
from experiments.data.parts import Part, Parts, RawSet, read

KEPT = 256  # seeds whose own splits stay in memory; those of the digits take 0.5 MB each


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
    """The three standardized parts with which one seed is trained and judged."""

    train: Split
    validation: Split
    test: Split


class Source(NamedTuple):
    """A data set with one split for all training seeds, or with a split of each seed's own.

    Attributes:
      of: the data of a training seed. Its shapes are the same for all seeds. With one split it returns the same object
        for all seeds.
      classes: number of classes.
      each_seed: whether each seed has its own split, and so its own moments for the standardization.
      description: the content of data.json.
    """

    of: Callable[[int], Data]
    classes: int
    each_seed: bool
    description: dict[str, Any]


def load(config: DataConfig, first_seed: int = 0) -> Source:
    """Loads the data set of `config`; its splits are stratified by class, and standardized when they are used.

    Args:
      first_seed: the first training seed; the description is about its split.

    Raises:
      ConfigError: there is no such data set, a part of it would be too small, or it holds NaN or inf.
    """
    found = read(config)
    raw = found.parts(first_seed)
    _refuse_not_finite(config, raw)
    first = _standardized(config, raw)

    @lru_cache(maxsize=KEPT)
    def own(seed: int) -> Data:
        return _standardized(config, found.parts(seed))

    of = own if config.split_each_seed else lambda seed: first
    return Source(of, found.classes, config.split_each_seed, _description(config, found, raw, first))


def _refuse_not_finite(config: DataConfig, raw: Parts) -> None:
    """Refuses NaN and inf: through the moments of one example they would reach all, and every training."""
    for name, part in raw._asdict().items():
        bad = np.flatnonzero(~np.isfinite(part.x).reshape(len(part.x), -1).all(axis=1))
        if bad.size:
            raise ConfigError(
                f"{config.name} has {bad.size} examples with NaN or inf, the first at place {bad[0]} of its {name} "
                "part; repair them, or take them out of the set"
            )


def _moments(config: DataConfig, train: Part) -> jbn.Moments:
    """Of each feature, or of each channel, of the raw training part."""
    ndim = train.x.ndim
    kept = (ndim - 1,) if config.standardize == "channel" else tuple(range(1, ndim))
    return jbn.moments(jnp.asarray(train.x), axis=kept)


def _standardized(config: DataConfig, raw: Parts) -> Data:
    parts = (Split(jnp.asarray(part.x), jnp.asarray(part.y)) for part in raw)
    if config.standardize != "none":
        moments = _moments(config, raw.train)
        parts = (Split(standardize(part.x, moments), part.y) for part in parts)
    return Data(*parts)


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


def _description(config: DataConfig, found: RawSet, raw: Parts, standardized: Data) -> dict[str, Any]:
    shape = raw.train.x.shape[1:]
    test = _describe(standardized.test.x)
    return {
        "name": config.name,
        "source": found.name,
        "checksum": found.checksum,
        "split": "each seed" if config.split_each_seed else "one",
        "train": len(raw.train.y),
        "validation": len(raw.validation.y),
        "test": len(raw.test.y),
        "test_classes": np.bincount(raw.test.y, minlength=found.classes).tolist(),
        "shape": list(shape),
        "features": math.prod(shape),
        "classes": found.classes,
        "constant_features": int((_moments(config, raw.train).var == 0).sum()),
        "raw": _describe(raw.train.x),
        "standardized": _describe(standardized.train.x),
        "standardized_test": {"mean": test["mean"], "std": test["std"]},
        # Which examples a network gets right is kept for each network; with one test set, so is what they are.
        **({} if config.split_each_seed else {"test_labels": raw.test.y.tolist()}),
    }


def _describe(x: Array | np.ndarray) -> dict[str, list[float]]:
    values = np.asarray(x, np.float32).reshape(len(x), -1)
    # A subsample of at least 2000 examples gives the same histogram in a hundredth of the time.
    counts, edges = np.histogram(values[:: max(1, len(values) // 2000)], bins=48)
    return {
        "mean": values.mean(0, dtype=np.float64).tolist(),
        "std": values.std(0, dtype=np.float64).tolist(),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }
