"""A bank of trainings: every arm of a config, at every learning rate, with many seeds; validation and test accuracy.

Experiments are drawn from it, instead of trained anew, to see what a procedure does when it is repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.config import Arm, Config, ProbesConfig
from experiments.data.arrays import load
from experiments.training import autotune
from experiments.training.compiled import Lane
from experiments.training.loop import train_arm

BLOCK = 32  # seeds trained and saved at a time; times 7 rates, that is 7 full rounds of 32 lanes
SCORES = ("validation", "loss", "test")


class Bank(NamedTuple):
    """Scores of networks, `[arms, seeds, rates]` each: accuracies in percent, the loss in nats."""

    arms: tuple[Arm, ...]
    rates: tuple[float, ...]
    validation: NDArray[np.float64]
    loss: NDArray[np.float64]
    """On validation data; infinite where a training diverged."""
    test: NDArray[np.float64]
    about: dict[str, Any]
    """Config, split of the examples (`one`, or `each seed` has its own), device, date and versions."""

    @property
    def seeds(self) -> int:
        return self.validation.shape[1]


def train(config: Config, seeds: int, file: Path, about: dict[str, Any], note: Callable[[str], None]) -> Bank:
    """Trains what the file does not hold, a block of seeds at a time, and saves each block: it may be stopped.

    Args:
      config: whose arms, learning rates and data; it tunes no decay.
      seeds: 0 to seeds - 1.
      file: where the bank is, or will be.
      about: what is written down of the device and the versions.
      note: called with what is trained now.

    Raises:
      ValueError: the file holds the trainings of another config, or of another way to split the examples.
    """
    bank = read(file) if file.exists() else empty(config, about)
    fits = (bank.arms, bank.rates) == (config.arms, config.sweep.learning_rates)
    if not fits or bank.about["config"] != config.name:
        raise ValueError(f"{file} holds trainings of {bank.about['config']}, not of {config.name}; use another file")
    if bank.about["split"] != _split(config):
        raise ValueError(
            f"{file} holds trainings of the split {bank.about['split']!r}, not {_split(config)!r}; use another file, "
            f"or --split {bank.about['split']!r}"
        )
    data = load(config.data)
    while bank.seeds < seeds:
        block = range(bank.seeds, min(bank.seeds + BLOCK, seeds))
        found = np.empty((len(SCORES), len(bank.arms), len(block), len(bank.rates)))
        for index, arm in enumerate(bank.arms):
            note(f"{arm}, seeds {block[0]} to {block[-1]}")
            setup = config.setup(arm)._replace(probes=ProbesConfig(seeds=0))
            own = setup.optimizer
            lanes = [Lane(rate, own.weight_decay, own.decay_scale_bias, seed) for seed in block for rate in bank.rates]
            engine = autotune.choose(setup, data, lanes).engine
            # The width of a whole block, so that networks do not depend on where blocks begin and end.
            records = train_arm(setup, data, lanes, engine, width=BLOCK * len(bank.rates))
            values = [_scores(record) for record in records]
            found[:, index] = np.reshape(values, (len(block), len(bank.rates), len(SCORES))).transpose(2, 0, 1)
        joined = (np.concatenate([getattr(bank, name), found[i]], 1) for i, name in enumerate(SCORES))
        bank = bank._replace(**dict(zip(SCORES, joined, strict=True)))
        write(bank, file)
    return bank


def empty(config: Config, about: dict[str, Any]) -> Bank:
    none = np.empty((len(config.arms), 0, len(config.sweep.learning_rates)))
    about = about | {"config": config.name, "split": _split(config)}
    return Bank(config.arms, config.sweep.learning_rates, none, none, none, about)


def read(file: Path) -> Bank:
    with np.load(file, allow_pickle=False) as found:
        arms = tuple(Arm(*names) for names in json.loads(str(found["arms"])))
        # The first banks were of one split, and do not say so.
        rates, about = tuple(found["rates"].tolist()), {"split": "one"} | json.loads(str(found["about"]))
        return Bank(arms, rates, found["validation"], found["loss"], found["test"], about)


def write(bank: Bank, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"unfinished_{file.name}")
    np.savez_compressed(
        unfinished,
        arms=json.dumps(bank.arms),
        rates=np.array(bank.rates),
        about=json.dumps(bank.about),
        **{name: getattr(bank, name) for name in SCORES},
    )
    unfinished.replace(file)


def _split(config: Config) -> str:
    return "each seed" if config.data.split_each_seed else "one"


def _scores(record: dict[str, Any]) -> tuple[float, float, float]:
    loss = record["val_loss"][-1]
    loss = loss if record["diverged"] is None and np.isfinite(loss) else np.inf
    return 100 * record["val_accuracy"][-1], loss, 100 * record["test_accuracy"]
