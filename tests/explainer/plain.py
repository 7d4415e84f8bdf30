"""Pytrees as the nested plain objects that the translated programs take and return."""

from __future__ import annotations

from typing import Any

import numpy as np


def like(example: Any, plain: Any) -> Any:
    """Plain objects as a pytree of the structure, shapes and dtypes of `example`."""
    if isinstance(example, dict):
        return {key: None if value is None else like(value, plain[key]) for key, value in example.items()}
    if isinstance(example, tuple) and hasattr(example, "_fields"):
        return type(example)(**like(example._asdict(), plain))
    if isinstance(example, list | tuple):
        return type(example)(like(value, plain[str(k)]) for k, value in enumerate(example))
    if example is None:
        return None
    array = np.asarray(example)
    return np.asarray(plain, np.float64).astype(array.dtype).reshape(array.shape)


def differences(result: Any, plain: Any, path: str = "") -> list[str]:
    """Where plain objects lie further from jax's result than 2e-6 of the largest number of that array, or of 0.1."""
    if isinstance(result, dict):
        there = {key: value for key, value in result.items() if value is not None}
        return [text for key, value in there.items() for text in differences(value, plain[key], f"{path}.{key}")]
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return differences(result._asdict(), plain, path)
    if isinstance(result, list | tuple):
        return [text for k, value in enumerate(result) for text in differences(value, plain[str(k)], f"{path}[{k}]")]
    if result is None:
        return []
    expected = np.asarray(result, np.float64)
    got = np.asarray(plain, np.float64).reshape(expected.shape)
    if (np.isnan(expected) != np.isnan(got)).any():
        return [f"{path}: NaN at other places"]
    known = np.isfinite(expected)
    largest = np.abs(expected[known]).max(initial=0.0)
    error = np.abs(got - expected)[known].max(initial=0.0)
    return [] if error <= 2e-6 * max(largest, 0.1) else [f"{path}: off by {error:.3g} of {largest:.3g}"]
