"""Traces of a model for a purpose of our own."""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax

# JAX keeps traces by the value of such a context, too. One made after the first compilation would have all that was
# compiled compiled once more, so it is made with the package.
_purpose = jax.make_user_context()


def own_traces() -> AbstractContextManager[None]:
    """A context in which every function under `jit` is traced anew, and whose traces nothing outside it is served.

    `nn.jit` keeps its traces from call to call of a model, and knows nothing of the interception of methods: without
    this, a model is not watched where it was traced before, and is watched for good where it was not.

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
