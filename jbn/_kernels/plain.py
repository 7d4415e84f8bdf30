"""When a call is traced to plain jax.numpy, without the tuned passes: slower on a CPU, and known to every tool.

The tuned passes use primitives, custom derivatives and checkpoints. Two kinds of programs must do without: inference,
which exporters and other tools read operation by operation; and programs under `jax.experimental.jet`, which has no
rule for a checkpoint or a custom derivative.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from jbn import _typed

try:
    from jax.extend.core import find_top_trace  # pyright: ignore[reportUnknownVariableType]  (no types)
except ImportError:  # then jet is not seen

    def find_top_trace(_: Any) -> None:
        return None


_asked: ContextVar[bool] = ContextVar("jbn_plain", default=False)


def plainly(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f`, with plain passes."""

    @functools.wraps(f)
    def wrapped(*args: Any) -> Any:
        token = _asked.set(True)
        try:
            return f(*args)
        finally:
            _asked.reset(token)

    return wrapped


def plain() -> bool:
    """Whether passes that are traced now must be plain."""
    return _asked.get() or _under_jet()


def checkpoint(f: Callable[..., Any], *args: Any, policy: Any = None) -> Any:
    """`f(*args)`, recomputed in the backward pass except for what the policy saves."""
    return f(*args) if _under_jet() else _typed.checkpoint(f, policy=policy, prevent_cse=False)(*args)


def named(values: Any, name: str) -> Any:
    """`values`, with a name by which a policy can save them."""
    return values if _under_jet() else _typed.checkpoint_name(values, name)


def _under_jet() -> bool:
    """Whether `jax.experimental.jet` is one of the current transformations."""
    trace: Any = find_top_trace(())
    while trace is not None and type(trace).__name__ != "JetTrace":
        trace = getattr(trace, "parent_trace", None)
    return trace is not None
