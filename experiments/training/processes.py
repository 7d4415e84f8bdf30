"""Several processes that train together, by JAX's own distributed runtime: one program over the devices of all hosts.

Every process runs the same code and takes the same decisions in the same order, since programs that span processes wait
for each other. What only one of them can know, such as what the run folder holds, process 0 tells the others (`told`).
Only process 0 writes.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.config import ConfigError

HEARTBEAT_SECONDS = 30  # a process that has not been heard of for so long is taken to be dead
DETECTED = "Slurm, MPI, Kubernetes or a TPU pod"
GONE = ("gloo", "connection closed", "connection reset", "unavailable", "deadline", "coordination service", "heartbeat")
"""Words, one of which is in the errors of jax when another process is gone."""


class Cluster(NamedTuple):
    """The processes of a run, as given on the command line; jax detects what is None."""

    coordinator: str | None = None
    """Address of process 0, such as "10.0.0.1:1234"."""
    processes: int | None = None
    """Number of processes; 1 needs no coordinator."""
    index: int | None = None
    """Index of this process, from 0."""


class GoneError(ConfigError):
    """Another process of the run ended, so that this one cannot go on."""

    status = 1


def join(cluster: Cluster) -> None:
    """Joins the other processes, before jax is used for anything else.

    Raises:
      ConfigError: the cluster is not detected, or not reached.
    """
    if cluster.processes == 1:
        return
    try:
        jax.distributed.initialize(*cluster, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        reason = next(filter(str.strip, str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"cannot join the other processes ({reason}); {DETECTED} are detected, elsewhere start every process with "
            "--coordinator HOST:PORT --processes N --process-index I; for all devices of this process alone: "
            "--processes 1"
        ) from None


def first() -> bool:
    """Whether this is process 0, the one that reads and writes the run folder."""
    return jax.process_index() == 0


@cache
def devices_per_host() -> int:
    """Devices of each host, whose processes must follow each other, as schedulers start them by default.

    Raises:
      ConfigError: they do not, or hosts have different numbers of devices.
    """
    if jax.process_count() == 1:
        return jax.device_count()
    own = [zlib.crc32(platform.node().encode()), jax.local_device_count()]
    hosts = multihost_utils.process_allgather(np.array(own, np.uint32)).tolist()
    found = [sum(count for _, count in group) for _, group in itertools.groupby(hosts, key=lambda host: host[0])]
    if len(set(found)) > 1 or len(found) != len({name for name, _ in hosts}):
        raise ConfigError(
            f"model.norm_scope is 'host', but consecutive processes have {found} devices on a host; start equally many "
            "on each, one host after another, or give the number of devices as model.norm_scope"
        )
    return found[0]


def told(make: Callable[[], Any]) -> Any:
    """Calls `make` in process 0 alone, and returns its JSON value in all.

    Raises:
      ConfigError: `make` raised it in process 0; in all processes, so that none waits for another.
    """
    if jax.process_count() == 1:
        return make()
    said: dict[str, Any] = {}
    failure: BaseException | None = None
    if first():
        try:
            said = {"value": make()}
        except (ConfigError, OSError, MemoryError) as error:
            said, failure = {"error": str(error)}, error
    heard = json.loads(_broadcast(json.dumps(said).encode()))
    if failure:
        raise failure
    if "error" in heard:
        raise ConfigError(f"process 0 ended: {heard['error']}")
    return said["value"] if first() else heard["value"]


def same_arrays(tree: Any) -> Any:
    """The host arrays of process 0, in all processes; the others pass arrays of the same shapes and dtypes."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def _broadcast(content: bytes) -> bytes:
    size = int(multihost_utils.broadcast_one_to_all(np.int64(len(content)).astype(np.int32)))
    room = 1 << max(12, (size - 1).bit_length())  # few lengths, so that few programs are compiled
    sent = np.zeros(room, np.uint8)
    if first():
        sent[:size] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(sent))[:size].tobytes()


@contextmanager
def watched() -> Iterator[None]:
    """Turns the errors by which jax tells that another process is gone into a GoneError."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not any(word in str(error).lower() for word in GONE):
            raise
        reason = next(filter(str.strip, str(error).splitlines()), type(error).__name__)
        raise GoneError(
            f"another process of this run has ended ({reason}), so that process {jax.process_index()} cannot go on; "
            "what is in the run folder is kept: start all processes again, as many as you like, to go on from there"
        ) from None


def leave(status: int) -> None:
    """Ends this process at once, if there are others: jax would wait minutes for a dead one to say goodbye."""
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        os._exit(status)
