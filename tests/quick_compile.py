"""Compile options for programs that run once, as far as the installed jaxlib knows them.

Without LLVM's optimizations and XLA's newer code generators, a large program compiles in half the time. `python
tests/quick_compile.py` prints the options as XLA_FLAGS: an unknown flag there would end the process.
"""

from __future__ import annotations

import functools

import jax

WANTED = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@functools.cache
def quick_options() -> dict[str, bool | int]:
    """The options of `WANTED` that this jaxlib accepts."""

    def known(name: str) -> bool:
        try:
            jax.jit(lambda: 0).lower().compile(compiler_options={name: WANTED[name]})
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):
                raise
            return False
        return True

    return {name: value for name, value in WANTED.items() if known(name)}


if __name__ == "__main__":
    print(*(f"--{name}={str(value).lower()}" for name, value in quick_options().items()))
