"""A run is a folder: what was asked, where it ran, one line per training, and the result last.

    config.json     the resolved config, every field written out
    env.json        commit, versions, device: where the numbers come from
    data.json       what the data look like before and after standardization
    arms.json       parameters and multiply-adds of every arm's network
    engine.json     how steps and seeds run on this device, and what was measured to decide it
    metrics.jsonl   one JSON object per epoch of every training, while it runs (experiments.store.writers)
    records.jsonl   one JSON object per training, appended when it ends
    stalled.txt     where each thread stood, if once nothing advanced for long (experiments.store.watchdog)
    result.json     the summary; written last and atomically, so its presence means "finished"

Only this file writes numbers into a run folder. JSON knows no NaN: what is not finite is written as null.
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
except ImportError:  # no file locks on Windows: two writers are then not refused
    fcntl = None

AGAIN = "delete it and run again: "
REMEDIES = {
    "config.json": "restore it, or delete the run folder and run again",
    "env.json": "restore it, or delete it: the report then does not say where the numbers come from",
    "data.json": "delete it: a run that goes on writes it anew",
    "arms.json": "delete it: a run that goes on writes it anew",
    "engine.json": AGAIN + "how to run is measured anew",
    "records.jsonl": "delete that line, and result.json if it is there, and run again: only that training is repeated",
    "metrics.jsonl": "delete that line",
    "result.json": AGAIN + "it is computed anew from records.jsonl",
}
"""What to do about a file that does not hold what it should."""


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
      ConfigError: `folder` is no run folder, or its config.json is not readable.
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
            f"the run folder {folder} cannot be written ({error.strerror}); choose another with --out FOLDER"
        ) from None
    with lock:
        _lock(lock, folder)
        yield _reopen(folder, config, device)


def refuse_another(run: Run, data: dict[str, Any], arms: dict[str, Any]) -> None:
    """Refuses to go on where other data or another network than that of the folder would be trained.

    Args:
      run: as found in the folder.
      data, arms: what data.json and arms.json would hold now.

    Raises:
      ConfigError: the data differ, or what an arm computes. Programs are compared where the same versions traced both.
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
    """Appends one line per training and waits until they are on the disk."""
    with open(folder / "records.jsonl", "a", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(finite(record), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def checkpoints(folder: Path) -> Path:
    """Where trainings leave what they go on from."""
    return folder / "checkpoints"


def finish(folder: Path, result: dict[str, Any]) -> None:
    """Writes result.json, which says that the run is finished: no training goes on, so the checkpoints go."""
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
    """Writes what is drawn from a run beside it, by its name within the folder; returns the paths."""
    paths = []
    for name, content in contents.items():
        paths.append(folder / name)
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_bytes(content)
    return paths


def finite(value: Any) -> Any:
    """`value` with every number that is not finite replaced by None, as JSON needs it."""
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
    """Cuts off what a crash left of a half-written last line, and says so."""
    values, good, total = read_lines(path, kind)
    if good == total:
        return []
    with open(path, "r+b") as file:
        file.truncate(good)
    return [f"{path}: cut off a half-written record ({total - good} bytes); the {len(values)} before it are kept"]


def read_lines(path: Path, kind: str = "records.jsonl") -> tuple[list[Any], int, int]:
    """The values of the file's lines, each of that kind; the number of bytes up to the last whole one, and of all."""
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
    """Whether a last line was written whole: one that is whole by luck, without its end, would join the next."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.endswith(b"\n")


def read_json(path: Path, default: Any) -> Any:
    """What a file of the run folder holds, checked; `default` where there is none.

    Raises:
      ConfigError: the file cannot be read, or does not hold what it should.
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
    """What is wrong with a file, in one sentence with the remedy."""
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
