"""A run is a folder: what was asked, where it ran, one line per training, and the result last.

    config.json     the resolved config, every field written out
    env.json        commit, versions, device: where the numbers come from
    data.json       what the data look like before and after standardization
    arms.json       parameters and multiply-adds of every arm's network
    engine.json     how steps and seeds run on this device, and what was measured to decide it
    metrics.jsonl   one JSON object per epoch of every training, while it runs (experiments.writers)
    records.jsonl   one JSON object per training, appended when it ends
    stalled.txt     where each thread stood, if once nothing advanced for long (experiments.watchdog)
    result.json     the summary; written last and atomically, so its presence means "finished"

Only this file writes numbers into a run folder. JSON knows no NaN: what is not finite is written as null.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config import Config, ConfigError, from_json, to_json

try:
    import fcntl
except ImportError:  # no file locks on Windows: two writers are then not refused
    fcntl = None

PACKAGES = ("jbn", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "statsmodels", "scikit-learn")


class Run(NamedTuple):
    """All that a run folder holds."""

    folder: Path
    config: Config
    env: dict[str, Any]
    data: dict[str, Any]
    records: list[dict[str, Any]]
    result: dict[str, Any] | None
    arms: dict[str, Any]


def read(folder: Path) -> Run:
    """The run in `folder`, finished or not; nothing is written.

    Raises:
      ConfigError: `folder` is no run folder, or its config.json is not readable.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is no run folder (it has no config.json); write a folder such as runs/<config>")
    config = from_json(read_json(folder / "config.json"))
    result = folder / "result.json"
    return Run(
        folder,
        config,
        read_json(folder / "env.json", {}),
        read_json(folder / "data.json", {}),
        _read_records(folder / "records.jsonl")[0],
        read_json(result) if result.is_file() else None,
        read_json(folder / "arms.json", {}),
    )


@contextmanager
def opened(folder: Path, config: Config, device: str) -> Iterator[tuple[Run, list[str]]]:
    """Creates the run folder, or reopens it to go on where it stopped, and keeps other writers out meanwhile.

    Yields:
      The run as found, and what was repaired or noticed, one sentence each.

    Raises:
      ConfigError: the folder belongs to another config, cannot be written, or another process is writing to it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115  (held until the run ends)
    except OSError as error:
        raise ConfigError(
            f"the run folder {folder} cannot be written ({error.strerror}); write another with --out FOLDER"
        ) from None
    with lock:
        _lock(lock, folder)
        yield _reopen(folder, config, device)


def append(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    """Appends one line per training and waits until they are on the disk."""
    with open(folder / "records.jsonl", "a", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(finite(record), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Writes `value` atomically: a crash leaves the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(finite(value), file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def finite(value: Any) -> Any:
    """`value` with every number that is not finite replaced by None, as JSON needs it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def cores() -> int:
    """CPU cores that this process may use, which on a shared machine can be fewer than it has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(device: str) -> dict[str, Any]:
    """Where a run happens: commit of the code, whether it has changes, versions, device."""
    commit = _git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain")) if commit else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "cores": cores(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def _reopen(folder: Path, config: Config, device: str) -> tuple[Run, list[str]]:
    notes: list[str] = []
    env = environment(device)
    if (folder / "config.json").is_file():
        theirs = read_json(folder / "config.json")
        if theirs != to_json(config):
            raise ConfigError(
                f"{folder} belongs to another config ({_first_difference(theirs, to_json(config))}); "
                "nothing was changed; write another folder with --out FOLDER, or delete that one"
            )
        notes += _repair(folder / "records.jsonl")
        before = read_json(folder / "env.json", env)
        differs = [key for key in ("commit", "dirty", "device", "versions") if before.get(key) != env[key]]
        unfinished = not (folder / "result.json").is_file()
        if differs and unfinished:
            notes.append(f"this run began under another {' and '.join(differs)}; env.json lists both")
            write_json(folder / "env.json", before | {"resumed": [*before.get("resumed", []), env]})
    elif any(path.name != ".lock" for path in folder.iterdir()):
        raise ConfigError(f"{folder} holds other files and no run; write another folder with --out FOLDER")
    else:
        write_json(folder / "env.json", env)
        write_json(folder / "config.json", to_json(config))
    return read(folder), notes


def _repair(path: Path) -> list[str]:
    """Cuts off what a crash left of a half-written last line."""
    records, good, total = _read_records(path)
    if good == total:
        return []
    with open(path, "r+b") as file:
        file.truncate(good)
    return [f"{path}: cut off a half-written record ({total - good} bytes); the {len(records)} before it are kept"]


def _read_records(path: Path) -> tuple[list[dict[str, Any]], int, int]:
    """The records of the file, the number of bytes up to the last whole one, and of all bytes."""
    content = path.read_bytes() if path.is_file() else b""
    records: list[dict[str, Any]] = []
    good = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ConfigError(
                    f"{path}: line {number} of {len(lines)} is no JSON; delete that line and run again: only that "
                    "training is repeated"
                ) from None
            break
        if not line.endswith(b"\n"):  # whole by luck, but the next append would join it
            records.pop()
            break
        good += len(line)
    return records, good, len(content)


def read_json(path: Path, default: Any = None) -> Any:
    if default is not None and not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); delete the run folder and run again") from None


def _first_difference(theirs: Any, ours: Any, path: str = "") -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            if theirs.get(key) != ours.get(key):
                return _first_difference(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
    return f"{path} is {theirs!r} there and {ours!r} here"


def _lock(file: Any, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(f"another process is writing to {folder}; wait for it, or write --out FOLDER") from None


def _git(*arguments: str) -> str | None:
    """What git says about the code that runs, or None where there is no git or no repository."""
    here = Path(sys.modules[__name__].__file__ or ".").parent
    try:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
