"""The memory's limit: the least passes over an array, at the bandwidth measured on arrays of its size.

    forward               read (statistics), then read and write (normalize)
    backward              read two (sums), then read two and write one
    inference             read and write

It is measured in the same rounds as the contestants. Arrays that fit into a cache have the cache's bandwidth.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks.speed.cases import Mode
from benchmarks.timing import Timed

# Reads, copies (one read, one write) and triads (two reads, one write).
PASSES: Mapping[Mode, tuple[int, int, int]] = {
    "forward": (1, 1, 0),
    "forward+backward": (3, 1, 1),
    "forward+backward, ReLU": (3, 1, 1),
    "inference": (0, 1, 0),
}


class Bandwidth:
    """Passes over float32 arrays of `size` bytes."""

    def __init__(self, size: int):
        # 64 columns: a sum over rows that XLA runs at the speed of the memory, on CPU and GPU.
        shape = (max(1, size // (4 * 64)), 64)
        a, b, small = jnp.full(shape, 1.0), jnp.full(shape, 2.0), jnp.zeros(8)
        passes = {
            "read": (lambda a: a.sum(0), (a,)),
            "copy": (lambda a: a * 1.5, (a,)),
            "triad": (lambda a, b: a + 1.5 * b, (a, b)),
            "nothing": (lambda a: a + 1, (small,)),
        }
        self.calls = {name: partial(jax.jit(function), *arrays) for name, (function, arrays) in passes.items()}


def limit_seconds(mode: Mode, times: Mapping[str, Timed]) -> float:
    """Seconds of one call: its passes, each at its fastest, with the overhead of a call counted once."""
    fastest = {name: min(times[name].samples) for name in ("read", "copy", "triad", "nothing")}
    reads, copies, triads = PASSES[mode]
    passes = reads * fastest["read"] + copies * fastest["copy"] + triads * fastest["triad"]
    return max(passes - (reads + copies + triads - 1) * fastest["nothing"], fastest["nothing"])


def gigabytes_per_second(size: int, times: Mapping[str, Timed]) -> dict[str, float]:
    """What each pass reads and writes, over its fastest time."""
    moved = {"read": 1, "copy": 2, "triad": 3}
    return {name: count * size / min(times[name].samples) / 1e9 for name, count in moved.items()}
