"""Trains the stages of a sweep as tasks on a Ray cluster. The only file that imports ray.

A task is what the local engine runs as one program on as many devices as the task has, so its records have the same
bits. Ray decides where tasks run, and repeats those whose worker or node died. A task streams its epochs, so a repeated
task reports no epoch twice. This process holds the data, writes the run folder, and leaves
accelerators to the tasks.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.config import ConfigError, Setup
from experiments.data.arrays import Source
from experiments.store.environment import PACKAGES, cores, version
from experiments.training import autotune
from experiments.training.autotune import Measured
from experiments.training.compiled import Engine, Lane, lanes_on_each
from experiments.training.devices import device_name, memory_errors
from experiments.training.loop import Epoch, train_arm
from experiments.training.workers import Lost, Stopping

RETRIES = 3
OOM_RETRIES = "RAY_task_oom_retries"
PASSED_ON = ("JAX_", "JBN_", "XLA_")
"""Prefixes of the environment variables that tasks inherit from this process."""


class Needs(NamedTuple):
    """What a task takes, and what it expects where it runs."""

    cpus: int
    gpus: int
    threads: int
    """Of XLA's pool on a CPU: the local engine's number, because sums are cut by it."""
    versions: dict[str, str | None]

    def __str__(self) -> str:
        return f"{self.cpus} CPUs" + (f" and {self.gpus} GPUs" if self.gpus else "")


class Shared(NamedTuple):
    """A data set in the object store: each node fetches it once, and its tasks read it there without a copy."""

    parts: dict[int, Any]
    """For each seed, a reference to its data."""
    classes: int
    each_seed: bool

    def source(self) -> Source:
        found = {ref: _ray().get(ref) for ref in set(self.parts.values())}
        return Source(lambda seed: found[self.parts[seed]], self.classes, self.each_seed, {})


@contextlib.contextmanager
def connected(address: str | None, cpus: int, gpus: int | None) -> Iterator[Cluster]:
    """Connects to the cluster at `address`, or starts a Ray of this machine alone, which ends with this.

    Args:
      address: of a running cluster, or "auto"; None starts one.
      cpus, gpus: of a task; without `gpus`, 1 if the cluster has any, else 0.

    Raises:
      ConfigError: ray is not installed, no cluster answers, or no task would ever run.
    """
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine takes longer than Ray's 30
        # Despite its name: at 0, Ray uses the loopback address alone, on any system.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray = _ray()
    jax.config.update("jax_platforms", "cpu")  # the accelerators of this machine are the tasks'
    # Ray would repeat a task without end if it is always ended for lack of memory.
    os.environ.setdefault(OOM_RETRIES, str(RETRIES))
    passed = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON) and k != "JAX_PLATFORMS"}
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {"address": "local", "num_cpus": cores(), "include_dashboard": False}
    try:
        _knock(address)
        ray.init(**options, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": passed})
    except Exception as error:  # Ray raises many kinds
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start"
        raise ConfigError(f"{where} ({reason}); start one with: ray start --head") from None
    try:
        if gpus is None:
            gpus = min(1, int(ray.cluster_resources().get("GPU", 0)))
        needs = Needs(cpus, gpus, cores(), {name: version(name) for name in PACKAGES})
        if address is None and not _fits(needs):
            raise ConfigError(
                f"a task takes {needs}, but this machine has fewer; use --cpus-per-task or --gpus-per-task"
            )
        yield Cluster(needs)
    finally:
        ray.shutdown()


class Cluster:
    """Trains on the cluster to which this process is connected: `Workers`."""

    spread = False

    def __init__(self, needs: Needs):
        self._needs = needs
        self._shared: dict[int | None, Any] = {}
        self._under_way: set[Any] = set()
        self._reports = 0
        self._noted = False
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def device_name(self) -> str:
        kind = self._ask(_device_kind) if self._needs.gpus else "cpu"
        return f"{kind} x {self.devices()}"

    def devices(self) -> int:
        return self._needs.gpus or self._needs.threads

    def advanced(self) -> int:
        return self._reports

    def choose(self, setup: Setup, data: Source, lanes: Sequence[Lane]) -> Measured:
        return self._ask(_choose, setup, self._share(data, lanes), lanes, self.devices())

    def parts(self, setup: Setup, engine: Engine, width: int, lanes: Sequence[Lane]) -> list[Sequence[Lane]]:
        each = lanes_on_each(setup, engine, width, self.devices())
        together = each * min(self._needs.gpus or self._needs.cpus, -(-width // each))
        return [lanes[first : first + together] for first in range(0, len(lanes), together)]

    def at_once(self) -> int:
        """More than can run, so that a cluster that grows by itself sees what waits."""
        there = _ray().cluster_resources()
        return max(16, 2 * int(there.get("CPU", 0)) // self._needs.cpus)

    def train(
        self,
        setup: Setup,
        data: Source,
        lanes: Sequence[Lane],
        engine: Engine,
        *,
        on_start: Callable[[], None],
        on_epoch: Callable[[Epoch], None],
        checkpoints: Path | None,
        note: Callable[[str], None],
        **options: Any,
    ) -> list[dict[str, Any]]:
        with self._lock:
            if checkpoints and not self._noted:
                note("training.checkpoint_epochs has no effect with --engine ray: a task that dies is trained again")
                self._noted = True
        reports = self._submit(_train, setup, self._share(data, lanes), tuple(lanes), engine, options)
        try:
            for ref in reports:
                report = self._get(ref)
                self._reports += 1
                if report is None:
                    on_start()
                elif isinstance(report, Epoch):
                    on_epoch(report)
                else:
                    return report
            raise Stopping
        except BaseException:
            _ray().cancel(reports, force=True)
            raise
        finally:
            with self._lock:
                self._under_way.discard(reports)

    def stop(self) -> str:
        self._stopping.set()
        with self._lock:
            for reports in self._under_way:
                _ray().cancel(reports, force=True)
        return "stopping; what is being trained now will be trained again"

    def _share(self, data: Source, lanes: Sequence[Lane]) -> Shared:
        with self._lock:
            seeds = {lane.seed: lane.seed if data.each_seed else None for lane in lanes}
            for seed, key in seeds.items():
                if key not in self._shared:
                    self._shared[key] = _ray().put(jax.device_get(data.of(seed)))
            return Shared({seed: self._shared[key] for seed, key in seeds.items()}, data.classes, data.each_seed)

    def _ask(self, function: Callable, *arguments: Any) -> Any:
        try:
            return self._get(self._remote(function).remote(self._needs, *arguments))
        except Lost as lost:
            raise lost.cause from None

    def _submit(self, function: Callable, *arguments: Any) -> Any:
        with self._lock:
            if self._stopping.is_set():
                raise Stopping
            reports = self._remote(function, num_returns="streaming").remote(self._needs, *arguments)
            self._under_way.add(reports)
        return reports

    def _remote(self, function: Callable, **options: Any) -> Any:
        needs = self._needs
        return _ray().remote(num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=RETRIES, **options)(function)

    def _get(self, ref: Any) -> Any:
        """What a task returned.

        Raises:
          Lost: its memory did not suffice, or its worker or node died, more often than Ray repeats a task.
          Stopping: it was cancelled.
          Exception: what it raised.
        """
        ray = _ray()
        try:
            return ray.get(ref)
        except ray.exceptions.TaskCancelledError:
            raise Stopping from None
        except ray.exceptions.RayTaskError as error:
            if self._stopping.is_set():
                raise Stopping from None
            if isinstance(error.cause, MemoryError):
                raise Lost(MemoryError(str(error.cause))) from None
            raise error.cause from error
        except ray.exceptions.OutOfMemoryError:
            raise Lost(
                MemoryError(f"Ray ended its worker {_times()}, because the memory of the node was nearly full")
            ) from None
        except ray.exceptions.RayError as error:
            if self._stopping.is_set():
                raise Stopping from None
            raise Lost(
                ConfigError(f"its worker died {RETRIES + 1} times ({type(error).__name__}), perhaps for lack of memory")
            ) from None


def _knock(address: str | None) -> None:
    """Raises OSError if nobody listens at HOST:PORT; Ray itself would try for many minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _times() -> str:
    return f"{int(os.environ[OOM_RETRIES]) + 1} times"


def _fits(needs: Needs) -> bool:
    return any(
        node["Resources"].get("CPU", 0) >= needs.cpus and node["Resources"].get("GPU", 0) >= needs.gpus
        for node in _ray().nodes()
    )


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ConfigError('--engine ray needs the package ray: pip install "jbn[cluster]"') from None


# What follows runs in tasks.
def _prepare(needs: Needs) -> None:
    """Gives jax the cores or the accelerators of this task.

    Raises:
      ConfigError: this node has other versions, which would give other numbers.
    """
    for name, theirs in needs.versions.items():
        if (ours := version(name)) != theirs:
            raise ConfigError(
                f"a node of the cluster ({platform.node()}) has {name} {ours}, and this process {theirs}; install the "
                "same versions everywhere"
            )
    if not needs.gpus:
        os.environ["NPROC"] = str(needs.threads)
        with contextlib.suppress(RuntimeError):  # jax has started in an earlier task, which was given the same
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", needs.cpus)


def _device_kind(needs: Needs) -> str:
    _prepare(needs)
    return device_name().rpartition(" x ")[0]


def _choose(needs: Needs, setup: Setup, data: Shared, lanes: Sequence[Lane], devices: int) -> Measured:
    _prepare(needs)
    with memory_errors():
        return autotune.choose(setup, data.source(), lanes, devices)


def _train(
    needs: Needs, setup: Setup, data: Shared, lanes: Sequence[Lane], engine: Engine, options: dict[str, Any]
) -> Iterator[Epoch | list[dict[str, Any]] | None]:
    """Yields None when it begins, each epoch when it ends, and the records."""
    _prepare(needs._replace(threads=engine.devices or needs.threads))
    yield None
    reports: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def train() -> None:
        try:
            with memory_errors():
                reports.put(train_arm(setup, data.source(), lanes, engine, on_epoch=reports.put, **options))
        except BaseException as error:
            reports.put(error)

    threading.Thread(target=train, daemon=True).start()
    while True:
        report = reports.get()
        if isinstance(report, BaseException):
            raise report
        yield report
        if isinstance(report, list):
            return
