"""Run folders made of invented numbers, so that statistics and report can be tested in seconds and without jax."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import record, stats
from experiments.config import Arm, Config, DataConfig, ModelConfig, SweepConfig, to_json

CONFIG = Config(
    name="synthetic",
    question="Does batch norm belong before or after the activation?",
    placements=("none", "before", "after"),
    activations=("relu", "tanh", "sigmoid"),
    sweep=SweepConfig(learning_rate_points=5, lowest_learning_rate=2.0**-4, tuning_seeds=2, evaluation_seeds=6),
)
TRAIN, EPOCHS_RECORDED, STEPS_PER_EPOCH = 1078, 8, 17
BEST_RATE_INDEX = {"none": 1, "before": 3, "after": 2, "both": 2, "pre_linear": 3}
ACCURACY = {"none": 0.955, "before": 0.972, "after": 0.976, "both": 0.975, "pre_linear": 0.974}


def records(config: Config, *, seed: int = 0, probe_seeds: int = 2) -> list[dict[str, Any]]:
    """One record per training that `config` asks for, the optimum of each placement near BEST_RATE_INDEX."""
    rng = np.random.default_rng(seed)
    rates = config.sweep.learning_rates
    made = []
    for arm in config.arms:
        best = min(BEST_RATE_INDEX[arm.placement], len(rates) - 1)
        for index, rate in enumerate(rates):
            for training_seed in config.sweep.tuning:
                made.append(_training(rng, "tune", arm, rate, training_seed, 0.006 * (index - best) ** 2))
    for arm, choice in stats.choose(config, made).items():
        for k, training_seed in enumerate(config.sweep.evaluation):
            run = _training(rng, "evaluate", arm, choice.learning_rate, training_seed, 0.0)
            accuracy = round(450 * (run["val_accuracy"][-1] - 0.004)) / 450
            run |= {"test_loss": float(2.5 * (1 - accuracy)), "test_accuracy": accuracy}
            run["probes"] = _probes(rng, config, arm) if k < probe_seeds else None
            made.append(run)
    return made


def data() -> dict[str, Any]:
    """What `data.json` holds for 64 features, 3 of them constant."""
    rng = np.random.default_rng(1)
    mean = 8 + 6 * np.sin(np.arange(64) / 3)
    std = 2 + 3 * rng.random(64)
    mean[[0, 32, 39]], std[[0, 32, 39]] = 0, 0
    raw = np.clip(mean + std * rng.normal(size=(TRAIN, 64)), 0, 16)
    raw[:, std == 0] = 0
    shift, scale = raw.mean(0), np.where(std > 0, raw.std(0), 1)
    standardized = (raw - shift) / scale
    test = (np.clip(mean + std * rng.normal(size=(450, 64)), 0, 16) * (std > 0) - shift) / scale
    return {
        "name": "digits",
        "source": "scikit-learn's handwritten digits (invented numbers of the same shape)",
        "train": TRAIN,
        "validation": 269,
        "test": 450,
        "features": 64,
        "classes": 10,
        "constant_features": 3,
        "raw": _histogram(raw),
        "standardized": _histogram(standardized),
        "standardized_test": {"mean": test.mean(0).tolist(), "std": test.std(0).tolist()},
    }


def run_folder(
    folder: Path, config: Config = CONFIG, *, made: list[dict[str, Any]] | None = None, finished: bool = True
) -> Path:
    """Writes a run folder for `config`, with `made` or invented records; unfinished means without result.json."""
    folder.mkdir(parents=True)
    made = records(config) if made is None else made
    record.write_json(folder / "config.json", to_json(config))
    record.write_json(folder / "env.json", environment())
    record.write_json(folder / "data.json", data())
    record.append(folder, made)
    if finished:
        record.write_json(folder / "result.json", stats.summarize(config, made))
    return folder


def environment() -> dict[str, Any]:
    return {
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": True,
        "date": "2026-11-22T10:00:00+00:00",
        "device": "cpu x 2 (an invented processor)",
        "cores": 2,
        "platform": "Linux-6.1-x86_64",
        "versions": {"python": "3.11.7", "jbn": "0.1.0", "jax": "0.10.2", "flax": "0.12.8", "numpy": "2.4.6"},
        "wall_seconds": 754.3,
    }


def config(**changes: Any) -> Config:
    """CONFIG with other fields; `layers=k` gives k hidden layers."""
    layers = changes.pop("layers", None)
    if layers:
        changes["model"] = ModelConfig(hidden=(100,) * layers)
    return replace(CONFIG, data=DataConfig(), **changes)


def _training(
    rng: np.random.Generator, phase: str, arm: Arm, rate: float, training_seed: int, loss_of_tuning: float
) -> dict[str, Any]:
    steps = STEPS_PER_EPOCH * np.arange(1, EPOCHS_RECORDED + 1)
    end = ACCURACY[arm.placement] - 0.01 * (arm.activation == "sigmoid") - loss_of_tuning + 0.004 * rng.normal()
    speed = {"none": 40.0}.get(arm.placement, 15.0) * (2 if arm.activation == "sigmoid" else 1)
    accuracy = np.clip(end * (1 - 0.9 * np.exp(-steps / speed)) + 0.003 * rng.normal(size=steps.size), 0, 1)
    accuracy[-1] = min(end, 1.0)
    loss = 2.3 * (1 - accuracy)
    return {
        "phase": phase,
        "placement": arm.placement,
        "activation": arm.activation,
        "learning_rate": rate,
        "seed": training_seed,
        "steps": steps.tolist(),
        "train_loss": (0.8 * loss).tolist(),
        "val_loss": loss.tolist(),
        "val_accuracy": accuracy.tolist(),
        "diverged": False,
        "seconds": 1.2,
    }


def _probes(rng: np.random.Generator, config: Config, arm: Arm) -> dict[str, Any]:
    steps = np.concatenate([[0], STEPS_PER_EPOCH * np.arange(1, EPOCHS_RECORDED + 1)])
    layers, time = len(config.model.hidden), steps / steps[-1]
    norm = arm.placement != "none"
    width = (1 + 0.4 * time if norm else 0.8 + 5 * time)[:, None] * (1 + 0.2 * np.arange(layers))
    middle = (0 * time if norm else -2 * time)[:, None] + 0.02 * rng.normal(size=(steps.size, layers))
    gap = 0.01 + 1.2 * np.exp(-6 * time)[:, None] * (1 + 0.3 * np.arange(layers)) + 0 * width
    ratio = 1 + (0.6 * np.exp(-5 * time) * np.cos(9 * time))[:, None] / (1 + np.arange(layers))
    return {
        "steps": steps.tolist(),
        "percentiles": np.stack([middle - width, middle, middle + width], axis=-1).tolist(),
        "mean_gap": gap.tolist() if norm else None,
        "var_ratio": ratio.tolist() if norm else None,
        "scale": (1 + 0.3 * time[:, None] + 0 * gap).tolist() if norm else None,
    }


def _histogram(values: np.ndarray) -> dict[str, Any]:
    counts, edges = np.histogram(values, bins=40)
    assert math.isclose(counts.sum(), values.size)
    return {
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }
