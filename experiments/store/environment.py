"""The provenance of a run for env.json: commit, versions, device."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("jbn", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "statsmodels", "scikit-learn")


def cores() -> int:
    """The number of CPU cores that this process may use; on a shared machine it can be less than the total."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(device: str) -> dict[str, Any]:
    """What the numbers of a run may depend on, besides its config: `experiments.store.schema.Environment`."""
    commit = _git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain")) if commit else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "cores": cores(),
        "processor": processor(),
        "xla_flags": " ".join(os.environ.get("XLA_FLAGS", "").split()),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The model of the CPU, such as "AMD EPYC 7763 64-Core Processor"; None if it cannot be found out.

    Args:
      cpuinfo: where Linux describes its processors; on ARM it names no model.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if models and models[0]:
        return models[0]
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or None


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of a git command in the repository of this code; None without git or without a repository."""
    return _output("git", *arguments)


def _output(*command: str) -> str | None:
    """What a command prints; None if there is no such command, or if it fails."""
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
