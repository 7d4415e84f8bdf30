"""Where a call is written in plain jax.numpy, without the tuned passes: slower on a CPU, and known to every tool.

The passes are tuned by primitives, derivatives and checkpoints of their own. Two kinds of programs must do without:
inference, which exporters and other tools read operation by operation; and what `jax.experimental.jet` follows, which
has no rule for a checkpoint and cannot go through a custom derivative.
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
    """`f`, with all passes in it plain."""

    @functools.wraps(f)
    def wrapped(*args: Any) -> Any:
        token = _asked.set(True)
        try:
            return f(*args)
        finally:
            _asked.reset(token)

    return wrapped


def plain() -> bool:
    """Whether the passes here are to be plain."""
    return _asked.get() or _under_jet()


def checkpoint(f: Callable[..., Any], *args: Any, policy: Any = None) -> Any:
    """`f(*args)`, computed again for its derivative but for what the policy keeps."""
    return f(*args) if _under_jet() else _typed.checkpoint(f, policy=policy, prevent_cse=False)(*args)


def named(values: Any, name: str) -> Any:
    """`values`, by a name that a policy may keep."""
    return values if _under_jet() else _typed.checkpoint_name(values, name)


def _under_jet() -> bool:
    """Whether `jax.experimental.jet` is among the transformations at work here."""
    trace: Any = find_top_trace(())
    while trace is not None and type(trace).__name__ != "JetTrace":
        trace = getattr(trace, "parent_trace", None)
    return trace is not None
