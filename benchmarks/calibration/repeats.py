"""A procedure repeated with seeds drawn from a bank: how far it moves, and how often its intervals hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats

from benchmarks.calibration.bank import Bank
from benchmarks.calibration.procedures import ALPHA, Contrasts, Procedure
from experiments.analysis.bagging import Scores

PAIRS = (("after", "before"), ("before", "none"), ("after", "none"))


def contrasts_of(bank: Bank) -> dict[str, dict[str, float]]:
    """Every pair of treatments in each context, and how after - before differs between contexts."""
    treatments = {arm.treatment for arm in bank.arms}
    contexts = list(dict.fromkeys(arm.context for arm in bank.arms))
    pairs = [(a, b) for a, b in PAIRS if {a, b} <= treatments]
    found = {f"{a} - {b}, {c}": {f"{a}/{c}": 1.0, f"{b}/{c}": -1.0} for a, b in pairs for c in contexts}
    for a, b in pairs[:1]:
        for i, first in enumerate(contexts):
            for second in contexts[i + 1 :]:
                one, other = found[f"{a} - {b}, {first}"], found[f"{a} - {b}, {second}"]
                found[f"({a} - {b}), {first} - {second}"] = one | {name: -w for name, w in other.items()}
    return found


def bank_values(bank: Bank, contrasts: Contrasts) -> dict[str, float]:
    """Contrasts of mean test accuracies over the whole bank, each arm at the rate that the whole bank chooses."""
    best = bank.validation.mean(axis=1).argmax(axis=1)
    test = bank.test.mean(axis=1)
    values = {str(arm): test[i, best[i]] for i, arm in enumerate(bank.arms)}
    return {name: float(sum(w * values[arm] for arm, w in weights.items())) for name, weights in contrasts.items()}


def repeat(bank: Bank, procedure: Procedure, contrasts: Contrasts, repeats: int) -> dict[str, Any]:
    """The procedure, many times.

    Returns:
      trainings: networks trained of an arm, on average.
      contrasts: by name, what `judged` says.
    """
    found, trainings = outcomes(bank, procedure, contrasts, repeats)
    truths = bank_values(bank, contrasts)
    by_contrast = {name: judged(found[i], truth) for i, (name, truth) in enumerate(truths.items())}
    return {"trainings": trainings, "contrasts": by_contrast}


def outcomes(bank: Bank, procedure: Procedure, contrasts: Contrasts, repeats: int) -> tuple[np.ndarray, float]:
    """Estimates, standard errors, both ends of intervals, `[contrasts, 4, repeats]`; trainings of an arm, on average.

    Each repeat draws its seeds with replacement, the same ones for all arms: the bank is the population, and its value
    the truth.
    """
    rng = np.random.default_rng(0)
    found, trainings = [], []
    for _ in range(repeats):
        drawn = rng.integers(bank.seeds, size=procedure.seeds)
        arms = {str(arm): _scores(bank, i, drawn, 0) for i, arm in enumerate(bank.arms)}
        found.append([(e.estimate, e.se, *e.ci) for e in procedure.estimate(arms, contrasts).values()])
        trainings.append([procedure.trainings(scores) for scores in arms.values()])
    return np.transpose(found, (1, 2, 0)), round(float(np.mean(trainings)), 1)


def same_arm_twice(bank: Bank, procedure: Procedure, repeats: int) -> dict[str, Any]:
    """A/A: each arm against itself with seeds of its own; how often p < 0.05 says that there is a difference.

    All trials draw their own seeds, so that they are independent, and Clopper & Pearson's interval holds.
    """
    rng = np.random.default_rng(1)
    found = {}
    for i, arm in enumerate(bank.arms):
        false = 0
        for _ in range(repeats):
            first, second = (rng.integers(bank.seeds, size=procedure.seeds) for _ in range(2))
            arms = {"once": _scores(bank, i, first, 0), "again": _scores(bank, i, second, 10_000)}
            false += procedure.estimate(arms, {"": {"again": 1.0, "once": -1.0}})[""].p < ALPHA
        found[str(arm)] = rate(false, repeats)
    with_norm = [found[str(arm)]["false"] for arm in bank.arms if arm.treatment != "none"]
    return {"by_arm": found, "arms_with_norm": rate(sum(with_norm), repeats * len(with_norm))}


def rate(false: int, trials: int) -> dict[str, Any]:
    """A share with its 95% interval (Clopper & Pearson 1934), in percent."""
    interval = scipy.stats.binomtest(false, trials).proportion_ci(method="exact")
    ends = [round(100 * float(end), 2) for end in (interval.low, interval.high)]
    return {"false": false, "trials": trials, "percent": round(100 * false / trials, 2), "ci": ends}


def judged(outcomes: np.ndarray, truth: float) -> dict[str, float]:
    """What `[4, repeats]` estimates, standard errors and ends of intervals amount to, in pp and percent.

    Mean and standard deviation over repeats; the reported standard error (root mean square); how much further repeats
    move than it says; how often the interval covers the procedure's own mean and the bank's value; how often it
    excludes 0, and on the wrong side of it.
    """
    estimate, se, low, high = outcomes
    mean, sd, reported = float(estimate.mean()), float(estimate.std(ddof=1)), float(np.sqrt((se**2).mean()))
    found = {
        "bank": truth,
        "mean": mean,
        "sd": sd,
        "se": reported,
        "ratio": sd / reported,
        "covers_own_mean": 100 * float(((low <= mean) & (mean <= high)).mean()),
        "covers_bank": 100 * float(((low <= truth) & (truth <= high)).mean()),
        "excludes_0": 100 * float(((low > 0) | (high < 0)).mean()),
        "wrong_sign": 100 * float((high < 0).mean() if truth > 0 else (low > 0).mean()),
    }
    return {key: round(value, 4) for key, value in found.items()}


def _scores(bank: Bank, arm: int, drawn: np.ndarray, first_seed: int) -> Scores:
    """Networks of one arm, as if they had seeds of their own from `first_seed` on."""
    seeds = tuple(range(first_seed, first_seed + len(drawn)))
    return Scores(seeds, bank.validation[arm, drawn], bank.test[arm, drawn], bank.loss[arm, drawn])
