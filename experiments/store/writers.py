"""Writers of metrics during training: a file of JSON lines, and optionally TensorBoard and Weights & Biases.

    metrics.jsonl   always; one JSON object per call, {"run": …, "step": …, name: value, …}
    tensorboard/    for `tensorboard --logdir`, one folder per run
    wandb/          for `wandb sync`; offline by default: nothing leaves the machine

An interrupted training is repeated and reports its metrics again. Metrics that metrics.jsonl already holds are not
written again, by any writer.

TensorBoard and Weights & Biases are optional packages, imported only on demand. Results are stored elsewhere:
`experiments.store.record` writes records.jsonl and result.json.
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
from experiments.store.files import finite, read_lines, repair

Metrics = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Metrics by run and step."""


def read_metrics(path: Path) -> Metrics:
    """The metrics in a file of JSON lines, with null as NaN; empty if the file does not exist."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for line in read_lines(path, "metrics.jsonl")[0]:
        values = {name: math.nan if value is None else float(value) for name, value in line.items() if name != "run"}
        found.setdefault(line["run"], {})[int(values.pop("step"))] = values
    return found


class Writer(Protocol):
    """Writes metrics in the order of the calls."""

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Writes metrics of one step.

        Args:
          run: name of the training; writers with one folder per run turn a slash into a subfolder.
          step: number of steps taken; must not decrease within a run.
          values: metrics by name; NaN and infinity are allowed.
        """
        ...

    def close(self) -> None:
        """Waits until everything is written."""
        ...


class JsonLines:
    """Writes one JSON object per line and call; numbers that are not finite become null.

    Args:
      path: the file; existing lines are kept. Its folder is created if needed.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.notes = repair(path, "metrics.jsonl")
        """A sentence about a half-written line that was cut off, or empty."""
        self._written = read_metrics(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (held until close)

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        if step in self._written.get(run, ()):
            return
        line = {"run": run, "step": step} | {name: finite(float(value)) for name, value in values.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Event files, one folder per run, flushed at every call.

    This class does not use `tensorboardX.SummaryWriter`, which writes through a queue and a thread per run: a crash
    would lose up to two minutes, and its flush does not wait for the queue.

    Args:
      folder: the folder to pass to `tensorboard --logdir`. A run that resumes after a crash adds a second file there.
      before: metrics of each run that are already written.

    Raises:
      ConfigError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, before: Metrics = MappingProxyType({})):
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
        # tensorboardX names files by second and host, so a run reopened within a second would overwrite its file.
        for number in itertools.count():
            suffix = f".{os.getpid()}.{number}"
            if not any(folder.glob(f"*{suffix}")):
                return self._events.EventsWriter(str(folder / "events"), suffix)


class WandB:
    """Weights & Biases: one wandb run per training, all in one group.

    Args:
      folder: the run folder; wandb writes to its subfolder wandb, and its name becomes the group's.
      project: name of the project; forbidden characters become `-`.
      mode: `offline` only writes files, which `wandb sync FOLDER/wandb/offline-run-*` can send; `online` sends.

    Raises:
      ConfigError: wandb is not installed.
    """

    def __init__(self, folder: Path, project: str, mode: Literal["offline", "online"] = "offline"):
        if mode == "offline":
            # Without this, wandb 0.31 sends its own telemetry even for an offline run.
            os.environ["WANDB_ERROR_REPORTING"] = "false"
        self._wandb = _import("wandb", "wandb", "wandb")
        self._folder = folder.resolve()
        self._project = re.sub(r"[/\\#?%:]", "-", project)
        self._mode: Literal["offline", "online"] = mode
        self._runs: dict[str, Any] = {}
        self._before = read_metrics(self._folder / "metrics.jsonl")

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
        """Opens the wandb run of a training under its stable id, and logs its earlier metrics again.

        wandb keeps metrics in memory and loses them if the process is killed, so a resumed run is rewritten from
        metrics.jsonl and replaces the old one.
        """
        (self._folder / "wandb").mkdir(parents=True, exist_ok=True)  # if it is missing, wandb writes to /tmp
        name = hashlib.sha256(f"{self._salt()}/{run}".encode()).hexdigest()[:16]
        for old in (self._folder / "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(old)
        opened = self._begun(
            project=self._project,
            id=name,
            resume="allow",  # for an online run that exists already
            name=run,
            group=self._folder.name,
            dir=self._folder,
            mode=self._mode,
            reinit="create_new",  # the runs of an arm are open at the same time
            settings=self._wandb.Settings(
                silent=True,
                console="off",  # do not capture the output
                symlink=False,
                save_code=False,
                disable_git=True,  # env.json holds the commit
                x_disable_stats=True,  # one sampling thread per run
            ),
        )
        for step, values in self._before.get(run, {}).items():
            if step >= opened.step:  # opened.step is 0 unless the run is online
                opened.log(values, step=step)
        return opened

    def _begun(self, **options: Any) -> Any:
        """Calls wandb.init, and retries for 20 seconds while its service still holds a finished run of the same id."""
        until = time.monotonic() + 20
        while True:
            try:
                return self._wandb.init(**options)
            except Exception as error:
                if "is in use" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def _salt(self) -> str:
        """A random salt, created once per folder, that makes ids differ between folders with runs of the same names."""
        path = self._folder / "wandb" / "ids.txt"
        if not path.is_file():
            path.write_text(secrets.token_hex(8))
        return path.read_text()


KNOWN: dict[str, Callable[[Path, str], Writer]] = {
    "jsonl": lambda folder, project: JsonLines(folder / "metrics.jsonl"),
    "tensorboard": lambda folder, project: TensorBoard(folder / "tensorboard", read_metrics(folder / "metrics.jsonl")),
    "wandb": lambda folder, project: WandB(folder, project),
}


class Writers:
    """Several writers as one; thread-safe."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = writers
        self._lock = threading.Lock()
        self.notes: list[str] = [note for writer in writers for note in getattr(writer, "notes", [])]
        """Repairs made when the files were opened, one sentence each."""

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Calls `Writer.scalars` of each writer.

        Raises:
          ValueError: a metric is named run or step.
        """
        if taken := {"run", "step"} & values.keys():
            raise ValueError(f"a metric is called {taken.pop()!r}, which says where a line belongs; use another name")
        with self._lock:
            for writer in self._writers:
                writer.scalars(run, step, values)

    def close(self) -> None:
        """Closes every writer, even if closing another one fails."""
        with self._lock, ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)


@contextmanager
def open_writers(names: Sequence[str], folder: Path, project: str) -> Iterator[Writers]:
    """Opens the writer of JSON lines and the named writers as one, and closes them on exit.

    Args:
      names: any of `tensorboard`, `wandb` and `jsonl`; the last one is always on.
      folder: the run folder.
      project: name of the project, which wandb uses.

    Yields:
      The writer; its `notes` describe repairs.

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
