"""Scene "company": what a trained network says of one picture, by what its batch norms normalize with.

The network is that of programs/_digits.py, written out: three layers, each followed by a norm and ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jbn
from explainer.programs import Program

BLOCKS = ("block_0", "block_1", "block_2")
Tree = dict[str, Any]


def network(params: Tree, images: jax.Array, norm: Callable[[str, jax.Array, Tree], jax.Array]) -> jax.Array:
    """The probabilities of the ten digits for each image; `norm` is told the block's name, its input and parameters."""
    x = images / 8 - 1
    for name in BLOCKS:
        x = jax.nn.relu(norm(name, x @ params[name]["layer"]["kernel"], params[name]["norm"]))
    return jax.nn.softmax(x @ params["head"]["kernel"] + params["head"]["bias"])


def training_mode(params: Tree, images: jax.Array) -> jax.Array:
    """Normalizes by the batch, which is all `images`. Returns the first one's probabilities."""

    def norm(name: str, x: jax.Array, p: Tree) -> jax.Array:
        return jbn.batch_norm(x, p["scale"], p["bias"], None, train=True)[0]

    return network(params, images, norm)[0]


def inference_mode(params: Tree, stats: Tree, image: jax.Array) -> jax.Array:
    """Normalizes by `stats`, mean and variance of each block: running averages, or the population's statistics."""

    def norm(name: str, x: jax.Array, p: Tree) -> jax.Array:
        return jbn.batch_norm(x, p["scale"], p["bias"], jbn.BatchStats(**stats[name]), train=False)[0]

    return network(params, image[None], norm)[0]


def flax_alone(params: Tree, image: jax.Array) -> jax.Array:
    """Flax's batch norm in training mode, on a batch of this image alone. jbn refuses that."""

    def norm(name: str, x: jax.Array, p: Tree) -> jax.Array:
        layer = nn.BatchNorm(use_running_average=False)
        stats = {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])}
        return layer.apply({"params": p, "batch_stats": stats}, x, mutable=["batch_stats"])[0]

    return network(params, image[None], norm)[0]


def example() -> tuple[Tree, Tree]:
    """Parameters and statistics of the shapes that the scene has."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    sizes = dict(zip(BLOCKS, (64, 32, 32), strict=True))
    params: Tree = {
        name: {"layer": {"kernel": draw(size, 32)}, "norm": {"scale": 1 + draw(32), "bias": draw(32)}}
        for name, size in sizes.items()
    }
    params["head"] = {"kernel": draw(32, 10), "bias": draw(10)}
    return params, {name: {"mean": draw(32), "var": 1 + draw(32) ** 2} for name in BLOCKS}


PARAMS, STATS = example()
IMAGES = np.random.default_rng(1).integers(0, 17, (64, 64)).astype(np.float32)
SIZES = (2, 4, 8, 16, 32, 64)
PROGRAMS = {
    **{f"training_mode_{n}": Program(training_mode, {"params": PARAMS, "images": IMAGES[:n]}) for n in SIZES},
    "inference_mode": Program(inference_mode, {"params": PARAMS, "stats": STATS, "image": IMAGES[0]}),
    "flax_alone": Program(flax_alone, {"params": PARAMS, "image": IMAGES[0]}),
}
