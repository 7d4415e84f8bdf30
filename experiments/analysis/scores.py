"""What a run's networks scored, by arm, setting and seed: the input of every choice and every estimate.

Pure functions of the config and the records (the lines of records.jsonl). Accuracies are in percent.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from experiments.analysis.bagging import Scores
from experiments.analysis.new_data import Right
from experiments.config import Arm, Config, ConfigError
from experiments.vocabulary import Metric

Record = dict[str, Any]
METRICS = get_args(Metric)


class Setting(NamedTuple):
    """A point of the grid that every arm is tuned over."""

    learning_rate: float
    weight_decay: float
    decay_scale_bias: bool

    def __str__(self) -> str:
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        return f"rate {self.learning_rate:g}{decay}{' of the norms, too' if decay and self.decay_scale_bias else ''}"


Trained = Mapping[tuple[Arm, Setting, int], Record]
"""The record of every training, by arm, setting and seed."""


def grid(config: Config, arm: Arm, rates: Sequence[float]) -> tuple[Setting, ...]:
    """Learning rate x weight decay x decay_scale_bias, in the order in which ties are won: lower rates first."""
    sweep, optimizer = config.sweep, config.setup(arm).optimizer
    return tuple(
        Setting(rate, decay, on_norms)
        for rate in rates
        for decay in sweep.weight_decays or (optimizer.weight_decay,)
        for on_norms in sweep.decay_scale_bias or (optimizer.decay_scale_bias,)
    )


def by_key(records: Iterable[Record]) -> Trained:
    """The trainings among the records; those repeated for probes are left out.

    Raises:
      ConfigError: a training appears twice.
    """
    found: dict[tuple[Arm, Setting, int], Record] = {}
    for record in records:
        if record["phase"] != "train":
            continue
        setting = Setting(record["learning_rate"], record["weight_decay"], record["decay_scale_bias"])
        arm, seed = Arm(record["treatment"], record["context"]), record["seed"]
        if (arm, setting, seed) in found:
            raise ConfigError(
                f"records.jsonl holds {arm} at {setting} with seed {seed} twice; delete one of the two lines"
            )
        found[arm, setting, seed] = record
    return found


def scores(trained: Trained, arm: Arm, settings: Sequence[Setting], seeds: Sequence[int], metric: Metric) -> Scores:
    """Scores of an arm. A setting that lacks a seed is NaN, so that it is chosen in no bag.

    Raises:
      ConfigError: a training lacks the metric.
    """
    validation, test, loss = (np.full((len(seeds), len(settings)), np.nan) for _ in range(3))
    for s, setting in enumerate(settings):
        for j, seed in enumerate(seeds):
            if record := trained.get((arm, setting, seed)):
                validation[j, s] = 100 * record["val_accuracy"][-1]
                test[j, s] = 100 * measured(record, metric)
                found = record["val_loss"][-1]
                loss[j, s] = np.inf if found is None else found
    return Scores(tuple(seeds), validation, test, loss)


def right(trained: Trained, arm: Arm, settings: Sequence[Setting], seeds: Sequence[int], examples: int) -> Right:
    """Which test examples the networks of an arm got right; no bit is set where a setting lacks a seed."""
    bits = np.zeros((len(seeds), len(settings), -(-examples // 8)), np.uint8)
    for s, setting in enumerate(settings):
        for j, seed in enumerate(seeds):
            if record := trained.get((arm, setting, seed)):
                bits[j, s] = np.frombuffer(base64.b64decode(record["right"]), np.uint8)
    return Right(bits, examples)


def measured(record: Record, metric: Metric) -> float:
    """The test accuracy in a metric, 0 to 1.

    A network without norms has no statistics that could differ, so the test accuracy stands in for every metric.

    Raises:
      ConfigError: the training has norms, and lacks the metric.
    """
    value = record.get(metric)
    if all(record.get(name) is None for name in METRICS[1:]):
        value = record["test_accuracy"]
    if value is None:
        raise ConfigError(
            f"analysis.metric is {metric!r}, which the training of {record['treatment']}/{record['context']} with seed "
            f"{record['seed']} lacks; choose another, such as 'test_accuracy'"
        )
    return value


def complete(trained: Trained, arm: Arm, settings: Sequence[Setting], seeds: Sequence[int]) -> list[Setting]:
    """The settings that were trained with all of the seeds."""
    return [setting for setting in settings if all((arm, setting, seed) in trained for seed in seeds)]
