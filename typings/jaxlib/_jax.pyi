"""The two names of jaxlib, which is compiled and has no types, that most annotations in jax are made of."""

from typing import Any

class Device: ...

class pytree:
    class PyTreeDef: ...

def __getattr__(name: str) -> Any: ...
