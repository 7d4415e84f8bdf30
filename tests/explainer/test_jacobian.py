"""The scene "jacobian": what its page says holds for any batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from explainer.programs.jacobian import company

BATCHES = (2, 3, 5, 8)


@pytest.fixture(scope="module", params=BATCHES)
def studied(request):
    batch = request.param
    x = 13 + 0.8 * jax.random.normal(jax.random.key(batch), (8,))
    where = jnp.arange(8) < batch
    return batch, jax.jit(company)(x, jnp.zeros(8), jnp.ones(8), where)


def test_moving_or_stretching_the_whole_batch_changes_no_output(studied):
    batch, found = studied
    jacobian, y = found["training"]["jacobian"][:batch, :batch], found["training"]["before"][:batch]
    np.testing.assert_allclose(jacobian @ jnp.ones(batch), 0, atol=1e-6)
    np.testing.assert_allclose(jacobian @ y, 0, atol=1e-3)  # epsilon is left over


def test_statistics_as_constants_leave_the_diagonal(studied):
    batch, found = studied
    np.testing.assert_allclose(found["constants"]["jacobian"][:batch, :batch], np.eye(batch), atol=1e-3)


def test_a_bias_in_front_has_no_gradient_in_training_only(studied):
    _, found = studied
    assert abs(found["training"]["bias_gradient"]) < 1e-6
    assert abs(found["constants"]["bias_gradient"]) > 0.1


def test_a_batch_of_two_has_no_gradient_at_all():
    x = jnp.array([12.8, 11.8, 0, 0, 0, 0, 0, 0])
    found = company(x, jnp.zeros(8), jnp.ones(8), jnp.arange(8) < 2)
    assert abs(found["training"]["jacobian"][:2, :2]).max() < 1e-3
