"""What the modules of Flax and Equinox share: the options that they hand on, and what a call decides."""

from __future__ import annotations

from typing import Any

from jbn import _axes

# Attributes of a layer that are arguments of `batch_norm` under the same names.
_OPTIONS = (
    "trainable",
    "momentum",
    "debias",
    "variance",
    "skip_nonfinite",
    "accumulate_steps",
    "epsilon",
    "axis",
    "axis_name",
    "axis_index_groups",
    "virtual_batch_size",
    "ragged_groups",
)


def options(layer: Any, **others: Any) -> dict[str, Any]:
    """The options of `batch_norm` that a layer was made with; `others` are not among its attributes."""
    return {name: getattr(layer, name) for name in _OPTIONS if name not in others} | others


def switches(running: bool, update: bool | None) -> tuple[bool, bool]:
    """Whether the running statistics normalize, and whether they move: by default where they do not normalize."""
    _axes.check_static(use_running_average=running, update_running_average=update)
    return running, not running if update is None else update
