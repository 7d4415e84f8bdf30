"""A difference between arms whose settings were chosen by the same seeds: the choice bagged, its error with it.

Every seed is trained at every setting (learning rate and decay). Choosing the best setting and then quoting the spread
over seeds at this setting forgets that other seeds would have chosen another one. So the choice is repeated: bag b
draws m of the n seeds with replacement (m = n, unless said otherwise), seed j N_bj times. With these weights each arm's
setting is chosen by validation accuracy, and

    t_b[arm] = Σ_j N_bj test[arm, j, choice_b] / m.

The estimate of a contrast w (weights over arms) is the mean of w·t_b over bags. Its variance is the infinitesimal
jackknife's, which sees seeds and choice alike:

    V = Σ_j cov_b(N_bj, w·t_b)².

Over all bags, the covariance of the counts is m/n (I - 11'/n), so these covariances are m/n times the coefficients of
w·t_b projected onto the counts. That is how they are found, by least squares: the limit is the same, and what is linear
in the counts, which is everything where there is no choice, has no Monte Carlo error. What the residuals add to V on
average, m/n (n - 1) / B times their variance, is taken off again, as Wager, Hastie & Efron take n / B times the
variance of w·t_b off the plain covariances.

The estimate is about settings that are chosen with m seeds. With m = n it is about a surer choice the more seeds there
are, and where two settings tie on validation data and not on test data, it is not normal for any n. With a fixed m it
is about the same thing for every n, and smoother: see "How well the intervals hold" in benchmarks/NOTES.md.

Pure functions of arrays. Accuracies are in percent, their differences in percentage points (pp).

References:
  Efron 2014, "Estimation and accuracy after model selection", JASA 109.
  Wager, Hastie & Efron 2014, "Confidence intervals for random forests: the jackknife and the infinitesimal jackknife".
  Bickel, Götze & van Zwet 1997, "Resampling fewer than n observations: gains, losses, and remedies for losses".
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from experiments.analysis.comparison import DIGITS, RESOLUTION_PP, Interval

Floats = NDArray[np.float64]
Name = TypeVar("Name", bound=Hashable)
BAGS = 4000


class Scores(NamedTuple):
    """What was measured of one arm. Settings are in the order in which ties are won: lower rates, then decays, first.

    A setting that is NaN for some seed, since the race dropped it, is out: it is chosen in no bag.
    """

    seeds: tuple[int, ...]
    """Arms with equal seeds are paired; arms that share none are independent."""
    validation: ArrayLike
    """Validation accuracy `[seeds, settings]`, percent: the choice reads nothing else, but for ties."""
    test: ArrayLike
    """Test accuracy `[seeds, settings]`, percent."""
    loss: ArrayLike | None = None
    """Validation loss `[seeds, settings]`: of equal accuracies the lower loss wins; not finite is worst. None where
    ties go to the first setting."""


class BaggedArm(NamedTuple):
    """One arm over bags."""

    seeds: tuple[int, ...]
    by_bag: Floats
    """t_b `[bags]`, percent."""
    mean: float
    """Of t_b: the estimate of the arm's accuracy at its bagged choice, percent."""
    values: Floats
    """Each seed's part in the estimate `[seeds]`, percent: mean + n cov_b(N_bj, t_b). Their mean is `mean`, their
    standard error is the arm's; without a choice they are the test accuracies themselves."""
    shares: Floats
    """Share of the bags that choose each setting `[settings]`."""
    most_chosen: int
    """The setting that most bags choose, the first of equal ones."""


class Estimate(NamedTuple):
    """A contrast: how large, and how sure. `se`, `ci` and `p` speak of new seeds, and of the choice made anew."""

    estimate: float
    se: float
    """sqrt(V n / (n - 1)); the variances of arms with seeds of their own add."""
    df: float
    """n - 1; with several sets of seeds Welch and Satterthwaite's."""
    ci: Interval
    """Covers 1 - alpha, by Student's t."""
    p: float
    """Of no difference, two-sided, not adjusted for other contrasts."""
    exact: bool
    """Neither seeds nor bags move the contrast: the interval has no width, and p is that of the signs of n equal
    differences, 2 / 2^n, or 1 where the difference is 0."""
    monte_carlo_se: float
    """Standard error of `estimate` that comes from the number of bags: what other bags would change."""
    n: int
    """Seeds; the fewest, where sets of seeds differ."""


class Bagged(NamedTuple, Generic[Name]):
    """All arms of a run over bags. Paired arms share the counts of each bag."""

    arms: dict[Name, BaggedArm]
    counts: dict[tuple[int, ...], NDArray[np.int64]]
    """N `[bags, seeds]`, by the seeds that it counts."""


def bag(arms: Mapping[Name, Scores], *, bags: int = BAGS, drawn: int | None = None) -> Bagged[Name]:
    """Draws the bags, the same ones whenever the seeds are the same, and chooses every arm's setting in each.

    Args:
      arms: scores by name; equal seeds pair arms.
      bags: B.
      drawn: m, the seeds that a bag draws; at most n. None is n.

    Raises:
      ValueError: no seed drawn; shapes that do not fit; fewer than 2 seeds; arms that share only some of their seeds;
        an arm that has no setting trained with all its seeds.
    """
    if drawn is not None and drawn < 1:
        raise ValueError(f"drawn is {drawn}; give at least 1, or None for as many as there are seeds")
    checked = {name: _checked(name, scores) for name, scores in arms.items()}
    counts = {seeds: draw(seeds, bags, drawn) for seeds in dict.fromkeys(scores.seeds for scores in arms.values())}
    _refuse_overlaps(list(counts))
    return Bagged({name: _bagged(counts[s.seeds], s) for name, s in checked.items()}, counts)


def contrast(bagged: Bagged[Name], weights: Mapping[Name, float], *, alpha: float = 0.05) -> Estimate:
    """The contrast Σ weight · arm: an arm's mean, a difference, an interaction.

    Raises:
      ValueError: a weight for an arm that there is not, or none at all.
    """
    unknown = [name for name in weights if name not in bagged.arms]
    if unknown or not weights:
        raise ValueError(f"weights name {unknown or 'no arm'}; use some of {', '.join(map(str, bagged.arms))}")
    estimate, noise, parts, exact = 0.0, 0.0, [], True
    for seeds, counts in bagged.counts.items():
        of_group = [(bagged.arms[a], w) for a, w in weights.items() if bagged.arms[a].seeds == seeds and w]
        if not of_group:
            continue
        by_bag = np.sum([w * arm.by_bag for arm, w in of_group], axis=0)
        mean, influence, residual = project(counts, by_bag)
        estimate += mean
        noise += residual / len(counts)
        if np.ptp(by_bag) >= RESOLUTION_PP:
            exact = False
            parts.append((_variance(counts, influence, residual), len(seeds)))
    n = min(len(bagged.arms[name].seeds) for name in weights)
    if exact:
        p = 1.0 if abs(estimate) < RESOLUTION_PP else 2.0 ** (1 - n)
        return Estimate(estimate, 0.0, n - 1, (estimate, estimate), p, True, 0.0, n)
    variance = sum(v for v, _ in parts)
    df = variance**2 / sum(v**2 / (size - 1) for v, size in parts)
    se = float(np.sqrt(variance))
    half = float(scipy.stats.t.ppf(1 - alpha / 2, df)) * se
    p = float(2 * scipy.stats.t.sf(abs(estimate) / se, df))
    return Estimate(estimate, se, df, (estimate - half, estimate + half), p, False, float(np.sqrt(noise)), n)


def equivalence_p(estimate: Estimate, margin_pp: float) -> float:
    """Two one-sided t tests (Schuirmann 1987) of |difference| < margin: the larger p of the two."""
    room = margin_pp - abs(estimate.estimate)
    if estimate.exact:
        return 2.0**-estimate.n if room > 0 else 1.0
    return float(scipy.stats.t.sf(room / estimate.se, estimate.df))


def draw(seeds: tuple[int, ...], bags: int, drawn: int | None = None) -> NDArray[np.int64]:
    """How often each seed is in each bag `[bags, seeds]`; a function of the seeds, so that paired arms share it."""
    n = len(seeds)
    positions = np.random.default_rng([bags, *seeds]).integers(n, size=(bags, min(drawn or n, n)))
    return np.bincount((positions + n * np.arange(bags)[:, None]).ravel(), minlength=bags * n).reshape(bags, n)


def choose(counts: ArrayLike, scores: Scores) -> NDArray[np.int64]:
    """The setting `[bags]` with the highest mean validation accuracy over the seeds of each bag.

    A tie goes to the lower mean validation loss, then to the first setting.
    """
    counts = np.asarray(counts)
    weights = counts / counts.sum(axis=1, keepdims=True)
    validation = np.asarray(scores.validation, np.float64)
    complete = ~np.isnan(validation).any(axis=0)
    # Rounded, so that rounding errors of the means cannot break a tie.
    mean = np.where(complete, np.round(weights @ np.where(complete, validation, 0), DIGITS), -np.inf)
    tied = mean == mean.max(axis=1, keepdims=True)
    if scores.loss is not None:
        loss = np.asarray(scores.loss, np.float64)
        finite = np.isfinite(loss)
        mean_loss = np.round(weights @ np.where(finite, loss, 0), 12)
        mean_loss = np.where(tied & (weights @ ~finite == 0), mean_loss, np.inf)
        tied &= mean_loss == mean_loss.min(axis=1, keepdims=True)
    return tied.argmax(axis=1)


def project(counts: ArrayLike, by_bag: ArrayLike) -> tuple[float, Floats, float]:
    """Least squares of t_b on the counts.

    Args:
      counts: N `[bags, seeds]`, each row of sum m.
      by_bag: t_b `[bags]`.

    Returns:
      The mean of t_b where all seeds count equally; cov_b(N_bj, t_b) `[seeds]`; the variance of the residuals.
    """
    counts, t = np.asarray(counts), np.asarray(by_bag, np.float64)
    expected = counts[0].sum() / counts.shape[1]  # m / n
    centred = counts - expected
    # The columns add up to 0; the solution of least norm adds up to 0 as well, as the covariances do.
    rows = centred - centred.mean(axis=0)
    slopes = np.linalg.lstsq(rows, t - t.mean(), rcond=1e-9)[0]
    residuals = t - t.mean() - rows @ slopes
    mean = t.mean() - centred.mean(axis=0) @ slopes
    return float(mean), expected * slopes, float(residuals @ residuals / max(1, len(t) - centred.shape[1]))


def _variance(counts: NDArray[np.int64], influence: Floats, residual: float) -> float:
    """V n / (n - 1), less what the residuals add to it. At most half is taken off, so that something is left."""
    bags, n = counts.shape
    found, expected = float(influence @ influence), counts[0].sum() / n
    return max(found - residual * expected * (n - 1) / bags, found / 2) * n / (n - 1)


def _bagged(counts: NDArray[np.int64], scores: Scores) -> BaggedArm:
    choices = choose(counts, scores)
    test = np.nan_to_num(np.asarray(scores.test, np.float64))  # NaN where nobody looks
    by_bag = np.take_along_axis(counts @ test, choices[:, None], axis=1)[:, 0] / counts[0].sum()
    mean, influence, _ = project(counts, by_bag)
    shares = np.bincount(choices, minlength=test.shape[1]) / len(choices)
    return BaggedArm(scores.seeds, by_bag, mean, mean + len(influence) * influence, shares, int(shares.argmax()))


def _checked(name: Hashable, scores: Scores) -> Scores:
    validation, test = np.asarray(scores.validation, np.float64), np.asarray(scores.test, np.float64)
    loss = test if scores.loss is None else np.asarray(scores.loss)
    n = len(scores.seeds)
    if validation.ndim != 2 or not validation.shape == test.shape == loss.shape or len(validation) != n:
        raise ValueError(
            f"{name}: validation has shape {validation.shape}, test {test.shape}, loss {loss.shape}, with {n} seeds; "
            "give all three as [seeds, settings]"
        )
    if n < 2 or len(set(scores.seeds)) < n:
        raise ValueError(f"{name}: the seeds are {scores.seeds}; give at least 2, each once")
    complete = ~np.isnan(validation).any(axis=0)
    if not complete.any():
        raise ValueError(f"{name}: no setting has a validation accuracy for each of the {n} seeds; train one with all")
    if np.isnan(test[:, complete]).any():
        raise ValueError(f"{name}: a test accuracy is missing at a setting that was trained with all {n} seeds; add it")
    return scores


def _refuse_overlaps(groups: list[tuple[int, ...]]) -> None:
    for i, first in enumerate(groups):
        for second in groups[i + 1 :]:
            if set(first) & set(second):
                raise ValueError(
                    f"some arms have the seeds {first} and others {second}, which share some; give arms the same seeds "
                    "in the same order (paired), or none in common (independent)"
                )
