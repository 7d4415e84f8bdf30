"""What to train next: a pure function of the config and of what has been trained.

    1. Every setting of the grid (learning rate x decay), with the seeds of the first round.
    2. While 5% or more of an arm's bags choose an end of the grid, one learning rate is added there, for all arms, up
       to the declared limit; it is trained with the seeds of the first round (1).
    3. The settings that the race leaves (`experiments.analysis.race`), with all seeds.
    4. As 2, with bags of all seeds.

So an interrupted run, and one that goes on with more seeds, plans what an uninterrupted one would. Only validation data
are read here: the test set plays no part in choosing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.analysis.bagging import Scores, choose, draw
from experiments.analysis.race import first_round, survivors
from experiments.analysis.scores import Record, Setting, Trained, by_key, complete, grid, scores
from experiments.config import Arm, Config

BAGS = 4000
MOST_AT_END = 0.05


class Plan(NamedTuple):
    """The state of the search."""

    rates: tuple[float, ...]
    """The grid of learning rates as grown, lowest first."""
    missing: dict[Arm, list[tuple[Setting, int]]]
    """What is to be trained next, by arm: settings and seeds. Empty when the search is over."""
    first_seeds: int
    """Seeds of the first round."""


def plan(config: Config, records: Iterable[Record], seeds: int) -> Plan:
    """The next trainings of a run with so many seeds.

    Raises:
      ConfigError: a training appears twice.
    """
    trained = by_key(records)
    first = first_round(seeds) if config.sweep.race else seeds
    lower = higher = 0
    while True:
        rates = config.sweep.extended(lower, higher)
        wanted = {arm: [(s, seed) for s in grid(config, arm, rates) for seed in config.seeds(arm)[:first]]
                  for arm in config.arms}  # fmt: skip
        if missing := _missing(trained, wanted):
            return Plan(rates, missing, first)
        ends = _chosen_ends(config, trained, rates, first)
        if not (grown := _grown(config, lower, higher, ends)):
            wanted = {arm: [(s, seed) for s in _going_on(config, trained, arm, rates, first)
                            for seed in config.seeds(arm)[:seeds]] for arm in config.arms}  # fmt: skip
            if missing := _missing(trained, wanted):
                return Plan(rates, missing, first)
            grown = _grown(config, lower, higher, _chosen_ends(config, trained, rates, seeds))
        if not grown:
            return Plan(rates, {}, first)
        lower, higher = lower + grown[0], higher + grown[1]


def at_end(settings: Sequence[Setting], rates: Sequence[float], decays: Sequence[float]) -> np.ndarray:
    """Whether each setting lies at an end of the rates, or of the decays that were tuned. No decay lies below 0."""
    low, high = rates[0], rates[-1]
    ends = {decays[0], decays[-1]} - {0.0} if len(decays) > 1 else set()
    return np.array([s.learning_rate in (low, high) or s.weight_decay in ends for s in settings])


def _missing(trained: Trained, wanted: dict[Arm, list[tuple[Setting, int]]]) -> dict[Arm, list[tuple[Setting, int]]]:
    left = {arm: [key for key in keys if (arm, *key) not in trained] for arm, keys in wanted.items()}
    return {arm: keys for arm, keys in left.items() if keys}


def _going_on(config: Config, trained: Trained, arm: Arm, rates: Sequence[float], first: int) -> list[Setting]:
    """The settings that the first round leaves."""
    settings = grid(config, arm, rates)
    if first < 2 or not config.sweep.race:
        return list(settings)
    found = scores(trained, arm, settings, config.seeds(arm)[:first], config.analysis.metric)
    return [setting for setting, on in zip(settings, survivors(found.validation), strict=True) if on]


def _chosen_ends(config: Config, trained: Trained, rates: Sequence[float], seeds: int) -> tuple[float, float]:
    """The largest share of an arm's bags, over arms, that choose the lowest and the highest rate."""
    shares = []
    for arm in config.arms:
        of_arm = config.seeds(arm)[:seeds]
        settings = complete(trained, arm, grid(config, arm, rates), of_arm)
        chosen = shares_of_bags(scores(trained, arm, settings, of_arm, config.analysis.metric))
        shares.append([chosen[[s.learning_rate == end for s in settings]].sum() for end in (rates[0], rates[-1])])
    low, high = np.max(shares, axis=0)
    return float(low), float(high)


def shares_of_bags(of_arm: Scores) -> np.ndarray:
    """The share of bags that choose each setting; reads validation data only."""
    chosen = choose(draw(of_arm.seeds, BAGS), of_arm)
    return np.bincount(chosen, minlength=np.shape(of_arm.validation)[1]) / BAGS


def _grown(config: Config, lower: int, higher: int, shares: tuple[float, float]) -> tuple[int, int] | None:
    """How many rates to add below and above; None if the grid is wide enough, or as wide as it may become."""
    limit = config.sweep.learning_rate_extension
    low = int(shares[0] >= MOST_AT_END and lower < limit)
    high = int(shares[1] >= MOST_AT_END and higher < limit)
    return (low, high) if low or high else None
