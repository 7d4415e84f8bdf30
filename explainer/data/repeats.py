"""Data of the scene "repeats": an experiment repeated a hundred times, tuning included, by two procedures."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np

from explainer.data import ROOT, Value

CONTRAST = "after - before, relu"
RESULTS = ROOT / "benchmarks/results"
NAMES = ("former", "now")


def data() -> dict[str, Any]:
    sample = json.loads((RESULTS / "calibration_sample.json").read_text())
    whole = json.loads((RESULTS / "calibration_each_seed.json").read_text())
    bank = sample["bank"]
    return {
        "source": (
            f"benchmarks/results/calibration_sample.json: {bank['seeds']} seeds, each with its own split of the "
            f"digits, at {len(bank['rates'])} learning rates with the norm before and after ReLU ({bank['config']}; "
            f"{bank['device']}, {bank['date']}); the first {drawn(sample)} of {sample['repeats']} repeats."
        ),
        "level": Value(100 * (1 - sample["alpha"]), "%"),
        "seeds": Value(bank["seeds"], "seeds"),
        "rates": Value(len(bank["rates"]), "learning rates"),
        "repeats": Value(sample["repeats"], "repeats"),
        "bags": Value(sample["bags"], "bags"),
        "truth": Value(round(bank["values"][CONTRAST], 4), "pp", n=bank["seeds"], seed=f"0 to {bank['seeds'] - 1}"),
        **{name: procedure(row, sample["repeats"]) for name, row in zip(NAMES, sample["procedures"], strict=True)},
        "whole": {
            name: missed(row, whole)
            for name in NAMES
            for row in whole["procedures"]
            if row["procedure"] == title(sample, name)
        },
    }


def title(sample: dict[str, Any], name: str) -> str:
    return sample["procedures"][NAMES.index(name)]["procedure"]


def drawn(sample: dict[str, Any]) -> int:
    return len(sample["procedures"][0]["contrasts"][CONTRAST]["first"])


def procedure(row: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Its first intervals `[repeats, 3]` as estimate, low, high; which of all miss, and what all amount to."""
    found = row["contrasts"][CONTRAST]
    said = partial(Value, n=repeats, config=row["procedure"])
    return {
        "name": row["procedure"],
        "seeds": row["seeds"],
        "intervals": np.asarray(found["first"], np.float32),
        "missed": np.asarray(found["missed"], np.uint16),
        "trainings": said(row["trainings"], "trainings"),
        "misses": said(round(100 - found["covers_bank"], 1), "%"),
        "sd": said(found["sd"], "pp"),
        "se": said(found["se"], "pp"),
        "decides": said(found["excludes_0"], "%"),
        "wrong": said(found["wrong_sign"], "%"),
    }


def missed(row: dict[str, Any], whole: dict[str, Any]) -> dict[str, Value]:
    """How often intervals miss the bank's value in the whole calibration, by activation."""
    kinds = {name.split(", ")[1]: of for name, of in row["contrasts"].items() if name.startswith("after - before, ")}
    said = partial(Value, unit="%", n=whole["repeats"], config=f"{row['procedure']}; {whole['bank']['device']}")
    return {kind: said(round(100 - of["covers_bank"], 1)) for kind, of in kinds.items()}
