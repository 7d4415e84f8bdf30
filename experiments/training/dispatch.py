"""Programs and transfers reach the devices one at a time.

A program that spans several CPU devices takes a number, then a place in the queue of each device, and runs when the
numbers before it have run; a queue has 32 places. If two threads do so at once, the later number may take all places of
one device while the earlier one still wants its own: each waits for the other, for ever. So one thread at a time
dispatches, and all devices meet all programs in one order. What takes long, compiling and waiting for results, needs no
device's queue and happens outside, in as many threads as there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax

_turn = threading.Lock()
_count = 0


def dispatch(function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)`, while no other thread dispatches; it must not compile for long, nor call `dispatch`."""
    global _count
    with _turn:
        result = function(*arguments)
        _count += 1
    return result


def dispatched() -> int:
    """How often `dispatch` has come back so far: where this stands still, nothing advances."""
    return _count


class Program:
    """A jitted function that compiles in the thread that first calls it, and then is dispatched like all others.

    Its optimization level holds on a CPU; elsewhere it would cost speed, and was not measured. Made when it is first
    used: before, it is not known which device that will be.
    """

    def __init__(self, function: Callable, level: int, options: dict[str, Any]):
        self._function, self._level, self._options = function, level, options
        self._compiled: set[Any] = set()

    @cached_property
    def jitted(self) -> Any:
        on_cpu = jax.default_backend() == "cpu"
        level = {"xla_backend_optimization_level": self._level} if on_cpu else None
        return jax.jit(self._function, compiler_options=level, **self._options)

    def __call__(self, *arguments: Any) -> Any:
        static = len(self._options["static_argnums"])
        leaves, structure = jax.tree.flatten(arguments[static:])
        called = (arguments[:static], structure, tuple(leaf.shape for leaf in leaves))
        if called not in self._compiled:
            # jit finds what was compiled here; what it does not, such as for another dtype, it compiles itself.
            self.jitted.lower(*arguments).compile()
            self._compiled.add(called)
        return dispatch(self.jitted, *arguments)


def program(level: int, **options: Any) -> Callable[[Callable], Program]:
    """Decorates a function that becomes a `Program`.

    Args:
      level: of XLA's optimization on a CPU.
      options: of `jax.jit`; `static_argnums` are the first arguments.
    """
    return lambda function: Program(function, level, options)
