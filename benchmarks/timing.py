"""Timing by turns: contestants run interleaved, so that a slow minute of the machine falls on all of them alike."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
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
    """Seconds of each call, which returns when its work is done or hands out jax arrays to wait for.

    `repeats` rounds, in which every contestant has its turn, in another order each round. A turn begins with a rest, in
    which threads of the one before give up waiting for more (torch's spin for milliseconds, and two cores are soon
    full), and with calls that are not timed: caches, threads and clocks are then its own.
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


def keep_memory(module: str) -> None:
    """Starts this program (`python -m module`) again, with an allocator that keeps what it has.

    glibc gives large arrays back to the system when they are freed; to get them anew, zeroed page by page, costs
    every contestant alike more than the work itself (an array of 51 MB: 11 ms instead of 2). The arenas that it makes
    for threads hold 64 MB at most, and what an array finds there is chance (67 MB of results: 7 ms or 13): one for all.
    """
    kept = {f"MALLOC_{name}_THRESHOLD_": "4294967296" for name in ("MMAP", "TRIM")} | {"MALLOC_ARENA_MAX": "1"}
    if sys.platform == "linux" and not kept.keys() <= os.environ.keys():
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | kept)


def use_device(device: str | None) -> str | None:
    """What `--device` asks for, "cpu" or "gpu"; None, and a line that says so, where there is no accelerator."""
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    platform = "cpu" if jax.default_backend() == "cpu" else "gpu"
    if device == "gpu" and platform == "cpu":
        print("error: --device gpu, but jax finds no accelerator here; write --device cpu", file=sys.stderr)
        return None
    return platform


def timed(samples: list[float]) -> Timed:
    ordered = sorted(samples)
    return Timed(statistics.median(ordered), ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4], samples)


def provenance() -> dict[str, Any]:
    """Device, machine and versions: what a number needs to be believed."""
    packages = ("jax", "jaxlib", "flax", "optax", "dm-haiku", "equinox", "torch", "numpy")
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else f"{_cpu()}, {len(os.sched_getaffinity(0))} cores",
        "platform": device.platform,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d"),
        "versions": found,
    }


def _cpu() -> str:
    """The processor, and its widest vectors: virtual machines give several generations the same name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    vectors = next((said for flag, said in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if f" {flag} " in text), None)
    found = name[1].strip() if name else platform.processor() or "CPU"
    return f"{found} ({vectors})" if vectors else found
