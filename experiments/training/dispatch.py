"""Dispatches programs and transfers one at a time, to avoid a deadlock.

A program that spans several CPU devices takes a number, then a slot in the queue of each device, and runs when all
programs with lower numbers have run; a queue has 32 slots. If two threads dispatch at once, programs with later numbers
may fill the queue of one device while an earlier one still needs a slot in it: each waits for the other forever. So
only one thread dispatches at a time, and all devices get all programs in the same order. Compiling and waiting for
results take long but need no queue, so they happen outside of the lock, in any number of threads.
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
    """Calls `function(*arguments)` under the lock; `function` must not compile for long, nor call `dispatch`."""
    global _count
    with _turn:
        result = function(*arguments)
        _count += 1
    return result


def dispatched() -> int:
    """The number of calls of `dispatch` that have returned; while it does not grow, the sweep makes no progress."""
    return _count


class Program:
    """A jitted function that compiles in the calling thread, outside of the lock, and is then dispatched.

    The optimization level applies only on a CPU; its effect on other devices has not been measured. `jitted` is created
    at the first use, because the device is not known before.
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
            # jit reuses this compilation; if it cannot (such as for another dtype), it compiles by itself.
            self.jitted.lower(*arguments).compile()
            self._compiled.add(called)
        return dispatch(self.jitted, *arguments)


def program(level: int, **options: Any) -> Callable[[Callable], Program]:
    """Decorator that makes a `Program` of a function.

    Args:
      level: XLA's optimization level on a CPU.
      options: options of `jax.jit`; `static_argnums` must be the first arguments.
    """
    return lambda function: Program(function, level, options)
