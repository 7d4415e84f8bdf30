"""Opens a run folder to write to it: creates it, goes on with it, or gives it more seeds.

A run may be given more seeds: its trainings stay, and those of the new seeds are added. A result that had been reached
with fewer seeds was a look at the data that nobody declared; env.json keeps it (`undeclared`).
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.config import Config, ConfigError, to_json
from experiments.store.environment import environment
from experiments.store.files import read_json, repair, write_json
from experiments.store.reading import Run, read, read_config

try:
    import fcntl
except ImportError:  # Windows has no fcntl, so a second writer is not refused there
    fcntl = None

PATIENCE = 0.5
"""Seconds to try to lock: `being_written` holds the lock for a moment, and a killed process until it has ended."""
PROVENANCE = {
    "commit": "commit",
    "dirty": "state of the code",
    "device": "device",
    "processor": "processor",
    "xla_flags": "XLA_FLAGS",
    "versions": "versions",
}
"""What must not change within a run, or is noted, with its name in the note."""
UNCHANGED = "nothing was changed; choose another folder with --out FOLDER"
BEGUN = {".lock", "env.json", "env.json.tmp", "config.json.tmp"}
"""What a process may have written before config.json, if it was killed just then or the disk was full."""


@contextmanager
def opened(folder: Path, config: Config, device: str) -> Iterator[tuple[Run, list[str]]]:
    """Creates the run folder, or reopens it to resume the run, and locks it against other writers meanwhile.

    A folder whose config differs in having fewer seeds is given the new config: it loses its result, which was of fewer
    seeds, and keeps its trainings.

    Yields:
      The run as found, and notes on repairs and changes, one sentence each.

    Raises:
      ConfigError: the folder belongs to another config or has more seeds, cannot be written, or another process is
        writing to it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+b", buffering=0)  # noqa: SIM115  (held until the run ends)
    except OSError as error:
        raise ConfigError(
            f"the run folder {folder} cannot be written ({error.strerror}); choose another with --out FOLDER"
        ) from None
    with lock:
        _lock(lock, folder)
        notes = _reopen(folder, config, device)
        yield read(folder), notes


def undeclared(env: Mapping[str, Any], below: int | None = None) -> list[int]:
    """Numbers of seeds with which the run had been finished before it was given more, in order.

    Args:
      env: the content of env.json.
      below: seeds of the present result; a run that went back to as many seeds has not looked twice.
    """
    found = {entry["seeds"] for entry in env.get("extended", []) if entry["finished"]}
    return sorted(seeds for seeds in found if below is None or seeds < below)


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


def _reopen(folder: Path, config: Config, device: str) -> list[str]:
    env = environment(device)
    if not (folder / "config.json").is_file():
        if {path.name for path in folder.iterdir()} - BEGUN:
            raise ConfigError(f"{folder} holds other files and no run; choose another folder with --out FOLDER")
        write_json(folder / "env.json", env)
        write_json(folder / "config.json", to_json(config))
        return []
    notes = _extend(folder, config, env)
    notes += repair(folder / "records.jsonl")
    before = read_json(folder / "env.json", env)
    differs = [name for key, name in PROVENANCE.items() if key in before and before[key] != env[key]]
    if differs and not (folder / "result.json").is_file():
        notes.append(f"this run began under another {' and '.join(differs)}; env.json lists both")
        write_json(folder / "env.json", before | {"resumed": [*before.get("resumed", []), env]})
    return notes


def _extend(folder: Path, config: Config, now: dict[str, Any]) -> list[str]:
    """Gives a run more seeds if the config asks for them, and refuses a config that differs in anything else.

    It writes in such an order that a crash in between leaves a run that can go on with the old config or the new one.
    """
    found = read_config(folder)
    if found == config:
        return []
    before, theirs, ours = found.sweep, to_json(found), to_json(config)
    if _apart_from_seeds(theirs) != _apart_from_seeds(ours):
        first = _first_difference(_apart_from_seeds(theirs), _apart_from_seeds(ours))
        raise ConfigError(f"{folder} belongs to another config ({first}); {UNCHANGED}, or delete that one")
    seeds, declared = config.sweep.seeds, before.looks or (before.seeds,)
    if seeds < before.seeds:
        raise ConfigError(
            f"{folder} has {before.seeds} seeds, and sweep.seeds is {seeds} here; {UNCHANGED}, or use at least "
            f"{before.seeds} seeds"
        )
    kept = (config.sweep.looks or (seeds,))[: len(declared)] == declared
    if seeds == before.seeds or not (kept or before.looks == config.sweep.looks == ()):
        raise ConfigError(
            f"{folder} belongs to another config ({_first_difference(theirs, ours)}); {UNCHANGED}, or keep its looks "
            f"and add to them, such as --sweep.seeds {2 * before.seeds} --sweep.looks "
            + " ".join(map(str, (*declared, 2 * before.seeds)))
        )
    run = read(folder)  # refuses what is damaged before anything is changed
    finished = run.result is not None
    there = run.result["look"]["seeds"] if run.result else before.seeds
    env = run.env or now
    extended = env.get("extended", [])
    # A crash in between may have left the entry, with or without the result.
    if not (extended and extended[-1]["seeds"] == there and extended[-1]["finished"] >= finished):
        entry = {"seeds": there, "date": now["date"], "finished": finished}
        write_json(folder / "env.json", env | {"extended": [*extended, entry]})
    (folder / "result.json").unlink(missing_ok=True)  # first: with the new config it would count as the whole result
    write_json(folder / "config.json", ours)
    if not finished:
        return [f"{folder} was to have {there} seeds; going on to {seeds}"]
    return [
        f"{there} seeds are there; going on to {seeds} (the result with {there} was a look that was not declared: "
        "the new one says so)"
    ]


def _apart_from_seeds(values: dict[str, Any]) -> dict[str, Any]:
    sweep = {name: value for name, value in values["sweep"].items() if name not in ("seeds", "looks")}
    return values | {"sweep": sweep}


def _first_difference(theirs: Any, ours: Any, path: str = "") -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            if theirs.get(key) != ours.get(key):
                return _first_difference(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
    return f"{path} is {theirs!r} there and {ours!r} here"


def being_written(folder: Path) -> bool:
    """Whether a process is writing to the run folder now; False where the system has no locks."""
    path = Path(folder) / ".lock"
    if fcntl is None or not path.is_file():
        return False
    with open(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _lock(file: Any, folder: Path) -> None:
    """Locks the file until it is closed, and writes into it who holds it.

    The system frees the lock when the process ends, however it ends; so what a killed process wrote locks nobody out.
    """
    if fcntl is None:
        return
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                file.seek(0)
                holder = file.read(200).decode(errors="replace").strip()
                raise ConfigError(
                    f"another process{holder and f' ({holder})'} is writing to {folder}; wait for it, or choose "
                    "another --out"
                ) from None
            time.sleep(0.05)
        except OSError as error:
            raise ConfigError(
                f"{folder / '.lock'} cannot be locked ({error.strerror}); choose another --out, on a file system that "
                "has locks"
            ) from None
    with contextlib.suppress(OSError):  # on a full disk; the lock holds all the same
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}\n".encode())
