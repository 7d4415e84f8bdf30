"""Intervals for new examples: their parts by hand, and what they cover where intervals over seeds do not."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.formula.api as smf
from statsmodels.stats.anova import anova_lm

from experiments.analysis.bagging import Scores, bag, contrast, project
from experiments.analysis.new_data import (
    Right,
    by_example,
    for_new_examples,
    for_new_examples_of_splits,
    pack,
    unpack,
    variance_parts,
)

DIFFERENCE = {"a": 1.0, "b": -1.0}


def arm_of(right, rng=None, seeds=None):
    """Scores and bits of an arm whose networks got these examples right, `[seeds, settings, examples]`."""
    accuracy = 100 * right.mean(axis=-1)
    seeds = tuple(range(len(right))) if seeds is None else seeds
    validation = accuracy if rng is None else 90 + rng.normal(0, 1, accuracy.shape)
    return Scores(seeds, validation, accuracy), pack(right)


def run(arms, bags=40, drawn=None):
    scores, bits = ({name: arm[k] for name, arm in arms.items()} for k in (0, 1))
    bagged = bag(scores, bags=bags, drawn=drawn)
    return bagged, by_example(bagged, scores, bits)


def crossed(rng, n=8, m=150, seed=0.15, example=1.5, arms="ab", settings=1):
    """Networks that are right by chance, more often on easy examples and with good seeds. Arms are alike on average,
    but each has examples and seeds of its own that it is good at."""
    easy = rng.normal(0, 1, (1, 1, m))

    def arm():
        logit = 1 + easy + rng.normal(0, seed, (n, 1, 1)) + rng.normal(0, example, (1, 1, m))
        return rng.random((n, settings, m)) < scipy.special.expit(logit)

    return {name: arm() for name in arms}


# Bits.


def test_bits_come_back_as_they_were():
    right = np.random.default_rng(0).random((3, 4, 21)) < 0.7
    packed = pack(right)
    assert packed.bits.shape == (3, 4, 3) and packed.bits.dtype == np.uint8 and packed.examples == 21
    assert (unpack(packed) == right).all()
    assert pack([[[True, False, False, True]]]).bits.tolist() == [[[0b10010000]]]


# The parts.


def test_without_a_choice_the_parts_are_the_mean_squares_of_a_two_way_table():
    rng = np.random.default_rng(1)
    n, m = 6, 31
    right = crossed(rng, n, m)
    bagged, values = run({name: arm_of(x) for name, x in right.items()})
    assert values["a"] == pytest.approx(100.0 * right["a"][:, 0])
    x = 100.0 * right["a"][:, 0] - 100.0 * right["b"][:, 0]
    table = pd.DataFrame({"x": x.ravel(), "seed": np.repeat(range(n), m), "example": np.tile(range(m), n)})
    squares = anova_lm(smf.ols("x ~ C(seed) + C(example)", table).fit())["mean_sq"] / (n * m)
    parts = variance_parts(bagged, values, DIFFERENCE)
    assert parts[:3] == pytest.approx((squares["C(seed)"], squares["C(example)"], squares["Residual"]))
    assert parts.df_both == pytest.approx((n - 1) * (m - 1))

    found = for_new_examples(bagged, values, DIFFERENCE, alpha=0.1)
    variance = parts.seeds + parts.examples - parts.both
    df = variance**2 / (parts.seeds**2 / 5 + parts.examples**2 / 30 + parts.both**2 / 150)
    assert (found.estimate, found.se, found.df) == pytest.approx((x.mean(), np.sqrt(variance), df))
    assert found.ci == pytest.approx(scipy.stats.t.interval(0.9, df, x.mean(), np.sqrt(variance)))
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(abs(x.mean()) / np.sqrt(variance), df))


@pytest.mark.parametrize("drawn", [5, 3])
def test_with_a_choice_each_example_is_bagged_as_the_accuracy_is(drawn):
    """By hand: each example's own t_b, by a loop over bags, projected on the counts like that of the accuracy."""
    rng = np.random.default_rng(2)
    right = rng.random((5, 3, 13)) < np.array([0.6, 0.7, 0.8])[:, None]
    scores, bits = arm_of(right, rng)
    bagged, values = run({"a": (scores, bits)}, bags=80, drawn=drawn)
    assert 0.1 < bagged.arms["a"].shares.max() < 0.95
    counts = bagged.counts[scores.seeds]
    choices = [int(np.argmax(np.round(row @ np.asarray(scores.validation) / drawn, 4))) for row in counts]
    for i in range(13):
        t = [100 * row @ right[:, choice, i] / drawn for row, choice in zip(counts, choices, strict=True)]
        mean, influence, _ = project(counts, t)
        assert values["a"][:, i] == pytest.approx(mean + 5 * influence)
    assert values["a"].mean(axis=1) == pytest.approx(bagged.arms["a"].values)


def test_a_setting_that_the_race_dropped_needs_no_bits():
    rng = np.random.default_rng(3)
    scores, bits = arm_of(rng.random((5, 3, 40)) < 0.8, rng)
    test, validation, right = np.array(scores.test), np.array(scores.validation), unpack(bits)
    test[2:, 1], validation[2:, 1], right[2:, 1] = np.nan, np.nan, False
    dropped = run({"a": (Scores(scores.seeds, validation, test), pack(right))})[1]["a"]
    never = run({"a": (Scores(scores.seeds, validation[:, ::2], test[:, ::2]), pack(right[:, ::2]))})[1]["a"]
    assert dropped == pytest.approx(never)


def test_seeds_of_their_own_have_parts_of_their_own_and_share_the_examples():
    rng = np.random.default_rng(4)
    right = crossed(rng, 7, 60)
    b = right["b"][:5]
    bagged, values = run({"a": arm_of(right["a"]), "b": arm_of(b, seeds=tuple(range(100, 105)))})
    parts = variance_parts(bagged, values, DIFFERENCE)
    d = 100.0 * (right["a"][:, 0].mean(axis=0) - b[:, 0].mean(axis=0))
    assert parts.examples == pytest.approx(d.var(ddof=1) / 60)
    alone = [variance_parts(bagged, values, {name: 1.0}) for name in "ab"]
    assert (parts.seeds, parts.both) == pytest.approx([sum(p[k] for p in alone) for k in (0, 2)])
    assert parts.examples < sum(p.examples for p in alone)  # both find the same examples easy
    assert parts.df_both == pytest.approx(parts.both**2 / sum(p.both**2 / p.df_both for p in alone))


def test_the_standard_error_is_at_least_that_over_seeds_and_that_over_examples():
    smaller = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        # Nothing but noise, so that either part is as often below the noise's own as above.
        arms = {name: arm_of(rng.random((4, 1, 20)) < 0.7) for name in "ab"}
        bagged, values = run(arms)
        found, parts = for_new_examples(bagged, values, DIFFERENCE), variance_parts(bagged, values, DIFFERENCE)
        assert found.se >= contrast(bagged, DIFFERENCE).se * (1 - 1e-9)
        assert found.se**2 >= parts.examples * (1 - 1e-9)
        smaller += min(parts.seeds, parts.examples) < parts.both
        of_seeds = contrast(bagged, DIFFERENCE).ci
        assert found.ci[0] <= of_seeds[0] + 1e-9 and found.ci[1] >= of_seeds[1] - 1e-9, "never narrower"
    assert 10 < smaller < 60


def test_arms_that_differ_in_no_example_stay_exact_and_those_that_differ_alike_with_every_seed_do_not():
    rng = np.random.default_rng(5)
    right = rng.random((6, 1, 50)) < 0.7
    shown = np.repeat(rng.random((1, 1, 50)) < 0.7, 6, axis=0)
    better = shown.copy()
    better[:, :, np.flatnonzero(~shown[0, 0])[:3]] = True
    bagged, values = run({"a": arm_of(right), "b": arm_of(right.copy()), "c": arm_of(shown), "d": arm_of(better)})
    same = for_new_examples(bagged, values, DIFFERENCE)
    assert same == contrast(bagged, DIFFERENCE) and same.exact
    seeds = contrast(bagged, {"d": 1, "c": -1})
    new = for_new_examples(bagged, values, {"d": 1, "c": -1})
    assert seeds.exact and not new.exact and new.df == pytest.approx(49)
    by_hand = scipy.stats.ttest_1samp(100.0 * (better[0, 0].astype(int) - shown[0, 0]), 0)
    assert new.p == pytest.approx(by_hand.pvalue) and new.estimate == pytest.approx(6)


# The level.


@pytest.mark.parametrize(("settings", "repeats", "bags"), [(1, 400, 30), (3, 250, 100)])
def test_the_interval_holds_for_new_seeds_and_examples_where_that_over_seeds_does_not(settings, repeats, bags):
    rng = np.random.default_rng(settings)
    seeds, new, ratio = [], [], []
    for _ in range(repeats):
        right = crossed(rng, settings=settings)
        bagged, values = run({name: arm_of(x, rng) for name, x in right.items()}, bags=bags)
        over_seeds, found = contrast(bagged, DIFFERENCE), for_new_examples(bagged, values, DIFFERENCE)
        for covered, e in ((seeds, over_seeds), (new, found)):
            covered.append(e.ci[0] <= 0 <= e.ci[1])
        ratio.append((found.estimate, found.se))
    estimates, se = np.transpose(ratio)
    assert np.mean(seeds) < 0.85
    assert 0.925 < np.mean(new) < 0.985
    assert 0.85 < estimates.std() / np.sqrt(np.mean(se**2)) < 1.1


def test_splits_are_corrected_as_by_nadeau_and_bengio():
    d = np.random.default_rng(6).normal(0.5, 1, 12)
    estimate = contrast(bag({"d": Scores(tuple(range(12)), d[:, None], d[:, None])}, bags=40), {"d": 1})
    found = for_new_examples_of_splits(estimate, all_examples=1797, test_examples=450, alpha=0.1)
    se = np.sqrt(d.var(ddof=1) * (1 / 12 + 450 / 1347))
    assert (found.estimate, found.se, found.df) == pytest.approx((d.mean(), se, 11))
    assert found.ci == pytest.approx(scipy.stats.t.interval(0.9, 11, d.mean(), se))
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(d.mean() / se, 11))
    exact = estimate._replace(exact=True, se=0.0)
    assert for_new_examples_of_splits(exact, all_examples=9, test_examples=3) == exact


def test_splits_of_few_examples_cover_new_examples_when_corrected():
    """100 examples, of which each of 15 seeds tests 25; what is estimated is the mean over all examples there are."""
    rng, seeds, new = np.random.default_rng(7), [], []
    for _ in range(300):
        of_example = rng.normal(0, 1, 100)
        d = np.array([rng.choice(of_example, 25, replace=False).mean() for _ in range(15)])
        estimate = contrast(bag({"d": Scores(tuple(range(15)), d[:, None], d[:, None])}, bags=30), {"d": 1})
        found = for_new_examples_of_splits(estimate, all_examples=100, test_examples=25)
        for covered, e in ((seeds, estimate), (new, found)):
            covered.append(e.ci[0] <= 0 <= e.ci[1])
    assert np.mean(seeds) < 0.75 and 0.93 < np.mean(new) < 0.99


# What is refused.


def test_what_does_not_fit_is_refused():
    right = crossed(np.random.default_rng(8), 4, 20)
    arms = {name: arm_of(x) for name, x in right.items()}
    scores, bits = ({name: arm[k] for name, arm in arms.items()} for k in (0, 1))
    bagged = bag(scores, bags=20)
    other = {**bits, "b": pack(right["b"][:, :, :17])}
    for changed, message in (
        ({"a": bits["a"]}, r"^no bits for b; give those of each arm$"),
        (other, r"^arms have \[17, 20\] test examples; all must be tested with the same$"),
        ({**bits, "b": pack(~right["b"])}, r"^b: seed 0 at setting 0 has .*both must come from the same network"),
        (
            {**bits, "b": Right(bits["b"].bits[:3], 20)},
            r"^b: bits are uint8 of shape \(3, 1, 3\); .*uint8 of \(4, 1, 3\)$",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            by_example(bagged, scores, changed)
    with pytest.raises(ValueError, match=r"^right is float64 of shape \(2, 3\); give bool"):
        pack(np.ones((2, 3)))
    for count in (0, 50):
        with pytest.raises(ValueError, match=rf"^{count} of 50 examples are tested; give at least 1, and leave some$"):
            for_new_examples_of_splits(contrast(bagged, DIFFERENCE), all_examples=50, test_examples=count)
