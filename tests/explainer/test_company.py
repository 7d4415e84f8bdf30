"""The network of the scene "company", written out, is the one that was trained."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import jbn
from explainer.data._steps import NETWORK, joined, parted
from explainer.data.company import by_block, running_averages, whole_batch
from explainer.programs import _digits
from explainer.programs.company import BLOCKS, inference_mode


def test_the_network_written_out_is_that_of_the_trainings():
    state = _digits.init(NETWORK, 0)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 17, (8, 64)), jnp.float32)
    logits, updates = NETWORK.apply(state._asdict(), images, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(whole_batch(state.params, images), jax.nn.softmax(logits), atol=1e-6)

    moments = joined(updates["batch_stats"])
    statistics = parted(moments.mean, moments.var)
    variables = {"params": state.params, "batch_stats": statistics}
    expected = jax.nn.softmax(NETWORK.apply(variables, images, train=False)[0])
    found = inference_mode(state.params, by_block(moments.mean, moments.var), images[0])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert list(statistics) == list(BLOCKS)


def test_running_averages_are_the_usual_ones():
    batches = jbn.Moments(jnp.full((2, 3, 1), 2.0), jnp.full((2, 3, 1), 4.0), jnp.full((2, 3), 64.0))
    found = running_averages(batches)
    np.testing.assert_allclose(found.mean, np.full((2, 1), 2 * (1 - 0.99**3)), rtol=1e-5)
    np.testing.assert_allclose(found.var, np.full((2, 1), 1 + 3 * (1 - 0.99**3)), rtol=1e-5)
