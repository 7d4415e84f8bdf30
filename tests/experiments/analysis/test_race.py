"""The race: which settings survive the first round."""

import numpy as np
import pytest

from experiments.analysis.race import first_round, survivors


def three_seeds(rng, means, sd=0.5, seeds=3):
    """Scores of settings with these true means; a seed is good or bad for all settings equally."""
    shared = rng.normal(0, 5, (seeds, 1))
    return np.asarray(means) + shared + rng.normal(0, sd, (seeds, len(means)))


def test_a_setting_far_below_goes_out_and_the_best_three_go_on_in_any_case():
    scores = three_seeds(np.random.default_rng(0), [50, 60, 70, 80, 90], sd=0.1)
    assert survivors(scores).tolist() == [False, False, True, True, True]
    assert survivors(scores, least=1).tolist() == [False, False, False, False, True]
    assert survivors(scores[:, :2]).all()  # fewer settings than always survive


def test_settings_that_cannot_be_told_apart_all_go_on():
    rng = np.random.default_rng(1)
    kept = [survivors(three_seeds(rng, [90, 90, 90, 90, 90, 90, 20])) for _ in range(300)]
    assert np.mean(kept, axis=0)[:6].min() > 0.6 and not np.any(kept, axis=0)[6]
    equal = np.full((3, 5), 90.0)
    assert survivors(equal).all()


def test_differences_are_taken_seed_by_seed():
    """A seed that is bad for all settings equally hides no difference."""
    scores = np.array([[90, 89.0, 88.0, 87.0, 86.0], [90.1, 89.0, 88.1, 87.0, 86.1], [90, 89.1, 88.0, 87.1, 86.0]])
    worse_seed = scores - np.array([[0], [40], [3]])
    assert survivors(scores).tolist() == survivors(worse_seed).tolist() == [True, True, True, False, False]


def test_a_setting_that_fails_for_some_seeds_neither_goes_on_nor_keeps_others_in():
    scores = np.array(
        [
            [90.0, 90.1, 90.2, 85.0, 95.0, 10.0, 10.0],
            [90.3, 90.0, 90.1, 85.2, 10.0, 10.0, 10.0],
            [90.1, 90.2, 90.0, 85.1, 10.0, 99.0, 10.0],
        ]
    )
    assert survivors(scores).tolist() == [True, True, True, False, False, False, False]


def test_the_order_of_seeds_and_of_settings_does_not_matter():
    rng = np.random.default_rng(2)
    for _ in range(50):
        scores = three_seeds(rng, [88, 89, 89.5, 90, 90, 89, 60])
        on, seeds, settings = survivors(scores), rng.permutation(3), rng.permutation(7)
        assert (survivors(scores[seeds][:, settings]) == on[settings]).all()
        assert on[scores.mean(0).argmax()] and on.sum() >= 3


def test_the_best_setting_of_twelve_seeds_is_seldom_dropped_by_three():
    rng, lost, kept = np.random.default_rng(3), 0, 0
    for _ in range(1000):
        scores = three_seeds(rng, [95.1, 96.6, 96.9, 97.0, 96.8, 95.0, 60], sd=0.6, seeds=12)
        on = survivors(scores[:3])
        lost += not on[scores.mean(0).argmax()]
        kept += on.sum()
    assert lost < 40 and kept < 4100


def test_ties_with_the_last_that_goes_on_go_on_though_their_means_round_differently():
    scores = np.array([[90, 80, 70.1, 70.2, 70.3], [90, 80, 70.2, 70.3, 70.1], [90, 80, 70.3, 70.1, 70.2]])
    assert survivors(scores).tolist() == [True] * 5
    assert len(set(scores.mean(0)[2:].tolist())) > 1


def test_the_first_round_grows_with_the_seeds():
    assert [first_round(n) for n in (2, 3, 6, 12, 13, 24, 48)] == [2, 3, 3, 3, 4, 6, 12]


@pytest.mark.parametrize("shape", [(1, 4), (3,), (3, 0)])
def test_a_first_round_that_says_nothing_is_refused(shape):
    with pytest.raises(ValueError, match=r"^validation has shape .*; give \[seeds, settings\] with 2 seeds or more$"):
        survivors(np.ones(shape))


def test_missing_scores_and_empty_rules_are_refused():
    scores = np.ones((3, 4))
    with pytest.raises(ValueError, match=r"^1 validation accuracies are NaN; "):
        survivors(np.where(np.arange(12).reshape(3, 4) == 5, np.nan, scores))
    with pytest.raises(ValueError, match=r"^least is 0, "):
        survivors(scores, least=0)
