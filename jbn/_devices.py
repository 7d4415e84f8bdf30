"""Gathers small arrays from all devices along a mapped axis, with a single collective.

Between devices the collective is a psum, not an all_gather: each device writes its arrays into its own slot of a table
of zeros, and the tables are summed. JAX knows that the result of a psum is equal on every device, which the replication
check of shard_map requires. Under vmap, where n slots of n tables would take n² additions, it is an all_gather, which
there only names an array that exists.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import get_abstract_mesh

from jbn._axes import one_hot
from jbn._typed import all_gather, psum, vmap

AxisName = str | Sequence[Hashable] | None
Groups = Sequence[Sequence[int]] | None
Arrays = tuple[jax.Array, ...]


def gather(arrays: Arrays, axis_name: AxisName, axis_index_groups: Groups) -> tuple[Arrays, jax.Array]:
    """Each array with a new leading axis of devices, and which devices are of this one's group, `[devices]`.

    Raises:
      ValueError: an axis name that is not bound, or groups that do not fit the axis.
    """
    _, size, index = _bound(axis_name)
    flat, unflatten = _flatten(arrays)
    table = _table(flat, axis_name)
    if axis_index_groups is None:
        return vmap(unflatten)(table), jnp.ones(size, bool)
    same_group = jnp.asarray(_same_group(axis_index_groups, size))
    return vmap(unflatten)(table), jnp.any(same_group & one_hot(index, size)[:, None], 0)


def device_and_array_axes(axis_name: AxisName) -> tuple[tuple[Hashable, ...], tuple[Hashable, ...]]:
    """Which of these axes are over devices, and which are an axis of an array, under vmap (or the old pmap)."""
    manual = get_abstract_mesh().manual_axes
    names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())
    return tuple(n for n in names if n in manual), tuple(n for n in names if n not in manual)


def stacked(x: jax.Array, names: tuple[Hashable, ...]) -> jax.Array:
    """The `x` of every index of these axes, which are of vmap: `[*indices, *x.shape]`."""
    for name in reversed(names):  # JAX has no all_gather over two axes of vmap
        x = all_gather(x, name)
    return x


def members(axis_name: AxisName, axis_index_groups: Groups) -> int:
    """The number of devices that share a batch: that of the smallest group, if there are groups."""
    if axis_name is None:
        return 1
    size = _bound(axis_name)[1]
    return size if axis_index_groups is None else min(map(len, axis_index_groups))


def _table(flat: jax.Array, axis_name: AxisName) -> jax.Array:
    """`flat` of every index of these axes, `[indices, ...]`."""
    devices, arrays = device_and_array_axes(axis_name)
    flat = stacked(flat, arrays)
    if devices:
        _, size, index = _bound(devices)
        flat = psum(jnp.where(one_hot(index, size).reshape(size, *[1] * flat.ndim), flat, 0), devices)
    there = (*devices, *arrays)
    names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())
    flat = flat.reshape(*(_bound((name,))[1] for name in there), -1)
    flat = flat.transpose(*map(there.index, names), len(names))
    return flat.reshape(-1, flat.shape[-1])


def _bound(axis_name: AxisName) -> tuple[Any, int, jax.Array]:
    """The name in the form that jax takes, the size of the axis, and this device's index."""
    if axis_name is None:
        raise ValueError("axis_index_groups needs the axis that it groups; pass axis_name='...' as well")
    names = axis_name if isinstance(axis_name, str) else tuple(axis_name)
    try:
        return names, lax.axis_size(names), lax.axis_index(names)
    except NameError:
        raise ValueError(
            f"axis_name={axis_name!r} is not bound here; call inside vmap, shard_map or pmap with that axis name, or "
            "set axis_name=None (under jit with sharded arrays the batch is global by itself)"
        ) from None


def _flatten(arrays: Arrays) -> tuple[jax.Array, Callable[[jax.Array], Arrays]]:
    """The arrays as one real vector, for one collective, and the inverse."""
    real = arrays[0].real.dtype

    def parts(a: jax.Array) -> list[jax.Array]:
        halves = [a.real, a.imag] if jnp.iscomplexobj(a) else [a]
        return [half.astype(real).reshape(-1) for half in halves]

    def unflatten(flat: jax.Array) -> Arrays:
        out: list[jax.Array] = []
        at = 0
        for a in arrays:
            halves: list[jax.Array] = []
            for _ in parts(a):
                halves.append(flat[at : at + a.size].reshape(a.shape))
                at += a.size
            out.append(lax.complex(halves[0], halves[1]) if len(halves) == 2 else halves[0].astype(a.dtype))
        return tuple(out)

    return jnp.concatenate([half for a in arrays for half in parts(a)]), unflatten


def _same_group(groups: Sequence[Sequence[int]], size: int) -> list[list[bool]]:
    """Row i says which indices are in the same group as i."""
    if sorted(i for group in groups for i in group) != list(range(size)):
        raise ValueError(
            f"axis_index_groups={groups} does not name each index of an axis of size {size} once; "
            f"pass groups that together hold 0 to {size - 1}"
        )
    home = {i: group for group in groups for i in group}
    return [[j in home[i] for j in range(size)] for i in range(size)]
