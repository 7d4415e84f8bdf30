"""Splits validation data off a training set, stratified by class."""

from __future__ import annotations

import numpy as np

from experiments.config import ConfigError


def carve(y: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the indices of a training set into training and validation indices, stratified by class.

    Args:
      y: class of each example, int [n].
      fraction: fraction of the examples for validation, in (0, 1). Their number is `fraction` · n, rounded; each class
        contributes its share, rounded up or down.
      seed: the same seed gives the same split on every machine.

    Returns:
      Training and validation indices, int32 and ascending: every index from 0 to n - 1 is in exactly one of them.

    Raises:
      ConfigError: `fraction` is out of range, or leaves no validation data, or a class without training data.

    >>> train, validation = carve(np.array([0, 1, 0, 1, 0, 1, 0, 1]), 0.25, seed=0)
    >>> len(train), len(validation)
    (6, 2)
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the validation fraction is {fraction}; use a share between 0 and 1, such as 0.1")
    classes, counts = np.unique(y, return_counts=True)
    quotas = fraction * counts
    takes = np.floor(quotas).astype(int)
    by_remainder = np.argsort(takes - quotas, kind="stable")
    takes[by_remainder[: round(fraction * len(y)) - takes.sum()]] += 1
    if takes.sum() == 0 or (takes >= counts).any():
        raise ConfigError(
            f"a validation fraction of {fraction} of {len(y)} examples leaves nothing to validate on, or a class "
            "without training examples; use another share, such as 0.1"
        )
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(y), bool)
    for k, n in zip(classes, takes, strict=True):
        held_out[rng.permutation(np.flatnonzero(y == k))[:n]] = True
    return np.flatnonzero(~held_out).astype(np.int32), np.flatnonzero(held_out).astype(np.int32)
