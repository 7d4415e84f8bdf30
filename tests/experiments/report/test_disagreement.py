"""experiments.report.figures.disagreement and by_class: which test examples two treatments get right."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import synthetic
from drawn import drawings, result_of
from synthetic import SMALL

from experiments.analysis.comparison import RESOLUTION_PP, holm
from experiments.report.figures.by_class import RESOLUTION_PP as RESOLUTION_OF_CLASSES
from experiments.report.figures.by_class import by_class as of_classes
from experiments.report.figures.disagreement import Compared, _churn, compared, disagreement
from experiments.store.right import unpack_right


def pair(right_a, right_b, paired=True):
    return Compared("relu: after - before", "after", "before", np.array(right_a, bool), np.array(right_b, bool), paired)


def test_the_first_primary_difference_of_each_context_is_compared_at_the_most_chosen_settings():
    made = synthetic.records(SMALL)
    result = result_of(SMALL, made)
    found = compared(SMALL, result, made, synthetic.data())["relu"]
    assert (found.name, found.a, found.b, found.paired) == ("relu: after - none", "after", "none", True)
    for right, arm in ((found.right_a, result["arms"][1]), (found.right_b, result["arms"][0])):
        np.testing.assert_allclose(100 * right.mean(1), arm["test_accuracy"]["values"])
        runs = sorted((r for r in made if r["phase"] == "train" and r["treatment"] == arm["treatment"]
                       and r["learning_rate"] == arm["learning_rate"]), key=lambda r: r["seed"])  # fmt: skip
        np.testing.assert_array_equal(right, [unpack_right(r["right"], synthetic.TEST) for r in runs])


def test_test_sets_that_differ_from_seed_to_seed_are_not_compared():
    made = synthetic.records(SMALL, probe_seeds=0)
    result = result_of(SMALL, made)
    assert compared(SMALL, result, made, synthetic.data() | {"split": "each seed"}) == {}
    assert "disagreement" in drawings(SMALL, made)


def test_every_example_has_a_place_in_the_figure():
    found = pair([[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 1, 0, 1], [1, 1, 0, 1]])
    axes = disagreement(synthetic.CONFIG, {"relu": found}).figure.axes[0]
    places = [tuple(each.get_offsets()[0]) for each in axes.collections]
    assert sorted(places) == [(0, 0), (100, 0), (100, 50), (100, 100)]
    assert [text.get_text() for text in axes.texts] == ["only after right: 0", "only before right: 2"]


def test_two_networks_of_one_treatment_are_what_two_of_different_ones_are_compared_with():
    rng = np.random.default_rng(0)
    right = rng.random((2, 5, 400)) < rng.random(400)
    across, within = _churn(pair(*right))
    expected = [np.mean(right[0][i] != right[1][j]) for i in range(5) for j in range(5) if i != j]
    assert across == pytest.approx(100 * np.mean(expected))
    own = [np.mean(r[i] != r[j]) for r in right for i in range(5) for j in range(5) if i != j]
    assert within == pytest.approx(100 * np.mean(own))
    every = [np.mean(right[0][i] != right[1][j]) for i in range(5) for j in range(5)]
    assert _churn(pair(*right, paired=False))[0] == pytest.approx(100 * np.mean(every))


def test_the_difference_within_a_class_is_students_and_adjusted_over_the_classes():
    rng = np.random.default_rng(1)
    labels = np.arange(300) % 3
    right = [rng.random((6, 300)) < np.where(labels == 1, p, 0.8) for p in (0.95, 0.6)]
    rows = of_classes({"relu": pair(*right)}, labels.tolist(), 0.05)["relu"]
    p = []
    for row in rows:
        a, b = (100 * each[:, labels == row.label].mean(1) for each in right)
        test = scipy.stats.ttest_rel(a, b)
        p.append(test.pvalue)
        assert row.difference == pytest.approx((a - b).mean()) and row.examples == 100
        np.testing.assert_allclose(row.ci, tuple(test.confidence_interval(0.95)))
    np.testing.assert_allclose([row.adjusted_p for row in rows], holm(p))
    assert RESOLUTION_OF_CLASSES == RESOLUTION_PP


def test_a_class_that_all_networks_get_right_shows_no_difference():
    labels = [0, 0, 1, 1]
    right = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    first, second = of_classes({"relu": pair(right, np.ones((3, 4)))}, labels, 0.05)["relu"]
    assert (first.difference, first.ci, first.adjusted_p) == (0.0, (0.0, 0.0), 1.0)
    assert second.difference < 0


def test_classes_are_drawn_where_the_labels_are_known():
    made = synthetic.records(replace(SMALL, analysis=replace(SMALL.analysis, published=())), probe_seeds=0)
    labels = (np.arange(synthetic.TEST) % 10).tolist()
    drawing = drawings(SMALL, made, synthetic.data() | {"test_labels": labels})["by_class"]
    axes = drawing.figure.axes[0]
    assert [int(tick) for tick in axes.get_xticks()] == list(range(10))
    assert axes.get_ylabel() == "after - none (pp)" and " of 10 classes" in drawing.title
    assert of_classes({"relu": pair([[1]], [[0]], paired=False)}, [0], 0.05) == {}
