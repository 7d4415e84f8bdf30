"""The analysis of a published run, done again by other code: NumPy and SciPy, from its config and scores alone.

Nothing is imported from experiments.analysis. Bags are other bags, the infinitesimal jackknife is the plain formula of
the covariances with Wager, Hastie & Efron's correction, and every Monte Carlo error is measured by parts of the bags.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats

from experiments.config import Arm, Config

BAGS, PARTS = 20_000, 10
THEIR_BAGS = 4000
ERRORS = 5  # standard errors that two Monte Carlo results may lie apart; there are hundreds of comparisons
TIE = 5e-5  # percent
# Test examples, and those of the largest class.
TEST_SETS = {"digits": (450, 46), "mnist": (10_000, 1135), "fashion_mnist": (10_000, 1000), "cifar10": (10_000, 1000)}
DIGITS = 1797


class Searched(NamedTuple):
    """What was measured of one arm, at the settings that were trained with all seeds."""

    seeds: tuple[int, ...]
    settings: list[tuple[float, float, bool]]
    """In the order in which ties are won."""
    validation: np.ndarray
    """`[seeds, settings]`, percent."""
    loss: np.ndarray
    test: np.ndarray
    rows: np.ndarray
    """`[seeds, settings]`: the row of scores.csv."""


class Found(NamedTuple):
    """An estimate over bags with the Monte Carlo error of mine and of another one with `THEIR_BAGS`."""

    value: float
    error: float

    def agrees(self, other: float) -> bool:
        return abs(self.value - other) <= ERRORS * self.error + 1e-9


class Again(NamedTuple):
    """All arms over my bags."""

    arms: dict[str, Searched]
    counts: dict[tuple[int, ...], np.ndarray]
    """`[bags, seeds]`, by the seeds."""
    chosen: dict[str, np.ndarray]
    by_bag: dict[str, np.ndarray]


def read_scores(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scores.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def searched(config: Config, lines: Sequence[Mapping[str, str]], seeds: int, metric: str) -> dict[str, Searched]:
    """The arms by "treatment/context"."""
    found = {}
    for arm in config.arms:
        of_arm = tuple(config.seeds(arm)[:seeds])
        cells: dict[tuple[float, float, bool], dict[int, int]] = {}
        for number, line in enumerate(lines):
            if (line["treatment"], line["context"]) == arm:
                setting = (
                    float(line["learning_rate"]),
                    float(line["weight_decay"]),
                    line["decay_scale_bias"] == "True",
                )
                cells.setdefault(setting, {})[int(line["seed"])] = number
        order = [
            (rate, decay, norms)
            for rate in sorted({setting[0] for setting in cells})
            for decay in config.sweep.weight_decays or (config.setup(arm).optimizer.weight_decay,)
            for norms in config.sweep.decay_scale_bias or (config.setup(arm).optimizer.decay_scale_bias,)
        ]
        whole = [setting for setting in order if set(of_arm) <= cells[setting].keys()]
        rows = np.array([[cells[setting][seed] for setting in whole] for seed in of_arm])

        test = _column(lines, rows, metric)
        if np.isinf(test).all():  # no norm, so no statistics that could differ
            test = _column(lines, rows, "test_accuracy")
        arrays = 100 * _column(lines, rows, "val_accuracy"), _column(lines, rows, "val_loss"), 100 * test
        found[str(arm)] = Searched(of_arm, whole, *arrays, rows)
    return found


def _column(lines: Sequence[Mapping[str, str]], rows: np.ndarray, name: str) -> np.ndarray:
    """`[seeds, settings]`; infinite where the table has nothing."""
    return np.array([[float(lines[number][name] or "inf") for number in of_seed] for of_seed in rows])


def bagged(arms: Mapping[str, Searched], seed: int = 12345) -> Again:
    """My own bags, and every arm's choice in each."""
    counts, chosen, by_bag = {}, {}, {}
    for group, seeds in enumerate(dict.fromkeys(arm.seeds for arm in arms.values())):
        rng = np.random.default_rng([seed, group])
        counts[seeds] = rng.multinomial(len(seeds), [1 / len(seeds)] * len(seeds), size=BAGS)
    for name, arm in arms.items():
        weights = counts[arm.seeds] / len(arm.seeds)
        mean = weights @ arm.validation
        tied = mean > mean.max(axis=1, keepdims=True) - TIE
        finite = np.isfinite(arm.loss)
        loss = weights @ np.where(finite, arm.loss, 0)
        loss = np.where(tied & (weights @ ~finite == 0), loss, np.inf)
        tied &= ~(loss > loss.min(axis=1, keepdims=True) + 1e-12)
        chosen[name] = tied.argmax(axis=1)
        by_bag[name] = np.einsum("bj,jb->b", weights, arm.test[:, chosen[name]])
    return Again(dict(arms), counts, chosen, by_bag)


def jackknife(counts: np.ndarray, t: np.ndarray) -> float:
    """V n / (n - 1) of one set of seeds: squared covariances with the counts, less n / B times the variance of t."""
    bags, n = counts.shape
    covariances = (counts - counts.mean(axis=0)).T @ (t - t.mean()) / bags
    return float((covariances @ covariances - n / bags * t.var()) * n / (n - 1))


def estimated(again: Again, weights: Mapping[str, float]) -> tuple[Found, dict[int, Found], bool]:
    """A contrast: its estimate, its variance by each set of seeds (by its size), and whether nothing moves it."""
    value, noise, variances, still = 0.0, 0.0, {}, True
    for seeds, counts in again.counts.items():
        of_group = [w * again.by_bag[arm] for arm, w in weights.items() if again.arms[arm].seeds == seeds]
        if not of_group:
            continue
        t = np.sum(of_group, axis=0)
        value += float(t.mean())
        noise += float(t.var()) * (1 / BAGS + 1 / THEIR_BAGS)
        if np.ptp(t) < 2 * TIE:
            continue
        still = False
        parts = [jackknife(c, x) for c, x in zip(np.split(counts, PARTS), np.split(t, PARTS), strict=True)]
        spread = float(np.std(parts, ddof=1))
        error = spread * math.sqrt(1 / PARTS + BAGS / PARTS / THEIR_BAGS)
        variances[len(variances)] = Found(jackknife(counts, t), error)
    return Found(value, math.sqrt(noise)), variances, still


def shares(again: Again, arm: str) -> dict[tuple[float, float, bool], Found]:
    """The share of the bags that choose each setting."""
    found = np.bincount(again.chosen[arm], minlength=len(again.arms[arm].settings)) / BAGS
    # Half a bag more, so that a share of 0 in my bags has an error, too.
    errors = np.sqrt((found * (1 - found) + 0.5 / THEIR_BAGS) * (1 / BAGS + 1 / THEIR_BAGS))
    return {s: Found(float(p), float(e)) for s, p, e in zip(again.arms[arm].settings, found, errors, strict=True)}


def by_example(again: Again, folder: Path) -> dict[str, np.ndarray]:
    """Each seed's part in the correctness of each example, `[seeds, examples]` by arm, from right.npz; 100 is right."""
    with np.load(folder / "right.npz") as file:
        row = {int(r): k for k, r in enumerate(file["row"])}
        right = np.unpackbits(file["bits"], axis=1, count=int(file["examples"]))
    tables = {}
    for name, arm in again.arms.items():
        counts, n = again.counts[arm.seeds], len(arm.seeds)
        at = np.zeros((BAGS, n, len(arm.settings)))
        at[np.arange(BAGS), :, again.chosen[name]] = counts / n
        at = at.reshape(BAGS, -1)
        covariances = (counts - counts.mean(axis=0)).T @ (at - at.mean(axis=0)) / BAGS
        x = right[[row[int(r)] for r in arm.rows.ravel()]].astype(np.float64)
        tables[name] = 100 * (at.mean(axis=0) + n * covariances) @ x
    return tables


def new_examples(again: Again, tables: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> tuple[float, float]:
    """V of the examples, and V of seeds and examples both, of a contrast, by the two-way table of its seeds."""
    of_examples, both = 0.0, 0.0
    for seeds in {again.arms[arm].seeds for arm in weights}:
        table = np.sum([w * tables[arm] for arm, w in weights.items() if again.arms[arm].seeds == seeds], axis=0)
        n, m = table.shape
        rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        both += float((rest**2).sum()) / ((n - 1) * (m - 1) * n * m)
        of_examples = of_examples + table.mean(axis=0)
    return float(np.var(of_examples, ddof=1)) / np.size(of_examples), both


def digits_ratio(config: Config) -> float:
    """Test examples of a split of the digits over the others."""
    held = config.data.validation_fraction + config.data.test_fraction
    rest = math.ceil(DIGITS * held)
    test = math.ceil(rest * config.data.test_fraction / held)
    return test / (DIGITS - test)


def holm(p: Sequence[float]) -> list[float]:
    order, adjusted, running = np.argsort(p), [0.0] * len(p), 0.0
    for k, index in enumerate(order):
        running = max(running, (len(p) - k) * p[index])
        adjusted[index] = min(1.0, running)
    return adjusted


def two_sided(estimate: float, se: float, df: float) -> float:
    return float(2 * scipy.stats.t.sf(abs(estimate) / se, df))


def within(estimate: float, se: float, df: float, margin: float) -> float:
    """The larger p of the two one-sided tests that |difference| is below the margin."""
    return max(
        float(scipy.stats.t.cdf((estimate - margin) / se, df)), float(scipy.stats.t.sf((estimate + margin) / se, df))
    )


def chance_limit(config: Config, arm: Arm) -> float:
    """The highest test accuracy that guessing explains in 999 of 1000 cases, percent."""
    examples, largest = TEST_SETS[config.data.name]
    return 100 * float(scipy.stats.binom.ppf(0.999, examples, largest / examples)) / examples
