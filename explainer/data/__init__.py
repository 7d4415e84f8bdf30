"""The data of the scenes: live runs, and results that are committed, as JSON for the pages.

One file a scene, with a function `data() -> dict`. What it may hold:

* `Value`: a number that prose may cite (`{value}` in a page), with its unit and how often it was measured;
* NumPy arrays: packed as base64 of their bytes, `src/kit/pack.ts` unpacks them; numbers that a figure needs to a few
  digits only are given as float16;
* texts, numbers, lists, dicts: as they are.

The data is made again where its inputs have changed: its file, its programs, jbn, the laboratory, the versions.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "explainer" / "_build" / "data"
VERSIONS = ("jax", "flax", "optax", "scikit-learn")
PACKED = ("float32", "float16", "uint8", "uint16", "int32")


class Value(NamedTuple):
    """A measured number that prose may cite."""

    value: float
    unit: str = ""
    n: int = 1
    """How many measurements it is the mean of."""
    sd: float | None = None
    """Their standard deviation."""
    seed: str = ""
    """Which seeds, such as "0 to 19"."""
    config: str = ""
    """What was run, in a few words."""


def plain(value: Any) -> Any:
    """`value` as what JSON can hold."""
    if isinstance(value, Value):
        return {key: plain(part) for key, part in value._asdict().items() if part not in (None, "")}
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.name not in PACKED:
            raise TypeError(f"an array of {value.dtype} is not packed; convert it to one of {', '.join(PACKED)}")
        packed = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"shape": list(value.shape), "dtype": value.dtype.name, "base64": packed}
    return value


def scenes() -> list[str]:
    """The scenes that have data."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def inputs(scene: str) -> str:
    """A hash of everything that a scene's data is made of."""

    def files() -> Iterator[Path]:
        for folder in ("explainer/data", "explainer/programs"):
            yield from sorted((ROOT / folder).glob("_*.py"))  # what scenes share
            yield ROOT / folder / f"{scene}.py"
        yield ROOT / "requirements.lock"
        for folder in ("jbn", "experiments"):
            yield from sorted((ROOT / folder).rglob("*.py"))
        for folder in ("experiments/published", "benchmarks/results"):
            yield from sorted((ROOT / folder).rglob("*.json"))

    sha = hashlib.sha256()
    for path in files():
        if path.exists():
            sha.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return sha.hexdigest()


def provenance() -> dict[str, Any]:
    """Where numbers of this build come from."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {"commit": commit, "versions": {"python": platform.python_version(), **versions}, "command": "make site"}


def write(folder: Path = BUILT, only: tuple[str, ...] = ()) -> None:
    """Makes the data of the scenes (of all, or only some) where it is missing or its inputs have changed."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in only or scenes():
        path, key = folder / f"{scene}.json", inputs(scene)
        if path.exists() and json.loads(path.read_text()).get("inputs") == key:
            continue
        made = plain(importlib.import_module(f"explainer.data.{scene}").data())
        path.write_text(json.dumps({**made, "provenance": provenance(), "inputs": key}, allow_nan=False) + "\n")
        print(f"data of {scene}: {path.stat().st_size / 1024:.0f} KiB", flush=True)
