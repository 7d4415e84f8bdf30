"""What is timed: batch norm alone, a network for several seeds, and stacks of layers."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jbn
import jbn.linen
from experiments.networks import MLP

STACKS = ("unrolled", "scan", "residual", "norms alone", "norms alone, flax")
COMPILES = 3  # the fastest counts


def normal(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def both_passes(x: jax.Array, dy: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None = None) -> Any:
    """y, new running statistics, and the gradients of Σ dy·y."""

    def forward(x, scale, bias):
        stats = jbn.init_stats(x.shape[-1])
        y, stats, _ = jbn.batch_norm(x, scale, bias, stats, train=True, axis_name=axis_name)
        return y, stats

    y, vjp, stats = jax.vjp(forward, x, scale, bias, has_aux=True)
    return y, stats, vjp(dy)


def norm_call(shape: tuple[int, ...]) -> Callable[[], Any]:
    return partial(jax.jit(both_passes), normal(shape), normal(shape, 1), jnp.ones(shape[-1]), jnp.zeros(shape[-1]))


def seeds_call(seeds: int) -> Callable[[], Any]:
    """Gradients of the MLP 784-100-100-100-10 on batches of 60, for `seeds` seeds by vmap."""
    norm = partial(jbn.linen.BatchNorm, use_running_average=False)
    model = MLP(classes=10, activation=jax.nn.sigmoid, norm=norm, placement="before")
    x, y = normal((seeds, 60, 784)), jnp.zeros((seeds, 60), jnp.int32)
    variables = jax.jit(jax.vmap(lambda key: model.init(key, x[0])))(jax.random.split(jax.random.key(0), seeds))

    def gradient(variables, x, y):
        def loss(params):
            logits, new = model.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean(), new

        return jax.grad(loss, has_aux=True)(variables["params"])

    return partial(jax.jit(jax.vmap(gradient)), variables, x, y)


def stack_call(layers: int, how: str) -> tuple[Callable[[], Any], float]:
    """A call that runs a stack of layers forward and backward, and the seconds that it took to compile.

    A layer is a product with a small matrix, batch norm and ReLU. In "residual", batch norm and ReLU come before the
    product, and the layer's input is added. In "norms alone" there is no product: unless something stops it, XLA
    recomputes all preceding norms in each sum over a norm's input, which makes the work grow with layers².
    """
    x, weight, affine = normal((4096, 32)), normal((32, 32)) / 6, (jnp.ones((layers, 32)), jnp.zeros((layers, 32)))
    norm = flax_norm if how.endswith("flax") else jbn_norm

    def layer(x, affine):
        if how == "residual":
            return x + norm(x, *affine) @ weight, None
        return norm(x if how.startswith("norms alone") else x @ weight, *affine), None

    def loss(x, affine):
        if how == "scan":
            return jnp.sum(jax.lax.scan(layer, x, affine)[0] ** 2)
        for i in range(layers):
            x, _ = layer(x, jax.tree.map(lambda a: a[i], affine))  # noqa: B023
        return jnp.sum(x**2)

    calls = {}
    for _ in range(COMPILES):
        # A new function each time, since jax caches what it has compiled.
        step = jax.jit(jax.grad(lambda *arrays: loss(*arrays), (0, 1))).lower(x, affine)
        began = time.perf_counter()
        compiled = step.compile()
        calls[time.perf_counter() - began] = partial(compiled, x, affine)
    return calls[min(calls)], min(calls)


def jbn_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return jbn.batch_norm(x, scale, bias, None, train=True, activation=jax.nn.relu)[0]


def flax_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> Any:
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": bias, "var": scale}}
    layer = nn.BatchNorm(use_running_average=False)
    return nn.relu(layer.apply(variables, x, mutable=["batch_stats"])[0])  # type: ignore[arg-type]
