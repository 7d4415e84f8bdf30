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
    """Commit of the code, whether it has uncommitted changes, date, device, platform and versions."""
    commit = _git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain")) if commit else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "cores": cores(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of a git command in the repository of this code; None without git or without a repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
