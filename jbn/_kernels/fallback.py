"""The fallback to plain kernels, with one warning, if the installed jax lacks an internal that the tuned ones need."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

_said: list[str] = []


def say_once(missing: object) -> None:
    """Warns once that plain kernels are used, and says what is missing."""
    if not _said:
        _said.append(str(missing))
        warnings.warn(
            f"jbn's tuned kernels need an internal that this jax does not have ({missing}); plain ones are used, which "
            "are as right, and slower on a CPU: use another jax, or set JBN_KERNELS=reference to say that you know",
            stacklevel=3,
        )


def or_plainly(plain: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a lowering rule: if it raises AttributeError, `plain` is used."""

    def decorate(rule: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(rule)
        def lower(ctx: Any, *operands: Any, **params: Any) -> Any:
            try:
                return rule(ctx, *operands, **params)
            except AttributeError as error:
                say_once(error)
                return plain(ctx, *operands, **params)

        return lower

    return decorate
