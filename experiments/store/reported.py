"""Reads what a report has left in a run folder, and what is all that a published run has: scores.csv and figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.config import ConfigError


def _truth(text: str) -> bool:
    return {"True": True, "False": False}[text]


def _maybe(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: kind(text) if text else None


SCORES: dict[str, Callable[[str], Any]] = {
    "treatment": str,
    "context": str,
    "learning_rate": float,
    "weight_decay": float,
    "decay_scale_bias": _truth,
    "seed": int,
    "val_accuracy": float,
    "val_loss": _maybe(float),
    "test_accuracy": float,
    "test_accuracy_population": _maybe(float),
    "test_accuracy_batch": _maybe(float),
    "diverged": _maybe(int),
    "learned": _truth,
}
"""The columns of scores.csv and what reads them."""


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """The rows of scores.csv, one for each network; an empty cell is None.

    Raises:
      ConfigError: the file is missing, or its content is invalid.
    """
    path = folder / "scores.csv"
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return [{name: read(line[name]) for name, read in SCORES.items()} for line in lines]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); restore it, or draw the report again") from None
    except KeyError as error:
        what = f"has no column {error}" if error.args[0] in SCORES else f"holds {error}, which is not True or False"
    except (ValueError, TypeError, csv.Error) as error:
        what = f"is no table of scores ({error})"
    raise ConfigError(f"{path} {what}; restore it, or draw the report again")


def read_pictures(folder: Path) -> dict[str, bytes]:
    """The PNG files of figures/ by name, in the order of report.md as far as it names them."""
    found = {path.stem: path.read_bytes() for path in sorted((folder / "figures").glob("*.png"))}
    page = folder / "report.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    place = {name: text.find(f"(figures/{name}.png)") for name in found}
    return {name: found[name] for name in sorted(found, key=lambda name: (place[name] < 0, place[name]))}
