"""experiments.training.compiled: programs of many lanes give each lane the data of its seed, and reuse memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_arms import BEFORE, OWN_SPLITS, lane, make_data, one_split

from experiments.config import ModelConfig
from experiments.data.arrays import Data, Source, Split, batches
from experiments.networks import Whitening
from experiments.training.compiled import Engine, Shared, in_batches, over_lanes, place, run_steps, start
from experiments.training.devices import mesh_of
from experiments.training.step import init


def whitened(classes):
    return nn.Sequential([Whitening(), lambda x: x.mean((1, 2)), nn.Dense(classes)])


@pytest.mark.parametrize("lanes", [3, 16])
def test_shared_arguments_go_to_every_lane_whole_and_others_by_their_leading_axis(lanes):
    mesh = mesh_of(lanes)
    own = jnp.arange(3.0 * lanes).reshape(lanes, 3)
    found = over_lanes(
        lambda c, x, by: (x * by["factor"] + c).sum(), mesh, Shared(7.0), own, Shared({"factor": own[0]})
    )
    np.testing.assert_array_equal(found, own @ own[0] + 21)


@pytest.mark.parametrize("seeds", [(4, 9, 4), range(16)])
def test_every_lane_gets_the_data_and_the_batches_of_its_seed(seeds):
    mesh, lanes = mesh_of(len(seeds)), [lane(0.1, seed) for seed in seeds]
    test = place("test", OWN_SPLITS, lanes, mesh)
    cut = in_batches(8, mesh, test)
    for i, seed in enumerate(seeds):
        expected = make_data(seed).test
        for a, b in zip(jax.tree.leaves((test, cut)), jax.tree.leaves((expected, batches(expected, 8))), strict=True):
            np.testing.assert_array_equal(a[i], b, strict=True)
    for leaf in jax.tree.leaves((test, cut)):
        assert len(leaf.sharding.device_set) == len(mesh.devices) and not leaf.sharding.is_fully_replicated


def test_data_that_all_lanes_share_are_once_on_every_device():
    data, mesh = make_data(), mesh_of(8)
    test = place("test", one_split(data), [lane(0.1, seed) for seed in range(16)], mesh)
    cut = in_batches(8, mesh, test)
    assert isinstance(test, Shared) and isinstance(cut, Shared)
    for a, b in zip(jax.tree.leaves((test, cut)), jax.tree.leaves((data.test, batches(data.test, 8))), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
        assert a.sharding.device_set == set(mesh.devices) and a.sharding.is_fully_replicated


def test_a_whitening_layer_whitens_the_images_of_its_lanes_seed():
    def images(seed):
        rng = np.random.default_rng(seed)
        part = Split(jnp.asarray(rng.normal(size=(30, 5, 6, 2)), jnp.float32), jnp.asarray(rng.integers(0, 3, 30)))
        return Data(part, part, part)

    setup = BEFORE._replace(model=ModelConfig(network=f"{__name__}:whitened"))
    mesh, seeds = mesh_of(2), (5, 6, 7, 5)
    lanes = [lane(0.1, seed) for seed in seeds]
    state, _ = start(setup, 3, mesh, lanes, place("train", Source(images, 3, True, {}), lanes, mesh))
    (kernels,) = jax.tree.leaves(state.constants)
    for kernel, seed in zip(kernels, seeds, strict=True):
        (alone,) = jax.tree.leaves(init(setup, 3, jnp.int32(seed), images(seed).train.x).constants)
        np.testing.assert_allclose(kernel, alone, rtol=1e-3, atol=1e-4)


def test_a_training_step_gives_its_state_away():
    mesh, lanes = mesh_of(1), [lane(0.1, 0)]
    train = place("train", one_split(make_data()), lanes, mesh)
    for steps in ("scan", "loop"):
        state, tuned = start(BEFORE, 3, mesh, lanes, train)
        order = jnp.zeros((1, 2, 10), jnp.int32)
        run_steps(BEFORE, 3, mesh, 2, Engine(steps, "vmap"), state, tuned, order, train)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
