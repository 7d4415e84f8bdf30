"""The bagged choice: its estimate and its standard error are right."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import scipy.stats

from experiments.analysis.bagging import Scores, bag, choose, contrast, draw, equivalence_p, project

SEEDS = tuple(range(12))


def scores(rng, means, seeds=SEEDS, sd=0.5, test=None, shared=None):
    """Networks whose validation and test accuracies have these means per setting, with independent errors."""
    n = len(seeds)
    shared = rng.normal(0, 1, (n, 1)) if shared is None else shared
    validation = np.asarray(means) + shared + rng.normal(0, sd, (n, len(means)))
    return Scores(seeds, validation, np.asarray(means if test is None else test) + shared + rng.normal(0, sd, (n, 1)))


def two_arms(seed=0, seeds=SEEDS):
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 3, (len(seeds), 1))
    one = partial(scores, rng, seeds=seeds, shared=shared)
    return {"a": one([95.0, 95.1, 94.9], test=[95.0, 94.2, 95.5]), "b": one([90.0, 94.8, 94.9], test=[90, 94.5, 95.0])}


# One setting: no choice.


@pytest.mark.parametrize(("n", "drawn"), [(2, None), (5, 3), (12, None), (12, 6), (40, 6), (4, 6)])
def test_without_a_choice_the_estimate_and_its_interval_are_those_of_the_paired_t_test(n, drawn):
    rng = np.random.default_rng(n)
    a, b = rng.normal(95, 1, n), rng.normal(94, 2, n)
    arms = {name: Scores(tuple(range(n)), x[:, None], x[:, None]) for name, x in (("a", a), ("b", b))}
    found = contrast(bag(arms, drawn=drawn), {"a": 1, "b": -1}, alpha=0.1)
    test = scipy.stats.ttest_rel(a, b)
    assert found.estimate == pytest.approx((a - b).mean(), abs=1e-9)
    assert found.se == pytest.approx((a - b).std(ddof=1) / np.sqrt(n))
    assert found.ci == pytest.approx(tuple(test.confidence_interval(0.9)))
    assert found.p == pytest.approx(test.pvalue)
    assert found.monte_carlo_se == pytest.approx(0, abs=1e-6)
    assert bag(arms, drawn=drawn).arms["a"].values == pytest.approx(a)


def test_arms_with_seeds_of_their_own_are_compared_as_by_welch():
    rng = np.random.default_rng(0)
    a, b = rng.normal(95, 1, 9), rng.normal(94, 3, 9)
    arms = {
        "a": Scores(tuple(range(9)), a[:, None], a[:, None]),
        "b": Scores(tuple(range(9, 18)), b[:, None], b[:, None]),
    }
    found = contrast(bag(arms), {"a": 1, "b": -1})
    test = scipy.stats.ttest_ind(a, b, equal_var=False)
    assert (found.p, found.df) == pytest.approx((test.pvalue, test.df))
    assert found.ci == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_variances_of_arms_with_seeds_of_their_own_add_and_pairing_takes_out_what_seeds_share():
    paired = two_arms()
    own = paired | {"b": paired["b"]._replace(seeds=tuple(range(100, 112)))}
    with_pairs, without = bag(paired), bag(own)
    separate = [contrast(without, {name: 1}).se for name in "ab"]
    assert contrast(without, {"a": 1, "b": -1}).se == pytest.approx(np.hypot(*separate))
    assert contrast(with_pairs, {"a": 1, "b": -1}).se < 0.7 * contrast(without, {"a": 1, "b": -1}).se
    assert not (without.counts[SEEDS] == without.counts[tuple(range(100, 112))]).all()


# All bags of a few seeds.


@pytest.mark.parametrize(("n", "drawn"), [(3, 3), (4, 4), (4, 2)])
def test_many_bags_come_to_what_all_of_them_say(n, drawn):
    """By hand: every one of the n^m bags, the choice in each by a loop, and the plain covariance."""
    rng = np.random.default_rng(n)
    arms = {
        name: Scores(tuple(range(n)), rng.normal(95, 1, (n, 3)), rng.normal([95, 93, 97], 1, (n, 3))) for name in "ab"
    }
    all_counts, t = [], []
    for seeds in product(range(n), repeat=drawn):
        of_bag = []
        for arm in arms.values():
            validation, test = np.array(arm.validation)[list(seeds)], np.array(arm.test)[list(seeds)]
            means = [float(np.mean(validation[:, k])) for k in range(3)]
            of_bag.append(float(np.mean(test[:, means.index(max(means))])))
        all_counts.append(np.bincount(seeds, minlength=n))
        t.append(of_bag[0] - of_bag[1])
    all_counts, t = np.array(all_counts), np.array(t)
    covariances = np.array([np.mean((all_counts[:, j] - drawn / n) * (t - t.mean())) for j in range(n)])

    mean, influence, _ = project(all_counts, t)
    assert mean == pytest.approx(t.mean())
    assert influence == pytest.approx(covariances)
    found = contrast(bag(arms, bags=200_000, drawn=drawn), {"a": 1, "b": -1})
    assert found.estimate == pytest.approx(t.mean(), abs=4 * found.monte_carlo_se)
    assert 0 < found.monte_carlo_se < 0.01
    assert found.se == pytest.approx(np.sqrt((covariances**2).sum() * n / (n - 1)), rel=0.02)
    values = bag(arms, bags=200_000, drawn=drawn).arms
    assert np.mean(values["a"].values - values["b"].values) == pytest.approx(found.estimate)


@pytest.mark.parametrize("drawn", [None, 6])
def test_few_bags_are_corrected_for_being_few(drawn):
    """With few bags, the average variance equals that of many bags; without the correction it is too large."""
    rng = np.random.default_rng(5)
    arms = {"a": Scores(SEEDS, rng.normal(95, 1, (12, 7)), rng.normal(np.linspace(90, 99, 7), 0.2, (12, 7)))}
    many = contrast(bag(arms, bags=100_000, drawn=drawn), {"a": 1}).se ** 2
    few, uncorrected = [], []
    for bags in range(100, 160):
        found = bag(arms, bags=bags, drawn=drawn)
        few.append(contrast(found, {"a": 1}).se ** 2)
        uncorrected.append(found.arms["a"].values.var(ddof=1) / 12)
    error = 3 * np.std(few) / np.sqrt(len(few))
    assert np.mean(few) == pytest.approx(many, abs=error)
    assert np.mean(uncorrected) > many + error


def test_the_monte_carlo_error_is_what_other_bags_change():
    arms = two_arms(1)
    found = [contrast(bag(arms, bags=bags), {"a": 1, "b": -1}) for bags in range(1000, 1060)]
    said = np.mean([f.monte_carlo_se for f in found])
    assert np.std([f.estimate for f in found], ddof=1) == pytest.approx(said, rel=0.3)


# The choice.


def test_the_choice_follows_the_weighted_mean_and_its_ties_the_loss_then_the_first():
    # Of 269 examples, 232 + 268 equals 231 + 269, but the floating-point means differ.
    accuracy = 100 / 269 * np.array([[231.0, 232, 100], [269, 268, 100], [0, 0, 269]])
    loss = np.array([[1.0, 2, 0], [2, 0.5, 0], [0, 0, np.inf]])
    counts = np.array([[1, 1, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]])
    plain = Scores((0, 1, 2), accuracy, accuracy)
    assert choose(counts, plain).tolist() == [0, 1, 0, 2]
    assert choose(counts, plain._replace(loss=loss)).tolist() == [1, 1, 0, 2]
    diverged = loss.copy()
    diverged[1, 1] = np.inf
    assert choose(counts, plain._replace(loss=diverged)).tolist() == [0, 1, 0, 2]
    worst = np.full((3, 3), np.inf)
    assert choose([[1, 1, 1]], Scores((0, 1, 2), [[5, 9, 9]] * 3, accuracy, worst)).tolist() == [1]


def test_shares_are_those_of_the_bags_and_the_most_chosen_has_the_largest():
    arms = two_arms()
    found = bag(arms, bags=500)
    counts = found.counts[SEEDS]
    for name, arm in arms.items():
        winners = [int(np.argmax(np.round(row @ np.asarray(arm.validation) / 12, 4))) for row in counts]
        assert found.arms[name].shares == pytest.approx(np.bincount(winners, minlength=3) / 500)
        assert found.arms[name].most_chosen == np.bincount(winners).argmax()
    assert 0.1 < found.arms["a"].shares.max() < 0.95  # a choice that is not certain


def test_the_test_set_plays_no_part_in_the_choice():
    rng = np.random.default_rng(2)
    arms = two_arms()
    before = bag(arms)
    changed = {name: s._replace(test=rng.permutation(np.ravel(s.test)).reshape(12, 3)) for name, s in arms.items()}
    after = bag(changed)
    for name in arms:
        assert (before.arms[name].shares == after.arms[name].shares).all()
        assert before.arms[name].mean != after.arms[name].mean


def test_a_setting_that_not_every_seed_has_is_out():
    arms = two_arms()
    validation, test = np.array(arms["a"].validation), np.array(arms["a"].test)
    validation[3:, 1], test[3:, 1] = np.nan, np.nan
    validation[:3, 1] = 100  # it would win
    dropped = {"a": arms["a"]._replace(validation=validation, test=test), "b": arms["b"]}
    never = {"a": Scores(SEEDS, validation[:, [0, 2]], test[:, [0, 2]]), "b": arms["b"]}
    found, without = bag(dropped), bag(never)
    assert found.arms["a"].shares[1] == 0
    assert found.arms["a"].shares[[0, 2]].tolist() == without.arms["a"].shares.tolist()
    assert contrast(found, {"a": 1, "b": -1}) == contrast(without, {"a": 1, "b": -1})


# Contrasts.


def test_the_names_and_the_order_of_arms_do_not_matter():
    arms = two_arms()
    renamed = {"y": arms["b"], "x": arms["a"]}
    first, second = contrast(bag(arms), {"a": 1, "b": -1}), contrast(bag(renamed), {"x": 1, "y": -1})
    assert first[:2] == pytest.approx(second[:2]) and first.ci == pytest.approx(second.ci)


def test_the_order_of_seeds_does_not_matter_beyond_the_bags_error():
    arms, order = two_arms(), np.random.default_rng(0).permutation(12)
    moved = {
        name: Scores(tuple(order), np.asarray(s.validation)[order], np.asarray(s.test)[order])
        for name, s in arms.items()
    }
    first, second = (contrast(bag(x, bags=20_000), {"a": 1, "b": -1}) for x in (arms, moved))
    assert first.estimate != second.estimate  # other bags
    assert first.estimate == pytest.approx(second.estimate, abs=5 * first.monte_carlo_se)
    assert first.se == pytest.approx(second.se, rel=0.03)


def test_a_contrast_is_linear_in_its_weights():
    found = bag(two_arms())
    a, b = contrast(found, {"a": 1}), contrast(found, {"b": 1})
    difference = contrast(found, {"a": 1, "b": -1})
    assert difference.estimate == pytest.approx(a.estimate - b.estimate)
    doubled = contrast(found, {"a": -2, "b": 2})
    assert (doubled.estimate, doubled.se) == pytest.approx((-2 * difference.estimate, 2 * difference.se))
    assert doubled.p == pytest.approx(difference.p)
    assert contrast(found, {"a": 1, "b": 0})[:5] == a[:5]
    assert (a.estimate, b.estimate) == pytest.approx((found.arms["a"].mean, found.arms["b"].mean))


def test_an_interaction_is_a_contrast_of_four_arms():
    arms = two_arms() | {f"{name}2": s for name, s in two_arms(7).items()}
    found = bag(arms)
    both = contrast(found, {"a": 1, "b": -1, "a2": -1, "b2": 1})
    parts = [contrast(found, {f"a{i}": 1, f"b{i}": -1}).estimate for i in ("", "2")]
    assert both.estimate == pytest.approx(parts[0] - parts[1])
    values = {name: arm.values for name, arm in found.arms.items()}
    by_seed = values["a"] - values["b"] - values["a2"] + values["b2"]
    assert both.se == pytest.approx(by_seed.std(ddof=1) / np.sqrt(12), rel=0.02)


def test_what_neither_seed_nor_bag_moves_is_exact():
    a = scores(np.random.default_rng(0), [90, 95, 94.9], test=[90, 93, 95])
    arms = {"a": a, "same": a, "better": a._replace(test=np.asarray(a.test) + 0.5)}
    found = bag(arms)
    nothing, half = contrast(found, {"a": 1, "same": -1}), contrast(found, {"better": 1, "a": -1})
    assert nothing.exact and nothing[:2] == (0, 0) and nothing.ci == (0, 0) and nothing.p == 1
    assert half.exact and half.se == 0 and half.ci == pytest.approx((0.5, 0.5)) and half.p == 2 / 2**12
    assert equivalence_p(half, 0.4) == 1 and equivalence_p(half, 0.6) == 1 / 2**12
    assert not contrast(found, {"a": 1}).exact


def test_no_variance_is_negative_and_what_moves_is_never_called_exact():
    """If only the choice changes an arm, few bags and seeds leave little but noise."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        arm = Scores((0, 1, 2), rng.normal(0, 1, (3, 7)), np.tile(rng.normal(0, 1, 7), (3, 1)))
        found = contrast(bag({"a": arm}, bags=20), {"a": 1})
        assert found.se > 0 or found.exact
        assert found.exact == (np.ptp(bag({"a": arm}, bags=20).arms["a"].by_bag) < 1e-4)


def test_equivalence_is_shown_by_two_one_sided_tests():
    rng = np.random.default_rng(3)
    d = rng.normal(0.1, 0.3, 12)
    found = contrast(bag({"d": Scores(SEEDS, d[:, None], d[:, None])}), {"d": 1})
    one_sided = [scipy.stats.ttest_1samp(d, m, alternative=s).pvalue for m, s in ((-0.5, "greater"), (0.5, "less"))]
    assert equivalence_p(found, 0.5) == pytest.approx(max(one_sided))
    assert equivalence_p(found, 0.01) > 0.5


# The level.


def test_the_interval_holds_near_a_flat_optimum_where_that_of_fresh_seeds_does_not():
    """Validation cannot tell the five settings apart, but the test set can. So three tuning seeds decide the setting at
    which all other seeds are evaluated. The truth of each procedure is its own mean over repeats."""
    rng, n, test = np.random.default_rng(0), 12, np.array([95.0, 95.4, 94.7, 95.2, 94.6])
    bagged, fresh = [], []
    for repeat in range(300):
        seeds = tuple(range(100 * repeat, 100 * repeat + n))
        arms = {name: scores(rng, [95.0] * 5, seeds, test=test) for name in "ab"}
        found = contrast(bag(arms, bags=500), {"a": 1, "b": -1})
        bagged.append((found.estimate, found.se, *found.ci))
        choices = {name: int(np.asarray(s.validation)[:3].mean(0).argmax()) for name, s in arms.items()}
        a, b = (np.asarray(scores(rng, [95.0] * 5, range(21), test=test).test)[:, choices[name]] for name in "ab")
        interval = scipy.stats.ttest_ind(a, b).confidence_interval()
        fresh.append((a.mean() - b.mean(), np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 21), *interval))

    def judged(found):
        estimate, se, low, high = np.transpose(found)
        mean = estimate.mean()
        return np.mean((low <= mean) & (mean <= high)), estimate.std(ddof=1) / np.sqrt(np.mean(se**2))

    coverage, ratio = judged(bagged)
    assert coverage > 0.92 and 0.7 < ratio < 1.1
    coverage, ratio = judged(fresh)
    assert coverage < 0.9 and ratio > 1.3


def test_with_a_fixed_number_drawn_more_seeds_estimate_the_same_more_surely():
    """Two settings that nearly tie on validation data and differ on test data: with m = n the estimate leans to the
    better one as seeds are added, with m = 6 it does not, and its interval holds."""
    rng, found = np.random.default_rng(0), {}
    for n, drawn in product((12, 48), (None, 6)):
        estimates = []
        for repeat in range(200):
            seeds = tuple(range(100 * repeat, 100 * repeat + n))
            arm = {"a": scores(rng, [95.0, 94.93], seeds, sd=0.4, test=[95.0, 94.0], shared=np.zeros((n, 1)))}
            result = contrast(bag(arm, bags=500, drawn=drawn), {"a": 1})
            estimates.append((result.estimate, *result.ci))
        estimate, low, high = np.transpose(estimates)
        covers = np.mean((low <= estimate.mean()) & (estimate.mean() <= high))
        found[n, drawn] = estimate.mean(), estimate.std(), covers
    assert found[48, None][0] - found[12, None][0] > 0.08
    assert abs(found[48, 6][0] - found[12, 6][0]) < 0.03
    assert found[48, 6][1] < 0.65 * found[48, None][1]
    assert found[48, 6][2] > 0.92 > found[48, None][2]


# Errors.


def test_bags_are_a_function_of_the_seeds():
    assert (draw(SEEDS, 50) == draw(SEEDS, 50)).all() and (draw(SEEDS, 50).sum(1) == 12).all()
    assert (draw(SEEDS, 50) != draw(tuple(range(1, 13)), 50)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": np.ones((12, 2))}, r"^a: validation has shape \(12, 2\), test \(12, 3\)"),
        ({"seeds": SEEDS[:-1]}, r"with 11 seeds; give all three as \[seeds, settings\]$"),
        ({"seeds": (0, *SEEDS[:-1])}, r"give at least 2, each once$"),
        ({"validation": np.full((12, 3), np.nan)}, r"^a: no setting has a validation accuracy for each of the 12"),
        ({"test": np.full((12, 3), np.nan)}, r"^a: a test accuracy is missing"),
        ({"seeds": tuple(range(5, 17))}, r"which share some; give arms the same seeds in the same order"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    arms = two_arms()
    with pytest.raises(ValueError, match=message):
        bag(arms | {"a": arms["a"]._replace(**change)})


def test_bags_without_seeds_are_refused():
    with pytest.raises(ValueError, match=r"^drawn is 0; give at least 1, or None"):
        bag(two_arms(), drawn=0)


def test_weights_for_no_arm_are_refused():
    found = bag(two_arms(), bags=10)
    with pytest.raises(ValueError, match=r"^weights name \['c'\]; use some of a, b$"):
        contrast(found, {"a": 1, "c": -1})
    with pytest.raises(ValueError, match=r"^weights name no arm"):
        contrast(found, {})
