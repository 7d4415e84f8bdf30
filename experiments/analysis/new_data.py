"""Intervals for new data: for test examples that were not seen, beside those for new seeds.

**A data set with a test part of its own.** All networks are tested with the same m examples, so an interval over seeds
speaks of these examples alone. Which examples each network got right, x[seed, example], says how far a contrast would
move with other examples. With seeds and examples both drawn at random,

    x[j, i] = mean + seed_j + example_i + both_ji,     Var(contrast) = σ²_seed / n + σ²_example / m + σ²_both / (n m).

The infinitesimal jackknife over seeds (`experiments.analysis.bagging`), and that over examples,

    V_seeds                                             expects σ²_seed / n    + σ²_both / (n m)
    V_examples = Σ_i (d_i - mean d)² / (m (m - 1))      expects σ²_example / m + σ²_both / (n m)

add, but for the last term, which is in both. Each seed met each example once, so it can be estimated, by the residual
mean square of the two-way table, and one of the two is taken off:

    V = V_seeds + V_examples - V_both,    V_both = Σ_ji (x_ji - x_j. - x_.i + x_..)² / ((n - 1) (m - 1) n m).

It is at least V_seeds and V_examples each, since no variance is negative. d_i is the contrast of example i alone: 100
where the network is right and 0 where it is not, averaged over bags. The choice of a setting reads no test example, so
the contrast is linear in the examples and this jackknife is exact. x_ji is a seed's part in d_i, mean + n cov_b(N_bj,
d_bi). (Where settings trade places these parts move more than d_i does, so that the last term is larger in V_seeds than
in V_examples. V_both is the one in V_seeds, and takes it off.) Arms with seeds of their own have a V_both each.

Student's t has Satterthwaite's degrees of freedom,

    V² / (V_seeds² / df_seeds + V_examples² / (m - 1) + V_both² / ((n - 1) (m - 1))).

They are more than those of seeds alone, so with few seeds the interval might be the narrower one of the two, for all
that its standard error is not smaller. Then it gets the degrees of freedom of the seeds: it is never narrower.

Owen's pigeonhole bootstrap draws seeds and examples both, and counts σ²_both three times; the formula is its linear
part, put right. Cameron, Gelbach & Miller add and take off in the same way for data clustered in two ways.

**A data set without one.** Where each seed has its own split, the tests overlap, and so do the trainings. The interval
over seeds speaks of new splits of these examples. For new examples Nadeau & Bengio correct it: any two seeds are taken
to have the correlation n_test / (n_test + n_rest), so that the variance of a mean of n is not s² / n but

    s² (1 / n + n_test / n_rest).

References:
  Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1.
  Cameron, Gelbach & Miller 2011, "Robust inference with multiway clustering", Journal of Business & Economic
    Statistics 29.
  Nadeau & Bengio 2003, "Inference for the generalization error", Machine Learning 52.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from experiments.analysis.bagging import Bagged, Estimate, Name, Scores, choose
from experiments.analysis.bagging import contrast as over_seeds
from experiments.analysis.family import interval

Floats = NDArray[np.float64]


class Right(NamedTuple):
    """Which test examples the networks of one arm got right, a bit each."""

    bits: NDArray[np.uint8]
    """`[seeds, settings, bytes]`; the first example is the highest bit of the first byte."""
    examples: int


class VarianceParts(NamedTuple):
    """Of a contrast, in pp²."""

    seeds: float
    examples: float
    both: float
    """In `seeds` and in `examples`."""
    df_both: float


def pack(right: ArrayLike) -> Right:
    """Packs `[seeds, settings, examples]` of True and False."""
    right = np.asarray(right)
    if right.dtype != np.bool_ or right.ndim != 3:
        raise ValueError(f"right is {right.dtype} of shape {right.shape}; give bool of [seeds, settings, examples]")
    return Right(np.packbits(right, axis=-1), right.shape[-1])


def unpack(right: Right) -> NDArray[np.bool_]:
    """`[seeds, settings, examples]`: what was packed."""
    return np.unpackbits(right.bits, axis=-1, count=right.examples).astype(np.bool_)


def by_example(bagged: Bagged[Name], scores: Mapping[Name, Scores], right: Mapping[Name, Right]) -> dict[Name, Floats]:
    """Each seed's part in each example's correctness, at the bagged choice, `[seeds, examples]` by arm.

    100 and 0 stand for right and wrong. The mean over examples is `BaggedArm.values`; without a choice the values are
    what was packed.

    Raises:
      ValueError: an arm without bits; bits of another shape than the scores, or of another number of examples than
        those of another arm; bits that say another accuracy than the scores.
    """
    examples = {name: r.examples for name, r in right.items()}
    if missing := [str(name) for name in bagged.arms if name not in right]:
        raise ValueError(f"no bits for {', '.join(missing)}; give those of each arm")
    if len(set(examples.values())) > 1:
        raise ValueError(f"arms have {sorted(set(examples.values()))} test examples; all must be tested with the same")
    return {
        name: _of_arm(bagged.counts[arm.seeds], scores[name], _checked(name, scores[name], right[name]))
        for name, arm in bagged.arms.items()
    }


def for_new_examples(
    bagged: Bagged[Name], values: Mapping[Name, Floats], weights: Mapping[Name, float], *, alpha: float = 0.05
) -> Estimate:
    """A contrast whose interval speaks of new seeds and new examples.

    Args:
      bagged: arms over bags.
      values: from `by_example`.
      weights: as those of `bagging.contrast`.
      alpha: the interval covers 1 - alpha.
    """
    seeds = over_seeds(bagged, weights, alpha=alpha)
    parts = variance_parts(bagged, values, weights)
    if parts.examples < 1e-18:  # no example tells the arms apart
        return seeds
    m = next(iter(values.values())).shape[1]
    variance, terms = _sum(parts, seeds.df, m - 1)
    df = variance**2 / sum(v**2 / df for v, df in terms)
    se = float(np.sqrt(variance))
    if scipy.stats.t.ppf(1 - alpha / 2, df) * se < scipy.stats.t.ppf(1 - alpha / 2, seeds.df) * seeds.se:
        df = seeds.df
    p = float(2 * scipy.stats.t.sf(abs(seeds.estimate) / se, df))
    found = seeds._replace(se=se, df=df, p=p, exact=False)
    return found._replace(ci=interval(found, alpha))


def variance_parts(bagged: Bagged[Name], values: Mapping[Name, Floats], weights: Mapping[Name, float]) -> VarianceParts:
    """The three variances that an interval for new seeds and examples is made of."""
    of_examples, both = 0.0, []
    for group in bagged.counts:
        tables = [w * values[arm] for arm, w in weights.items() if w and bagged.arms[arm].seeds == group]
        if tables:
            table: Floats = np.sum(tables, axis=0)
            n, m = len(table), len(table[0])
            of_examples = of_examples + table.mean(axis=0)
            rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
            df = (n - 1) * (m - 1)
            both.append((float((rest**2).sum()) / (df * n * m), df))
    of_examples = np.asarray(of_examples)
    seeds, examples = over_seeds(bagged, weights).se ** 2, float(of_examples.var(ddof=1)) / of_examples.size
    total = sum(v for v, _ in both)
    df = total**2 / sum(v**2 / df for v, df in both) if total else 1.0
    return VarianceParts(seeds, examples, total, df)


def for_new_examples_of_splits(
    estimate: Estimate, *, all_examples: int, test_examples: int, alpha: float = 0.05
) -> Estimate:
    """Nadeau and Bengio's correction of an estimate over seeds that each have their own split.

    Args:
      estimate: over new seeds and splits, of arms with the same number of seeds.
      all_examples: that the splits were drawn from.
      test_examples: of one split. The rest is what a training, with its choice of a setting, may read.
      alpha: the interval covers 1 - alpha.

    Raises:
      ValueError: no test example, or none besides.
    """
    if not 0 < test_examples < all_examples:
        raise ValueError(f"{test_examples} of {all_examples} examples are tested; give at least 1, and leave some")
    if estimate.exact:
        return estimate
    ratio = test_examples / (all_examples - test_examples)
    se = estimate.se * float(np.sqrt(1 + estimate.n * ratio))
    p = float(2 * scipy.stats.t.sf(abs(estimate.estimate) / se, estimate.df))
    found = estimate._replace(se=se, p=p)
    return found._replace(ci=interval(found, alpha))


def _sum(parts: VarianceParts, df_seeds: float, df_examples: float) -> tuple[float, list[tuple[float, float]]]:
    """V, and what its degrees of freedom come from: variances with their own."""
    if parts.both >= min(parts.seeds, parts.examples):
        larger = max((parts.seeds, df_seeds), (parts.examples, df_examples))
        return larger[0], [larger]
    terms = [(parts.seeds, df_seeds), (parts.examples, df_examples), (parts.both, parts.df_both)]
    return parts.seeds + parts.examples - parts.both, terms


def _of_arm(counts: NDArray[np.int64], scores: Scores, right: NDArray[np.bool_]) -> Floats:
    """t_b is linear in the bits, with weights N_bj / drawn at the chosen setting; so is what `project` makes of it."""
    bags, n = counts.shape
    drawn, settings = counts[0].sum(), right.shape[1]
    weights = np.zeros((bags, n, settings))
    weights[np.arange(bags), :, choose(counts, scores)] = counts / drawn
    weights = weights.reshape(bags, n * settings)
    centred = counts - drawn / n
    rows, mean = centred - centred.mean(axis=0), weights.mean(axis=0)
    slopes = np.linalg.lstsq(rows, weights - mean, rcond=1e-9)[0]
    of_seeds = mean - centred.mean(axis=0) @ slopes + drawn * slopes  # n cov_b(N_bj, ...) is drawn times the slope
    return of_seeds @ (100.0 * right.reshape(n * settings, -1))


def _checked(name: object, scores: Scores, right: Right) -> NDArray[np.bool_]:
    test = np.asarray(scores.test, np.float64)
    expected = (*test.shape, -(-right.examples // 8))
    bits = right.bits
    if bits.shape != expected or bits.dtype != np.uint8:
        raise ValueError(
            f"{name}: bits are {bits.dtype} of shape {bits.shape}; with {right.examples} examples and these scores "
            f"they must be uint8 of {expected}"
        )
    found = unpack(right)
    accuracy = 100 * found.mean(axis=-1)
    wrong = np.argwhere(np.abs(accuracy - test) > 50 / right.examples)  # False where the race dropped a setting (NaN)
    if len(wrong):
        j, s = wrong[0]
        raise ValueError(
            f"{name}: seed {scores.seeds[j]} at setting {s} has {accuracy[j, s]:.2f}% of its bits right and a test "
            f"accuracy of {test[j, s]:.2f}%; both must come from the same network and the same examples"
        )
    return found
