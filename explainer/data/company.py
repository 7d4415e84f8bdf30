"""Data of the scene "company": a trained network, test digits, their company, and how often it names them rightly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jbn
from explainer.data import Value
from explainer.data._steps import CONFIG, SEEDS, parted, population, right, steps
from explainer.data._training import SOURCE, digits
from explainer.programs.company import SIZES, Tree, flax_alone, network, training_mode

DRAWS, PICTURES, ORDERS = 24, 20, 4


def data() -> dict[str, Any]:
    params = jax.tree.map(lambda leaf: leaf[:, -1], steps().params)
    running, exact = jax.jit(running_averages)(steps().batch), jax.jit(jax.vmap(population))(params)
    images, labels = digits()[1]
    shown = jax.tree.map(lambda leaf: leaf[0], params)
    shares = {size: 100 * in_training_mode(params, size) for size in SIZES}
    by_class = 100 * in_classes(params)
    inference = {
        name: 100 * np.asarray(jax.jit(jax.vmap(right))(params, stats.mean, stats.var))
        for name, stats in (("running", running), ("population", exact))
    }
    keys = jax.random.split(jax.random.key(0), DRAWS)
    company = jax.vmap(lambda key: jax.random.permutation(key, len(labels))[: max(SIZES)])(keys)
    return {
        "source": f"{SOURCE} A share is the mean of {SEEDS} trainings: {CONFIG}. The figure shows the first network.",
        "params": jax.tree.map(np.asarray, shown),
        "stats": {name: by_block(s.mean[0], s.var[0]) for name, s in (("running", running), ("population", exact))},
        "images": images,
        "labels": labels,
        "pictures": PICTURES,
        "company": np.asarray(company, np.uint16),
        "sizes": [1, *SIZES],
        "seeds": SEEDS,
        "right": {str(size): over_seeds(share) for size, share in shares.items()},
        "inference": {name: over_seeds(share) for name, share in inference.items()},
        "lost_64": over_seeds(inference["running"] - shares[64], "pp"),
        "one_class": over_seeds(by_class),
        "one_class_size": one_class_size(),
        "refusal": refusal(shown, images[:1]),
        "flax": flax_says(shown, images),
    }


def running_averages(batch: jbn.Moments) -> jbn.BatchStats:
    """The usual moving average after all steps, with jbn's default momentum; for each seed."""

    def follow(stats: jbn.BatchStats, batch: jbn.Moments) -> tuple[jbn.BatchStats, None]:
        return jbn.update_stats(stats, batch), None

    return jax.vmap(lambda batch: jax.lax.scan(follow, jbn.init_stats(batch.mean.shape[-1]), batch)[0])(batch)


def by_block(mean: jax.Array, var: jax.Array) -> Tree:
    """Statistics as programs/company.py takes them."""
    return {name: jax.tree.map(np.asarray, norm["norm"]) for name, norm in parted(mean, var).items()}


def whole_batch(params: Tree, images: jax.Array) -> jax.Array:
    """As `training_mode`, for all images of a batch."""
    return network(params, images, lambda _, x, p: jbn.batch_norm(x, p["scale"], p["bias"], None, train=True)[0])


def in_training_mode(params: Tree, size: int) -> np.ndarray:
    """The share of test digits named rightly in random batches of test digits, for each seed."""
    images, labels = (jnp.asarray(part, jnp.float32) for part in digits()[1])
    keys = jax.random.split(jax.random.key(size), ORDERS)
    orders = jax.vmap(lambda key: jax.random.permutation(key, len(labels)))(keys)
    rows = orders[:, : len(labels) // size * size].reshape(-1, size)

    def share(params: Tree) -> jax.Array:
        found = jax.vmap(lambda batch: whole_batch(params, images[batch]))(rows)
        return jnp.mean(jnp.argmax(found, -1) == labels[rows])

    return np.asarray(jax.jit(jax.vmap(share))(params))


def in_classes(params: Tree) -> np.ndarray:
    """The same in batches of one class each, as a test set gives them that is sorted; equally many of each class."""
    images, labels = digits()[1]
    rows = np.stack([np.flatnonzero(labels == label)[: one_class_size()] for label in range(10)])
    batches = jnp.asarray(images, jnp.float32)[rows]
    found = jax.jit(jax.vmap(jax.vmap(whole_batch, (None, 0)), (0, None)))(params, batches)
    return np.mean(np.argmax(found, -1) == labels[rows], (1, 2))


def one_class_size() -> int:
    """As many test digits as the rarest class has."""
    return int(np.bincount(digits()[1].labels).min())


def refusal(params: Tree, image: np.ndarray) -> str:
    """What jbn says to a batch of one."""
    try:
        training_mode(params, jnp.asarray(image, jnp.float32))
    except ValueError as error:
        return str(error)
    raise AssertionError("jbn took a batch of one")


def flax_says(params: Tree, images: np.ndarray) -> dict[str, Any]:
    """What Flax makes of each test digit alone: it says the same of all of them."""
    found = np.asarray(jax.jit(jax.vmap(flax_alone, (None, 0)))(params, jnp.asarray(images, jnp.float32)))
    if np.any(found != found[0]):
        raise AssertionError("Flax tells digits apart that are alone; the page says that it does not")
    share = 100 * float(np.mean(found.argmax(-1) == digits()[1].labels))
    return {"right": Value(share, "%", n=len(images)), "pictures": Value(len(images), "test digits")}


def over_seeds(values: np.ndarray, unit: str = "%") -> Value:
    seeds = f"0 to {SEEDS - 1}"
    return Value(float(values.mean()), unit, n=len(values), sd=float(values.std(ddof=1)), seed=seeds, config=CONFIG)
