"""A training whose examples are spread over devices has the numbers of one device, uneven batches included."""

import dataclasses
import re
from collections import Counter

import jax
import numpy as np
import pytest
from small_arms import BEFORE, TINY, lane, make_data, one_split

from experiments import sweep
from experiments.config import AugmentationConfig, ConfigError, ModelConfig
from experiments.data.arrays import Data, Split, load
from experiments.training.compiled import Engine, layout, place, start, step_lanes
from experiments.training.devices import put_by_lane
from experiments.training.fingerprint import describe
from experiments.training.loop import train_arm
from experiments.training.scope import scoped

DATA = one_split(make_data())
ALONE = Engine("loop", "sequence")
CURVES = ("train_loss", "val_loss", "val_accuracy", "test_loss", "test_loss_population", "test_loss_batch")


def changed(batch=10, **model):
    training = dataclasses.replace(BEFORE.training, batch_size=batch, epochs=2)
    return BEFORE._replace(training=training, model=dataclasses.replace(BEFORE.model, **model))


def images(shape=(12, 12, 1), examples=52):
    rng = np.random.default_rng(0)

    def part(n):
        return Split(jax.numpy.asarray(rng.normal(size=(n, *shape)), "float32"), jax.numpy.arange(n) % 3)

    return one_split(Data(part(examples), part(20), part(21)))


def compared(setup, data, engine, other=None, probe=False):
    lanes = [lane(0.1, 0), lane(0.3, 1)]
    here = train_arm(setup, data, lanes, engine, width=2, probe=probe)
    there = train_arm(other or setup, data, lanes, ALONE, width=2, probe=probe)
    for a, b in zip(here, there, strict=True):
        for name in CURVES:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=1e-6, err_msg=name)
        assert a["right"] == b["right"] and a["seed"] == b["seed"] and a["diverged"] is None
        if probe:
            np.testing.assert_allclose(a["probes"]["mean_gap"], b["probes"]["mean_gap"], rtol=1e-4, atol=1e-5)


# Batches of 10 on 8 devices: two examples on most of them, none on the last ones. Test batches are padded.
@pytest.mark.parametrize("steps", ["loop", "scan"])
def test_it_equals_one_device_though_the_batch_does_not_divide(steps):
    assert jax.device_count() == 8
    compared(changed(), DATA, Engine(steps, "spread"), probe=True)


def test_a_convolutional_network_with_random_crops_equals_one_device():
    setup = changed(10, network="strided_cnn", width=0.25, hidden=(100, 100, 100))._replace(
        augmentation=AugmentationConfig(pad_crop=2, flip=True, cutout=3)
    )
    compared(setup, images(), Engine("loop", "spread"))


@pytest.mark.parametrize("devices, virtual", [(1, 4), (4, 16), ("host", None)])
def test_groups_of_devices_compute_what_virtual_batches_do(devices, virtual):
    within = scoped(changed(32, norm_scope=devices), spread=True)
    compared(within, DATA, Engine("loop", "spread"), changed(32, virtual_batch_size=virtual))


def collectives(scope):
    setup = scoped(changed(16, norm_scope=scope), spread=True)
    mesh = layout(setup, Engine("loop", "spread"), 1).mesh
    train = place("train", DATA, [lane(0.1, 0)], mesh)
    state, tuned = start(setup, 3, mesh, [lane(0.1, 0)], train)
    order = put_by_lane(np.arange(16, dtype=np.int32).reshape(1, 1, 16), mesh)
    program = step_lanes.jitted.lower(setup, 3, mesh, 1, state, tuned, order, train).compile().as_text()
    return Counter(re.findall(r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", program))


def test_a_device_that_normalizes_its_own_examples_asks_no_other():
    parameters = len(jax.tree.leaves(start_parameters()))
    own, all_of_them = collectives(1), collectives("global")
    # What is left: the gradient of each parameter, the loss, and the mean of the groups' running statistics.
    assert own.keys() == {"all-reduce"} and own["all-reduce"] <= parameters + 1 + 4
    assert all_of_them["all-reduce"] > own["all-reduce"] - 4 and "all-gather" not in all_of_them


def start_parameters():
    mesh = layout(BEFORE, ALONE, 1).mesh
    return start(BEFORE, 3, mesh, [lane(0.1, 0)], place("train", DATA, [lane(0.1, 0)], mesh))[0].params


@pytest.mark.parametrize(
    "scope, batch, spread, words",
    [
        (
            "host",
            16,
            False,
            "model.norm_scope is 'host', but each training runs on one device; start with --distributed",
        ),
        (3, 16, True, "model.norm_scope is 3, which does not divide the 8 devices"),
        (2, 18, True, "makes 4 groups of the 8 devices; use a multiple of 4, from 8 up"),
        (1, 8, True, "makes 8 groups of the 8 devices; use a multiple of 8, from 16 up"),
    ],
)
def test_a_scope_that_cannot_be_is_refused(scope, batch, spread, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        scoped(changed(batch, norm_scope=scope), spread)


def test_a_run_with_a_scope_that_cannot_be_is_refused_before_anything_is_written(tmp_path):
    config = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, norm_scope=2))
    with pytest.raises(ConfigError, match="start with --distributed"):
        sweep.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_number_of_groups_is_another_program():
    config = dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, batch_size=64))
    data = load(config.data)
    programs = [
        describe(dataclasses.replace(config, model=dataclasses.replace(config.model, norm_scope=scope)), data, True)
        for scope in ("global", 2, 4)
    ]
    assert len({about["before/tanh"]["program"] for about in programs}) == 3


@pytest.mark.parametrize(
    "options, words",
    [
        ({"norm_scope": 0}, "model.norm_scope is 0; choose global, host, or a number of devices"),
        ({"norm_scope": 2, "norm": "layer_norm"}, "model.norm_scope is 2, but layer_norm has no batches"),
        ({"norm_scope": 2, "virtual_batch_size": 4}, "model.norm_scope is 2, and model.virtual_batch_size 4; set one"),
    ],
)
def test_a_scope_without_an_effect_is_refused(options, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        ModelConfig(**options)
