"""One lane is one plain training: it gives the numbers of a simple loop with Flax and optax."""

import math
import re
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from small_arms import BEFORE, NONE, OWN_SPLITS, SCAN, TESTED, lane, make_data, one_split

from experiments.config import ProbesConfig, TrainingConfig
from experiments.data.arrays import Data, batch_order, batches
from experiments.store.right import unpack_right
from experiments.training import compiled, devices, loop
from experiments.training.compiled import Engine, Shared, place, start
from experiments.training.loop import Epoch, train_arm
from experiments.training.step import init


def trained(setup, data, lanes, engine, **options):
    data = one_split(data) if isinstance(data, Data) else data
    return train_arm(setup, data, lanes, engine, **{"width": len(lanes), **options})


def close(record):
    """The record, with numbers that may differ in their last digits."""
    return jax.tree.map(lambda a: pytest.approx(a, rel=1e-3, abs=1e-5) if isinstance(a, float) else a, record)


class Plain(nn.Module):
    """The network of BEFORE in plain Flax, with Flax's batch norm (its variance is exact enough near mean 0)."""

    @nn.compact
    def __call__(self, x, train):
        for i, width in enumerate((9, 8)):
            x = nn.Dense(width, name=f"dense_{i}")(x)
            x = nn.BatchNorm(not train, momentum=0.8, use_fast_variance=False, name=f"norm_{i}")(x)
            x = jnp.tanh(x)
        return nn.Dense(3, name="head")(x)


@pytest.mark.parametrize("engine", TESTED)
def test_a_lane_equals_a_plain_flax_and_optax_loop(engine):
    data, rate, seed = make_data(), 0.3, 5
    lanes = [lane(0.1, 3), lane(rate, seed), lane(0.3, 4)]
    record = trained(BEFORE, data, lanes, engine)[1]

    start = init(BEFORE, 3, jnp.int32(seed), data.train.x)
    rename = {"block_0": ("dense_0", "norm_0"), "block_1": ("dense_1", "norm_1")}
    params = {"head": start.params["head"]}
    stats = {}
    for block, (dense, norm) in rename.items():
        params |= {dense: start.params[block]["layer"], norm: start.params[block]["norm"]}
        stats |= {norm: start.batch_stats[block]["norm"]}
    order = np.array([batch_order(BEFORE.training, np.asarray(data.train.y), seed, epoch) for epoch in range(3)])
    tx = optax.sgd(lambda step: rate * 0.5 * (1 + jnp.cos(jnp.pi * step / order[..., 0].size)), momentum=0.9)
    opt = tx.init(params)
    model = Plain()

    @jax.jit
    def step(params, stats, opt, x, y):
        def loss_of(params):
            logits, new = model.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new["batch_stats"]

        (loss, stats_), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_ = tx.update(gradients, opt, params)
        return optax.apply_updates(params, updates), stats_, opt_, loss

    for epoch in range(3):
        losses = []
        for batch in order[epoch]:
            params, stats, opt, loss = step(params, stats, opt, data.train.x[batch], data.train.y[batch])
            losses.append(float(loss))
        assert record["train_loss"][epoch] == pytest.approx(np.mean(losses), rel=1e-4)
        for split, (a, b) in (
            (data.validation, (record["val_loss"][epoch], record["val_accuracy"][epoch])),
            (data.test, (record["test_loss"], record["test_accuracy"])),
        ):
            logits = model.apply({"params": params, "batch_stats": stats}, split.x, False)
            if split is data.validation or epoch == 2:
                loss = optax.softmax_cross_entropy_with_integer_labels(logits, split.y).mean()
                assert a == pytest.approx(float(loss), rel=1e-4)
                assert b == int((logits.argmax(-1) == split.y).sum()) / len(split.y)
    assert record["steps"] == [4, 8, 12]


def test_a_lane_does_not_depend_on_the_lanes_beside_it_not_even_on_a_diverged_one():
    data = make_data()
    alone = trained(NONE, data, [lane(0.05, 2)], SCAN)[0]
    beside = trained(NONE, data, [lane(1e9, 1), lane(0.05, 2), lane(0.2, 2)], SCAN)
    assert not math.isfinite(beside[0]["train_loss"][-1])
    assert beside[1]["diverged"] is None
    np.testing.assert_allclose(beside[1]["train_loss"], alone["train_loss"], rtol=1e-5)
    np.testing.assert_allclose(beside[1]["val_loss"], alone["val_loss"], rtol=1e-5)


def test_lanes_take_no_more_devices_than_there_are_lanes_and_the_number_changes_nothing():
    data = make_data()
    assert [devices.mesh_of(n).size for n in (1, 3, 8, 20)] == [1, 3, 8, 8]
    alone = trained(BEFORE, data, [lane(0.1, 3)], SCAN)[0]
    beside = trained(BEFORE, data, [lane(0.1, seed) for seed in range(3, 11)], SCAN)[0]
    assert (alone["seed"], beside["seed"]) == (3, 3)
    np.testing.assert_allclose(alone["train_loss"], beside["train_loss"], rtol=1e-5)
    assert alone["test_accuracy"] == beside["test_accuracy"]


@pytest.mark.parametrize("engine", TESTED)
def test_divergence_ends_a_training_with_its_first_step_and_the_others_go_on(engine):
    """At a rate of 1e30 the first update leaves float32's range: the loss of step 1 is the first that is not finite."""
    data, epochs = make_data(), []
    lanes = [lane(1e30, seed) for seed in range(8)] + [lane(0.1, 8)] if engine.lanes == "sequence" else [lane(1e30, 1)]
    records = trained(NONE, data, lanes, engine, on_epoch=epochs.append)
    assert records[0]["diverged"] == 1
    assert all(len(records[0][curve]) == 3 for curve in ("train_loss", "val_loss", "val_accuracy", "steps"))
    assert records[0]["test_accuracy"] == int((data.test.y == 0).sum()) / 23  # the argmax of NaN is class 0
    assert sum(len(epoch.lanes) for epoch in epochs) == 3 * len(lanes)  # a progress bar reaches its end
    if engine.lanes == "sequence":
        told = [epoch for epoch in epochs if epoch.lanes[0] == lanes[0]]
        assert [len(epoch.metrics) for epoch in told] == [8, 0, 0]  # nothing was trained after the first epoch
        assert records[8]["diverged"] is None and np.isfinite(records[8]["train_loss"]).all()


def test_more_lanes_than_fit_side_by_side_run_in_rounds_with_the_same_numbers():
    data, lanes = make_data(), [lane(0.1, seed) for seed in range(11)]
    whole = trained(BEFORE, data, lanes, SCAN)
    some = BEFORE._replace(training=TrainingConfig(batch_size=10, epochs=3, vmap_lanes=8))
    for a, b in zip(whole, trained(some, data, lanes, SCAN), strict=True):
        assert a["seed"] == b["seed"]
        np.testing.assert_allclose(a["val_loss"], b["val_loss"], rtol=1e-5)
        np.testing.assert_allclose(a["test_loss_population"], b["test_loss_population"], rtol=1e-5)


@pytest.mark.parametrize("engine", TESTED)
def test_a_lane_that_is_trained_again_gives_the_same_bits_whatever_runs_beside_it_and_whether_it_is_probed(engine):
    """The later stages of an arm train some of its lanes again, or others; they use the program of the first stage."""
    data, lanes = make_data(), [lane(rate, seed) for rate in (0.1, 0.3) for seed in range(9)]
    first = trained(BEFORE, data, lanes, engine)
    order = np.random.default_rng(0).permutation(len(lanes))
    for chosen, probe in ((order, False), ([17, 4, 9], False), ([3, 11], True)):
        again = trained(BEFORE, data, [lanes[i] for i in chosen], engine, width=len(lanes), probe=probe)
        for a, b in zip([first[i] for i in chosen], again, strict=True):
            assert (b["probes"] is not None) is probe
            assert {**a, "seconds": 0, "probes": 0} == {**b, "seconds": 0, "probes": 0}


def test_all_stages_of_an_arm_use_one_compiled_program(monkeypatch):
    setup = BEFORE._replace(training=TrainingConfig(batch_size=10, epochs=3, vmap_lanes=16))
    shapes = set()
    run_steps = loop.run_steps
    monkeypatch.setattr(loop, "run_steps", lambda *a: shapes.add((a[2], a[7].shape)) or run_steps(*a))
    for lanes in (1, 3, 20):
        trained(setup, make_data(), [lane(0.1, seed) for seed in range(lanes)], SCAN, width=20)
    ((mesh, shape),) = shapes
    assert (mesh.size, shape) == (8, (16, 4, 10))


@pytest.mark.parametrize("metric", ["test_accuracy", "test_accuracy_population", "test_accuracy_batch"])
def test_the_examples_that_are_recorded_as_right_are_those_of_the_metric(metric):
    """23 test examples do not fill the last batch of 10: the padding must not be read."""
    data = make_data()
    lanes = [lane(0.01, seed) for seed in range(3)]
    for record in trained(BEFORE, data, lanes, SCAN, metric=metric):
        assert unpack_right(record["right"], 23).sum() / 23 == record[metric]
    for record in trained(NONE, data, lanes, SCAN, metric=metric):  # without a norm, it has only one accuracy
        assert unpack_right(record["right"], 23).sum() / 23 == record["test_accuracy"]


def test_what_is_right_is_in_the_order_of_the_test_split():
    data = make_data()
    (record,) = trained(NONE, data, [lane(1e30, 1)], SCAN)  # it diverges, and the argmax of NaN is class 0
    np.testing.assert_array_equal(unpack_right(record["right"], 23), np.asarray(data.test.y) == 0)


@pytest.mark.parametrize("engine", TESTED)
def test_a_lane_with_a_split_of_its_own_is_one_that_is_trained_alone_on_this_split(engine):
    """Training, validation and test part, the labels of batches of few classes, population statistics and probes."""
    setup = BEFORE._replace(
        training=replace(BEFORE.training, classes_per_batch=2), probes=ProbesConfig(examples=20, eigenvalues=1)
    )
    lanes = [lane(0.1, 3), lane(0.3, 8), lane(0.3, 3)]
    for each, found in zip(lanes, trained(setup, OWN_SPLITS, lanes, engine, probe=True), strict=True):
        (alone,) = trained(setup, make_data(each.seed), [each], engine, probe=True)
        assert {**found, "seconds": 0} == close({**alone, "seconds": 0})


@pytest.mark.parametrize("steps", ["scan", "loop"])
def test_the_bits_of_a_lane_depend_on_the_lanes_of_a_device_and_not_on_the_number_of_devices(steps, monkeypatch):
    data, lanes = make_data(), [lane(rate, seed) for rate in (0.1, 0.3) for seed in range(3)]
    engine = Engine(steps, "vmap", devices=2)  # so that each device has three lanes
    two = trained(BEFORE, data, lanes, engine)
    monkeypatch.setattr(compiled, "mesh_of", lambda lanes: devices.mesh_of(1))
    one = trained(BEFORE, data, lanes, engine)
    assert [{**r, "seconds": 0} for r in one] == [{**r, "seconds": 0} for r in two]


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "engine", [Engine("scan", "vmap"), Engine("loop", "sequence")], ids=lambda e: f"{e.steps}-{e.lanes}"
)
def test_a_killed_training_goes_on_from_its_checkpoint_with_bit_equal_results(engine, tmp_path):
    setup = BEFORE._replace(training=TrainingConfig(batch_size=10, epochs=5, checkpoint_epochs=2))
    data, lanes, notes = make_data(), [lane(0.1, 3), lane(0.3, 4)], []

    def kill(epoch: Epoch) -> None:
        if epoch.step == 4 * 5:
            raise Killed

    whole = trained(setup, data, lanes, engine)
    with pytest.raises(Killed):
        trained(setup, data, lanes, engine, on_epoch=kill, checkpoints=tmp_path / "stage")
    assert list((tmp_path / "stage" / "lanes_0").iterdir())
    epochs = []
    again = trained(setup, data, lanes, engine, on_epoch=epochs.append, checkpoints=tmp_path / "stage",
                      note=notes.append)  # fmt: skip
    assert [epoch.step for epoch in epochs if epoch.metrics] == [20], "the first four epochs are not trained again"
    assert any("going on after epoch 4" in note for note in notes)
    for a, b in zip(whole, again, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_a_training_that_had_ended_when_its_process_was_killed_is_read_on_the_test_set_and_not_trained(tmp_path):
    """Lanes that run in rounds are recorded together, hours after the first of them were trained."""
    setup = BEFORE._replace(training=TrainingConfig(batch_size=10, epochs=3, checkpoint_epochs=2, vmap_lanes=8))
    data, lanes, told = make_data(), [lane(0.1, seed) for seed in range(9)], []

    def kill(epoch: Epoch) -> None:
        if epoch.lanes[0] == lanes[8]:
            raise Killed

    whole = trained(setup, data, lanes, SCAN)
    with pytest.raises(Killed):
        trained(setup, data, lanes, SCAN, on_epoch=kill, checkpoints=tmp_path)
    again = trained(setup, data, lanes, SCAN, on_epoch=told.append, checkpoints=tmp_path)
    assert [bool(epoch.metrics) for epoch in told] == [False] * 3 + [True] * 3
    assert [{**r, "seconds": 0} for r in whole] == [{**r, "seconds": 0} for r in again]


def test_a_broken_last_checkpoint_falls_back_and_says_so(tmp_path):
    setup = BEFORE._replace(training=TrainingConfig(batch_size=10, epochs=4, checkpoint_epochs=1))
    data, lanes, notes = make_data(), [lane(0.1, 3)], []

    def kill(epoch: Epoch) -> None:
        if epoch.step == 4 * 4:
            raise Killed

    whole = trained(setup, data, lanes, SCAN)
    with pytest.raises(Killed):
        trained(setup, data, lanes, SCAN, on_epoch=kill, checkpoints=tmp_path)
    last = tmp_path / "lanes_0" / "3"
    (next(p for p in sorted(last.rglob("*")) if p.is_file() and p.name != "SHA256SUMS")).write_bytes(b"")
    again = trained(setup, data, lanes, SCAN, checkpoints=tmp_path, note=notes.append)
    assert any("the checkpoint of step 3 is broken" in note for note in notes)
    assert any("going on after epoch 2" in note for note in notes)
    assert {**whole[0], "seconds": 0} == {**again[0], "seconds": 0}


def test_what_lies_beside_a_checkpoint_and_is_of_another_shape_is_said_and_the_training_begins_anew(tmp_path):
    setup = BEFORE._replace(training=TrainingConfig(batch_size=10, epochs=3, checkpoint_epochs=1))
    data, lanes = make_data(), [lane(0.1, 3)]

    def kill(epoch: Epoch) -> None:
        if epoch.step == 4 * 3:
            raise Killed

    whole = trained(setup, data, lanes, SCAN)
    for text in ("[]", "{", '{"curves": [], "looks": []}', '{"curves": [{"val_loss": [1.0]}], "looks": []}'):
        notes = []
        with pytest.raises(Killed):
            trained(setup, data, lanes, SCAN, on_epoch=kill, checkpoints=tmp_path)
        (tmp_path / "lanes_0.json").write_text(text)
        again = trained(setup, data, lanes, SCAN, checkpoints=tmp_path, note=notes.append)
        assert len(notes) == 1 and "lanes_0.json cannot be used" in notes[0] and "starts again" in notes[0]
        assert {**whole[0], "seconds": 0} == {**again[0], "seconds": 0}


def test_no_program_of_the_sweep_has_a_collective():
    """Two stages run at a time, in threads: with collectives, they could deadlock on each other's devices."""
    data, lanes = make_data(), [lane(0.1, seed) for seed in range(8)]
    mesh = Mesh(np.array(jax.devices()), ("lanes",))
    train = place("train", one_split(data), lanes, mesh)
    state, tuned = start(BEFORE, 3, mesh, lanes, train)
    order = jnp.zeros((8, 4, 10), jnp.int32)
    test = Shared(batches(data.test, 8))
    lowered = [
        compiled.in_batches.jitted.lower(8, mesh, train),
        compiled.scan_lanes.jitted.lower(BEFORE, 3, mesh, 12, state, tuned, order, train),
        compiled.step_lanes.jitted.lower(BEFORE, 3, mesh, 12, state, tuned, order, train),
        compiled.evaluate_lanes.jitted.lower(BEFORE, 3, mesh, True, state, test),
        compiled.population_lanes.jitted.lower(BEFORE, 3, mesh, state, test),
    ]
    for program in lowered:
        text = program.compile().as_text()
        assert not re.search(r"(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\(", text)
