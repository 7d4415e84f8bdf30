"""Do the laboratory's intervals hold? `python -m benchmarks calibration [--bank FILE.npz]`.

A bank of trainings stands for all seeds that there are. Experiments of a few seeds are drawn from it, each procedure
is repeated with many of them, and what its intervals say is compared with what the repeats do.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.calibration import bank as banks
from benchmarks.calibration.procedures import BAGS, PROCEDURES
from benchmarks.calibration.repeats import bank_values, contrasts_of, repeat, same_arm_twice
from benchmarks.calibration.report import as_markdown
from benchmarks.machine import provenance
from benchmarks.output import RESULTS, write_json
from experiments.config.reading import load
from experiments.training.devices import use_all_cores

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/digits_placement.py"
NAMES = {"one": "", "each seed": "_each_seed"}


def measure(bank: banks.Bank, repeats: int, console: Console) -> dict[str, Any]:
    contrasts = contrasts_of(bank)
    rows = []
    for procedure in PROCEDURES:
        with console.status(procedure.name):
            row = repeat(bank, procedure, contrasts, repeats)
            same = same_arm_twice(bank, procedure, -(-repeats // 4))
        rows.append({"procedure": procedure.name, "seeds": procedure.seeds, **row, "same_arm_twice": same})
    return {
        "bank": bank.about | {"seeds": bank.seeds, "rates": bank.rates, "values": bank_values(bank, contrasts)},
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
        "repeats": repeats,
        "bags": BAGS,
        "unit": "percentage points; shares in percent",
        "procedures": rows,
    }


def run(options: argparse.Namespace) -> int:
    use_all_cores()
    console = Console()
    config = load(str(CONFIG))
    config = replace(config, data=replace(config.data, split=options.split))
    file = options.bank or ROOT / f"runs/calibration_bank{NAMES[options.split]}.npz"
    with console.status("bank") as status:
        bank = banks.train(config, options.seeds, file, provenance(), status.update)
    result = measure(bank, options.repeats, console)
    out = options.out or RESULTS / f"calibration{NAMES[options.split]}.json"
    write_json(result, out)
    markdown = as_markdown(result)
    out.with_suffix(".md").write_text(markdown, encoding="utf-8")
    console.print(markdown, markup=False, highlight=False, soft_wrap=True)
    return 0
