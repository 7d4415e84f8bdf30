"""The experiment of the scene "why": its rule, and the noise that it adds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jbn.linen
from explainer.data._noise import Interval, NoisyBatchNorm, interval, verdict

ABOVE, AROUND, BELOW = Interval(0.1, 0.2, 0.3), Interval(-0.1, 0.1, 0.3), Interval(-0.3, -0.2, -0.1)


@pytest.mark.parametrize(
    ("moves_more", "still_helps", "said"),
    [
        ([ABOVE, ABOVE], [ABOVE, ABOVE], "supported"),
        ([ABOVE, ABOVE], [ABOVE, AROUND], "supported in part"),
        ([ABOVE, ABOVE], [AROUND, BELOW], "not supported"),
        ([AROUND, ABOVE], [BELOW, ABOVE], "supported"),  # where the inputs do not move more, nothing is decided
        ([AROUND, BELOW], [ABOVE, ABOVE], "not supported"),
    ],
)
def test_the_rule_decides_by_the_intervals(moves_more, still_helps, said):
    assert verdict(moves_more, still_helps) == said


def test_an_interval_covers_the_mean_in_95_of_100_samples():
    samples = np.random.default_rng(0).normal(3.0, 2.0, (2000, 20))
    covered = np.mean([found.low < 3 < found.high for found in map(interval, samples)])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


def test_the_noise_has_a_mean_and_a_spread_of_its_own_in_each_unit_and_step():
    x = jnp.asarray(np.random.default_rng(0).normal(5, 3, (4000, 50)), jnp.float32)
    plain = jbn.linen.BatchNorm(use_running_average=False)
    variables = plain.init(jax.random.key(0), x)

    def outputs(size: float, key: int) -> jax.Array:
        layer = NoisyBatchNorm(use_running_average=False, size=size)
        return layer.apply(variables, x, mutable=["batch_stats"], rngs={"noise": jax.random.key(key)})[0]

    assert jnp.allclose(outputs(0.0, 1), plain.apply(variables, x, mutable=["batch_stats"])[0], atol=1e-6)
    first, second = (outputs(2.0, key) for key in (1, 2))
    means, stds = first.mean(0), first.std(0)
    assert abs(means).max() < 1.2 and abs(means).max() > 0.8  # uniform within ±1
    assert stds.min() > 1.0 and stds.max() < 1.6  # from 1 to 1.5, and 0.2 of each example's own on top
    assert np.corrcoef(means, second.mean(0))[0, 1] < 0.5
