"""Kills a process at every line of the store while it writes a run folder, and says which folders do not recover.

    PYTHONPATH=.:tests/experiments/store python tests/every_line.py FOLDER [EVERY [FIRST]]

The whole life of a small run, with invented records: created, recorded, finished, drawn, published, given more seeds,
finished, drawn and published again. A child process lives it and kills itself with SIGKILL just before a line; then
another one does the same again, as a user does, and must end with the same files. It prints a line for each that does
not, and at the end how many lines there were. A line counts again when it is reached from elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from folders import ARMS, CONFIG, DATA, records, result
from PIL import Image

from experiments.report import exports
from experiments.store import record
from experiments.store.publish import publish
from experiments.store.writers import open_writers

CRITICAL = {"files.py", "opening.py", "record.py", "publish.py", "writers.py", "past.py", Path(__file__).name}
MORE = dataclasses.replace(CONFIG, sweep=dataclasses.replace(CONFIG.sweep, seeds=5))
AT_ONCE = 7
"""Records that are written together."""


def live(folder: Path) -> None:
    """The life of the run; what is there already is not done again."""
    if not finished_with(folder / "run", MORE):
        train(folder / "run", CONFIG)
        draw(folder / "run")
        publish(folder / "run", folder / "published")
    train(folder / "run", MORE)
    draw(folder / "run")
    publish(folder / "run", folder / "published")


def finished_with(folder: Path, config: Any) -> bool:
    return (folder / "config.json").exists() and record.read_config(folder) == config


def train(folder: Path, config: Any) -> None:
    with record.opened(folder, config, "cpu x 2") as (run, _):
        if run.result is not None:
            return
        for name, value in {"data": DATA, "arms": ARMS, "engine": {}}.items():
            record.write_json(folder / f"{name}.json", value)
        there = {key(r) for r in run.records}
        missing = [r for r in records(config) if key(r) not in there]
        with open_writers([], folder, config.name) as writer:
            for first in range(0, len(missing), AT_ONCE):
                some = missing[first : first + AT_ONCE]
                for r in some:
                    writer.scalars(str(key(r)), 8, {"val_loss": r["val_loss"][0]})
                record.append(folder, some)
        record.finish(folder, result(config))


def draw(folder: Path) -> None:
    run = record.read(folder)
    assert run.result
    image = io.BytesIO()
    Image.new("RGB", (4, 4)).save(image, "png")
    answer = json.dumps(run.result["look"]).encode()
    scores = exports.scores(run, run.result).encode()
    files = {"report.html": answer, "summary.csv": answer, "scores.csv": scores, "tables/arms.csv": answer}
    record.write_files(folder, files | {"figures/a.png": image.getvalue(), record.LAST_OF_REPORT: answer})


def key(r: dict[str, Any]) -> tuple[Any, ...]:
    return r["treatment"], r["context"], r["learning_rate"], r["weight_decay"], r["seed"]


def content(folder: Path) -> dict[str, Any]:
    """All files but the lock; the environment without its dates."""
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
    for name in found:
        if name.endswith("env.json"):
            env = json.loads(found[name])
            more = [{k: v for k, v in entry.items() if k != "date"} for entry in env.get("extended", [])]
            found[name] = {**env, "date": None, "extended": more}
    return found


@contextlib.contextmanager
def at_each_line(reached: Callable[[], None]) -> Iterator[None]:
    """Calls `reached` before each line of the critical files, once for each way to it."""
    seen = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if Path(frame.f_code.co_filename).name not in CRITICAL:
            return None
        if event == "line":
            way, at = [], frame
            while at is not None:
                way.append((at.f_code.co_filename, at.f_lineno))
                at = at.f_back
            if (found := tuple(way)) not in seen:
                seen.add(found)
                reached()
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def in_child(function: Callable[[], None]) -> int:
    """Runs the function in a fork of this process; its exit status, negative for a signal."""
    child = os.fork()
    if not child:
        status = 1
        try:
            function()
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(folder: Path, line: int) -> None:
    """Lives until a line, counted from 0."""
    left = line

    def reached() -> None:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    with at_each_line(reached):
        live(folder)


def main(folder: Path, every: int = 1, first: int = 0) -> int:
    count = 0

    def reached() -> None:
        nonlocal count
        count += 1

    with at_each_line(reached):
        live(folder / "whole")
    whole, failed = content(folder / "whole"), 0
    for line in range(first, count, every):
        again = folder / str(line)
        assert in_child(lambda again=again, line=line: killed_at(again, line)) == -signal.SIGKILL
        status = in_child(lambda again=again: live(again))
        now = content(again)
        differs = sorted(name for name in whole.keys() | now.keys() if whole.get(name) != now.get(name))
        if status or differs:
            failed += 1
            print(f"killed at line {line}: exit status {status}, {', '.join(differs) or 'all files the same'}")
        shutil.rmtree(again)
    print(f"{len(range(first, count, every))} of {count} lines, {failed} did not recover")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
