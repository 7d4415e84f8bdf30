"""What the modules of Flax and Equinox share: the options that they hand on, and what a call decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

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


Kind = Literal["batch_norm", "frozen", "renorm", "adaptive"]
"""What `convert` can make of the batch norms of a model."""


def check_conversion(
    kind: str, kinds: Iterable[str], options: Mapping[str, Any], kept: Iterable[str], parameters: str, seen: Any = None
) -> None:
    """Raises if a batch norm cannot become of this kind with these options: those in `kept` decide about parameters."""
    if kind not in kinds:
        raise ValueError(f"kind is {kind!r}; use {', '.join(map(repr, kinds))}")
    if changed := sorted(options.keys() & set(kept)):
        raise ValueError(f"{', '.join(changed)} would change {parameters}, which are kept; leave it out")
    if seen is not None and not seen >= 0:
        raise ValueError(f"batches_seen is {seen}; pass a number of batches, at least 0")


def options(layer: Any, **others: Any) -> dict[str, Any]:
    """The options of `batch_norm` that a layer was made with; `others` are not among its attributes."""
    return {name: getattr(layer, name) for name in _OPTIONS if name not in others} | others


def switches(running: bool, update: bool | None) -> tuple[bool, bool]:
    """Whether the running statistics normalize, and whether they move: by default where they do not normalize."""
    _axes.check_static(use_running_average=running, update_running_average=update)
    return running, not running if update is None else update
