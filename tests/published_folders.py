"""A published folder of a simulated run: the real analysis and the real files of its scores, but no drawn report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import synthetic
from simulated import Truth, description, simulate

from experiments.analysis.stats import summarize
from experiments.config import Config, to_json
from experiments.report import exports
from experiments.store.bits import right_npz
from experiments.store.record import append, read, write_files, write_json

ENGINE = {
    "mlp": {
        "steps": "scan",
        "lanes": "sequence",
        "milliseconds per step": {"loop, sequence": 0.4436, "scan, sequence": 0.3036, "scan, vmap": None},
    }
}
DIGITS = {"train": 1078, "validation": 269, "test_classes": [46, *[45] * 8, 44]}
ENVIRONMENT = {
    "commit": "0a7351c", "dirty": False, "date": "2026-11-30T08:28:06+00:00", "device": "cpu x 2", "cores": 2,
    "processor": "AMD EPYC 7763", "xla_flags": "", "platform": "Linux", "versions": {"jax": "0.10.2"},
    "wall_seconds": 71.4,
}  # fmt: skip


def published_folder(parent: Path, config: Config, truth: Truth, *, test: int = 1000, **options: Any) -> Path:
    """`parent`/<name of the config>; options are those of `simulated.simulate`."""
    folder = parent / config.name
    data = synthetic.data() | description(config, test) | (DIGITS if config.data.name == "digits" else {})
    records = simulate(config, truth, test=test, **options)
    folder.mkdir(parents=True)
    contents = {"config": to_json(config), "env": ENVIRONMENT, "engine": ENGINE, "data": data}
    for name, value in (contents | {"result": summarize(config, records, data)}).items():
        write_json(folder / f"{name}.json", value)
    append(folder, records)
    run = read(folder)
    assert run.result
    rows = (*run.result["contrasts"], *run.result["published"], *run.result["shares"])
    report = "\n".join([*(row["sentence"] for row in rows), "![differences](figures/differences.png)"])
    figure = {"report.md": report.encode(), "figures/differences.png": b"\x89PNG"}
    write_files(folder, figure | {"scores.csv": exports.scores(run, run.result).encode()})
    if (bits := right_npz(run)) is not None:
        write_files(folder, {"right.npz": bits})
    for name in ("records.jsonl", "data.json"):  # which are not published
        (folder / name).unlink()
    return folder
