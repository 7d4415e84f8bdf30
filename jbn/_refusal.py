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
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_excuse: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar("excuse", default=lambda: False)


def refused(x: jax.Array, message: str) -> jax.Array:
    """`x`, which raises ValueError(message) as soon as it is computed, or a program that uses it is compiled."""
    return x if _excuse.get()() else _refused_p.bind(x, message=message)


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


def _batch(values: Any, dims: Any, *, message: str) -> Any:
    return _refused_p.bind(*values, message=message), dims[0]


_refused_p = Primitive("jbn_refused")
_refused_p.def_impl(_refuse)
_refused_p.def_abstract_eval(lambda x, **_: x)
ad.deflinear2(_refused_p, lambda cotangent, _, *, message: [_refused_p.bind(cotangent, message=message)])
batching.primitive_batchers[_refused_p] = _batch
mlir.register_lowering(_refused_p, _refuse, cacheable=False)
