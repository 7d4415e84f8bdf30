"""Scene "ravine": the loss of a linear model with a bias, of inputs that are centred, divided by std, both, or neither.

The model has two weights and a bias; for one feature, the second is a column of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import jbn
from explainer.programs import Program

STEPS = 16  # of one call of `descend`
METHODS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "gradient_descent": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}
RADII = np.array([0.1, 0.4, 0.7, 1, 1.5, 2.2, 3.2, 4.5, 6.5, 9, 13], np.float32)  # 0.1 is 1% of the loss


def four_inputs(x: jax.Array) -> dict[str, jax.Array]:
    """The features as they are, divided by std only, centred only, and both."""
    mean, var, _ = jbn.moments(x)
    var = jnp.where(var > 0, var, 1.0)  # the column of zeros stays as it is
    zero, one = jnp.zeros_like(mean), jnp.ones_like(var)
    means, variances = jnp.stack([zero, zero, mean, mean]), jnp.stack([one, var, one, var])
    return {"inputs": jax.vmap(partial(jbn.normalize, epsilon=0.0), (None, 0, 0))(x, means, variances)}


def loss(parameters: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Half the mean squared error of a linear model; the last parameter is the bias."""
    return jnp.mean(optax.l2_loss(x @ parameters[:-1] + parameters[-1], y))


def landscape(x: jax.Array, y: jax.Array, minimum: jax.Array, plane: jax.Array) -> dict[str, jax.Array]:
    """The loss on a plane through its minimum, spanned by the two rows of `plane`: contours around the minimum."""

    def on_plane(place: jax.Array) -> jax.Array:
        return loss(minimum + place @ plane, x, y)

    start = jnp.zeros_like(minimum)
    lowest, first = loss(minimum, x, y), loss(start, x, y)
    (a, b), (_, c) = hessian = jax.hessian(on_plane)(jnp.zeros(2))
    # Where ½ zᵀ H z is constant, Lᵀz is on a circle, with the Cholesky factor L of H.
    l11 = jnp.sqrt(a)
    l21 = b / l11
    l22 = jnp.sqrt(c - l21 * l21)
    angle = jnp.linspace(0.0, 2 * np.pi, 73)
    z2 = jnp.sin(angle) / l22
    z1 = (jnp.cos(angle) - l21 * z2) / l11
    radius = RADII[:, None, None] * jnp.sqrt(2 * (first - lowest))
    return {
        "contours": plane @ minimum + radius * jnp.stack([z1, z2], axis=-1),
        "hessian": hessian,
        "minimum": plane @ minimum,
        "first": first,
        "lowest": lowest,
    }


def begin(method: str) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """Parameters and optimizer state before the first step, all zeros, as one vector; and what parts it again."""
    return ravel_pytree((jnp.zeros(3), METHODS[method](0.1).init(jnp.zeros(3))))


def descend(x: jax.Array, y: jax.Array, plane: jax.Array, run: jax.Array, rate: jax.Array, *, method: str) -> Any:
    """Steps of an optimizer on the whole batch: which way is down before each, where it leads, and the loss there."""
    optimizer = METHODS[method](rate)
    parameters: Any
    parameters, state = begin(method)[1](run)
    downhill, places, losses = [], [], []
    for _ in range(STEPS):
        gradient = jax.grad(loss)(parameters, x, y)
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        downhill.append(-plane @ gradient)
        places.append(plane @ parameters)
        losses.append(loss(parameters, x, y))
    found = {"downhill": downhill, "places": places, "losses": losses}
    return {"run": ravel_pytree((parameters, state))[0], **{name: jnp.stack(each) for name, each in found.items()}}


rng = np.random.default_rng(0)
X, Y = rng.normal(2.0, 1.5, (178, 2)).astype(np.float32), rng.integers(0, 2, 178).astype(np.float32)
PLANE = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
PROGRAMS = {
    "four_inputs": Program(four_inputs, {"x": X}),
    "landscape": Program(
        landscape, {"x": X, "y": Y, "minimum": np.array([0.5, 0.1, -0.5], np.float32), "plane": PLANE}
    ),
} | {
    method: Program(
        partial(descend, method=method),
        {"x": X, "y": Y, "plane": PLANE, "run": begin(method)[0], "rate": np.float32(0.1)},
    )
    for method in METHODS
}
