"""A run is a folder with its config, its environment, one record per training, and finally the result.

    config.json     the resolved config, defaults included
    env.json        provenance: commit, versions, device
    data.json       statistics of the data before and after standardization
    arms.json       parameters and multiply-adds of every arm's network
    engine.json     how steps and seeds run on this device, and the measurements that decided it
    metrics.jsonl   one JSON object per epoch of every training, written while it runs (experiments.store.writers)
    records.jsonl   one JSON object per training, appended when it ends
    stalled.txt     the stack of each thread, if the run made no progress for long (experiments.store.watchdog)
    result.json     the summary; written last and atomically, so its presence means "finished"

JSON has no NaN, so numbers that are not finite are written as null.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config import Config, ConfigError, from_json, to_json
from experiments.store import validation
from experiments.store.environment import environment

try:
    import fcntl
except ImportError:  # Windows has no fcntl, so a second writer is not refused there
    fcntl = None

AGAIN = "delete it and run again: "
REMEDIES = {
    "config.json": "restore it, or delete the run folder and run again",
    "env.json": "restore it, or delete it: the report then does not say where the numbers come from",
    "data.json": "delete it: the next run writes it again",
    "arms.json": "delete it: the next run writes it again",
    "engine.json": AGAIN + "the next run measures again how to run",
    "records.jsonl": "delete that line, and result.json if it is there, and run again: only that training is repeated",
    "metrics.jsonl": "delete that line",
    "result.json": AGAIN + "it is computed again from records.jsonl",
}
"""Advice for each file with invalid content."""


class Run(NamedTuple):
    """The content of a run folder."""

    folder: Path
    config: Config
    env: dict[str, Any]
    data: dict[str, Any]
    records: list[dict[str, Any]]
    result: dict[str, Any] | None
    arms: dict[str, Any]


def read(folder: Path) -> Run:
    """Reads the run in `folder`, finished or not; writes nothing.

    Raises:
      ConfigError: `folder` is not a run folder, or one of its files is invalid.
    """
    folder = Path(folder)
    config = read_config(folder)
    records = read_lines(folder / "records.jsonl")[0]
    with _refused(folder / "records.jsonl", "records.jsonl"):
        validation.fit_records(config, records)
    result = read_json(folder / "result.json", None)
    if result is not None:
        with _refused(folder / "result.json", "result.json"):
            validation.fit_result(config, result)
    env, data, arms = (read_json(folder / name, {}) for name in ("env.json", "data.json", "arms.json"))
    return Run(folder, config, env, data, records, result, arms)


def read_config(folder: Path) -> Config:
    """The config of a run folder.

    Raises:
      ConfigError: `folder` is not a run folder, or its config.json is invalid.
    """
    values = read_json(folder / "config.json", None)
    if values is None:
        raise ConfigError(f"{folder} is no run folder (it has no config.json); give a folder such as runs/<config>")
    try:
        return from_json(values)
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}; {REMEDIES['config.json']}") from None


@contextmanager
def opened(folder: Path, config: Config, device: str) -> Iterator[tuple[Run, list[str]]]:
    """Creates the run folder, or reopens it to resume the run, and locks it against other writers meanwhile.

    Yields:
      The run as found, and notes on repairs and changes, one sentence each.

    Raises:
      ConfigError: the folder belongs to another config, cannot be written, or another process is writing to it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115  (held until the run ends)
    except OSError as error:
        raise ConfigError(
            f"the run folder {folder} cannot be written ({error.strerror}); choose another with --out FOLDER"
        ) from None
    with lock:
        _lock(lock, folder)
        yield _reopen(folder, config, device)


def refuse_another(run: Run, data: dict[str, Any], arms: dict[str, Any]) -> None:
    """Refuses to resume a run whose data or networks have changed.

    Args:
      run: the run as found in the folder.
      data, arms: the present content for data.json and arms.json.

    Raises:
      ConfigError: the data or the computation of an arm differ. Programs are compared only if the same versions of jax
        and the other libraries traced both.
    """
    here = f"nothing was trained; choose another folder with --out FOLDER, or delete {run.folder}"
    if run.data.get("checksum", data["checksum"]) != data["checksum"]:
        raise ConfigError(f"{data['name']} holds other data than those that {run.folder} was trained on; {here}")
    for arm, ours in arms.items():
        theirs = run.arms.get(arm, ours)
        for what, name in (("parameters", "parameters"), ("multiply_adds", "multiply-adds")):
            if theirs[what] != ours[what]:
                raise ConfigError(
                    f"the network of {arm} is not that of {run.folder}: it has {ours[what]:,} {name}, and "
                    f"{theirs[what]:,} there; {here}"
                )
        if theirs.get("traced_by") == ours["traced_by"] and theirs.get("program") != ours["program"]:
            raise ConfigError(
                f"the network of {arm} does not compute what that of {run.folder} does, although both have "
                f"{ours['parameters']:,} parameters: its code was changed; {here}"
            )


def append(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    """Appends one line per training to records.jsonl, and waits until the lines are on the disk."""
    with open(folder / "records.jsonl", "a", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(finite(record), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def checkpoints(folder: Path) -> Path:
    """The folder of the checkpoints from which trainings resume."""
    return folder / "checkpoints"


def finish(folder: Path, result: dict[str, Any]) -> None:
    """Deletes the checkpoints, which are no longer needed, and writes result.json, which marks the run as finished."""
    shutil.rmtree(checkpoints(folder), ignore_errors=True)
    write_json(folder / "result.json", result)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` atomically: a crash leaves the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(finite(value), file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Writes the files of a report into the run folder, given as contents by relative path; returns the paths."""
    paths = []
    for name, content in contents.items():
        paths.append(folder / name)
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_bytes(content)
    return paths


def finite(value: Any) -> Any:
    """Replaces every number in `value` that is not finite by None, because JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _reopen(folder: Path, config: Config, device: str) -> tuple[Run, list[str]]:
    notes: list[str] = []
    env = environment(device)
    theirs = read_json(folder / "config.json", None)
    if theirs is not None:
        if theirs != to_json(config):
            raise ConfigError(
                f"{folder} belongs to another config ({_first_difference(theirs, to_json(config))}); "
                "nothing was changed; choose another folder with --out FOLDER, or delete that one"
            )
        notes += repair(folder / "records.jsonl")
        before = read_json(folder / "env.json", env)
        differs = [key for key in ("commit", "dirty", "device", "versions") if before.get(key) != env[key]]
        unfinished = not (folder / "result.json").is_file()
        if differs and unfinished:
            notes.append(f"this run began under another {' and '.join(differs)}; env.json lists both")
            write_json(folder / "env.json", before | {"resumed": [*before.get("resumed", []), env]})
    elif any(path.name != ".lock" for path in folder.iterdir()):
        raise ConfigError(f"{folder} holds other files and no run; choose another folder with --out FOLDER")
    else:
        write_json(folder / "env.json", env)
        write_json(folder / "config.json", to_json(config))
    return read(folder), notes


def repair(path: Path, kind: str = "records.jsonl") -> list[str]:
    """Truncates a last line that a crash left half-written; returns a note if it did."""
    values, good, total = read_lines(path, kind)
    if good == total:
        return []
    with open(path, "r+b") as file:
        file.truncate(good)
    return [f"{path}: cut off a half-written record ({total - good} bytes); the {len(values)} before it are kept"]


def read_lines(path: Path, kind: str = "records.jsonl") -> tuple[list[Any], int, int]:
    """Checked values of the complete lines, the number of bytes of these lines, and the number of bytes of the file."""
    content = _bytes(path) or b""
    values: list[Any] = []
    good = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not _ended(line):
            break
        with _refused(path, kind, f": line {number} of {len(lines)}"):
            values.append(validation.parse(line, kind))
        good += len(line)
    return values, good, len(content)


def _ended(line: bytes) -> bool:
    """Whether a last line is complete. It must end with a newline, or the next line would be appended to it."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.endswith(b"\n")


def read_json(path: Path, default: Any) -> Any:
    """The checked content of a file of the run folder; `default` if the file does not exist.

    Raises:
      ConfigError: the file cannot be read, or its content is invalid.
    """
    content = _bytes(path)
    if content is None:
        return default
    with _refused(path, path.name):
        return validation.parse(content, path.name)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); give another folder, or make this one readable"
        ) from None


@contextmanager
def _refused(path: Path, kind: str, place: str = "") -> Iterator[None]:
    """Turns a ValueError about a file's content into a ConfigError that says what to do."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{path}{place} {error}; {REMEDIES[kind]}") from None


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
        raise ConfigError(f"another process is writing to {folder}; wait for it, or choose another --out") from None
