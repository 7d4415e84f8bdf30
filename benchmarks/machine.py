"""The machine and the device: chosen before jax is imported, and described beside each result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# glibc gives large arrays back to the system when they are freed; to get them anew, zeroed page by page, costs every
# library alike more than the work itself (an array of 51 MB: 11 ms instead of 2). The arenas that it makes for threads
# hold 64 MB at most, and whether an array fits into one is chance (67 MB of results: 7 ms or 13): hence a single arena.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_ARENA_MAX": "1",
}
# Leaves GPU memory to the processes that a benchmark starts.
SHARE_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def set_environment(variables: Mapping[str, str]) -> None:
    """Sets those that are not set; where the C library is to see them, starts this program again."""
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(missing)
    # It reads them when a process starts.
    if sys.platform == "linux" and missing.keys() & KEEP_FREED_MEMORY.keys():
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])


def use_device(device: str | None) -> str | None:
    """The platform for `--device`, "cpu" or "gpu"; None, and an error line, where there is no such device."""
    import jax

    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    platform = "cpu" if jax.default_backend() == "cpu" else "gpu"
    if device == "gpu" and platform == "cpu":
        print("error: --device gpu, but jax finds no accelerator here; use --device cpu", file=sys.stderr)
        return None
    return platform


def provenance() -> dict[str, Any]:
    """Device, machine, date and versions, which every result states."""
    import jax

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
    """The processor and its widest vector instructions: virtual machines give several generations the same name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    vectors = next((said for flag, said in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if f" {flag} " in text), None)
    found = name[1].strip() if name else platform.processor() or "CPU"
    return f"{found} ({vectors})" if vectors else found
