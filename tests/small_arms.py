"""Arms that train quickly on random data, and a config that runs quickly."""

import re
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from experiments.config import (
    Arm,
    Config,
    ModelConfig,
    SweepConfig,
    TrainingConfig,
)
from experiments.data.arrays import Data, Source, Split
from experiments.training.compiled import Engine, Lane

CONFIG = Config(
    name="x",
    model=ModelConfig(hidden=(9, 8), momentum=0.8),
    training=TrainingConfig(batch_size=10, epochs=3),
    sweep=SweepConfig(seeds=4),
)
# A config that runs quickly, on the digits.
TINY = Config(
    name="tiny",
    placements=("before",),
    activations=("tanh",),
    model=ModelConfig(hidden=(5,)),
    training=TrainingConfig(epochs=3, steps="scan", lanes="vmap"),
    sweep=SweepConfig(lowest_learning_rate=0.05, learning_rate_points=2, learning_rate_extension=0, seeds=3),
)
BEFORE = CONFIG.setup(Arm("before", "tanh"))
NONE = CONFIG.setup(Arm("none", "relu"))
ENGINES = [Engine(steps, lanes) for steps in ("scan", "loop") for lanes in ("vmap", "sequence")]
SCAN = ENGINES[0]
# The other two combine the same parts; they take minutes on a busy machine.
TESTED = [pytest.param(engine, id=f"{engine.steps}-{engine.lanes}", marks=[pytest.mark.long] if i in (1, 2) else [])
          for i, engine in enumerate(ENGINES)]  # fmt: skip


def lane(rate, seed, decay=0.0, norms=False):
    return Lane(rate, decay, norms, seed)


def make_data(rng=0):
    rng = np.random.default_rng(rng)

    def split(n):
        y = rng.integers(0, 3, n)
        x = rng.normal(0, 1, (n, 5)) + 1.5 * np.eye(3)[y] @ rng.normal(0, 1, (3, 5))
        return Split(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))

    return Data(split(47), split(13), split(23))


def one_split(data):
    """Data in three classes, the same for all seeds."""
    return Source(lambda seed: data, 3, False, {})


# Each seed has data of its own, which have nothing in common with those of other seeds.
OWN_SPLITS = Source(cache(make_data), 3, True, {})


def documented_network(file="my_networks", name="tiny"):
    """The function of the documentation's example of a network, under its name there."""
    code = re.search(rf"```python\n# {file}\.py.*?\n(.*?)```", (ROOT / "docs/laboratory.md").read_text(), re.S)
    assert code, "docs/laboratory.md shows how to add a network"
    names: dict = {"__name__": file}
    exec(code[1], names)
    return names[name]
