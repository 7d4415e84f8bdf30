"""The devices: their number and memory, and the placement of arrays on them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from experiments.store.environment import cores
from experiments.training.dispatch import dispatch

EXAMPLES = "examples"
"""Axis of a mesh whose devices share each training; the axis is "lanes" if each training has one of the devices."""


def use_all_cores() -> None:
    """Makes one jax device per CPU core, so that the lanes of a sweep use all cores; does not affect accelerators.

    A number that the user has set (`JAX_NUM_CPU_DEVICES`) stays.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    with contextlib.suppress(RuntimeError):  # jax has started already, as in the tests
        jax.config.update("jax_num_cpu_devices", cores())


def idle_cores() -> int:
    """CPU cores without a jax device, where jax had started before `use_all_cores`; 0 on accelerators."""
    return max(0, cores() - jax.device_count()) if jax.default_backend() == "cpu" else 0


def device_name() -> str:
    """Kind and number of the devices, such as "NVIDIA H100 x 1"."""
    devices = jax.devices()
    return f"{devices[0].device_kind} x {len(devices)}"


def memory() -> int | None:
    """Bytes of memory for arrays: the accelerator's, or the limit of this process; None if unknown."""
    limits = [(jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")]
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
    """Turns a device's out-of-memory error into a MemoryError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(str(error).splitlines()[0]) from None


def mesh_of(lanes: int) -> Mesh:
    """A mesh of all devices, or of as many as there are lanes: more would train unused copies."""
    return Mesh(np.array(jax.local_devices()[:lanes]), ("lanes",))


def mesh_of_all() -> Mesh:
    """A mesh of the devices of all processes, over which the examples of one training are spread."""
    return Mesh(np.array(jax.devices()), (EXAMPLES,))


def put_by_lane(tree: Any, mesh: Mesh) -> Any:
    """Spreads arrays with a leading axis of lanes over the devices; if these share each lane, all get all."""
    return put(tree, NamedSharding(mesh, PartitionSpec(None if EXAMPLES in mesh.axis_names else "lanes")))


def put_on_all(tree: Any, mesh: Mesh) -> Any:
    """Replicates arrays that all lanes share on every device."""
    return put(tree, NamedSharding(mesh, PartitionSpec()))


def put(tree: Any, sharding: Sharding | None) -> Any:
    """Arrays of this process as arrays on the devices of `sharding`; every process must have the same ones."""
    if sharding is None or sharding.is_fully_addressable:
        return dispatch(jax.device_put, tree, sharding)

    def spread(array: Any) -> jax.Array:
        values = np.asarray(array)
        return dispatch(jax.make_array_from_callback, values.shape, sharding, values.__getitem__)

    return jax.tree.map(spread, tree)


def over_examples(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Within a program: splits the examples, along `axis`, over the devices, if these share each lane."""
    if EXAMPLES not in mesh.axis_names:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, EXAMPLES))
    return jax.lax.with_sharding_constraint(tree, sharding)
