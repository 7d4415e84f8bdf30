"""Scene "wrong": the same input through jbn's batch norm and through Flax's, all in training mode.

The page adds in float64 and rounds each sum once; XLA rounds partial sums, in an order that depends on the device. At
large means Flax's results depend on it, and jbn's do not.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jbn
from explainer.programs import Program

DEVICES = 2


def flax(x: jax.Array, where: jax.Array | None = None, scale: Any = None, **options: Any) -> tuple[jax.Array, Any]:
    """Flax's module, `[batch, features]`, with a scale of 1 and a bias of 0 unless given: y and the batch's moments."""
    ones, zeros = jnp.ones(x.shape[-1]), jnp.zeros(x.shape[-1])
    params = {"scale": ones if scale is None else scale, "bias": zeros}
    variables = {"params": params, "batch_stats": {"mean": zeros, "var": ones}}
    layer = nn.BatchNorm(use_running_average=False, momentum=0.0, **options)
    y, updates = layer.apply(variables, x, mask=where, mutable=["batch_stats"])
    return y, updates["batch_stats"]


def large_mean(x: jax.Array, offset: jax.Array) -> dict[str, jax.Array]:
    """jbn: `x` with a large mean. Returns also what was normalized, as float32 can hold it."""
    x = x + offset
    y, _, info = jbn.batch_norm(x, None, None, None, train=True)
    assert info.moments is not None
    return {"x": x, "y": y, "var": info.moments.var}


def large_mean_flax(x: jax.Array, offset: jax.Array) -> dict[str, jax.Array]:
    """Flax: by default the variance is E[x²] - E[x]²; two passes are an option."""
    y, fast = flax(x + offset)
    slow_y, slow = flax(x + offset, use_fast_variance=False)
    return {"y": y, "var": fast["var"], "two_pass_y": slow_y, "two_pass_var": slow["var"]}


def padded(x: jax.Array, where: jax.Array, target: jax.Array, scale: jax.Array) -> dict[str, Any]:
    """Padding under a mask: each library's output, and the gradient of scale of a loss that also masks the padding."""

    def loss(scale: jax.Array, normalize: Any) -> tuple[jax.Array, jax.Array]:
        y = normalize(scale)
        return jnp.where(where, (y - target) ** 2, 0.0).sum() / where.sum(), y

    def by_jbn(scale: jax.Array) -> jax.Array:
        return jbn.batch_norm(x, scale, jnp.zeros(x.shape[-1]), None, train=True, where=where)[0]

    def by_flax(scale: jax.Array) -> jax.Array:
        return flax(x, where, scale)[0]

    results = {}
    for name, normalize in {"jbn": by_jbn, "flax": by_flax}.items():
        gradient, y = jax.grad(loss, has_aux=True)(scale, normalize)
        results[name] = {"y": y, "gradient": gradient}
    return results


def sharded(x: jax.Array, where: jax.Array) -> dict[str, jax.Array]:
    """The mean of a batch that is spread over devices, `[device, example, feature]`, as every device sees it."""

    def on_device(x: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, _, info = jbn.batch_norm(x, None, None, None, train=True, where=where, axis_name="devices")
        assert info.moments is not None
        return info.moments.mean, flax(x, where, axis_name="devices")[1]["mean"]

    own, flaxs = jax.vmap(on_device, axis_name="devices")(x, where)
    return {"jbn": own[0], "flax": flaxs[0]}


COLUMN = np.linspace(-2, 2, 64, dtype=np.float32)[:, None]
LARGE = {"x": COLUMN, "offset": np.float32(0)}
KEPT = np.ones((8, 1), bool)
ROWS = COLUMN[::8]
PROGRAMS = {
    "large_mean": Program(large_mean, LARGE),
    "large_mean_flax": Program(large_mean_flax, LARGE, unstable="E[x²] - E[x]² of a large mean is mostly rounding"),
    "padded": Program(padded, {"x": ROWS[:6], "where": KEPT[:6], "target": ROWS[2:], "scale": np.ones(1, np.float32)}),
    "sharded": Program(sharded, {"x": ROWS.reshape(DEVICES, 4, 1), "where": KEPT.reshape(DEVICES, 4, 1)}),
}
