"""Scene "jacobian": how every output of a batch norm depends on every input of the batch, for one feature."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jbn
from explainer.programs import Program


def training(x: jax.Array, where: jax.Array) -> jax.Array:
    """The outputs of batch norm in training: mean and variance are those of the examples, and move with them."""
    y, _, _ = jbn.batch_norm(x[:, None], None, None, None, train=True, where=where[:, None])
    return y[:, 0]


def constants(x: jax.Array, batch: jbn.Moments) -> jax.Array:
    """The outputs where mean and variance stay what they are, as in inference."""
    return jbn.normalize(x[:, None], batch.mean, batch.var)[:, 0]


def company(x: jax.Array, step: jax.Array, target: jax.Array, where: jax.Array) -> dict[str, Any]:
    """Both, for one feature of a batch: outputs, outputs after a `step` of the inputs, Jacobians, gradient of a bias.

    `where` is True for the examples that are in the batch. The step is counted in standard deviations, and so are the
    inputs by which the Jacobians are taken.
    """
    batch = jbn.moments(x[:, None], where=where[:, None])
    std = jnp.sqrt(batch.var[0])

    def study(norm: Any) -> dict[str, jax.Array]:
        def loss_of_bias(bias: jax.Array) -> jax.Array:
            return jnp.mean(optax.l2_loss(norm(x + bias * std), target), where=where)

        return {
            "before": norm(x),
            "after": norm(x + step * std),
            "jacobian": jax.jacobian(norm)(x) * std,
            "bias_gradient": jax.grad(loss_of_bias)(0.0),
        }

    return {"training": study(lambda x: training(x, where)), "constants": study(lambda x: constants(x, batch))}


X = np.array([13.7, 12.4, 13.4, 12.3, 14.1, 12.9, 13.0, 11.8], np.float32)
PROGRAMS = {
    "company": Program(
        company,
        {"x": X, "step": np.eye(8, dtype=np.float32)[0], "target": np.ones(8, np.float32), "where": np.arange(8) < 6},
    )
}
