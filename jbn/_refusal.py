"""An error for whoever computes, not for whoever asks for shapes.

A module in training mode is called with one example by `jax.eval_shape`, `nnx.tabulate` or lazy initialization, where
no number is used. What would be wrong to compute is refused where it is computed or compiled, and not before.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

_excuse: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar("excuse", default=lambda: False)


def refused(x: jax.Array, message: str) -> jax.Array:
    """`x`, which raises ValueError(message) as soon as it is computed, or a program that uses it is compiled."""
    if _excuse.get()():
        return x
    return _refuse(message=message) if _refused_p is None else _refused_p.bind(x, message=message)


@contextlib.contextmanager
def excused(when: Callable[[], bool]) -> Iterator[None]:
    """Nothing is refused where `when()`: some tools compute, or compile, and throw away what they get."""
    token = _excuse.set(when)
    try:
        yield
    finally:
        _excuse.reset(token)


def called_from(*modules: str) -> bool:
    """Whether a function of one of these Python modules is being run."""
    frame: Any = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") not in modules:
        frame = frame.f_back
    return frame is not None


def _refuse(*_: Any, message: str) -> NoReturn:
    raise ValueError(message)


def _primitive() -> Any:
    """The identity that is refused; None where this jax lacks what it takes, and refusing at once has to do."""
    try:
        from jax.extend.core import Primitive
        from jax.interpreters import ad, batching, mlir

        p = Primitive("jbn_refused")
        p.def_impl(_refuse)
        p.def_abstract_eval(lambda x, **_: x)
        ad.deflinear2(p, lambda cotangent, _, *, message: [p.bind(cotangent, message=message)])
        batching.primitive_batchers[p] = lambda x, dims, *, message: (p.bind(*x, message=message), dims[0])
        mlir.register_lowering(p, _refuse, cacheable=False)
    except (ImportError, AttributeError):
        return None
    return p


_refused_p = _primitive()
