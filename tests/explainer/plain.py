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
