"""Where metrics go while a training runs: line by line to a JSON file, and to what else was asked for.

    metrics.jsonl   always; one JSON object per call, {"run": …, "step": …, name: value, …}
    tensorboard/    for `tensorboard --logdir`, one folder per run
    wandb/          for `wandb sync`; offline unless asked otherwise: nothing leaves the machine

A training that was interrupted is repeated, and reports its metrics again. What metrics.jsonl holds is not written a
second time, there or elsewhere.

TensorBoard and Weights & Biases are an extra, imported when asked for. The results of a run are not here but in
records.jsonl and result.json, which `experiments.store.record` writes.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import math
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal, Protocol

from experiments.config import ConfigError
from experiments.config.errors import near
from experiments.store.record import finite, read_lines, repair

Told = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Metrics by run and step."""


def told(path: Path) -> Told:
    """What a file of JSON lines holds, null as NaN; nothing where there is none."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for line in read_lines(path, "metrics.jsonl")[0]:
        values = {name: math.nan if value is None else float(value) for name, value in line.items() if name != "run"}
        found.setdefault(line["run"], {})[int(values.pop("step"))] = values
    return found


class Writer(Protocol):
    """Takes metrics in the order in which they come."""

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Writes what was measured.

        Args:
          run: name of the training; a slash in it makes a folder in a folder where runs are folders.
          step: how many steps the training has done; must not fall within a run.
          values: number by name; NaN and infinity are fine.
        """
        ...

    def close(self) -> None:
        """Waits until all is written."""
        ...


class JsonLines:
    """One JSON object per call, which others may read while it grows; what is not finite is null.

    Args:
      path: the file; what it holds is kept and added to. Its folder is made where it is missing.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.notes = repair(path, "metrics.jsonl")
        """What a crash had left half written and was cut off, one sentence; empty where all was whole."""
        self._told = told(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (held until close)

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        if step in self._told.get(run, ()):
            return
        line = {"run": run, "step": step} | {name: finite(float(value)) for name, value in values.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Event files, one folder per run, flushed at every call.

    Not `tensorboardX.SummaryWriter`, which writes from a thread and a queue of its own per run: a crash would lose up
    to two minutes, and its flush does not wait for the queue.

    Args:
      folder: what `tensorboard --logdir` is to be given. A run that goes on after a crash adds a second file there.
      before: what of each run is there already, by step.

    Raises:
      ConfigError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, before: Told = MappingProxyType({})):
        self._events = _import("tensorboard", "tensorboardX", "tensorboardX.event_file_writer")
        self._event = _import("tensorboard", "tensorboardX", "tensorboardX.proto.event_pb2").Event
        self._scalar = _import("tensorboard", "tensorboardX", "tensorboardX.summary").scalar
        self._folder = folder
        self._before = before
        self._files: dict[str, Any] = {}

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        if step in self._before.get(run, ()):
            return
        if run not in self._files:
            self._files[run] = self._opened(run)
        for name, value in values.items():
            event = self._event(step=step, wall_time=time.time(), summary=self._scalar(name, float(value)))
            self._files[run].write_event(event)
        self._files[run].flush()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _opened(self, run: str) -> Any:
        parts = PurePosixPath(run).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise ValueError(f"the run's name is {run!r}; use one that names a folder below, such as 'before/seed0'")
        folder = self._folder.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        # tensorboardX's own name ends with second and host: a run reopened in that second would lose what it had.
        for number in itertools.count():
            suffix = f".{os.getpid()}.{number}"
            if not any(folder.glob(f"*{suffix}")):
                return self._events.EventsWriter(str(folder / "events"), suffix)


class WandB:
    """Weights & Biases: one of its runs for each run here, all in one group.

    Args:
      folder: the runs lie in its subfolder wandb, and its name is the group's.
      project: name of the project; characters that Weights & Biases forbids in it become `-`.
      mode: `offline` writes files only, to be sent by `wandb sync FOLDER/wandb/offline-run-*`; `online` sends.

    Raises:
      ConfigError: wandb is not installed.
    """

    def __init__(self, folder: Path, project: str, mode: Literal["offline", "online"] = "offline"):
        if mode == "offline":
            # Without this wandb 0.31 reports its own metrics to its makers even of an offline run.
            os.environ["WANDB_ERROR_REPORTING"] = "false"
        self._wandb = _import("wandb", "wandb", "wandb")
        self._folder = folder.resolve()
        self._project = re.sub(r"[/\\#?%:]", "-", project)
        self._mode: Literal["offline", "online"] = mode
        self._runs: dict[str, Any] = {}
        self._before = told(self._folder / "metrics.jsonl")

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        if run not in self._runs:
            self._runs[run] = self._opened(run)
        if step in self._before.get(run, ()):
            return
        self._runs[run].log({name: float(value) for name, value in values.items()}, step=step)

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()
        self._runs.clear()

    def _opened(self, run: str) -> Any:
        """The run, under the id that it had before if there was one, and with all that it was told before.

        What a killed process was told is lost to wandb, which keeps it in memory; so a run that goes on is written
        anew from metrics.jsonl, in place of what there is of it.
        """
        (self._folder / "wandb").mkdir(parents=True, exist_ok=True)  # wandb would write to /tmp where it is missing
        name = hashlib.sha256(f"{self._salt()}/{run}".encode()).hexdigest()[:16]
        for old in (self._folder / "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(old)
        opened = self._begun(
            project=self._project,
            id=name,
            resume="allow",  # online, where the run is there already
            name=run,
            group=self._folder.name,
            dir=self._folder,
            mode=self._mode,
            reinit="create_new",  # the runs of an arm are under way side by side
            settings=self._wandb.Settings(
                silent=True,
                console="off",  # a run's output is the user's
                symlink=False,
                save_code=False,
                disable_git=True,  # env.json has the commit
                x_disable_stats=True,  # one sampling thread per run
            ),
        )
        for step, values in self._before.get(run, {}).items():
            if step >= opened.step:  # 0 but online
                opened.log(values, step=step)
        return opened

    def _begun(self, **options: Any) -> Any:
        """wandb.init; for 20 seconds again and again where its service has not let go of a finished run of that id."""
        until = time.monotonic() + 20
        while True:
            try:
                return self._wandb.init(**options)
            except Exception as error:
                if "is in use" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def _salt(self) -> str:
        """Tells the runs of this folder from those of the same names in others; made once."""
        path = self._folder / "wandb" / "ids.txt"
        if not path.is_file():
            path.write_text(secrets.token_hex(8))
        return path.read_text()


KNOWN: dict[str, Callable[[Path, str], Writer]] = {
    "jsonl": lambda folder, project: JsonLines(folder / "metrics.jsonl"),
    "tensorboard": lambda folder, project: TensorBoard(folder / "tensorboard", told(folder / "metrics.jsonl")),
    "wandb": lambda folder, project: WandB(folder, project),
}


class Writers:
    """Several writers as one, which threads may share."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = writers
        self._lock = threading.Lock()
        self.notes: list[str] = [note for writer in writers for note in getattr(writer, "notes", [])]
        """What was repaired upon opening, one sentence each."""

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """As `Writer.scalars`, for each of them.

        Raises:
          ValueError: a metric is called run or step.
        """
        if taken := {"run", "step"} & values.keys():
            raise ValueError(f"a metric is called {taken.pop()!r}, which says where a line belongs; use another name")
        with self._lock:
            for writer in self._writers:
                writer.scalars(run, step, values)

    def close(self) -> None:
        """Closes each of them, the others too where one fails."""
        with self._lock, ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)


@contextmanager
def open_writers(names: Sequence[str], folder: Path, project: str) -> Iterator[Writers]:
    """The JSON lines, and the writers asked for, as one; closed at the end, however that comes.

    Args:
      names: of `tensorboard`, `wandb` and `jsonl`, which is always on.
      folder: the run folder.
      project: name of the project, for those who sort runs by it.

    Yields:
      The writer; its `notes` say what was repaired.

    Raises:
      ConfigError: a name is unknown, or its package is not installed.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with open_writers([], Path(folder), "digits") as writer:
      ...         writer.scalars("before/relu", 22, {"val_loss": 0.5})
      ...     print((Path(folder) / "metrics.jsonl").read_text().strip())
      {"run": "before/relu", "step": 22, "val_loss": 0.5}
    """
    for name in names:
        if name not in KNOWN:
            raise ConfigError(f"writer {name!r} is unknown; choose one of {', '.join(KNOWN)}{near(name, KNOWN)}")
    with ExitStack() as stack:
        opened = [
            stack.enter_context(closing(KNOWN[name](folder, project))) for name in dict.fromkeys(["jsonl", *names])
        ]
        yield Writers(opened)


def _import(writer: str, package: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"writer {writer!r} needs the package {package}: pip install 'jbn[writers]'") from None
