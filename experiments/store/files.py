"""Reads and writes the files of a run folder: each is checked when it is read, and none is ever left half-written.

JSON has no NaN, so numbers that are not finite are written as null.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.config import ConfigError
from experiments.store import validation
from experiments.store.checks import check

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

CHECKED = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\s*$')


def write_json(path: Path, value: Any) -> None:
    """Writes `value` atomically: a crash leaves the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")  # what a killed process left of it is overwritten
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(finite(value), file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Writes the files of a report into the run folder, given as contents by relative path; returns the paths.

    The last file is there only with all others: it is deleted before they are written, so that an interrupted report is
    not taken for a whole one.

    Raises:
      ConfigError: one of them, or its folder, is a symbolic link, and would be written somewhere else.
    """
    paths = [folder / name for name in contents]
    for path in paths:
        refuse_link(path.parent if path.parent != folder else path)
        refuse_link(path)
    for path in paths[-1:]:
        path.unlink(missing_ok=True)
    for path, content in zip(paths, contents.values(), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return paths


def refuse_link(path: Path) -> None:
    """Raises ConfigError if `path`, within a run folder, is a symbolic link: it may lead out of that folder."""
    if path.is_symlink():
        raise ConfigError(f"{path} is a symbolic link to {os.readlink(path)}; nothing was written; delete the link")


def checked_line(record: Any) -> str:
    """A record as a line of JSON that ends with the CRC-32 of the line without it."""
    text = json.dumps(finite(record), allow_nan=False)
    return f'{text[:-1]}, "crc32": "{zlib.crc32(text.encode()):08x}"}}\n'


def _unchecked(line: bytes) -> bytes:
    """The line without its checksum, if it has one; older versions wrote none.

    Raises:
      ValueError: the line is not the one that the checksum is of.
    """
    if not (found := CHECKED.search(line)):
        return line
    text = line[: found.start()] + b"}"
    check(zlib.crc32(text) == int(found[1], 16), "differs from its checksum, so that some of it was changed")
    return text


def finite(value: Any) -> Any:
    """Replaces every number in `value` that is not finite by None, because JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def read_json(path: Path, default: Any) -> Any:
    """The checked content of a file of the run folder; `default` if the file does not exist.

    Raises:
      ConfigError: the file cannot be read, or its content is invalid.
    """
    content = _bytes(path)
    if content is None:
        return default
    with refused(path, path.name):
        return validation.parse(content, path.name)


def read_lines(path: Path, kind: str = "records.jsonl") -> tuple[list[Any], int, int]:
    """Checked values of the complete lines, the number of bytes of these lines, and the number of bytes of the file."""
    content = _bytes(path) or b""
    values: list[Any] = []
    good = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not _ended(line):
            break
        with refused(path, kind, f": line {number} of {len(lines)}"):
            values.append(validation.parse(_unchecked(line), kind))
        good += len(line)
    return values, good, len(content)


def repair(path: Path, kind: str = "records.jsonl") -> list[str]:
    """Truncates a last line that a crash left half-written; returns a note if it did."""
    values, good, total = read_lines(path, kind)
    if good == total:
        return []
    with open(path, "r+b") as file:
        file.truncate(good)
    return [f"{path}: cut off a half-written record ({total - good} bytes); the {len(values)} before it are kept"]


@contextmanager
def refused(path: Path, kind: str, place: str = "", other: str = "") -> Iterator[None]:
    """Turns a ValueError about a file's content into a ConfigError that says what to do.

    Args:
      path: the file.
      kind: its name in `REMEDIES`.
      place: where in the file.
      other: what to do if not this file is the wrong one, but another one that it was compared with.
    """
    try:
        yield
    except ValueError as error:
        instead = f"{other}; otherwise " if other else ""
        raise ConfigError(f"{path}{place} {error}; {instead}{REMEDIES[kind]}") from None


def _ended(line: bytes) -> bool:
    """Whether a last line is complete. It must end with a newline, or the next line would be appended to it."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.endswith(b"\n")


def _bytes(path: Path) -> bytes | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a device or a pipe may never end
            raise ConfigError(f"{path} is no file; delete it, or give another folder")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); give another folder, or make this one readable"
        ) from None
