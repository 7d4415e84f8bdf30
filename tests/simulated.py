"""Runs without training: the plan is followed to its end, and scores are drawn from a model of the arms."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.analysis.plan import plan
from experiments.analysis.scores import Setting
from experiments.config import Arm, Config

STEPS = [10, 20]
# Accuracy in percent at a learning rate, without chance.
Truth = Callable[[Arm, Setting], float]


def description(config: Config, test: int = 1000, classes: int = 10) -> dict[str, Any]:
    """What the analysis reads of data.json."""
    split = "each seed" if config.data.split_each_seed else "one"
    return {
        "train": 3 * test,
        "validation": test,
        "test": test,
        "split": split,
        "test_classes": [test // classes] * classes,
    }


def peak(best: float, rate: float = 0.1, width: float = 4.0) -> Truth:
    """The same optimum for every arm, `best` percent at the learning rate `rate`; a parabola over its logarithm."""
    return lambda arm, setting: best - 20 * (np.log2(setting.learning_rate / rate) / width) ** 2


def simulate(
    config: Config, truth: Truth, *, test: int = 1000, sd: float = 0.5, seeds: int | None = None, records: Any = ()
) -> list[dict[str, Any]]:
    """Records of a whole run. A seed moves all settings of all arms alike by half of the variance.

    Args:
      config: of the run.
      truth: mean accuracy of an arm at a setting, percent.
      test: number of test and of validation examples.
      sd: standard deviation of an accuracy over seeds, pp.
      seeds: the number of seeds at which the run ends; by default all.
      records: those that are there already.
    """
    records = list(records)
    while missing := plan(config, records, seeds or config.sweep.seeds).missing:
        for arm, keys in missing.items():
            records += [record(arm, *key, truth(arm, key[0]), test, sd) for key in keys]
    return records


def record(arm: Arm, setting: Setting, seed: int, mean: float, test: int = 1000, sd: float = 0.5) -> dict[str, Any]:
    """One line of records.jsonl; a function of its arguments."""
    shared = np.random.default_rng([seed, 1])
    own = np.random.default_rng([seed, *f"{arm} {setting}".encode()])
    half = sd / np.sqrt(2)

    def drawn(count: int) -> np.ndarray:
        share = np.clip((mean + half * shared.normal() + half * own.normal()) / 100, 0, 1)
        ease = np.random.default_rng(0).random(count)  # some examples are hard for every network
        order = np.argsort(ease + 0.2 * own.random(count))
        right = np.zeros(count, bool)
        right[order[: round(share * count)]] = True
        return right

    validation, found = drawn(test), drawn(test)
    accuracy = float(found.mean())
    with_norms = (
        {} if arm.treatment == "none" else {"test_accuracy_population": accuracy, "test_accuracy_batch": accuracy}
    )
    return {
        "phase": "train",
        **arm._asdict(),
        **setting._asdict(),
        "seed": seed,
        "steps": STEPS,
        "train_loss": [1.0, 0.5],
        "val_loss": [1.0, 2 - 2 * float(validation.mean())],
        "val_accuracy": [float(validation.mean()) / 2, float(validation.mean())],
        "diverged": None,
        "seconds": 0.1,
        "test_loss": 2 - 2 * accuracy,
        "test_accuracy": accuracy,
        "test_loss_population": None,
        "test_accuracy_population": None,
        "test_loss_batch": None,
        "test_accuracy_batch": None,
        **with_norms,
        "right": base64.b64encode(np.packbits(found).tobytes()).decode(),
        "probes": None,
    }
