"""Run folders with invented numbers, so that statistics and reports can be tested in seconds and without jax."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis import stats
from experiments.analysis.plan import plan
from experiments.analysis.scores import Setting
from experiments.analysis.search import search
from experiments.config import Arm, Config, DataConfig, ModelConfig, Published, SweepConfig, to_json
from experiments.store import record
from experiments.store.right import pack_right

CONFIG = Config(
    name="synthetic",
    question="Does batch norm belong before or after the activation?",
    placements=("none", "before", "after"),
    activations=("relu", "tanh", "sigmoid"),
    data=DataConfig(split="one"),
    sweep=SweepConfig(learning_rate_points=5, lowest_learning_rate=2.0**-4, seeds=6),
)
TRAIN, VALIDATION, TEST, EPOCHS_RECORDED, STEPS_PER_EPOCH = 1078, 269, 450, 8, 17
BEST_RATE_INDEX = {"none": 1, "before": 3, "after": 2, "both": 2, "pre_linear": 3}
ACCURACY = {"none": 0.955, "before": 0.972, "after": 0.976, "both": 0.975, "pre_linear": 0.974}
NORMS = {"none": 0, "both": 2}
LOST = 0.006
"""Accuracy that a factor of two from the best rate costs."""


def placement_of(config: Config, arm: Arm) -> str:
    """The placement that the arm behaves like: its own, or `before` if it is a residual unit."""
    setup = config.setup(arm)
    return setup.model.placement if setup.model.unit is None else "before"


def records(
    config: Config,
    *,
    seed: int = 0,
    probe_seeds: int = 2,
    layers: int | None = None,
    accuracy: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """One record per training of a run of `config`, with the optimum of each placement near BEST_RATE_INDEX.

    The grid grows and the race drops settings as in a run. The best weight decay is the middle one of the list.

    Args:
      probe_seeds: seeds of each arm that are probed.
      layers: layers that are probed, by default all of `model.hidden`.
      accuracy: best accuracy, 0 to 1, by "treatment/context", where it is not that of ACCURACY.
    """
    rng, decays = np.random.default_rng(seed), config.sweep.weight_decays
    hard = rng.normal(size=TEST)  # how hard each test example is, for all networks
    made: list[dict[str, Any]] = []
    while missing := plan(config, made, config.sweep.seeds).missing:
        for arm, keys in missing.items():
            best = config.sweep.learning_rates[
                min(BEST_RATE_INDEX[placement_of(config, arm)], config.sweep.learning_rate_points - 1)
            ]
            top = (accuracy or {}).get(str(arm), 0.0) or best_accuracy(config, arm)
            for setting, training_seed in keys:
                octaves = math.log(setting.learning_rate / best, config.sweep.learning_rate_factor)
                off = abs(decays.index(setting.weight_decay) - len(decays) // 2) if decays else 0
                lost = LOST * octaves**2 + 0.01 * off + 0.004 * setting.decay_scale_bias
                made.append(_training(rng, config, arm, setting, training_seed, top - lost, hard))
    found = search(config, made, config.sweep.seeds)
    probes = [
        run | {"phase": "probe", "probes": _probes(rng, config, arm, layers)}
        for arm in config.arms
        for run in made
        if (run["treatment"], run["context"]) == arm
        and setting_of(run) == found.chosen(arm)
        and run["seed"] in config.seeds(arm)[:probe_seeds]
    ]
    return made + probes


def setting_of(run: Mapping[str, Any]) -> Setting:
    return Setting(run["learning_rate"], run["weight_decay"], run["decay_scale_bias"])


def best_accuracy(config: Config, arm: Arm) -> float:
    return ACCURACY[placement_of(config, arm)] - 0.01 * (config.setup(arm).model.activation == "sigmoid")


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


def data(shape: tuple[int, ...] = (64,), split: str = "one") -> dict[str, Any]:
    """The contents of `data.json` for examples of this shape, with 3 constant features."""
    rng, features = np.random.default_rng(1), math.prod(shape)
    mean = 8 + 6 * np.sin(np.arange(features) / 3)
    std = 2 + 3 * rng.random(features)
    mean[[0, 32, 39]], std[[0, 32, 39]] = 0, 0
    raw = np.clip(mean + std * rng.normal(size=(TRAIN, features)), 0, 16)
    raw[:, std == 0] = 0
    shift, scale = raw.mean(0), np.where(std > 0, raw.std(0), 1)
    standardized = (raw - shift) / scale
    test = (np.clip(mean + std * rng.normal(size=(TEST, features)), 0, 16) * (std > 0) - shift) / scale
    return {
        "name": "digits",
        "source": "scikit-learn's handwritten digits (invented numbers of the same shape)",
        "train": TRAIN,
        "validation": VALIDATION,
        "test": TEST,
        "shape": list(shape),
        "features": features,
        "classes": 10,
        "constant_features": 3,
        "split": split,
        "test_classes": [TEST // 10] * 10,
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
    described = data(split="each seed" if config.data.split_each_seed else "one")
    record.write_json(folder / "data.json", described)
    record.write_json(folder / "arms.json", arms(config))
    record.append(folder, made)
    if finished:
        record.write_json(folder / "result.json", stats.summarize(config, made, described))
    return folder


def environment() -> dict[str, Any]:
    return {
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": True,
        "date": "2026-11-22T10:00:00+00:00",
        "device": "cpu x 2 (an invented processor)",
        "cores": 2,
        "processor": "an invented processor",
        "xla_flags": "--xla_cpu_multi_thread_eigen=false",
        "platform": "Linux-6.1-x86_64",
        "versions": {"python": "3.11.7", "jbn": "0.1.0", "jax": "0.10.2", "flax": "0.12.8", "numpy": "2.4.6"},
        "wall_seconds": 754.3,
    }


def config(**changes: Any) -> Config:
    """CONFIG with other fields; `layers=k` sets k hidden layers."""
    layers = changes.pop("layers", None)
    if layers:
        changes["model"] = ModelConfig(hidden=(100,) * layers)
    return replace(CONFIG, **changes)


SMALL = replace(
    config(layers=2),
    question="Is <b>before</b> better | or after?",
    placements=("none", "after"),
    activations=("relu",),
    analysis=replace(
        CONFIG.analysis,
        pairs=(("after", "none"),),
        published=(Published("relu: after - none", 1.5, "A & B <2015>", n=2),),
    ),
)


def _training(
    rng: np.random.Generator,
    config: Config,
    arm: Arm,
    setting: Setting,
    training_seed: int,
    top: float,
    hard: np.ndarray,
) -> dict[str, Any]:
    steps = STEPS_PER_EPOCH * np.arange(1, EPOCHS_RECORDED + 1)
    placement, slow = placement_of(config, arm), config.setup(arm).model.activation == "sigmoid"
    end = top + 0.004 * rng.normal()
    speed = {"none": 40.0}.get(placement, 15.0) * (2 if slow else 1)
    accuracy = np.clip(end * (1 - 0.9 * np.exp(-steps / speed)) + 0.003 * rng.normal(size=steps.size), 0, 1)
    accuracy[-1] = np.clip(end, 0, 1)
    loss = 2.3 * (1 - accuracy)
    count = round(TEST * float(np.clip(end - 0.004, 0, 1)))
    run: dict[str, Any] = {
        "phase": "train",
        "treatment": arm.treatment,
        "context": arm.context,
        **setting._asdict(),
        "seed": training_seed,
        "steps": steps.tolist(),
        "train_loss": (0.8 * loss).tolist(),
        "val_loss": loss.tolist(),
        "val_accuracy": accuracy.tolist(),
        "diverged": None,
        "seconds": 1.2,
    }
    normed = NORMS.get(placement, 1) > 0
    for kind, gain in (("", 0.0), ("_population", 0.002), ("_batch", -0.006)):
        there = round(TEST * min(1.0, count / TEST + (gain + 0.001 * rng.normal() if kind else 0.0))) / TEST
        run |= {
            f"test_loss{kind}": float(2.5 * (1 - there)) if normed or not kind else None,
            f"test_accuracy{kind}": there if normed or not kind else None,
        }
    compared = run[config.analysis.metric]
    right = np.zeros(TEST, bool)
    order = np.argsort(hard + 0.4 * rng.normal(size=TEST))
    right[order[: round(TEST * (run["test_accuracy"] if compared is None else compared))]] = True
    return run | {"right": pack_right(right)}


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
