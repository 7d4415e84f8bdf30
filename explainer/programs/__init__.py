"""The programs that the pages run: one file a scene, of plain functions of jbn, flax and optax.

A file names its programs in `PROGRAMS`. Each is a pure function and example arguments, which set the shapes and dtypes
of the translated program. A reader moves values, not shapes: for fewer examples, pass `where`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple


class Program(NamedTuple):
    """A function of arrays, and a pytree of example arguments, which are passed by keyword."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    unstable: str = ""
    """Why rounding alone changes what it returns, if it does: tests then compare with jax at the example only."""
    tolerance: float = 2e-6
    """How far from jax's what it returns at the ends of its controls may be, relative to the largest magnitude."""


def collect() -> dict[str, dict[str, Program]]:
    """All programs, by scene and name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}").PROGRAMS for name in names}
