"""Run folders with invented numbers, so that statistics and reports can be tested in seconds and without jax."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis import stats, tuning
from experiments.config import AnalysisConfig, Arm, Config, DataConfig, ModelConfig, Published, SweepConfig, to_json
from experiments.store import record

CONFIG = Config(
    name="synthetic",
    question="Does batch norm belong before or after the activation?",
    placements=("none", "before", "after"),
    activations=("relu", "tanh", "sigmoid"),
    sweep=SweepConfig(learning_rate_points=5, lowest_learning_rate=2.0**-4, tuning_seeds=2, evaluation_seeds=6),
    analysis=AnalysisConfig(resamples=199),  # permutations of six are exact
)
TRAIN, EPOCHS_RECORDED, STEPS_PER_EPOCH = 1078, 8, 17
BEST_RATE_INDEX = {"none": 1, "before": 3, "after": 2, "both": 2, "pre_linear": 3}
ACCURACY = {"none": 0.955, "before": 0.972, "after": 0.976, "both": 0.975, "pre_linear": 0.974}
NORMS = {"none": 0, "both": 2}


def placement_of(config: Config, arm: Arm) -> str:
    """The placement that the arm behaves like: its own, or `before` if it is a residual unit."""
    setup = config.setup(arm)
    return setup.model.placement if setup.model.unit is None else "before"


def records(config: Config, *, seed: int = 0, probe_seeds: int = 2, layers: int | None = None) -> list[dict[str, Any]]:
    """One record per training that `config` asks for, with the optimum of each placement near BEST_RATE_INDEX.

    The best weight decay is the middle one of the list. `layers` layers are probed, by default all of `model.hidden`.
    """
    rng = np.random.default_rng(seed)
    rates, decays = config.sweep.learning_rates, config.sweep.weight_decays
    made = []
    for arm in config.arms:
        best = min(BEST_RATE_INDEX[placement_of(config, arm)], len(rates) - 1)
        for point in tuning.grid(config, arm):
            off = abs(decays.index(point.weight_decay) - len(decays) // 2) if decays else 0
            lost = 0.006 * (rates.index(point.learning_rate) - best) ** 2 + 0.01 * off + 0.004 * point.decay_scale_bias
            made += [_training(rng, config, "tune", arm, point, s, lost) for s in config.seeds(arm)[0]]
    for arm, choice in tuning.choose(config, made).items():
        for k, training_seed in enumerate(config.seeds(arm)[1]):
            run = _training(rng, config, "evaluate", arm, tuning.Point(*choice[:3]), training_seed, 0.0)
            accuracy = round(450 * (run["val_accuracy"][-1] - 0.004)) / 450
            normed = NORMS.get(placement_of(config, arm), 1) > 0
            for kind, gain in (("", 0.0), ("_population", 0.002), ("_batch", -0.006)):
                there = accuracy + gain + 0.001 * rng.normal() if kind else accuracy
                run |= {
                    f"test_loss{kind}": float(2.5 * (1 - there)) if normed or not kind else None,
                    f"test_accuracy{kind}": round(450 * there) / 450 if normed or not kind else None,
                }
            run["probes"] = _probes(rng, config, arm, layers) if k < probe_seeds else None
            made.append(run)
    return made


def arms(config: Config) -> dict[str, dict[str, int]]:
    """The contents of arms.json: a norm has 200 parameters per layer."""
    layers = len(config.model.hidden)
    return {
        str(arm): {
            "parameters": 27_610 + 200 * layers * NORMS.get(placement_of(config, arm), 1),
            "multiply_adds": 27_300,
        }
        for arm in config.arms
    }


def data(shape: tuple[int, ...] = (64,)) -> dict[str, Any]:
    """The contents of `data.json` for examples of this shape, with 3 constant features."""
    rng, features = np.random.default_rng(1), math.prod(shape)
    mean = 8 + 6 * np.sin(np.arange(features) / 3)
    std = 2 + 3 * rng.random(features)
    mean[[0, 32, 39]], std[[0, 32, 39]] = 0, 0
    raw = np.clip(mean + std * rng.normal(size=(TRAIN, features)), 0, 16)
    raw[:, std == 0] = 0
    shift, scale = raw.mean(0), np.where(std > 0, raw.std(0), 1)
    standardized = (raw - shift) / scale
    test = (np.clip(mean + std * rng.normal(size=(450, features)), 0, 16) * (std > 0) - shift) / scale
    return {
        "name": "digits",
        "source": "scikit-learn's handwritten digits (invented numbers of the same shape)",
        "train": TRAIN,
        "validation": 269,
        "test": 450,
        "shape": list(shape),
        "features": features,
        "classes": 10,
        "constant_features": 3,
        "raw": _histogram(raw),
        "standardized": _histogram(standardized),
        "standardized_test": {"mean": test.mean(0).tolist(), "std": test.std(0).tolist()},
    }


def run_folder(
    folder: Path, config: Config = CONFIG, *, made: list[dict[str, Any]] | None = None, finished: bool = True
) -> Path:
    """Writes a run folder for `config`, with `made` or invented records; an unfinished one has no result.json."""
    folder.mkdir(parents=True)
    made = records(config) if made is None else made
    record.write_json(folder / "config.json", to_json(config))
    record.write_json(folder / "env.json", environment())
    record.write_json(folder / "data.json", data())
    record.write_json(folder / "arms.json", arms(config))
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
    """CONFIG with other fields; `layers=k` sets k hidden layers."""
    layers = changes.pop("layers", None)
    if layers:
        changes["model"] = ModelConfig(hidden=(100,) * layers)
    return replace(CONFIG, data=DataConfig(), **changes)


SMALL = replace(
    config(layers=2),
    question="Is <b>before</b> better | or after?",
    placements=("none", "after"),
    activations=("relu",),
    analysis=replace(
        CONFIG.analysis,
        contrasts=(("after", "none"),),
        published=(Published("after", "none", "relu", 1.5, "A & B <2015>", n=2),),
    ),
)


def _training(
    rng: np.random.Generator, config: Config, phase: str, arm: Arm, point: tuning.Point, training_seed: int, lost: float
) -> dict[str, Any]:
    steps = STEPS_PER_EPOCH * np.arange(1, EPOCHS_RECORDED + 1)
    placement, slow = placement_of(config, arm), config.setup(arm).model.activation == "sigmoid"
    end = ACCURACY[placement] - 0.01 * slow - lost + 0.004 * rng.normal()
    speed = {"none": 40.0}.get(placement, 15.0) * (2 if slow else 1)
    accuracy = np.clip(end * (1 - 0.9 * np.exp(-steps / speed)) + 0.003 * rng.normal(size=steps.size), 0, 1)
    accuracy[-1] = min(end, 1.0)
    loss = 2.3 * (1 - accuracy)
    return {
        "phase": phase,
        "treatment": arm.treatment,
        "context": arm.context,
        **point._asdict(),
        "seed": training_seed,
        "steps": steps.tolist(),
        "train_loss": (0.8 * loss).tolist(),
        "val_loss": loss.tolist(),
        "val_accuracy": accuracy.tolist(),
        "diverged": None,
        "seconds": 1.2,
    }


def _probes(rng: np.random.Generator, config: Config, arm: Arm, layers: int | None) -> dict[str, Any]:
    steps = np.concatenate([[0], STEPS_PER_EPOCH * np.arange(1, EPOCHS_RECORDED + 1)])
    layers, time = layers or len(config.model.hidden), steps / steps[-1]
    placement = placement_of(config, arm)
    each = NORMS.get(placement, 1)
    norm, depth = each > 0, np.arange(layers)
    width = (1 + 0.4 * time if norm else 0.8 + 5 * time)[:, None] * (1 + 0.2 * depth)
    middle = (0 * time if norm else -2 * time)[:, None] + 0.02 * rng.normal(size=(steps.size, layers))
    names = [f"block_{k}" for k in range(layers)]
    norms = [f"{name}/norm" + (f"_{i}" if each > 1 else "") for name in names for i in range(each)]
    gap = 0.01 + 1.2 * np.exp(-6 * time)[:, None] * (1 + 0.3 * np.arange(len(norms)))
    ratio = 1 + (0.6 * np.exp(-5 * time) * np.cos(9 * time))[:, None] / (1 + np.arange(len(norms)))
    late = {"none": 0.2, "before": 0.35, "after": 0.6}.get(placement, 0.5)
    saturation = late * time[:, None] * (0.5 + 0.5 * depth / layers) + 0.05 + 0.01 * rng.random((steps.size, layers))
    own = float(rng.lognormal(0, 0.3))  # so that no two arms coincide in a figure
    gradients = {
        **{f"{name}/layer": np.exp(-3 * time) * (0.4**k if not norm else 0.9**k) for k, name in enumerate(names)},
        **{name: 0.1 * np.exp(-2 * time) for name in norms},
        "head": 0.8 * np.exp(-2 * time),
    }
    losses = (2.3 * own * np.exp(-2 * time))[:, None] * (1 + np.array([-0.1, 0.0, 0.1, 0.4 if norm else 1.5]))
    logit = {name: own * (0.1 if norm else 3.0) * 1.5**k for k, name in enumerate([*gradients]) if "norm" not in name}
    return {
        "steps": steps.tolist(),
        "layers": names,
        "percentiles": np.stack([middle - width, middle, middle + width], axis=-1).tolist(),
        "saturation": saturation.tolist(),
        "sparsity": (1 - saturation * (0.6 if placement == "after" else 1)).tolist(),
        "skewness": (2 * saturation).tolist(),
        "dead": (0.1 * saturation).tolist(),
        "zero_share": (0.5 * np.ones_like(saturation)).tolist(),
        "norms": norms,
        "mean_gap": gap.tolist() if norm else None,
        "var_ratio": ratio.tolist() if norm else None,
        "scale": (1 + 0.3 * time[:, None] + 0 * gap).tolist() if norm else None,
        "gradient_norms": {name: values.tolist() for name, values in gradients.items()},
        "eigenvalues": {
            kind: ((400 if norm else 60) * own * factor / (1 + np.arange(5)) ** 1.5).tolist()
            for kind, factor in (("batch", 1.0), ("frozen", 0.2))
        },
        "mean_logit": {"batch": logit, "frozen": {name: 5 * value for name, value in logit.items()}},
        "predictiveness": {
            "steps": steps.tolist(),
            "step_sizes": [0.05, 0.1, 0.2, 0.4],
            "losses": losses.tolist(),
            "gradient_distances": (0.3 * losses).tolist(),
            "smoothness": ((4 if norm else 40) * own * (0.5 + time)).tolist(),
        },
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
