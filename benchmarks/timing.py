"""Timing in turns: contestants run interleaved, so that a slow minute of the machine slows all of them alike."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

LEAST_SECONDS, LEAST_CALLS = 2e-3, 2  # of one sample
REST_SECONDS = 5e-3


class Timed(NamedTuple):
    """Seconds of one call: median and quartiles over the samples."""

    median: float
    low: float
    high: float
    samples: list[float]


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timed]:
    """Seconds of each call. A call returns when its work is done, or returns jax arrays to wait for.

    In each of `repeats` rounds every contestant has a turn, in a new random order. A turn begins with a rest, in which
    the threads of the previous contestant stop spinning (torch's spin for milliseconds, and two cores are soon busy),
    and with untimed calls, which warm up caches, threads and clock rates.
    """
    counts = {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        began = time.perf_counter()
        jax.block_until_ready(call())
        counts[name] = max(1, int(LEAST_SECONDS / (time.perf_counter() - began)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    collects = gc.isenabled()
    gc.disable()
    try:
        for _ in range(repeats):
            for name in order.sample(list(calls), len(calls)):
                time.sleep(REST_SECONDS)
                _seconds_a_call(calls[name], counts[name])
                samples[name].append(_seconds_a_call(calls[name], max(LEAST_CALLS, counts[name])))
    finally:
        if collects:
            gc.enable()
    return {name: timed(values) for name, values in samples.items()}


def _seconds_a_call(call: Callable[[], Any], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(call())
    return (time.perf_counter() - began) / count


def timed(samples: list[float]) -> Timed:
    ordered = sorted(samples)
    return Timed(statistics.median(ordered), ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4], samples)
