"""The four norms of the scene "axes" are those that Flax has under these names."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

from explainer.programs.axes import EXAMPLE, PROGRAMS

FLAX: dict[str, Any] = {
    "batch": nn.BatchNorm(use_running_average=False),
    "layer": nn.LayerNorm(reduction_axes=(1, 2, 3), feature_axes=-1, epsilon=1e-5),
    "instance": nn.InstanceNorm(epsilon=1e-5),
    "group_2": nn.GroupNorm(num_groups=2, epsilon=1e-5),
}


@pytest.mark.parametrize("norm", FLAX)
def test_the_norms_are_those_of_flax(norm: str) -> None:
    norms = PROGRAMS["norms"]
    found = jax.jit(norms.function)(**norms.arguments)[norm]
    expected, _ = FLAX[norm].init_with_output(jax.random.key(0), EXAMPLE)
    np.testing.assert_allclose(found.y, expected, atol=3e-6)
    assert float(np.sum(found.count)) == EXAMPLE.size
