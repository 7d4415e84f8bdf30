"""The scene "ravine": what is counted at build is what the programs do; contours are where the loss is equal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_wine

from explainer.data.ravine import CAP, NEAR, Bowl, steps, variants
from explainer.programs import ravine

RATES = {"gradient_descent": 0.7, "momentum": 0.4, "adam": 0.3}


@pytest.fixture(scope="module")
def hue():
    """The features of the programs, the target, and the bowls of the four inputs."""
    wine: Any = load_wine()
    x, y = wine.data[:, [wine.feature_names.index("hue")]], np.where(wine.target == 2, 1.0, -1.0)
    bowls = [Bowl((x - subtracted) / divisor, y) for subtracted, divisor in variants(x)]
    inputs = ravine.four_inputs(jnp.asarray(np.hstack([x, 0 * x]), jnp.float32))["inputs"]
    return inputs, jnp.asarray(y, jnp.float32), bowls


def minimum(bowl):
    return jnp.asarray([bowl.minimum[0], 0.0, bowl.minimum[1]], jnp.float32)


@pytest.mark.parametrize("method", ravine.METHODS)
def test_the_steps_counted_at_build_are_those_of_the_programs(method, hue):
    inputs, y, bowls = hue
    program = jax.jit(ravine.PROGRAMS[method].function)
    x, bowl, rate = inputs[0], bowls[0], jnp.float32(RATES[method])
    counted, _ = steps(jnp.float32(bowl.hessian), jnp.float32(-bowl.minimum), rate, method=method)
    lowest, first = ravine.loss(minimum(bowl), x, y), ravine.loss(jnp.zeros(3), x, y)
    run, losses = ravine.begin(method)[0], []
    while len(losses) <= counted < CAP:
        found = program(x=x, y=y, plane=jnp.float32(bowl.plane()), run=run, rate=rate)
        run, losses = found["run"], [*losses, *found["losses"]]
    arrived = np.asarray(losses) <= lowest + NEAR * (first - lowest)
    assert counted == 1 + int(np.argmax(arrived)) > 5


def test_the_loss_is_the_same_all_along_a_contour(hue):
    inputs, y, bowls = hue
    for x, bowl in zip(inputs, bowls, strict=True):
        land = ravine.landscape(x, y, minimum(bowl), jnp.asarray(bowl.plane(), jnp.float32))
        points = jnp.insert(land["contours"], 1, 0.0, axis=-1)  # the weight of the column of zeros
        losses = jax.vmap(jax.vmap(ravine.loss, (0, None, None)), (0, None, None))(points, x, y)
        above = (losses - land["lowest"]) / (land["first"] - land["lowest"])
        np.testing.assert_allclose(above, np.broadcast_to(ravine.RADII[:, None] ** 2, above.shape), rtol=2e-3)
