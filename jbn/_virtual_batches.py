"""Ghost batch norm: a batch is cut into virtual batches, each normalized by its own statistics.

    group g:  y = (x - E_g[x]) / sqrt(Var_g[x] + epsilon) · scale + bias

The axis of groups is one more feature axis, over which scale and bias broadcast, so the core handles masks,
synchronization (group i of all devices) and derivatives. The running statistics follow the whole batch: the moments of
the groups are merged.

Reference: Hoffer, Hubara & Soudry 2017, "Train longer, generalize better" (https://arxiv.org/abs/1705.08741).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jbn import _axes
from jbn._axes import Axes
from jbn._moments import Moments, merge_all
from jbn._typed import pad

Ragged = Literal["refuse", "exact"]


@dataclass(frozen=True)
class VirtualBatches:
    """How a batch is cut: its axis `batch`, of length n, becomes two, `groups` times `size`.

    Attributes:
      shape: of the uncut input.
      batch: the batch axis.
      groups: number of virtual batches.
      size: examples in each; the last may hold fewer.
      axes: of the cut input; the groups' axis is among the feature axes.
      at: place of the groups' axis in the feature shape.
    """

    shape: tuple[int, ...]
    batch: int
    groups: int
    size: int
    axes: Axes
    at: int

    @property
    def ragged(self) -> str | None:
        """The error message if the last group holds fewer examples than the others, else None."""
        n = self.shape[self.batch]
        if not (rest := n % self.size):
            return None
        return (
            f"virtual_batch_size={self.size} does not divide the batch of {n} (axis {self.batch} of shape "
            f"{self.shape}); choose a batch size that it divides, or ragged_groups='exact', where the last virtual "
            f"batch has {rest}"
        )

    @property
    def padding(self) -> int:
        return self.groups * self.size - self.shape[self.batch]

    @property
    def smallest(self) -> int:
        """Examples in the last virtual batch."""
        return self.size - self.padding

    def split(self, a: jax.Array) -> jax.Array:
        """An array of the input's rank, cut; the last group filled up with 0 or False."""
        if a.shape[self.batch] == 1 and not self.padding:
            return jnp.expand_dims(a, self.batch)
        a = jnp.broadcast_to(a, (*a.shape[: self.batch], self.shape[self.batch], *a.shape[self.batch + 1 :]))
        a = pad(a, [(0, self.padding if i == self.batch else 0) for i in range(a.ndim)])
        return a.reshape(*a.shape[: self.batch], self.groups, self.size, *a.shape[self.batch + 1 :])

    def split_mask(self, where: jax.Array | None) -> jax.Array | None:
        """The mask of the cut input, False for what fills the last group up; None where all counts."""
        if where is None and not self.padding:
            return None
        mask = jnp.ones((1,) * len(self.shape), bool) if where is None else _axes.expand_mask(where, self.shape)
        return self.split(mask)

    def unsplit(self, y: jax.Array) -> jax.Array:
        """The way back from `split`."""
        y = y.reshape(*y.shape[: self.batch], -1, *y.shape[self.batch + 2 :])
        return jax.lax.slice_in_dim(y, 0, self.shape[self.batch], axis=self.batch)

    def expand(self, vector: jax.Array) -> jax.Array:
        """What has the feature shape, the same for every group."""
        return jnp.expand_dims(vector, self.at)

    def expand_params(self, param: jax.Array | None) -> jax.Array | None:
        """As `expand`, where there is a parameter."""
        return None if param is None else self.expand(param)

    def merge(self, shift: jax.Array, m: Moments, where: jax.Array | None) -> tuple[jax.Array, Moments]:
        """Shift and moments of the whole batch from those of the groups."""
        parts = [jnp.moveaxis(a, self.at, 0) for a in (shift, m.mean, m.var)]
        count = m.count
        if count.ndim == 0:
            count = jnp.broadcast_to(count, (self.groups,))
        else:
            count = jnp.moveaxis(count, self.at, 0)
            mask = self.split_mask(where)
            if mask is None or all(mask.shape[a] == 1 for a in self.axes.features if a != self.batch):
                # The mask depends on the group, but not on the feature.
                count = count.reshape(self.groups, -1)[:, 0]
        return merge_all(parts[0], Moments(parts[1], parts[2], count))


def virtual_batches(shape: tuple[int, ...], axes: Axes, size: int) -> VirtualBatches:
    """How an input of `shape` is cut into virtual batches of `size` examples along its first reduced axis.

    Raises:
      ValueError: there is no axis to cut, or `size` is not positive.
    """
    _axes.check_static(virtual_batch_size=size)
    size = operator.index(size)
    if size < 1:
        raise ValueError(f"virtual_batch_size={size}; pass the number of examples in a virtual batch, such as 32")
    if not axes.reduced:
        raise ValueError(
            f"virtual_batch_size={size} cuts the batch axis, but axis={axes.given} keeps every axis of an input of "
            f"shape {shape}; pass an input with a batch axis"
        )
    batch = axes.reduced[0]
    at = sum(a < batch for a in axes.features)
    cut = (*axes.features[:at], batch, *(a + 1 for a in axes.features[at:]))
    count = -(-shape[batch] // size)
    groups = count if count >= 1 else 1  # max() cannot compare symbolic sizes
    return VirtualBatches(shape, batch, groups, size, _axes.canonical(cut, len(shape) + 1), at)
