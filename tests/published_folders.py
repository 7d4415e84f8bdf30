"""A published folder of a simulated run, made by the real analysis."""

from __future__ import annotations

import base64
import csv
from pathlib import Path
from typing import Any

import numpy as np
from simulated import Truth, description, simulate

from experiments.analysis.stats import summarize
from experiments.config import Config, to_json
from experiments.store.record import write_json

SETTING = ("learning_rate", "weight_decay", "decay_scale_bias")
ENGINE = {
    "mlp": {
        "steps": "scan",
        "lanes": "sequence",
        "milliseconds per step": {"loop, sequence": 0.4436, "scan, sequence": 0.3036, "scan, vmap": None},
    }
}


def environment() -> dict[str, Any]:
    return {
        "commit": "0a7351c", "dirty": False, "date": "2026-11-30T08:28:06+00:00", "device": "cpu x 2", "cores": 2,
        "processor": "AMD EPYC 7763", "xla_flags": "", "platform": "Linux", "versions": {"jax": "0.10.2"},
        "wall_seconds": 71.4,
    }  # fmt: skip


def published_folder(parent: Path, config: Config, truth: Truth, *, test: int = 1000, **options: Any) -> Path:
    """`parent`/<name of the config>; options are those of `simulated.simulate`."""
    folder, data = parent / config.name, description(config, test)
    if config.data.name == "digits":
        data |= {"train": 1078, "validation": 269, "test_classes": [46, *[45] * 8, 44]}
    records = simulate(config, truth, test=test, **options)
    result = summarize(config, records, data)
    folder.mkdir(parents=True)
    contents = {"config": to_json(config), "env": environment(), "engine": ENGINE, "result": result}
    for name, value in contents.items():
        write_json(folder / f"{name}.json", value)
    limits = {(arm["treatment"], arm["context"]): arm["learned"]["limit"] for arm in result["arms"]}
    with open(folder / "scores.csv", "w", encoding="utf-8", newline="") as file:
        rows = [_row(record, limits) for record in records]
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    if not config.data.split_each_seed:
        bits = np.array([np.frombuffer(base64.b64decode(record["right"]), np.uint8) for record in records])
        np.savez_compressed(folder / "right.npz", bits=bits, row=np.arange(len(bits)), examples=np.array(test))
    (folder / "figures").mkdir()
    (folder / "figures" / "differences.png").write_bytes(b"\x89PNG")
    said = [row["sentence"] for row in (*result["contrasts"], *result["published"], *result["shares"])]
    (folder / "report.md").write_text("\n".join([*said, "![differences](figures/differences.png)"]), encoding="utf-8")
    return folder


def _row(record: dict[str, Any], limits: dict[tuple[str, str], float]) -> dict[str, Any]:
    return {
        **{name: record[name] for name in ("treatment", "context", *SETTING, "seed")},
        "val_accuracy": record["val_accuracy"][-1],
        "val_loss": record["val_loss"][-1],
        **{name: record[name] for name in ("test_accuracy", "test_accuracy_population", "test_accuracy_batch")},
        "diverged": record["diverged"],
        "learned": 100 * record["test_accuracy"] > limits[record["treatment"], record["context"]] + 1e-4,
    }
