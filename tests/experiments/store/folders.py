"""Small run folders with invented records and a result made of them without any statistics, for tests of the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import AnalysisConfig, Arm, Config, DataConfig, ModelConfig, Published, SweepConfig
from experiments.store import record
from experiments.store.right import pack_right

CONFIG = Config(
    name="small",
    placements=("none", "after"),
    activations=("relu",),
    data=DataConfig(split="one"),
    model=ModelConfig(hidden=(5,)),
    sweep=SweepConfig(
        lowest_learning_rate=0.25, learning_rate_points=2, learning_rate_extension=1, weight_decays=(0.0, 0.5), seeds=4
    ),
    analysis=AnalysisConfig(published=(Published("relu: after - none", 1.5, "A & B 2015"),)),
)
EXAMPLES = 21  # the last byte of their bits is half empty
DATA = {
    "name": "digits", "source": "invented", "checksum": "c", "train": 80, "validation": 20, "test": EXAMPLES,
    "shape": [1], "features": 1, "classes": 10, "constant_features": 0,
    "raw": {"mean": [0.0], "std": [1.0], "edges": [0.0, 1.0], "counts": [80]},
    "standardized": {"mean": [0.0], "std": [1.0], "edges": [0.0, 1.0], "counts": [80]},
    "standardized_test": {"mean": [0.0], "std": [1.0]},
}  # fmt: skip
ARMS = {"none/relu": {"parameters": 1410, "multiply_adds": 1400, "program": "a", "traced_by": {"jax": "0.10.2"}}}


def training(arm: Arm, rate: float, decay: float, seed: int, phase: str = "train") -> dict[str, Any]:
    """One line of records.jsonl; what was right is a function of arm, setting and seed."""
    rng = np.random.default_rng([len(arm.treatment), seed, int(64 * rate), int(64 * decay)])
    right = rng.random(EXAMPLES) < 0.8
    accuracy = float(np.float32(right.mean()))  # as a device says it
    normed = arm.treatment != "none"
    return {
        "phase": phase, "treatment": arm.treatment, "context": arm.context, "learning_rate": rate,
        "weight_decay": decay, "decay_scale_bias": False, "seed": seed, "steps": [8, 16], "train_loss": [0.9, 0.5],
        "val_loss": [0.9, float(0.5 + rng.random())], "val_accuracy": [0.5, float(rng.integers(10, 20)) / 20],
        "diverged": None, "seconds": 1.5, "test_loss": 0.75, "test_accuracy": accuracy,
        "test_loss_population": 0.75 if normed else None, "test_accuracy_population": accuracy if normed else None,
        "test_loss_batch": 0.75 if normed else None, "test_accuracy_batch": 0.5 if normed else None,
        "right": pack_right(right),
    }  # fmt: skip


def records(config: Config = CONFIG) -> list[dict[str, Any]]:
    """Every setting of the grid with the first seeds, and all but the highest rate with the others."""
    rates = config.sweep.learning_rates
    return [
        training(arm, rate, decay, seed)
        for arm in config.arms
        for rate in rates
        for decay in config.sweep.weight_decays
        for k, seed in enumerate(config.seeds(arm))
        if k < 3 or rate < rates[-1]
    ]


def result(config: Config = CONFIG, seeds: int | None = None) -> dict[str, Any]:
    """The content of a result.json that fits the config, with numbers that mean nothing."""
    n = seeds or config.sweep.seeds
    spread = {"mean": 90.0, "sd": 1.0, "ci": [89.0, 91.0], "values": [90.0] * n}
    inference = {
        "difference": 0.5, "ci": [0.0, 1.0], "speaks_of": "new seeds", "se": 0.25, "df": 3.0, "p": 0.5,
        "adjusted_p": 0.5, "tost_p": 0.5, "adjusted_tost_p": 0.5, "simultaneous_ci": None,
        "equivalence_ci": [0.0, 1.0], "finding": "inconclusive",
    }  # fmt: skip
    first = {"learning_rate": config.sweep.lowest_learning_rate, "decay_scale_bias": False}
    arms = [
        {
            **arm._asdict(), "n": n, "seeds": list(config.seeds(arm)[:n]), "estimate": 90.0, "se": 1.0,
            "ci": [89.0, 91.0], **first, "weight_decay": 0.0, "share": 0.75, "at_end": 0.25,
            "settings": [
                {**first, "weight_decay": decay, "seeds": n, "mean": 90.0, "sd": 1.0, "values": [90.0] * n,
                 "loss": 0.5, "diverged": 0, "share": share}
                for decay, share in ((0.0, 0.75), (0.5, 0.25))
            ],
            "learned": {"count": n, "n": n, "ci": [0.5, 1.0], "limit": 20.0, "accuracy": 90.0},
            "mean": 90.0, "sd": 1.0, "values": [90.0] * n, "test_accuracy": spread,
            "test_accuracy_population": None, "test_accuracy_batch": None, "test_loss": 0.5, "diverged": 0,
            "diverged_at": [None] * n, "validation_curve": {"steps": [8], "mean": [90.0], "sd": [1.0]},
            "max_learning_rate": 0.5, "max_stable_rate": None,
            "end": [{"eigenvalues": None, "eigenvalue_residuals": None, "mean_logit": None}] * 2,
        }
        for arm in config.arms
    ]  # fmt: skip
    contrasts = [
        {
            **inference, "name": question.name, "kind": question.kind, "primary": question.primary,
            "same_arm": question.same_arm, "weights": {str(arm): w for arm, w in question.weights.items()},
            "margin_pp": 1.0, "alpha": 0.05, "family": 1, "n": n, "paired": True, "exact": False,
            "values": [0.5] * n, "intervals": [inference], "at_end": [{"arm": "after/relu", "share": 0.25}],
            "caution": None, "verdict": "v", "sentence": "s", "by_statistics": [],
            "power": {"power": 0.8, "detectable": None, "n_to_detect": None, "n_to_show_equivalence": None},
        }
        for question in config.contrasts
    ]  # fmt: skip
    made = {
        "metric": config.analysis.metric,
        "look": {"seeds": n, "planned": [n], "alpha": 0.05, "undeclared": []},
        "learning_rates": list(config.sweep.learning_rates),
        "added_rates": [],
        "arms": arms,
        "contrasts": contrasts,
        "published": [
            {
                "contrast": row.contrast, "source": row.source, "published": row.difference, "published_n": 1,
                "published_sd": None, "n": n, "difference": 0.5, "ci": [0.0, 1.0], "gap": -1.0, "gap_ci": [-2.0, 0.0],
                "adjusted_p": 0.5, "adjusted_tost_p": 0.5, "prediction_ci": None, "word": "compatible",
                "sentence": "s",
            }
            for row in config.analysis.published
        ],
        "shares": [
            {"contrast": "relu: after - none", "difference": 0.0, "p": 1.0, "adjusted_p": 1.0, "test": "t",
             "sentence": "s"}
        ],
        "race": [
            {**arm._asdict(), "first_seeds": 3, "tried": [0.25, 0.5], "dropped": ["0.5"]} for arm in config.arms
        ],
        "warnings": [],
    }  # fmt: skip
    return json.loads(json.dumps(made))  # so that no part is there twice


def run_folder(
    folder: Path, config: Config = CONFIG, *, made: list[dict[str, Any]] | None = None, finished: bool = True
) -> Path:
    """Writes a run folder, as a run leaves it, without a report."""
    with record.opened(folder, config, "cpu x 2"):
        record.write_json(folder / "data.json", DATA)
        record.write_json(folder / "arms.json", ARMS)
        record.write_json(folder / "engine.json", {})
        record.append(folder, records(config) if made is None else made)
        if finished:
            record.finish(folder, result(config))
    return folder
