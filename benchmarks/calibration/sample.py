"""What repeated experiments look like, one by one: `python -m benchmarks calibration-sample [--bank FILE.npz]`.

`calibration` says how often intervals hold. This writes down the first intervals themselves, and which of all miss, for
after - before with ReLU: by the former procedure and by the laboratory's, about as many trainings each. It needs a bank
of two arms only, and reads them from a bank that has more.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.calibration import bank as banks
from benchmarks.calibration.bank import Bank
from benchmarks.calibration.command import CONFIG, ROOT
from benchmarks.calibration.procedures import ALPHA, BAGS, bagged, chosen_then_read
from benchmarks.calibration.repeats import bank_values, contrasts_of, judged, outcomes
from benchmarks.machine import provenance
from benchmarks.output import RESULTS, write_json
from experiments.config import Config
from experiments.config.reading import load
from experiments.training.devices import use_all_cores

PLACEMENTS, ACTIVATIONS = ("before", "after"), ("relu",)
PROCEDURES = (chosen_then_read(3, 21), bagged(12, raced=True))
KEPT = 100
FILE = ROOT / "runs/calibration_sample_bank.npz"


def restricted(bank: Bank, config: Config) -> Bank:
    """The arms of the config alone, of a bank that may have more."""
    arms = [k for k, arm in enumerate(bank.arms) if arm in config.arms]
    scores = {name: getattr(bank, name)[arms] for name in banks.SCORES}
    return bank._replace(arms=tuple(bank.arms[k] for k in arms), **scores)


def measure(bank: Bank, repeats: int) -> dict[str, Any]:
    """Each procedure, as in `calibration`; the first repeats' estimates and intervals; which repeats miss the truth."""
    contrasts = {name: w for name, w in contrasts_of(bank).items() if name.startswith("after - before")}
    truths, rows = bank_values(bank, contrasts), []
    for procedure in PROCEDURES:
        found, trainings = outcomes(bank, procedure, contrasts, repeats)
        by_contrast = {}
        for outcome, (name, truth) in zip(found, truths.items(), strict=True):
            estimate, _, low, high = outcome
            first = np.stack([estimate, low, high], 1)[:KEPT].round(4).tolist()
            missed = np.flatnonzero((truth < low) | (high < truth)).tolist()
            by_contrast[name] = judged(outcome, truth) | {"first": first, "missed": missed}
        row = {"procedure": procedure.name, "seeds": procedure.seeds, "trainings": trainings}
        rows.append(row | {"contrasts": by_contrast})
    return {
        "bank": bank.about | {"seeds": bank.seeds, "rates": bank.rates, "values": truths},
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
        "repeats": repeats,
        "bags": BAGS,
        "alpha": ALPHA,
        "unit": "percentage points; shares in percent; first: [estimate, low, high]; missed: repeats by number from 0",
        "procedures": rows,
    }


def run(options: argparse.Namespace) -> int:
    use_all_cores()
    console = Console()
    config = replace(load(str(CONFIG)), placements=PLACEMENTS, activations=ACTIVATIONS)
    if options.bank:
        bank = restricted(banks.read(options.bank), config)
    else:
        with console.status("bank") as status:
            bank = banks.train(config, options.seeds, FILE, provenance(), status.update)
    result = measure(bank, options.repeats)
    write_json(result, options.out or RESULTS / "calibration_sample.json")
    for row in result["procedures"]:
        for name, found in row["contrasts"].items():
            missed = f"{len(found['missed'])} of {options.repeats} intervals miss the bank's value"
            console.print(f"{row['procedure']}: {name}: {missed}", highlight=False, soft_wrap=True)
    return 0
