"""Stores the curves and observations of unfinished lanes in a JSON file next to their checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from experiments.store.validation import fit_past, parse

CURVES = ("train_loss", "val_loss", "val_accuracy")
Curves = list[dict[str, list[float]]]
"""For each lane, its curves by name."""
Observations = list[list[dict[str, Any]]]
"""For each lane, its observations before the first epoch and after each epoch."""


def write_past(path: Path, curves: Curves, observations: Observations) -> None:
    """Writes the file atomically, and waits until it is on the disk, as the checkpoint will be that needs it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".tmp")
    with open(written, "w", encoding="utf-8") as file:
        json.dump({"curves": curves, "looks": observations}, file)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


def read_past(path: Path, epochs: int, lanes: int, observed: int) -> tuple[Curves, Observations]:
    """Curves and observations of the first `epochs` epochs.

    Raises:
      OSError, ValueError: the file cannot be read, or holds another number of lanes or of observed lanes.
    """
    past = parse(path.read_bytes(), "past")
    fit_past(past, epochs, lanes, observed)
    curves = [{name: lane[name][:epochs] for name in CURVES} for lane in past["curves"]]
    return curves, [seen[: epochs + 1] for seen in past["looks"]]
