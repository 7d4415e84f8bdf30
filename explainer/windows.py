"""Windows of an array whose places depend on numbers: where their elements stand in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from explainer.code import Code, Value, row_major


def window(code: Code, a: Value, shape: Sequence[int], starts: Sequence[Value]) -> Value:
    """Where a window of this shape stands in `a`: it starts at these numbers, or before, so that it ends within `a`."""
    index, first = code.view(shape, row_major(a.shape)), code.view(shape, [0] * len(shape))
    for axis, start in enumerate(starts):
        step, last = row_major(a.shape)[axis], a.shape[axis] - shape[axis]
        index = code.call("i32", shape, "positions", start, index, first, 0, [step], [last], True)
    return index


class Axes(NamedTuple):
    """Which axes belong together in a gather or scatter: of an array, of its windows, and of their starts.

    Attributes:
      within: axes of the windows' array that run within a window.
      dropped: axes of the array along which a window has one place and no axis.
      batch: axes of the starts, each with the axis of the array that goes along with it.
      moved: the axes of the array along which a start moves its window.
      vector: the axis of the starts along which these stand.
    """

    within: list[int]
    dropped: list[int]
    batch: dict[int, int]
    moved: list[int]
    vector: int


def places(code: Code, a: Value, starts: Value, shape: Sequence[int], axes: Axes, *, clamp: bool) -> Value:
    """Where each element of the windows' array, of this shape, stands in `a`."""
    steps, walk = row_major(a.shape), row_major(starts.shape)
    base, first, sizes = [0] * len(shape), [0] * len(shape), [1] * len(a.shape)
    inside = [axis for axis in range(len(a.shape)) if axis not in axes.dropped and axis not in axes.batch.values()]
    for axis, at in zip(inside, axes.within, strict=True):
        base[at], sizes[axis] = steps[axis], shape[at]
    outside = [axis for axis in range(len(starts.shape)) if axis != axes.vector]
    for axis, at in zip(outside, [at for at in range(len(shape)) if at not in axes.within], strict=True):
        first[at], base[at] = walk[axis], steps[axes.batch[axis]] if axis in axes.batch else 0
    views = code.view(shape, base), code.view(shape, first)
    step = walk[axes.vector] if axes.vector < len(walk) else 0
    last = [a.shape[axis] - sizes[axis] for axis in axes.moved]
    return code.call("i32", shape, "positions", starts, *views, step, [steps[axis] for axis in axes.moved], last, clamp)
