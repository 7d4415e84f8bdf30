"""experiments.data.carve: validation data is carved from the training set class by class."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from experiments.config import ConfigError
from experiments.data.carve import carve


@hypothesis.given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.floats(0.05, 0.95), st.integers(0, 99))
def test_carving_splits_every_class_by_its_share_and_loses_nothing(counts, fraction, seed):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 3, counts))
    try:
        train, validation = carve(y, fraction, seed)
    except ConfigError:
        shares = fraction * np.array(counts)
        assert round(fraction * len(y)) == 0 or (np.ceil(shares) >= counts).any()
        return
    assert sorted([*train, *validation]) == list(range(len(y)))
    assert (np.diff(train) > 0).all() and (np.diff(validation) > 0).all()
    assert len(validation) == round(fraction * len(y))
    for k, count in enumerate(counts):
        assert abs((y[validation] == 3 * k).sum() - fraction * count) < 1
    for part, again in zip((train, validation), carve(y, fraction, seed), strict=True):
        np.testing.assert_array_equal(part, again, strict=True)


def test_another_seed_carves_another_part_and_every_example_has_the_same_chance():
    y = np.repeat([0, 1, 2], [30, 20, 10])
    chosen = sum(np.isin(np.arange(60), carve(y, 0.3, seed)[1]).astype(int) for seed in range(1000))
    assert np.abs(np.asarray(chosen) / 1000 - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 1000)


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (0.0, "is 0.0; use a share between 0 and 1"),
        (1, "is 1; use a share between 0 and 1"),
        (0.01, "0.01 of 8 examples leaves nothing to validate"),
        (0.9, "0.9 of 8 examples leaves nothing to validate on, or a class without"),
    ],
)
def test_a_fraction_that_leaves_a_part_empty_is_refused(fraction, message):
    with pytest.raises(ConfigError, match=message):
        carve(np.arange(8) % 2, fraction, 0)
