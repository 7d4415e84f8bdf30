"""Curves and observations of lanes so far: a JSON file beside their checkpoints, so that a training goes on whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.store.validation import fit_past, parse

CURVES = ("train_loss", "val_loss", "val_accuracy")
Curves = list[dict[str, list[float]]]
"""By lane."""
Observations = list[list[dict[str, Any]]]
"""By lane and time: before the first epoch, and after each."""


def write_past(path: Path, curves: Curves, observations: Observations) -> None:
    """Writes the file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".tmp")
    written.write_text(json.dumps({"curves": curves, "looks": observations}), encoding="utf-8")
    written.replace(path)


def read_past(path: Path, epochs: int, lanes: int, observed: int) -> tuple[Curves, Observations]:
    """The first `epochs` epochs of what the file holds.

    Raises:
      OSError, ValueError: it cannot be read, or is not of so many lanes, of which so many are observed.
    """
    past = parse(path.read_bytes(), "past")
    fit_past(past, epochs, lanes, observed)
    curves = [{name: lane[name][:epochs] for name in CURVES} for lane in past["curves"]]
    return curves, [seen[: epochs + 1] for seen in past["looks"]]


def delete_past(path: Path) -> None:
    path.unlink(missing_ok=True)
