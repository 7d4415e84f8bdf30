"""The devices there are: how many, how much memory, and how arrays are spread over them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.store.environment import cores
from experiments.training.dispatch import dispatch


def use_all_cores() -> None:
    """One jax device per CPU core, so that the lanes of a sweep use them all; accelerators are left as they are."""
    with contextlib.suppress(RuntimeError):  # already started, as in the tests
        jax.config.update("jax_num_cpu_devices", cores())


def device_name() -> str:
    """The devices that the lanes are spread over, such as "NVIDIA H100 x 1"."""
    devices = jax.devices()
    return f"{devices[0].device_kind} x {len(devices)}"


def memory() -> int | None:
    """Bytes of the memory in which arrays lie: the accelerator's, or what this process may have; None if unknown."""
    limits = [(jax.devices()[0].memory_stats() or {}).get("bytes_limit")]
    if jax.default_backend() == "cpu" and hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        group = Path("/sys/fs/cgroup/memory.max")
        text = group.read_text().strip() if group.is_file() else ""
        limits.append(int(text) if text.isdecimal() else None)
    return min((limit for limit in limits if limit), default=None)


def is_out_of_memory(error: jax.errors.JaxRuntimeError) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raises a MemoryError, as the host does, where an array has no room on a device."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(str(error).splitlines()[0]) from None


def mesh_of(lanes: int) -> Mesh:
    """Devices for so many lanes: all, or as many as there are lanes, so that one alone has no idle copies beside it."""
    return Mesh(np.array(jax.devices()[:lanes]), ("lanes",))


def put_by_lane(tree: Any, mesh: Mesh) -> Any:
    """Arrays with a leading axis of lanes, spread over the devices."""
    return dispatch(jax.device_put, tree, NamedSharding(mesh, PartitionSpec("lanes")))


def put_on_all(tree: Any, mesh: Mesh) -> Any:
    """Arrays that all lanes share, whole on every device."""
    return dispatch(jax.device_put, tree, NamedSharding(mesh, PartitionSpec()))
