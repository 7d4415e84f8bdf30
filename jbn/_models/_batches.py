"""Batches of data, as functions of whole models take them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jbn._typed import keystr, leaves_with_path

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


def check_batch(batch: Any, number: int) -> None:
    for path, leaf in leaves_with_path(batch):
        dtype = getattr(leaf, "dtype", None)
        try:
            jax.typeof(leaf)
        except TypeError:
            kind = f"{type(leaf).__module__}.{type(leaf).__qualname__}".removeprefix("builtins.")
            of = f" of {dtype}" if isinstance(leaf, np.ndarray) else ""
            raise ValueError(
                f"batch {number}{keystr(path)} is a {kind}{of}, which jax.jit does not take; pass "
                "arrays of numbers only, such as batches=[{'x': np.asarray(b['x'])} for b in batches]"
            ) from None
