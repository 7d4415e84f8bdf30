"""experiments.networks.whitening: the first layer of airbench94 whitens patches."""

import jax
import numpy as np
from small_networks import TINY, apply, filled, images, network

from experiments.networks import (
    Whitening,
    no_norm,
    whiten,
    whitening_weights,
)

# Whitening


def correlated(n=20):
    """Images with correlated neighbouring pixels and channels."""
    noise = images(n, (18, 18, 3))
    blurred = noise[:, 1:, 1:] + 2 * noise[:, :-1, 1:] + noise[:, 1:, :-1]
    return (blurred @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0.2, 0, 0.4]])).astype(np.float32)


def test_whitening_makes_the_outputs_of_the_first_layer_uncorrelated_and_of_size_one():
    x = correlated()
    model = network("airbench94", norm=no_norm, **TINY["airbench94"])
    variables = filled(model, x)
    variables["params"]["block_0"]["layer"]["bias"][:] = 0
    _, seen = apply(model, whiten(variables, x, epsilon=0), x)
    y = np.asarray(seen["intermediates"]["block_0"]["activation_input"][0], np.float64).reshape(-1, 24)
    np.testing.assert_allclose(y[:, :12].T @ y[:, :12] / len(y), np.eye(12), atol=1e-3)
    np.testing.assert_allclose(y[:, 12:], -y[:, :12], atol=1e-6)


def test_whitening_weights_are_the_scaled_eigenvectors_of_the_patches():
    x, epsilon = correlated(5), 0.3
    patches = np.stack(
        [im[i : i + 2, j : j + 2].ravel() for im in np.asarray(x, np.float64) for i in range(16) for j in range(16)]
    )
    moments = patches.T @ patches / len(patches)
    kernel = np.asarray(whitening_weights(x, 2, epsilon), np.float64).reshape(12, 24)[:, :12]
    values = np.linalg.eigvalsh(moments)[::-1]
    np.testing.assert_allclose(kernel.T @ moments @ kernel, np.diag(values / (values + epsilon)), atol=1e-3)


def test_the_whitening_kernel_is_a_constant_and_its_bias_a_parameter():
    x = images(2)
    model = network("airbench94", **TINY["airbench94"])
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert jax.tree.map(lambda a: a.shape, variables["constants"]) == {"block_0": {"layer": {"kernel": (2, 2, 3, 24)}}}
    assert jax.tree.map(lambda a: a.shape, variables["params"]["block_0"]) == {"layer": {"bias": (24,)}}


def test_white_noise_is_white_as_the_first_layer_starts():
    kernel = Whitening(2).init(jax.random.key(0), images(1))["constants"]["kernel"].reshape(12, 24)
    np.testing.assert_array_equal(kernel, np.concatenate([np.eye(12), -np.eye(12)], 1))
