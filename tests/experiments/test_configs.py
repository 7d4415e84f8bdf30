"""Every config trains: one lane of its last arm for some steps, with a narrow network on random images."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import ROOT

from experiments.config import load
from experiments.data.arrays import Split, batches
from experiments.training.optimizers import Tuned
from experiments.training.step import evaluate, init, train_step, with_population_statistics

CONFIGS = sorted(ROOT.glob("configs/*.py"))
SHAPES = {"digits": (64,), "mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
SMALL = {"mlp": {"hidden": (8, 6)}, "strided_cnn": {"width": 0.5}, "resnet": {"depth": 8, "width": 0.25}}
# Every program here runs a few times, so it is compiled fast. Not at level 0, where XLA:CPU may round a number
# differently in each loop that uses it: the gradient of a maximum, which finds it by equality, is then 0/0 (with Flax's
# norm, too).
FAST = {"xla_backend_optimization_level": 1}


def random_split(shape, n):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 10
    x = rng.normal(size=(n, *shape)) + rng.normal(size=(10, *shape))[y]
    return Split(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_last_arm_of_every_config_trains_and_is_evaluated(path):
    config = load(path)
    setup = config.setup(config.arms[-1])
    narrow = SMALL.get(setup.model.network, {"width": 1 / 32})
    setup = setup._replace(model=replace(setup.model, **narrow))
    shape = SHAPES[setup.data.name]
    data = random_split((*(size // setup.data.shrink for size in shape[:2]), *shape[2:]), 8)
    compiled = partial(jax.jit, compiler_options=FAST)
    state = compiled(partial(init, setup, 10))(jnp.int32(0), data.x)
    first = state.params
    step = compiled(lambda s: train_step(setup, 10, 6, s, Tuned(1e-3, 1e-4, False), jnp.arange(8), data))
    losses = []
    for _ in range(4):
        state, loss = step(state)
        losses.append(float(loss))
    assert np.isfinite(losses).all() and int(state.step) == 4 and int(state.diverged) == -1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), first, state.params)
    only_norm, frozen = setup.optimizer.trains == "norm", setup.model.network == "simple8"
    for path, moves in flatten_dict(moved).items():
        if path[-1] == "kernel":
            assert moves is not only_norm, path
        elif path[-1] == "scale":
            assert moves is not frozen, path
    parts = batches(data, 4)
    found = jax.eval_shape(  # only traced: training/test_step.py runs it
        lambda s: evaluate(setup, 10, with_population_statistics(setup, 10, s, parts), parts, by_batch=True), state
    )
    assert found.loss.shape == found.correct.shape == ()
