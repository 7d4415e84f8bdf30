"""experiments.analysis.comparison: Holm's correction, and how numbers of a comparison are printed."""

import numpy as np
import pytest

from experiments.analysis.comparison import holm
from experiments.formatting import number, p_text, signed


def test_holm_equals_its_stepwise_definition():
    rng = np.random.default_rng(2)
    for p in [[0.01, 0.04, 0.03], [0.2], [0.5, 0.5], *rng.random((3, 5)).tolist()]:
        order, m, running, expected = np.argsort(p), len(p), 0.0, [0.0] * len(p)
        for rank, index in enumerate(order):
            running = max(running, min(1.0, (m - rank) * p[index]))
            expected[index] = running
        assert holm(p) == pytest.approx(expected)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_no_number_is_printed_as_an_impossible_one():
    assert [p_text(p) for p in (0, 1e-9, 0.00099, 0.0312, 0.0496, 0.31, 1)] == [
        "p < 0.001", "p < 0.001", "p < 0.001", "p = 0.031", "p = 0.0496", "p = 0.31", "p > 0.99"
    ]  # fmt: skip
    assert (number(-0.001), signed(-0.001), signed(0.001), signed(-0.4)) == ("0.00", "0.00", "0.00", "-0.40")


# Unpaired.
