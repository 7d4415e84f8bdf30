"""What the memory allows: the least passes over an array, at the bandwidth measured on arrays of its size.

    forward               read (statistics), then read and write (normalize)
    backward              read two (sums), then read two and write one
    inference             read and write

Measured in the same rounds as the contestants, so arrays that fit into a cache have the cache's bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.speed.cases import Mode
from benchmarks.timing import Timed

NAMES = ("read", "copy", "triad", "nothing")
# Reads, copies (one read, one write) and triads (two reads, one write).
PASSES: Mapping[Mode, tuple[int, int, int]] = {
    "forward": (1, 1, 0),
    "forward+backward": (3, 1, 1),
    "forward+backward, ReLU": (3, 1, 1),
    "inference": (0, 1, 0),
}


class Bandwidth:
    """Passes over float32 arrays of so many bytes; what they write goes to memory that is there already."""

    def __init__(self, size: int):
        # 64 columns: a sum over rows that XLA runs at the speed of the memory, on CPU and GPU.
        shape = (max(1, size // (4 * 64)), 64)
        a, b = (jnp.full(shape, v, jnp.float32) for v in (1.0, 2.0))
        donate: Callable[..., Any] = partial(jax.jit, donate_argnums=0, keep_unused=True)
        self._sum = jax.jit(lambda a: a.sum(0))
        self._copy = donate(lambda out, a: a * 1.5)
        self._triad = donate(lambda out, a, b: a + 1.5 * b)
        self._nothing = jax.jit(lambda a: a + 1)
        self._a, self._b, self._small = a, b, jnp.zeros(8)
        self._outs = {"copy": jnp.zeros(shape), "triad": jnp.zeros(shape)}

    def calls(self) -> dict[str, Callable[[], Any]]:
        return {
            "read": lambda: self._sum(self._a),
            "copy": lambda: self._into("copy", self._copy, self._a),
            "triad": lambda: self._into("triad", self._triad, self._a, self._b),
            "nothing": lambda: self._nothing(self._small),
        }

    def _into(self, name: str, call: Callable[..., Any], *arrays: jax.Array) -> Any:
        self._outs[name] = call(self._outs[name], *arrays)
        return self._outs[name]


def limit_seconds(mode: Mode, times: Mapping[str, Timed]) -> float:
    """Of one call: the passes, the price of a call counted once and not for each pass."""
    reads, copies, triads = PASSES[mode]
    overhead = (reads + copies + triads - 1) * times["nothing"].median
    passes = reads * times["read"].median + copies * times["copy"].median + triads * times["triad"].median
    return max(passes - overhead, times["nothing"].median)


def gigabytes_per_second(size: int, times: Mapping[str, Timed]) -> dict[str, float]:
    """Bytes that the passes read and write, over their time."""
    moved = {"read": 1, "copy": 2, "triad": 3}
    return {name: count * size / times[name].median / 1e9 for name, count in moved.items()}
