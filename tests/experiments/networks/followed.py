"""Some steps of the laboratory's own training, for the same network in several libraries."""

from dataclasses import replace
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
from small_arms import CONFIG, make_data

from experiments.config import Arm, ModelConfig, OptimizerConfig
from experiments.data.arrays import batches
from experiments.training.optimizers import Tuned
from experiments.training.step import evaluate, init, train_step, with_population_statistics

DATA = make_data()
CLASSES, STEPS = 3, 6


def model_of(network, **fields):
    name = network if ":" in network else f"own_networks:{network}"
    return ModelConfig(network=name, **fields)


def config_of(network, placement="before", **fields):
    return replace(CONFIG, activations=("relu",), placements=(placement,), model=model_of(network, **fields))


def setup_of(network, optimizer, **fields):
    setup = CONFIG.setup(Arm("before", "tanh"))
    return setup._replace(model=model_of(network, activation="tanh", **fields), optimizer=optimizer)


@cache
def initial_params(**fields):
    """Those of the network in linen, with which all others begin."""
    return init(setup_of("Linen", OptimizerConfig(), **fields), CLASSES, jnp.int32(1), DATA.train.x).params


def transposed(tree):
    """The same with transposed kernels, which are `[outputs, inputs]` in Equinox."""

    def one(path, leaf):
        return leaf.T if getattr(path[-1], "key", None) == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(one, tree)


def followed(network, optimizer, **fields):
    """Losses, the last state, population statistics and evaluations after some steps."""
    setup, turned = setup_of(network, optimizer, **fields), transposed if "equinox" in network else lambda tree: tree
    params = turned(initial_params(**fields))
    state = init(setup, CLASSES, jnp.int32(1), DATA.train.x)
    chex.assert_trees_all_equal_shapes(state.params, params)
    state = state._replace(params=params)
    losses = []
    step = jax.jit(partial(train_step, setup, CLASSES, STEPS))
    for i in range(STEPS):
        rows = jnp.arange(10) + 7 * i % 37
        state, loss = step(state, Tuned(0.3, 0.1, True), rows, DATA.train)
        losses.append(loss)
    test, train = batches(DATA.test, 8), batches(DATA.train, 9)
    run = jax.jit(partial(evaluate, setup, CLASSES), static_argnames="by_batch")
    found, population = [run(state, test)], state
    if state.batch_stats:
        population = jax.jit(partial(with_population_statistics, setup, CLASSES))(state, train)
        found += [run(population, test), run(state, test, by_batch=True)]
    return losses, turned(state), population.batch_stats, [(one.loss, one.correct) for one in found]
