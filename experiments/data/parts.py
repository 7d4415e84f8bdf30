"""Reads a data set and splits it into its three parts, as NumPy arrays that are not standardized yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiments.config import ConfigError, DataConfig
from experiments.data import cache
from experiments.data.carve import carve


class Part(NamedTuple):
    """Examples `[examples, ...]`, float32, and their classes `[examples]`, int32."""

    x: np.ndarray
    y: np.ndarray


class Parts(NamedTuple):
    """The raw parts of a data set. Their sizes do not depend on the seed of the split."""

    train: Part
    validation: Part
    test: Part


class RawSet(NamedTuple):
    """A data set that has been read.

    Attributes:
      name: name and size of the set, for the report.
      classes: number of classes.
      checksum: identifies the whole set, so that a resumed run can check that it uses the same one.
      parts: the parts that a training seed uses; they depend on the seed only if each seed has its own split.
    """

    name: str
    classes: int
    checksum: str
    parts: Callable[[int], Parts]


def read(config: DataConfig) -> RawSet:
    """Reads the data set of `config`; all parts keep the shares of the classes.

    Raises:
      ConfigError: there is no such set, or a part of it would be too small.
    """
    return _digits(config) if config.name == "digits" else _images(config)


def _digits(config: DataConfig) -> RawSet:
    x, y = (np.asarray(a) for a in load_digits(return_X_y=True))
    whole, checksum = Part(x.astype(np.float32), y.astype(np.int32)), _checksum(x, y)
    held_out = config.validation_fraction + config.test_fraction

    def parts(seed: int) -> Parts:
        state, rows = _split_state(config, seed), np.arange(len(y))
        try:
            train, rest = train_test_split(rows, test_size=held_out, random_state=state, stratify=y)
            share = config.test_fraction / held_out
            validation, test = train_test_split(rest, test_size=share, random_state=state, stratify=y[rest])
        except ValueError:  # sklearn cannot stratify a part smaller than the number of classes
            raise _too_small(config, f"of {len(y)} examples a part with fewer than the {len(set(y))} classes") from None
        own = (seed,) if config.split_each_seed else ()
        return Parts(_smaller(_rows(whole, train), config, own), _rows(whole, validation), _rows(whole, test))

    name = "scikit-learn load_digits (UCI handwritten digits, 8 x 8 pixels, 17 grey levels)"
    return RawSet(name, int(y.max()) + 1, checksum, parts)


def _split_state(config: DataConfig, seed: int) -> int:
    """NumPy's seed of the split: `split_seed`, or if each training seed has its own split, a hash of both."""
    if not config.split_each_seed:
        return config.split_seed
    return int(np.random.SeedSequence((config.split_seed, seed)).generate_state(1)[0])


def _images(config: DataConfig) -> RawSet:
    """A set of images in [0, 1]. Validation data comes from the training part; the test part is the set's own."""
    found = cache.load(
        config.name, image_column=config.image_column, label_column=config.label_column, subset=config.subset
    )
    train, validation = carve(found.train_y, config.validation_fraction, config.split_seed)
    if len(validation) < len(found.classes):
        raise _too_small(config, f"{len(validation)} examples for validation, fewer than {len(found.classes)} classes")

    def part(x: np.ndarray, y: np.ndarray) -> Part:
        return Part(_shrunk(x, config.shrink) / np.float32(255), np.asarray(y, np.int32))

    parts = Parts(
        _smaller(part(found.train_x[train], found.train_y[train]), config),
        part(found.train_x[validation], found.train_y[validation]),
        part(found.test_x, found.test_y),
    )
    small = f", averaged over {config.shrink} x {config.shrink}" if config.shrink > 1 else ""
    size = f"({'x'.join(map(str, found.train_x.shape[1:]))} pixels{small})"
    return RawSet(f"{found.source['name']} {size}", len(found.classes), _checksum(*found[:4]), lambda seed: parts)


def _shrunk(x: np.ndarray, by: int) -> np.ndarray:
    """Images `[n, height, width, channels]` averaged over squares, as float32; incomplete squares are dropped."""
    n, height, width, channels = x.shape
    if by > min(height, width):
        raise ConfigError(f"data.shrink is {by}, but images have {height} x {width} pixels; use less")
    if by == 1:
        return x.astype(np.float32)
    cut = x[:, : height // by * by, : width // by * by]
    return cut.reshape(n, height // by, by, width // by, by, channels).mean((2, 4), dtype=np.float32)


def _rows(part: Part, rows: ArrayLike) -> Part:
    return Part(part.x[np.asarray(rows)], part.y[np.asarray(rows)])


def _smaller(train: Part, config: DataConfig, own: tuple[int, ...] = ()) -> Part:
    """`train_examples` random examples of a training part; `own` is the training seed, if it has its own split."""
    count = config.train_examples
    if count is None:
        return train
    if count > len(train.y):
        raise ConfigError(
            f"data.train_examples is {count}, but {config.name} has {len(train.y)} training examples after the "
            "validation part; use fewer"
        )
    rng = np.random.default_rng((config.split_seed, 1, *own))
    chosen = np.sort(rng.permutation(len(train.y))[:count])
    if len(np.unique(train.y[chosen])) < 2:
        raise ConfigError(
            f"data.train_examples is {count}, and these examples of {config.name} are of one class; use more, or "
            "another data.split_seed"
        )
    return _rows(train, chosen)


def _too_small(config: DataConfig, leaves: str) -> ConfigError:
    return ConfigError(
        f"data.validation_fraction {config.validation_fraction:g} and data.test_fraction {config.test_fraction:g} "
        f"leave {leaves}; use other shares, such as 0.15 and 0.25"
    )


def _checksum(*arrays: np.ndarray) -> str:
    return hashlib.sha256("".join(map(cache.fast_checksum, arrays)).encode()).hexdigest()
