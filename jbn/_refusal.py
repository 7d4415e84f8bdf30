"""Errors that are raised when a value is computed, and not when a caller only asks for its shape.

`jax.eval_shape`, `nnx.tabulate` and lazy initialization call a module in training mode with one example, and use none
of the numbers. An error about numbers waits until they are computed, or a program that computes them is compiled.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
from collections.abc import Callable, Generator
from typing import Any, NoReturn

import jax

_excuse: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar("excuse", default=lambda: False)


def refused(x: jax.Array, message: str) -> jax.Array:
    """Returns `x`; computing it, or compiling a program that uses it, raises ValueError(message)."""
    if _excuse.get()():
        return x
    return _refuse(message=message) if _refused_p is None else _refused_p.bind(x, message=message)


@contextlib.contextmanager
def excused(when: Callable[[], bool]) -> Generator[None]:
    """A context in which `refused` raises nothing where `when()`: some tools compute a result and drop it."""
    token = _excuse.set(when)
    try:
        yield
    finally:
        _excuse.reset(token)


def called_from(*modules: str) -> bool:
    """Whether a function of one of these Python modules is on the call stack."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") not in modules:
        frame = frame.f_back
    return frame is not None


def _refuse(*_: Any, message: str) -> NoReturn:
    raise ValueError(message)


def _primitive() -> Any:
    """An identity that raises when it is evaluated or lowered; None where this jax lacks a function that it needs."""
    try:
        from jax.extend.core import Primitive
        from jax.interpreters import ad, batching, mlir
    except ImportError:
        return None
    p: Any = Primitive("jbn_refused")

    def abstract(x: Any, **_: Any) -> Any:
        return x

    def transpose(cotangent: Any, _: Any, *, message: str) -> list[Any]:
        return [p.bind(cotangent, message=message)]

    def batch(args: Any, dims: Any, *, message: str) -> tuple[Any, Any]:
        return p.bind(*args, message=message), dims[0]

    try:
        p.def_impl(_refuse)
        p.def_abstract_eval(abstract)
        ad.deflinear2(p, transpose)  # pyright: ignore[reportUnknownMemberType]  # not annotated
        batching.primitive_batchers[p] = batch
        mlir.register_lowering(p, _refuse, cacheable=False)  # pyright: ignore[reportUnknownMemberType]  # in part
    except AttributeError:
        return None
    return p


_refused_p = _primitive()
