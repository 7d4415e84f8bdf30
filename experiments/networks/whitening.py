"""A first layer that whitens image patches with a fixed kernel computed from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike


def whitening_weights(images: jax.Array, size: int = 2, epsilon: float = 5e-4) -> jax.Array:
    """The kernel that whitens patches of these images: its outputs are uncorrelated and have second moments of one.

    ::

        E[p pᵀ] = Σ λ_i v_i v_iᵀ,    w_i = v_i / sqrt(λ_i + epsilon),    kernel = [w, -w]

    Args:
      images: `[n, height, width, channels]`, preprocessed as for the network; published with 5000 training images.
      size: height and width of a patch p.
      epsilon: limits the gain of directions in which patches hardly vary.

    Returns:
      `[size, size, channels, 2·size²·channels]`, float32: w by decreasing eigenvalue, then -w. As published, moments
      are taken about zero, not about the mean; images should be standardized.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from experiments.networks import whitening_weights
      >>> kernel = whitening_weights(jax.random.normal(jax.random.key(0), (100, 8, 8, 3)))
      >>> kernel.shape
      (2, 2, 3, 24)

    Reference: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds", section 3.2 (https://arxiv.org/abs/2404.00498).
    """
    _, height, width, channels = images.shape
    shifts = [(i, j) for i in range(size) for j in range(size)]
    shifted = [images[:, i : height - size + 1 + i, j : width - size + 1 + j] for i, j in shifts]
    patches = jnp.concatenate(shifted, -1).reshape(-1, size**2 * channels).astype(jnp.float32)
    moments = jnp.matmul(patches.T, patches, precision="highest") / len(patches)
    eigenvalues, eigenvectors = jnp.linalg.eigh(moments)
    # Rounding can make an eigenvalue of 0 slightly negative.
    scaled = (eigenvectors / jnp.sqrt(jnp.maximum(eigenvalues, 0) + epsilon))[:, ::-1]
    return jnp.concatenate([scaled, -scaled], 1).reshape(size, size, channels, -1)


def whiten(variables: Mapping[str, Any], images: jax.Array, epsilon: float = 5e-4) -> dict[str, Any]:
    """Sets the kernel of the `Whitening` layer so that it whitens these images; returns the new variables.

    Example:
      >>> import jax
      >>> from experiments.networks import Whitening, whiten
      >>> images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
      >>> variables = Whitening().init(jax.random.key(1), images)
      >>> y = Whitening().apply(whiten(variables, images), images)
      >>> y.shape, bool(abs((y**2).mean() - 1) < 0.01)
      ((4, 7, 7, 24), True)
    """
    kernels = jax.tree.map(lambda kernel: whitening_weights(images, len(kernel), epsilon), variables["constants"])
    return {**variables, "constants": kernels}


class Whitening(nn.Module):
    """A convolution with a fixed kernel and a trained bias, without padding.

    ::

        [batch, height, width, channels] -> [batch, height - size + 1, width - size + 1, 2·size²·channels]

    The kernel is the variable `kernel` in the collection `constants`, not a parameter, so optimizers and weight decay
    do not change it. Until `whiten` sets it, it is the kernel that whitens white noise.
    """

    size: int = 2
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        patch = (self.size, self.size, x.shape[-1])
        features = self.size**2 * x.shape[-1]
        unit = jnp.eye(features)
        start = jnp.concatenate([unit, -unit], 1).reshape(*patch, 2 * features)
        kernel = self.variable("constants", "kernel", lambda: start).value
        bias = self.param("bias", nn.initializers.zeros, (2 * features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + bias
