"""Whole procedures, from the scores of a run's networks to an estimate of every contrast.

Each chooses by validation data, and reads the test set at what it chose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from experiments.analysis import bagging, race
from experiments.analysis.bagging import Estimate, Scores

BAGS = 2000
ALPHA = 0.05
Arms = Mapping[str, Scores]
Contrasts = Mapping[str, Mapping[str, float]]


class Procedure(NamedTuple):
    """A way to run an ablation."""

    name: str
    seeds: int
    """Seeds of one run."""
    estimate: Callable[[Arms, Contrasts], dict[str, Estimate]]
    trainings: Callable[[Scores], int]
    """How many networks it trains of an arm, of which all settings are given."""


def chosen_then_read(tuning: int, evaluation: int) -> Procedure:
    """The first seeds choose; the others are read at the chosen setting, and give a t interval."""

    def estimate(arms: Arms, contrasts: Contrasts) -> dict[str, Estimate]:
        return _t_intervals(arms, {name: _fresh(scores, tuning) for name, scores in arms.items()}, contrasts)

    name = f"{tuning} seeds choose, {evaluation} others are read"
    return Procedure(name, tuning + evaluation, estimate, lambda scores: tuning * _settings(scores) + evaluation)


def bagged(seeds: int, *, raced: bool = False, drawn: int | None = None) -> Procedure:
    """The laboratory's: every seed at every setting, or at those that a first round leaves; the choice is bagged."""

    def estimate(arms: Arms, contrasts: Contrasts) -> dict[str, Estimate]:
        found = bagging.bag({name: _trained(scores, raced) for name, scores in arms.items()}, bags=BAGS, drawn=drawn)
        return {name: bagging.contrast(found, weights, alpha=ALPHA) for name, weights in contrasts.items()}

    return Procedure(_name(seeds, raced, drawn), seeds, estimate, partial(_trainings, raced=raced))


def bagged_out_of_bag(seeds: int, *, raced: bool = False) -> Procedure:
    """A variant: in each bag, the test set is read with the seeds that the bag does not hold."""

    def values(scores: Scores) -> NDArray[np.float64]:
        return out_of_bag(bagging.draw(scores.seeds, BAGS), _trained(scores, raced))

    def estimate(arms: Arms, contrasts: Contrasts) -> dict[str, Estimate]:
        return _t_intervals(arms, {name: values(scores) for name, scores in arms.items()}, contrasts)

    return Procedure(f"{_name(seeds, raced)}, read out of bag", seeds, estimate, partial(_trainings, raced=raced))


def out_of_bag(counts: ArrayLike, scores: Scores) -> NDArray[np.float64]:
    """Each seed's part `[seeds]` in the estimate; their mean is the estimate, their standard error is its own.

    With E_k the mean of seed k's test accuracy at the choices of the bags without k, the estimate is E = Σ_k E_k / n.
    A seed's weight acts on its own E_j and, through the bags that are likelier with it, on all others. So by the
    infinitesimal jackknife its part is

        E_j + Σ_k mean_b (N_bj - 1) (test[k, choice_b] - E_k), the means over bags without k.

    Reference: Efron & Tibshirani 1997, "Improvements on cross-validation: the .632+ bootstrap method", JASA 92.
    """
    counts = np.asarray(counts)
    read = np.asarray(scores.test, np.float64)[:, bagging.choose(counts, scores)].T  # [bags, seeds]
    out = (counts == 0) / (counts == 0).sum(axis=0)
    means = (out * read).sum(axis=0)
    of_bags = (out * (read - means)).sum(axis=1)
    return means + (counts - 1.0).T @ of_bags


def _fresh(scores: Scores, tuning: int) -> NDArray[np.float64]:
    validation, test = np.asarray(scores.validation), np.asarray(scores.test)
    loss = None if scores.loss is None else np.asarray(scores.loss)[:tuning]
    first = Scores(scores.seeds[:tuning], validation[:tuning], test[:tuning], loss)
    (choice,) = bagging.choose(np.ones((1, tuning)), first)
    return test[tuning:, choice]


def _trained(scores: Scores, raced: bool) -> Scores:
    """Without the settings that the first round drops."""
    if not raced:
        return scores
    on = _on(scores)
    loss = None if scores.loss is None else np.asarray(scores.loss)[:, on]
    return Scores(scores.seeds, np.asarray(scores.validation)[:, on], np.asarray(scores.test)[:, on], loss)


def _trainings(scores: Scores, raced: bool) -> int:
    n, settings = np.shape(scores.test)
    first, later = race.first_round(n), int(_on(scores).sum()) if raced else settings
    return first * settings + (n - first) * later


def _on(scores: Scores) -> NDArray[np.bool_]:
    return race.survivors(np.asarray(scores.validation)[: race.first_round(len(scores.seeds))])


def _settings(scores: Scores) -> int:
    return np.shape(scores.test)[1]


def _name(seeds: int, raced: bool, drawn: int | None = None) -> str:
    return f"{seeds} seeds, {'raced, ' if raced else ''}choice bagged{f' by {drawn}' if drawn else ''}"


def _t_intervals(arms: Arms, values: Mapping[str, NDArray[np.float64]], contrasts: Contrasts) -> dict[str, Estimate]:
    """Student's t over seeds; Welch's for arms with seeds of their own."""
    return {name: _t_interval(arms, values, weights) for name, weights in contrasts.items()}


def _t_interval(arms: Arms, values: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float]) -> Estimate:
    groups: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for name, weight in weights.items():
        seeds = arms[name].seeds
        groups[seeds] = groups.get(seeds, 0) + weight * values[name]
    estimate = float(sum(v.mean() for v in groups.values()))
    parts = [(v.var(ddof=1) / len(v), len(v)) for v in groups.values()]
    variance, n = sum(part for part, _ in parts), min(size for _, size in parts)
    if not variance:
        return Estimate(estimate, 0.0, n - 1, (estimate, estimate), float(estimate == 0), True, 0.0, n)
    df = float(variance**2 / sum(part**2 / (size - 1) for part, size in parts))
    se = float(np.sqrt(variance))
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, df)) * se
    p = float(2 * scipy.stats.t.sf(abs(estimate) / se, df))
    return Estimate(estimate, se, df, (estimate - half, estimate + half), p, False, 0.0, n)


PROCEDURES = (
    chosen_then_read(3, 21),
    chosen_then_read(10, 21),
    bagged(6),
    bagged(6, raced=True),
    bagged(12),
    bagged(12, raced=True),
    bagged(24),
    bagged(24, raced=True),
    bagged(48),
    bagged(48, raced=True),
    bagged(12, drawn=6),
    bagged(12, raced=True, drawn=6),
    bagged(24, raced=True, drawn=6),
    bagged(48, raced=True, drawn=6),
    bagged_out_of_bag(6),
    bagged_out_of_bag(12),
    bagged_out_of_bag(12, raced=True),
)
