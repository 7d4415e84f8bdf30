"""Small versions of every network, with any norm, and variables away from their initial values."""

import itertools
import math
from functools import partial

import jax
import numpy as np
from flax import linen as nn

import jbn.linen
from experiments.networks import (
    NETWORKS,
    no_norm,
)

BATCH = partial(jbn.linen.BatchNorm, use_running_average=False)
NORMS = {
    "batch": BATCH,
    "renorm": partial(jbn.linen.BatchRenorm, use_running_average=False),
    "layer": nn.LayerNorm,
    "group": partial(nn.GroupNorm, num_groups=2),
    "none": no_norm,
}
# Small enough to run, with every kind of layer that the full network has.
TINY = {
    "mlp": dict(hidden=(8, 6, 4)),
    "strided_cnn": dict(width=1 / 2),
    "cnn9": dict(width=1 / 16),
    "vgg16": dict(width=1 / 16),
    "simple8": dict(width=1 / 16),
    "resnet": dict(depth=8, width=1 / 4),
    "wrn": dict(depth=10, width=1 / 4),
    "airbench94": dict(width=1 / 16),
}
WHERE = {"wrn": "full_preactivation"}  # the published unit
PLAIN = [name for name in NETWORKS if name not in ("resnet", "wrn")]
AGREEING = [name for name in NETWORKS if name not in ("vgg16", "wrn")]
CIFAR, MNIST = (32, 32, 3), (28, 28, 1)
# Every program here runs once, so it is compiled fast.
ONCE = {"xla_backend_optimization_level": 0}


def network(name, where=None, **options):
    """A network by name, of 10 classes, with batch norm and ReLU; `where` is a placement or a unit."""
    order = {"placement": where or "before"} if name in PLAIN else {"unit": where or "original"}
    return NETWORKS[name](**(dict(classes=10, activation=jax.nn.relu, norm=BATCH) | order | options))


def images(n=4, shape=CIFAR, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1, (n, *shape)).astype(np.float32)


def filled(model, x, seed=0):
    """Random variables of a model, all away from their initial values; compiles no initializer."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return rng.normal(0, math.sqrt(2 / math.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        low, high = {"scale": (0.5, 1.5), "var": (0.5, 1.5), "bias": (-0.3, 0.3), "mean": (-0.3, 0.3)}.get(kind, (0, 0))
        return rng.uniform(low, high, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), x))


def apply(model, variables, x):
    """Logits, and the variables that the forward pass updated and sowed."""
    run = partial(model.apply, mutable=["batch_stats", "intermediates"])
    return jax.jit(run, compiler_options=ONCE)(variables, x)


# Size


def conv(kernel, *features, norm=2, bias=0):
    """Parameter count of a chain of convolutions, each with `norm` and `bias` parameters per output."""
    return sum(kernel**2 * a * b + (norm + bias) * b for a, b in itertools.pairwise(features))


def resnet_parameters(n):
    """He et al. 2015, section 4.2: 6n + 2 layers, 16 to 64 features, batch norm after each, no shortcut parameters."""
    stages = conv(3, *(2 * n + 1) * [16]) + conv(3, 16, *2 * n * [32]) + conv(3, 32, *2 * n * [64])
    return conv(3, 3, 16) + stages + 64 * 10 + 10
