"""Run by test_distributed.py in one or more processes: writes some short trainings, and a masked norm, as npz files."""

import dataclasses
import platform
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

import jbn.linen
from experiments.config import AugmentationConfig, Config, ModelConfig
from experiments.data.arrays import Data, Source, Split, batch_order
from experiments.training import compiled, processes
from experiments.training.devices import over_examples, put_by_lane, put_on_all
from experiments.training.scope import scoped

SPREAD = compiled.Engine("loop", "spread")


def source(shape):
    """Random examples in three classes; 61 of them, so that no batch of 20 or part of it is all of them."""
    rng = np.random.default_rng(0)

    def part(n):
        return Split(jnp.asarray(rng.normal(size=(n, *shape)), jnp.float32), jnp.arange(n, dtype=jnp.int32) % 3)

    data = Data(part(61), part(17), part(23))
    return Source(lambda seed: data, 3, False, {})


def cases():
    """Batches of 10 on four devices do not divide; the scopes' batches must."""
    mlp = first_of(Config("mlp", placements=("before",), model=ModelConfig(hidden=(9, 7))))
    images = Config(
        "cnn",
        placements=("after",),
        model=ModelConfig(network="strided_cnn", width=0.25),
        augmentation=AugmentationConfig(pad_crop=2, flip=True),
    )
    yield "uneven", sized(mlp, 10), (5,)
    yield "images", sized(first_of(images), 10), (12, 12, 1)
    host = "host" if jax.process_count() > 1 else 2  # groups of two devices stand for hosts of two
    yield "host", sized(mlp, 20, norm_scope=host), (5,)
    yield "device", sized(mlp, 20, norm_scope=1), (5,)


def first_of(config):
    return config.setup(config.arms[0])


def sized(setup, batch, **model):
    training = dataclasses.replace(setup.training, batch_size=batch, epochs=1)
    return setup._replace(training=training, model=dataclasses.replace(setup.model, **model))


def trained(setup, data):
    """State after an epoch, losses, and the evaluation of a split whose last batch is padded."""
    lane = compiled.Lane(0.1, 0.0, False, 4)
    mesh, _ = compiled.layout(setup, SPREAD, 1)
    split = compiled.place("train", data, [lane], mesh)
    state, tuned = compiled.start(setup, data.classes, mesh, [lane], split)
    order = batch_order(setup.training, np.asarray(data.of(0).train.y), lane.seed, 0)
    losses = []
    for step in range(len(order)):
        one = put_by_lane(order[None, step : step + 1], mesh)
        state, loss = compiled.run_steps(setup, data.classes, mesh, len(order), SPREAD, state, tuned, one, split)
        losses.append(loss)
    test = compiled.in_batches(7, mesh, compiled.place("test", data, [lane], mesh))
    found = compiled.evaluate_lanes(setup, data.classes, mesh, False, state, test)
    population = compiled.population_lanes(setup, data.classes, mesh, state, test)
    return jax.device_get((state.params, state.batch_stats, population.batch_stats, np.array(losses), found))


def masked():
    """A norm whose mask leaves out examples, all of the last device among them: outputs, statistics, gradient."""
    mesh, norm = compiled.layout(next(cases())[1], SPREAD, 1).mesh, jbn.linen.BatchNorm(use_running_average=False)
    x = np.random.default_rng(1).normal(3, 2, (12, 5)).astype(np.float32)
    mask = np.arange(12)[:, None] % 3 < 2
    mask[9:] = False
    variables = norm.init(jax.random.key(0), jnp.asarray(x))

    def run(variables, x, mask):
        x, mask = over_examples((x, mask), mesh)

        def loss(params):
            y, new = norm.apply({**variables, "params": params}, x, mask=mask, mutable=["batch_stats"])
            return jnp.where(mask, jnp.sin(y), 0).sum(), (y, new)

        (_, (y, new)), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        out = jnp.where(mask, y, 0), new, gradient
        return jax.lax.with_sharding_constraint(out, jax.sharding.NamedSharding(mesh, PartitionSpec()))

    return jax.device_get(jax.jit(run)(*put_on_all((jax.device_get(variables), x, mask), mesh)))


if __name__ == "__main__":
    folder, coordinator, count, index = sys.argv[1:]
    platform.node = lambda: f"host {index}"
    processes.join(processes.Cluster(coordinator, int(count), int(index)))
    assert processes.told(lambda: {"index": jax.process_index(), "long": "x" * 10_000})["index"] == 0
    results = {name: trained(scoped(setup, True), source(shape)) for name, setup, shape in cases()}
    results["masked"] = masked()
    for name, tree in results.items():
        leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        np.savez(Path(folder) / f"{name}.npz", **leaves)
