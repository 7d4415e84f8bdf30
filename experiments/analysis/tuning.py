"""Chooses the learning rate and weight decay of each arm by validation accuracy, after the same search for all arms.

Pure functions of the config and the records. Accuracies are in percent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.analysis.comparison import DIGITS
from experiments.config import Arm, Config, ConfigError

Record = dict[str, Any]
Edge = Literal["lowest", "highest"]


class Point(NamedTuple):
    """One point of the grid that every arm is tuned over."""

    learning_rate: float
    weight_decay: float
    decay_scale_bias: bool


class Choice(NamedTuple):
    """What tuning chose for one arm."""

    learning_rate: float
    weight_decay: float
    decay_scale_bias: bool
    grid_index: int
    """Position of the rate on the grid of rates, 0 being the lowest."""
    edge: Edge | None
    """The end of the grid of rates at which the choice lies, if any: the true optimum may then lie outside the grid."""
    weight_decay_edge: Edge | None
    """The same for weight decay if it was tuned. A decay of 0 is not an edge, because no decay lies below it."""
    max_learning_rate: float | None
    """The highest rate, at the chosen decay, at which the arm still learns: its mean validation accuracy is at least
    half of the best. At a higher rate the loss may stay finite although the arm learns nothing."""
    max_stable_rate: float | None
    """The highest rate such that, at the chosen decay, no tuning seed diverged at it or at a lower rate; None if one
    diverged at the lowest rate."""
    curve: list[dict[str, Any]]
    """One entry per rate, at the chosen decay: learning_rate, mean, sd (None for one seed) and values of the final
    validation accuracy in percent, seeds in order, mean final validation loss (None unless finite), and how many
    diverged."""
    grid: list[dict[str, Any]]
    """The same for every point of the grid, with weight_decay and decay_scale_bias."""


def grid(config: Config, arm: Arm) -> tuple[Point, ...]:
    """Learning rate x weight decay x decay_scale_bias, the lowest rate first, then the lowest decay."""
    sweep, optimizer = config.sweep, config.setup(arm).optimizer
    return tuple(
        Point(rate, decay, on_norms)
        for rate in sweep.learning_rates
        for decay in sweep.weight_decays or (optimizer.weight_decay,)
        for on_norms in sweep.decay_scale_bias or (optimizer.decay_scale_bias,)
    )


def choose(config: Config, records: Iterable[Record]) -> dict[Arm, Choice]:
    """The learning rate and decay of every arm; uses only tuning records and validation data.

    The highest mean final validation accuracy over the tuning seeds wins; a tie goes to the lower mean final validation
    loss (a loss that is not finite counts as worst), then to the lower rate, then to the lower decay, and then to the
    value that comes first in `sweep.decay_scale_bias`.

    Raises:
      ConfigError: a tuning record is missing or appears twice.
    """
    seeds = {arm: config.seeds(arm)[0] for arm in config.arms}
    grids = {arm: grid(config, arm) for arm in config.arms}
    keys = [(arm, point, seed) for arm in config.arms for point in grids[arm] for seed in seeds[arm]]
    found = look_up(records, "tune", keys)
    return {
        arm: _choice(config, [_scored(point, [found[arm, point, seed] for seed in seeds[arm]]) for point in grids[arm]])
        for arm in config.arms
    }


def look_up(records: Iterable[Record], phase: str, keys: Sequence[tuple[Arm, Point, int]]) -> dict[Any, Record]:
    """The record of every key (arm, point of the grid, seed); other records are ignored.

    Raises:
      ConfigError: a record is missing or appears twice.
    """
    wanted, found = set(keys), {}
    for record in records:
        point = Point(record["learning_rate"], record["weight_decay"], record["decay_scale_bias"])
        key = (Arm(record["treatment"], record["context"]), point, record["seed"])
        if record["phase"] != phase or key not in wanted:
            continue
        if key in found:
            raise ConfigError(f"the {phase} records hold {_name(key)} twice; delete one of the two lines")
        found[key] = record
    missing = [key for key in keys if key not in found]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(keys)} {phase} records are missing, the first is {_name(missing[0])}; "
            "go on with: python -m experiments run CONFIG"
        )
    return found


def diverged(records: Iterable[Record]) -> int:
    """The number of trainings that diverged; `diverged` of a record is the step at which it did (maybe 0), or None."""
    return sum(record["diverged"] is not None for record in records)


def _choice(config: Config, scored: list[dict[str, Any]]) -> Choice:
    # Means are rounded here so that floating-point error cannot break a tie.
    ranks = [(round(s["mean"], DIGITS), -np.inf if s["loss"] is None else -round(s["loss"], 12)) for s in scored]
    best = scored[ranks.index(max(ranks))]
    decay = ("weight_decay", "decay_scale_bias")
    curve = [
        {key: value for key, value in s.items() if key not in decay}
        for s in scored
        if all(s[key] == best[key] for key in decay)
    ]
    rates, decays = config.sweep.learning_rates, config.sweep.weight_decays
    stable = next((k for k, point in enumerate(curve) if point["diverged"]), len(curve))
    at_end = _end(best["weight_decay"], decays) if len(decays) > 1 else None
    return Choice(
        best["learning_rate"],
        best["weight_decay"],
        best["decay_scale_bias"],
        rates.index(best["learning_rate"]),
        _end(best["learning_rate"], rates),
        None if at_end == "lowest" and best["weight_decay"] == 0 else at_end,
        max(point["learning_rate"] for point in curve if point["mean"] >= best["mean"] / 2),
        curve[stable - 1]["learning_rate"] if stable else None,
        curve,
        scored,
    )


def _end(value: float, values: Sequence[float]) -> Edge | None:
    return "lowest" if value == values[0] else "highest" if value == values[-1] else None


def _scored(point: Point, runs: list[Record]) -> dict[str, Any]:
    values = [100 * run["val_accuracy"][-1] for run in runs]
    losses = [run["val_loss"][-1] for run in runs]
    return {
        **point._asdict(),
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": values,
        "loss": None if None in losses else float(np.mean(losses)),
        "diverged": diverged(runs),
    }


def _name(key: tuple[Arm, Point, int]) -> str:
    arm, point, seed = key
    decay = f", weight decay {point.weight_decay:g}" if point.weight_decay else ""
    on_norms = ", scale and bias decaying," if point.weight_decay and point.decay_scale_bias else ""
    return f"{arm} at learning rate {point.learning_rate:g}{decay}{on_norms} with seed {seed}"
