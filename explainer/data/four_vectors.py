"""Data of the scene "four_vectors": the variables of real networks, for every setting of its controls."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from sklearn.datasets import load_digits

import jbn.linen
from experiments.networks import NETWORKS, PUBLISHED_NORM
from explainer.data import Value
from explainer.programs.four_vectors import Network, NnxBlock, forward_only, other_names

LAYERS, WIDTHS = (1, 2, 3, 4), (8, 16, 32)
BATCHES, SIZE = 20, 64
VECTORS = (("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var"))


def flat(variables: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(variables, sep="/")


def tree(kind: str, layers: int, width: int) -> list[dict[str, Any]]:
    """Path and shape of every variable, as `init` makes them."""
    init = jax.eval_shape(Network(kind, layers, width).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    return [{"path": path, "shape": list(leaf.shape)} for path, leaf in flat(init).items()]


def values(kind: str, width: int, digits: jax.Array) -> dict[str, np.ndarray]:
    """`[block, width]`: each of the four at init, and after 20 batches. No block sees the blocks behind it."""
    network = Network(kind, max(LAYERS), width)

    @jax.jit
    def run(key: jax.Array) -> tuple[Any, Any]:
        init = network.init(key, digits[0])
        return init, {**init, "batch_stats": forward_only(network, init, digits)}

    init, after = run(jax.random.key(0))
    found = {}
    for when, variables in (("init", init), ("after", after)):
        for collection, name in VECTORS:
            blocks = [variables[collection][f"block_{i}"]["norm"][name] for i in range(max(LAYERS))]
            found[f"{name}_{when}"] = np.stack(blocks).astype(np.float16)
    return found


def names() -> list[dict[str, str]]:
    """What the four are called in each library."""
    paths = {
        path[-1]: (path, variable) for path, variable in nnx.to_flat_state(nnx.state(NnxBlock(64, 8, nnx.Rngs(0))))
    }
    others = {
        library: {int(entry[0]): name for name, entry in entries.items() if entry.shape == (1,)}
        for library, entries in other_names().items()
    }
    found = []
    for value, (collection, name) in enumerate(VECTORS, 1):
        path, variable = paths[name]
        own = {
            "linen": f"{collection}/block_0/norm/{name}",
            "nnx": f"{'.'.join(map(str, path))}: {type(variable).__name__}",
        }
        found.append(own | {library: entries[value] for library, entries in others.items()})
    return found


def gradients(digits: jax.Array, labels: np.ndarray) -> dict[str, Value]:
    """The largest gradient of a loss in training mode: of the two learnt vectors, and of the two counted."""
    network = Network("dense", 1, 8)
    init = jax.jit(network.init)(jax.random.key(0), digits)

    def loss(variables: Any) -> jax.Array:
        logits, _ = network.apply(variables, digits, mutable=["batch_stats"])
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    norms = {path: np.abs(g).max() for path, g in flat(jax.jit(jax.grad(loss))(init)).items() if "/norm/" in path}
    largest = {kind: max(float(g) for path, g in norms.items() if path.startswith(kind)) for kind, _ in VECTORS}
    config = f"one dense layer of 8, a batch of {SIZE} digits"
    return {
        "gradient_learnt": Value(largest["params"], seed="0", config=config),
        "gradient_counted": Value(largest["batch_stats"], seed="0", config=config),
    }


def resnet() -> dict[str, Value]:
    """ResNet-20, as the laboratory trains it: how many numbers it learns, and how many its norms learn and count."""
    norm = partial(jbn.linen.BatchNorm, use_running_average=False, **PUBLISHED_NORM["resnet"])
    network = NETWORKS["resnet"](depth=20, unit="original", classes=10, activation=jax.nn.relu, norm=norm)
    init = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    size = {path: int(np.prod(leaf.shape)) for path, leaf in flat(init).items()}
    vectors = [path for path in size if path.startswith("batch_stats") and path.endswith("/mean")]
    counted = sum(count for path, count in size.items() if path.startswith("batch_stats"))
    params = sum(count for path, count in size.items() if path.startswith("params"))
    learnt = sum(
        size[path.replace("batch_stats", "params").replace("/mean", f"/{name}")]
        for path in vectors
        for name in ("scale", "bias")
    )
    config = "ResNet-20 for images of 32 x 32"
    return {
        "resnet_norms": Value(len(vectors), config=config),
        "resnet_parameters": Value(params, config=config),
        "resnet_learnt": Value(learnt, config=config),
        "resnet_share": Value(learnt / params, config=config),
        "resnet_counted": Value(counted, config=config),
    }


def data() -> dict[str, Any]:
    pixels, labels = load_digits(return_X_y=True)
    images = jnp.asarray(np.asarray(pixels)[: BATCHES * SIZE].reshape(BATCHES, SIZE, 8, 8, 1) / 16, jnp.float32)
    kinds = ("dense", "convolution")
    return {
        "source": f"Networks initialized with seed 0; {BATCHES} batches of {SIZE} handwritten digits (scikit-learn).",
        "batches": BATCHES,
        "widths": WIDTHS,
        "trees": {f"{k} {n} {w}": tree(k, n, w) for k in kinds for n in LAYERS for w in WIDTHS},
        "values": {f"{k} {w}": values(k, w, images) for k in kinds for w in WIDTHS},
        "names": names(),
        **gradients(images[0], np.asarray(labels)[:SIZE]),
        **resnet(),
    }
