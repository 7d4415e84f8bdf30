"""Which settings (learning rate and decay) are trained with all seeds, after a first round with a few of them.

A pure function of validation scores; it never sees the test set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.analysis.comparison import DIGITS

FIRST_SEEDS = 3
"""Seeds of the first round at least, which trains every setting."""
LEAST = 3
"""So many of the best settings go on in any case: three seeds tell little about which of them is the best."""
STANDARD_ERRORS = 1.5
"""How far below the best a setting may lie."""


def first_round(seeds: int) -> int:
    """How many of a run's seeds train every setting: a quarter, and 3 at least.

    What the first round drops is lost to the choice, and the interval knows nothing of it; so the more seeds there are
    to tell settings apart, the more must have agreed that one is not the best.
    """
    return min(seeds, max(FIRST_SEEDS, -(-seeds // 4)))


def survivors(
    validation: ArrayLike, *, least: int = LEAST, standard_errors: float = STANDARD_ERRORS
) -> NDArray[np.bool_]:
    """The settings of one arm that go on.

    A setting goes on if it is among the `least` best by mean validation accuracy (all that tie with the last of them
    do), or if its mean lies at most `standard_errors` standard errors below the best setting's:

        mean_j (v[j, best] - v[j, s]) <= 1.5 σ / sqrt(seeds).

    Differences are taken seed by seed, since all settings share the seeds. A few seeds estimate one difference's
    standard deviation badly, and one that comes out small by chance would drop a good setting; so σ is pooled (root
    mean square) over the half of the other settings that lies nearest to the best. The far half has rates that fail
    for some seeds, whose spread says nothing about the best ones.

    Args:
      validation: accuracy `[seeds, settings]` after the first round, percent; a training that diverged has the
        accuracy that it ended at.
      least: settings that go on in any case; all of them, where there are fewer.
      standard_errors: 0 or more.

    Returns:
      Which settings go on `[settings]`.

    Raises:
      ValueError: fewer than 2 seeds, a missing score, or `least` below 1.

    Example:
      >>> survivors([[90.0, 95.0, 95.2, 94.9, 10.0], [90.5, 95.3, 95.0, 95.2, 10.0], [90.1, 95.1, 95.3, 94.8, 99.0]])
      array([False,  True,  True,  True, False])
    """
    scores = np.asarray(validation, np.float64)
    if scores.ndim != 2 or len(scores) < 2 or not scores.shape[1]:
        raise ValueError(f"validation has shape {scores.shape}; give [seeds, settings] with 2 seeds or more")
    if np.isnan(scores).any():
        raise ValueError(
            f"{int(np.isnan(scores).sum())} validation accuracies are NaN; the first round trains them all"
        )
    if least < 1 or standard_errors < 0:
        raise ValueError(f"least is {least}, standard_errors {standard_errors}; give least >= 1, standard_errors >= 0")
    seeds, settings = scores.shape
    mean = scores.mean(axis=0).round(DIGITS)  # rounding errors break no tie
    among_best = mean >= np.sort(mean)[-min(least, settings)]
    best = mean.argmax()
    behind = scores[:, [best]] - scores
    nearest = np.argsort(np.delete(behind.mean(axis=0), best), kind="stable")[: -(-(settings - 1) // 2)]
    variances = np.delete(behind.var(axis=0, ddof=1), best)[nearest]
    pooled = np.sqrt(variances.mean()) if settings > 1 else 0.0
    near = behind.mean(axis=0) <= standard_errors * pooled / np.sqrt(seeds)
    return among_best | near
