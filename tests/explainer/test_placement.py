"""The scenes of the placement: both sides begin alike, boxes are those of jbn.placement, wins are counted right."""

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from explainer.data import placement as made
from explainer.programs._digits import Digits, init
from explainer.programs.placement import PROGRAMS, begin, boxes, kernels
from jbn.placement import ORDER

SIDES = ("before", "after")


@pytest.mark.parametrize("side", SIDES)
def test_a_training_begins_where_the_network_would(side):
    network = Digits(side)
    state = init(network, 3)
    found = begin(network, ravel_pytree(kernels(state.params))[0])
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_both_sides_begin_with_the_same_weights():
    before, after = (made.initial(side, 5) for side in SIDES)
    np.testing.assert_array_equal(before, after)
    assert (before != made.initial("before", 6)).mean() > 0.99


@pytest.mark.parametrize("side", SIDES)
def test_boxes_hold_what_leaves_each_step_of_the_order(side):
    state, images = (PROGRAMS[f"boxes_{side}"].arguments[name] for name in ("state", "images"))
    found = {step: np.asarray(of["values"]) for step, of in boxes(Digits(side), state, images).items()}
    layer = state.params["block_0"]["layer"]
    x = (images / 8 - 1) @ np.asarray(layer["kernel"]) + np.asarray(layer.get("bias", 0))
    for step in ORDER[side]:
        if step == "norm":
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        elif step == "activation":
            x = np.maximum(x, 0)
        np.testing.assert_allclose(found[step], x, atol=2e-4)


def test_a_win_is_fewer_wrong_digits():
    before, after = np.array([10.0, 12, 9, 9]), np.array([8.0, 15, 9, 4])
    found = made.tally(before, after, 0.1)
    assert [found[name].value for name in ("after", "before", "ties", "most", "least")] == [2, 1, 1, 5, 3]
    assert found["gain"].value == pytest.approx(1.0)
    assert found["low"].value < 1 < found["high"].value


def test_a_nudge_that_changes_the_winner_is_counted():
    before = np.array([[10.0, 10, 10], [10, 10, 10]])
    after = np.array([[9.0, 12, 9], [11, 12, 8]])
    found = made.moved(before, after)
    assert (found["before"].value, found["after_most"].value, found["winners"].value) == (0, 2, 1)
    assert found["after"].value == pytest.approx(1.0)
