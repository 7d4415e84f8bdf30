"""Shifts of images in [0, 1]: noise, blur and contrast, at two strengths each that were fixed before any training."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Shift = Callable[[jax.Array], jax.Array]


def noise(x: jax.Array, deviation: float, seed: int = 0) -> jax.Array:
    """Gaussian noise of this standard deviation on each pixel, clipped to [0, 1]; the same for the same seed."""
    return jnp.clip(x + deviation * jax.random.normal(jax.random.key(seed), x.shape), 0, 1)


def blur(x: jax.Array, deviation: float) -> jax.Array:
    """Convolution along height and width with a Gaussian of this standard deviation, in pixels, cut off at 3 of them.

    Args:
      x: `[images, height, width, channels]`; its edges are repeated, so that a constant image stays as it is.
      deviation: larger than 0.
    """
    reach = int(3 * deviation + 0.5)
    weights = jnp.exp(-0.5 * jnp.square(jnp.arange(-reach, reach + 1) / deviation))
    weights = weights / weights.sum()
    for axis in (1, 2):
        padded = jnp.pad(x, [(reach, reach) if i == axis else (0, 0) for i in range(x.ndim)], mode="edge")
        slices = (jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(2 * reach + 1))
        x = sum((w * part for w, part in zip(weights, slices, strict=True)), jnp.zeros_like(x))
    return x


def contrast(x: jax.Array, factor: float) -> jax.Array:
    """Differences of each image to its own mean, times the factor."""
    mean = x.mean(tuple(range(1, x.ndim)), keepdims=True)
    return mean + factor * (x - mean)


SHIFTS: dict[str, Shift] = {
    "clean": lambda x: x,
    "noise 0.1": lambda x: noise(x, 0.1),
    "noise 0.2": lambda x: noise(x, 0.2),
    "blur 1": lambda x: blur(x, 1.0),
    "blur 2": lambda x: blur(x, 2.0),
    "contrast 0.5": lambda x: contrast(x, 0.5),
    "contrast 0.25": lambda x: contrast(x, 0.25),
}
