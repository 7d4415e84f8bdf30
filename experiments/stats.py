"""From records to a result: which learning rate each arm gets, and what the evaluation trainings say.

Pure functions of the config and the records. Accuracies are in percent. The statistics of two arms are in
`experiments.comparison`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from experiments.comparison import DIGITS, RESOLUTION_PP, Contrast, compare, finding, holm, sentence, verdict
from experiments.config import Arm, Config, ConfigError

Record = dict[str, Any]

PUBLISHABLE_SEEDS = 10


class Choice(NamedTuple):
    """The learning rate that tuning chose for one arm."""

    learning_rate: float
    grid_index: int
    """Position on the grid, 0 being the lowest rate."""
    edge: Literal["lowest", "highest"] | None
    """Which end of the grid the choice lies at: the true optimum may then lie outside."""
    curve: list[dict[str, Any]]
    """One entry per rate of the grid: learning_rate, mean, sd (None for one seed) and values of the final validation
    accuracy in percent, seeds in order, mean final validation loss (None unless finite), and how many diverged."""


def choose(config: Config, records: Iterable[Record]) -> dict[Arm, Choice]:
    """The learning rate of every arm, from tuning records and validation data alone.

    The highest mean final validation accuracy over the tuning seeds wins; a tie goes to the lower mean final validation
    loss (not finite counts as worst), and then to the lower rate.

    Raises:
      ConfigError: a tuning record is missing, or there twice.
    """
    rates, seeds = config.sweep.learning_rates, config.sweep.tuning
    found = _look_up(records, "tune", [(arm, rate, seed) for arm in config.arms for rate in rates for seed in seeds])
    choices = {}
    for arm in config.arms:
        curve = [_tuning_point(rate, [found[arm, rate, seed] for seed in seeds]) for rate in rates]
        # Rounded, so that rounding errors of the means cannot break a tie.
        ranks = [(round(p["mean"], DIGITS), -np.inf if p["loss"] is None else -round(p["loss"], 12)) for p in curve]
        index = ranks.index(max(ranks))
        edge = "lowest" if index == 0 else "highest" if index == len(rates) - 1 else None
        choices[arm] = Choice(rates[index], index, edge, curve)
    return choices


def summarize(config: Config, records: Iterable[Record]) -> dict[str, Any]:
    """The result of a run, ready for JSON: arms, comparisons, warnings. Accuracies are in percent.

    Depends on the set of records, not on their order.

    Raises:
      ConfigError: a record is missing, or there twice.
    """
    records = list(records)
    choices, seeds, analysis = choose(config, records), config.sweep.evaluation, config.analysis
    keys = [(arm, choices[arm].learning_rate, seed) for arm in config.arms for seed in seeds]
    found = _look_up(records, "evaluate", keys)
    runs = {arm: [found[arm, choices[arm].learning_rate, seed] for seed in seeds] for arm in config.arms}
    accuracy = {arm: np.array([100 * run["test_accuracy"] for run in runs[arm]]) for arm in config.arms}
    contrasts: list[Contrast] = []
    for a, b in config.contrasts:
        comparisons = [
            compare(
                accuracy[Arm(a, activation)],
                accuracy[Arm(b, activation)],
                margin_pp=analysis.margin_pp,
                alpha=analysis.alpha,
                resamples=analysis.resamples,
            )
            for activation in config.activations
        ]
        for activation, comparison, p in zip(
            config.activations, comparisons, holm([c.p for c in comparisons]), strict=True
        ):
            contrasts.append(
                Contrast(activation, a, b, comparison, p, len(comparisons), analysis.margin_pp, analysis.alpha)
            )
    arms = [_arm_row(arm, choices[arm], seeds, runs[arm], accuracy[arm], analysis.alpha) for arm in config.arms]
    rows = [_comparison_row(contrast) for contrast in contrasts]
    return {"arms": arms, "comparisons": rows, "warnings": _warnings(config, choices, runs)}


def _look_up(records: Iterable[Record], phase: str, keys: Sequence[tuple[Arm, float, int]]) -> dict[Any, Record]:
    """The record of every key (arm, learning rate, seed); other records are ignored."""
    wanted, found = set(keys), {}
    for record in records:
        key = (Arm(record["placement"], record["activation"]), record["learning_rate"], record["seed"])
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


def _name(key: tuple[Arm, float, int]) -> str:
    return f"{key[0]} at learning rate {key[1]:g} with seed {key[2]}"


def _tuning_point(rate: float, runs: list[Record]) -> dict[str, Any]:
    values = [100 * run["val_accuracy"][-1] for run in runs]
    losses = [run["val_loss"][-1] for run in runs]
    return {
        "learning_rate": rate,
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": values,
        "loss": None if None in losses else float(np.mean(losses)),
        "diverged": sum(bool(run["diverged"]) for run in runs),
    }


def _arm_row(
    arm: Arm, choice: Choice, seeds: Sequence[int], runs: list[Record], accuracy: NDArray[np.float64], alpha: float
) -> dict[str, Any]:
    n, mean, constant = accuracy.size, float(accuracy.mean()), np.ptp(accuracy) < RESOLUTION_PP
    sd = 0.0 if constant else float(accuracy.std(ddof=1))
    low, high = (mean, mean) if constant else scipy.stats.t.interval(1 - alpha, n - 1, mean, sd / np.sqrt(n))
    losses = [run["test_loss"] for run in runs]
    return {
        "placement": arm.placement,
        "activation": arm.activation,
        "learning_rate": choice.learning_rate,
        "edge": choice.edge,
        "tuning": choice.curve,
        "n": n,
        "mean": mean,
        "sd": sd,
        "ci": [float(low), float(high)],
        "test_loss": None if None in losses else float(np.mean(losses)),
        "test_accuracy": accuracy.tolist(),
        "seeds": list(seeds),
        "diverged": sum(bool(run["diverged"]) for run in runs),
    }


def _comparison_row(contrast: Contrast) -> dict[str, Any]:
    row = contrast._asdict() | contrast.comparison._asdict()
    del row["comparison"]
    row |= {"finding": finding(contrast), "verdict": verdict(contrast), "sentence": sentence(contrast)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


def _warnings(config: Config, choices: dict[Arm, Choice], runs: dict[Arm, list[Record]]) -> list[str]:
    """What a reader must know before believing the numbers."""
    sweep, found = config.sweep, []
    edges = Counter(choice.edge for choice in choices.values())
    more = 2 * sum(edges[edge] > 0 for edge in ("lowest", "highest"))
    points = f"--sweep.learning-rate-points {sweep.learning_rate_points + more}"
    lower = f"--sweep.lowest-learning-rate {sweep.learning_rates[0] / sweep.learning_rate_factor**2!r} {points}"
    for edge, rate, where, flags in (
        ("lowest", sweep.learning_rates[0], "downwards", lower),
        ("highest", sweep.learning_rates[-1], "upwards", lower if edges["lowest"] else points),
    ):
        arms = [str(arm) for arm, choice in choices.items() if choice.edge == edge]
        if arms:
            found.append(
                f"the optimum of {_join(arms)} lies at the {edge} rate of the grid ({rate:g}), so the true one may lie "
                f"beyond and {'this arm' if len(arms) == 1 else 'these arms'} may be better than shown; extend the "
                f"grid {where}: {flags}"
            )
    for arm, records in runs.items():
        diverged = sum(bool(record["diverged"]) for record in records)
        if diverged:
            found.append(
                f"{diverged} of {len(records)} evaluation trainings of {arm} diverged; each counts with the test "
                "accuracy that it ended at"
            )
    if sweep.evaluation_seeds < PUBLISHABLE_SEEDS:
        found.append(
            f"only {sweep.evaluation_seeds} evaluation seeds; a result to publish needs {PUBLISHABLE_SEEDS} or more: "
            f"--sweep.evaluation-seeds {PUBLISHABLE_SEEDS}"
        )
    return found


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
