"""Traces of a model that are kept apart from the user's own."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager

from jbn._typed import make_user_context

# The value of such a context is part of the key of JAX's trace cache. Creating one invalidates everything compiled
# before, so it is created when the package is imported.
_purpose = make_user_context()


def own_traces() -> AbstractContextManager[None]:
    """A context in which every function under `jit` is traced anew, and whose traces are not reused outside it.

    `nn.jit` caches the trace of a module from call to call, and the key of its cache does not include method
    interceptors. Without this context, interceptors see nothing of a model that was traced before, and one that was
    first traced here keeps them for good.

    Example:
      >>> import jax
      >>> from jbn._traces import own_traces
      >>> f = jax.jit(lambda x: print("traced") or x)
      >>> with own_traces():
      ...     _ = f(1.0), f(2.0)
      traced
      >>> _ = f(1.0), f(2.0)
      traced
    """
    return _purpose(object())


def traces_of(key: Hashable) -> AbstractContextManager[None]:
    """A context whose traces are reused in each context of the same key, and nowhere else."""
    return _purpose(key)
