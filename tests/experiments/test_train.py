"""One lane is one plain training: the same numbers as a Flax and optax loop written without any of this."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from experiments import programs
from experiments.config import (
    Arm,
    AugmentationConfig,
    Config,
    ModelConfig,
    OptimizerConfig,
    ProbesConfig,
    SweepConfig,
    TrainingConfig,
)
from experiments.data.arrays import Batches, Data, Split, batch_order, batches
from experiments.lanes import Epoch, train_arm
from experiments.look import look
from experiments.networks.build import build
from experiments.optimizers import Tuned, optimizer, schedule
from experiments.programs import Engine, Lane, start
from experiments.train import evaluate, init, train_step, with_population_statistics

CONFIG = Config(
    name="x",
    model=ModelConfig(hidden=(9, 8), momentum=0.8),
    training=TrainingConfig(batch_size=10, epochs=3),
    sweep=SweepConfig(evaluation_seeds=4),
)
BEFORE = CONFIG.setup(Arm("before", "tanh"))
NONE = CONFIG.setup(Arm("none", "relu"))
ENGINES = [Engine(steps, lanes) for steps in ("scan", "loop") for lanes in ("vmap", "sequence")]
SCAN = ENGINES[0]
# The other two mix the same parts; they take minutes on a busy machine.
TESTED = [pytest.param(engine, id="-".join(engine), marks=[pytest.mark.long] if i in (1, 2) else [])
          for i, engine in enumerate(ENGINES)]  # fmt: skip


def lane(rate, seed, decay=0.0, norms=False):
    return Lane(rate, decay, norms, seed)


def make_data(rng=0):
    rng = np.random.default_rng(rng)

    def split(n):
        y = rng.integers(0, 3, n)
        x = rng.normal(0, 1, (n, 5)) + 1.5 * np.eye(3)[y] @ rng.normal(0, 1, (3, 5))
        return Split(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))

    return Data(split(47), split(13), split(23), 3, {})


class Plain(nn.Module):
    """The network of BEFORE in plain Flax, with Flax's own batch norm (its variance is exact enough near mean 0)."""

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
    record = train_arm(BEFORE, data, lanes, engine, test=True)[1]

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
    alone = train_arm(NONE, data, [lane(0.05, 2)], SCAN, test=False)[0]
    beside = train_arm(NONE, data, [lane(1e9, 1), lane(0.05, 2), lane(0.2, 2)], SCAN, test=False)
    assert not math.isfinite(beside[0]["train_loss"][-1])
    assert beside[1]["diverged"] is None
    np.testing.assert_allclose(beside[1]["train_loss"], alone["train_loss"], rtol=1e-5)
    np.testing.assert_allclose(beside[1]["val_loss"], alone["val_loss"], rtol=1e-5)


def test_lanes_take_no_more_devices_than_there_are_lanes_and_the_number_changes_nothing():
    data = make_data()
    assert [programs.mesh_of(n).size for n in (1, 3, 8, 20)] == [1, 3, 8, 8]
    alone = train_arm(BEFORE, data, [lane(0.1, 3)], SCAN, test=True)[0]
    beside = train_arm(BEFORE, data, [lane(0.1, seed) for seed in range(3, 11)], SCAN, test=True)[0]
    assert (alone["seed"], beside["seed"]) == (3, 3)
    np.testing.assert_allclose(alone["train_loss"], beside["train_loss"], rtol=1e-5)
    assert alone["test_accuracy"] == beside["test_accuracy"]


@pytest.mark.parametrize("engine", TESTED)
def test_divergence_ends_a_training_with_its_first_step_and_the_others_go_on(engine):
    """At a rate of 1e30 the first update leaves float32's range: the loss of step 1 is the first that is not finite."""
    data, epochs = make_data(), []
    lanes = [lane(1e30, seed) for seed in range(8)] + [lane(0.1, 8)] if engine.lanes == "sequence" else [lane(1e30, 1)]
    records = train_arm(NONE, data, lanes, engine, test=True, on_epoch=epochs.append)
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
    whole = train_arm(BEFORE, data, lanes, SCAN, test=True)
    some = BEFORE._replace(training=TrainingConfig(batch_size=10, epochs=3, vmap_lanes=8))
    for a, b in zip(whole, train_arm(some, data, lanes, SCAN, test=True), strict=True):
        assert a["seed"] == b["seed"] and (a["probes"] is None) == (b["probes"] is None)
        np.testing.assert_allclose(a["val_loss"], b["val_loss"], rtol=1e-5)
        np.testing.assert_allclose(a["test_loss_population"], b["test_loss_population"], rtol=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("engine", [Engine("scan", "vmap"), Engine("loop", "sequence")], ids="-".join)
def test_a_killed_training_goes_on_from_its_checkpoint_with_bit_equal_results(engine, tmp_path):
    setup = BEFORE._replace(training=TrainingConfig(batch_size=10, epochs=5, checkpoint_epochs=2))
    data, lanes, notes = make_data(), [lane(0.1, 3), lane(0.3, 4)], []

    def kill(epoch: Epoch) -> None:
        if epoch.step == 4 * 5:
            raise Killed

    whole = train_arm(setup, data, lanes, engine, test=True)
    with pytest.raises(Killed):
        train_arm(setup, data, lanes, engine, test=True, on_epoch=kill, checkpoints=tmp_path / "stage")
    assert list((tmp_path / "stage" / "lanes_0").iterdir())
    epochs = []
    again = train_arm(setup, data, lanes, engine, test=True, on_epoch=epochs.append, checkpoints=tmp_path / "stage",
                      note=notes.append)  # fmt: skip
    assert [epoch.step for epoch in epochs if epoch.metrics] == [20], "the first four epochs are not trained again"
    assert any("going on after epoch 4" in note for note in notes)
    for a, b in zip(whole, again, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert not (tmp_path / "stage" / "lanes_0").exists()


def test_a_broken_last_checkpoint_falls_back_and_says_so(tmp_path):
    setup = BEFORE._replace(training=TrainingConfig(batch_size=10, epochs=4, checkpoint_epochs=1))
    data, lanes, notes = make_data(), [lane(0.1, 3)], []

    def kill(epoch: Epoch) -> None:
        if epoch.step == 4 * 4:
            raise Killed

    whole = train_arm(setup, data, lanes, SCAN, test=True)
    with pytest.raises(Killed):
        train_arm(setup, data, lanes, SCAN, test=True, on_epoch=kill, checkpoints=tmp_path)
    last = tmp_path / "lanes_0" / "3"
    (next(p for p in sorted(last.rglob("*")) if p.is_file() and p.name != "SHA256SUMS")).write_bytes(b"")
    again = train_arm(setup, data, lanes, SCAN, test=True, checkpoints=tmp_path, note=notes.append)
    assert any("the checkpoint of step 3 is broken" in note for note in notes)
    assert any("going on after epoch 2" in note for note in notes)
    assert {**whole[0], "seconds": 0} == {**again[0], "seconds": 0}


def test_what_lies_beside_a_checkpoint_and_is_of_another_shape_is_said_and_the_training_begins_anew(tmp_path):
    setup = BEFORE._replace(training=TrainingConfig(batch_size=10, epochs=3, checkpoint_epochs=1))
    data, lanes = make_data(), [lane(0.1, 3)]

    def kill(epoch: Epoch) -> None:
        if epoch.step == 4 * 3:
            raise Killed

    whole = train_arm(setup, data, lanes, SCAN, test=True)
    for text in ("[]", "{", '{"curves": [], "looks": []}', '{"curves": [{"val_loss": [1.0]}], "looks": []}'):
        notes = []
        with pytest.raises(Killed):
            train_arm(setup, data, lanes, SCAN, test=True, on_epoch=kill, checkpoints=tmp_path)
        (tmp_path / "lanes_0.json").write_text(text)
        again = train_arm(setup, data, lanes, SCAN, test=True, checkpoints=tmp_path, note=notes.append)
        assert len(notes) == 1 and "lanes_0.json cannot be used" in notes[0] and "begins anew" in notes[0]
        assert {**whole[0], "seconds": 0} == {**again[0], "seconds": 0}


@pytest.mark.parametrize("size", [1, 4, 23, 64])
def test_evaluation_is_exact_whatever_the_batches(size):
    data = make_data()
    state = init(BEFORE, 3, jnp.int32(0), data.train.x)
    found = evaluate(BEFORE, 3, state, batches(data.test, size))
    whole = Batches(data.test.x[None], data.test.y[None], jnp.ones((1, 23), bool))
    expected = evaluate(BEFORE, 3, state, whole)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    assert int(found.correct) == int(expected.correct)


def test_a_diverged_network_has_no_finite_loss_but_its_accuracy_is_counted():
    data = make_data()
    state = init(BEFORE, 3, jnp.int32(0), data.train.x)
    state = state._replace(params=jax.tree.map(lambda a: a * jnp.nan, state.params))
    found = evaluate(BEFORE, 3, state, batches(data.test, 8))
    assert math.isnan(found.loss)
    assert int(found.correct) == int((data.test.y == 0).sum())  # the argmax of NaN is class 0


def by_hand(name, gradients, decayed, rate=0.5, decay=0.1, start=2.0, shape=lambda t: 1.0, nesterov=False):
    """The values of one number under torch's optimizers, written out."""
    p, v, m, s, path = start, 0.0, 0.0, 0.0, []
    for t, g in enumerate(gradients):
        d = decay if decayed else 0.0
        if name == "sgd":
            g = g + d * p
            v = 0.9 * v + g
            step = g + 0.9 * v if nesterov else v
        else:
            g = g + d * p if name == "adam" else g
            m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g * g
            step = m / (1 - 0.9 ** (t + 1)) / (math.sqrt(s / (1 - 0.999 ** (t + 1))) + 1e-8)
            step += d * p if name == "adamw" else 0
        p = p - rate * shape(t) * step
        path.append(p)
    return path


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(("name", "nesterov"), [("sgd", False), ("sgd", True), ("adam", False), ("adamw", False)])
def test_optimizers_are_torchs_and_decay_kernels_and_norms_only_if_so_decided(name, nesterov, norms):
    config = OptimizerConfig(name=name, nesterov=nesterov, schedule="constant")
    params = {"block": {"layer": {"kernel": 2.0, "bias": 2.0}, "norm": {"scale": 2.0, "bias": 2.0}}}
    params = jax.tree.map(jnp.float32, params)
    tx = optimizer(config, Tuned(jnp.float32(0.5), jnp.float32(0.1), jnp.array(norms)), 6)
    gradients = np.random.default_rng(0).normal(size=6).tolist()
    decayed, plain = (by_hand(name, gradients, on, nesterov=nesterov) for on in (True, False))

    @jax.jit
    def step(params, state, g):
        updates, state = tx.update(jax.tree.map(lambda p: g.astype(p.dtype), params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for t, g in enumerate(gradients):
        params, state = step(params, state, jnp.float32(g))
        block = params["block"]
        assert float(block["layer"]["kernel"]) == pytest.approx(decayed[t], rel=1e-4, abs=1e-4)
        assert float(block["layer"]["bias"]) == pytest.approx(plain[t], rel=1e-4, abs=1e-4)
        assert float(block["norm"]["scale"]) == pytest.approx((decayed if norms else plain)[t], rel=1e-4, abs=1e-4)


def test_biases_of_norms_may_move_faster_and_norms_alone_may_move():
    params = {
        "layer": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
        "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
    }
    ones, tuned = jax.tree.map(jnp.ones_like, params), Tuned(0.5, 0.0, False)

    def moves(**options):
        tx = optimizer(OptimizerConfig(momentum=0.0, schedule="constant", **options), tuned, 1)
        return jax.tree.map(lambda u: float(-u[0]), tx.update(ones, tx.init(params), params)[0])

    assert moves(norm_bias_rate=64.0) == {"layer": {"kernel": 0.5, "bias": 0.5}, "norm": {"scale": 0.5, "bias": 32.0}}
    assert moves(trains="norm") == {"layer": {"kernel": 0, "bias": 0}, "norm": {"scale": 0.5, "bias": 0.5}}


def test_the_norms_of_airbench94_have_a_bias_alone_and_its_whitening_is_no_norm():
    model = build(ModelConfig(network="airbench94", width=1 / 16), 10, train=True)
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    params = jax.tree.map(lambda a: jnp.ones(a.shape), jax.eval_shape(model.init, jax.random.key(0), x)["params"])
    config = OptimizerConfig(momentum=0.0, schedule="constant", norm_bias_rate=64.0)
    tx = optimizer(config, Tuned(0.5, 0.0, False), 1, model, x)
    updates, _ = tx.update(params, tx.init(params), params)
    rates = {tuple(k.key for k in path): float(-u.ravel()[0]) for path, u in jax.tree.leaves_with_path(updates)}
    assert rates[("block_0", "layer", "bias")] == 0.5
    assert {path[-2:] for path, rate in rates.items() if rate == 32.0} == {("norm", "bias")}
    assert sum(rate == 32.0 for rate in rates.values()) == 6


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, {0: 1, 50: 1, 99: 1}),
        ({"schedule": "cosine"}, {0: 1, 50: 0.5, 75: 0.5 * (1 + math.cos(0.75 * math.pi)), 100: 0}),
        ({"schedule": "step"}, {0: 1, 49: 1, 51: 0.1, 74: 0.1, 76: 0.01, 99: 0.01}),
        ({"schedule": "triangle", "warmup": 0.2}, {0: 0, 10: 0.5, 20: 1, 60: 0.5, 100: 0}),
        ({"schedule": "onecycle"}, {0: 1 / 25, 25: 1, 100: 1e-5}),
        ({"schedule": "exponential", "growth": 16.0}, {0: 1, 25: 2, 50: 4, 100: 16}),
    ],
)
def test_schedules_are_what_the_config_says_of_them(options, expected):
    shape = schedule(OptimizerConfig(**options), 100)
    for step, value in expected.items():
        assert float(shape(jnp.int32(step))) == pytest.approx(value, rel=1e-4, abs=1e-7), step


def test_population_statistics_are_those_of_the_training_set_layer_by_layer_of_whole_batches():
    data = make_data()
    state = init(BEFORE, 3, jnp.int32(0), data.train.x)
    whole = Batches(*(a[None] for a in (*data.train, jnp.ones(47, bool))))
    found = with_population_statistics(BEFORE, 3, state, whole).batch_stats["block_0"]["norm"]
    w = jax.tree.map(lambda a: np.asarray(a, np.float64), state.params["block_0"]["layer"])
    h = np.asarray(data.train.x, np.float64) @ w["kernel"] + w["bias"]
    np.testing.assert_allclose(found["mean"], h.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], h.var(0), rtol=1e-4)
    parts = with_population_statistics(BEFORE, 3, state, batches(data.train, 9))  # the last of 6 batches is filled up
    np.testing.assert_allclose(parts.batch_stats["block_0"]["norm"]["var"], h[:45].var(0), rtol=1e-4)


def test_evaluation_by_the_batchs_own_statistics_is_training_mode():
    data = make_data()
    state = init(BEFORE, 3, jnp.int32(0), data.train.x)
    state = state._replace(batch_stats=jax.tree.map(lambda a: a + 7, state.batch_stats))
    whole = Batches(data.test.x[None], data.test.y[None], jnp.ones((1, 23), bool))
    population = with_population_statistics(BEFORE, 3, state, whole)
    by_batch = evaluate(BEFORE, 3, state, whole, by_batch=True)
    assert float(by_batch.loss) == pytest.approx(float(evaluate(BEFORE, 3, population, whole).loss), rel=1e-4)
    assert abs(float(by_batch.loss) - float(evaluate(BEFORE, 3, state, whole).loss)) > 1e-3


def test_augmentation_depends_on_seed_and_step_alone_and_smoothing_enters_the_loss():
    rng = np.random.default_rng(0)
    train = Split(jnp.asarray(rng.normal(size=(12, 6, 6, 1)), jnp.float32), jnp.asarray(rng.integers(0, 3, 12)))
    plain = NONE._replace(optimizer=OptimizerConfig(label_smoothing=0.3))
    moved = plain._replace(augmentation=AugmentationConfig(translate=2))
    rows, tuned = jnp.arange(12), Tuned(0.1, 0.0, False)

    def loss(setup, seed, step):
        state = init(setup, 3, jnp.int32(0), train.x)._replace(seed=jnp.int32(seed), step=jnp.int32(step))
        return float(train_step(setup, 3, 10, state, tuned, rows, train)[1])

    assert loss(plain, 0, 0) == loss(plain, 1, 5)
    assert loss(moved, 0, 0) == loss(moved, 0, 0)
    assert len({loss(plain, 0, 0), loss(moved, 0, 0), loss(moved, 0, 1), loss(moved, 1, 0)}) == 4
    state = init(plain, 3, jnp.int32(0), train.x)
    hard, smooth = loss(NONE, 0, 0), loss(plain, 0, 0)
    model_loss = evaluate(NONE, 3, state, Batches(train.x[None], train.y[None], jnp.ones((1, 12), bool))).loss
    assert hard == pytest.approx(float(model_loss), rel=1e-5) and smooth != pytest.approx(hard, rel=1e-3)


def test_a_look_measures_the_distance_of_the_running_statistics_from_the_true_ones():
    data = make_data()
    state = init(BEFORE, 3, jnp.int32(0), data.train.x)
    w = state.params["block_0"]["layer"]
    h = np.asarray(data.train.x, np.float64) @ np.asarray(w["kernel"], np.float64) + np.asarray(w["bias"])
    found = look(BEFORE, 3, state, data.train)
    np.testing.assert_allclose(found.mean_gap[0], (np.abs(h.mean(0)) / np.sqrt(h.var(0) + 1e-5)).mean(), rtol=1e-4)
    np.testing.assert_allclose(found.var_ratio[0], np.median((1 + 1e-5) / (h.var(0) + 1e-5)), rtol=1e-4)
    y = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
    np.testing.assert_allclose(found.inputs[0].reshape(y.shape), y, rtol=1e-3, atol=1e-4)
    a = np.abs(np.tanh(y))
    np.testing.assert_allclose(found.saturation[0], (a.mean(0) / a.max(0)).mean(), rtol=1e-4)
    np.testing.assert_allclose(found.sparsity[0], 1 - found.saturation[0], rtol=1e-5)  # before: tanh ends the block
    assert list(found.gradient_norms) == ["block_0/layer", "block_0/norm", "block_1/layer", "block_1/norm", "head"]

    stats = {
        "block_0": {"norm": {"mean": jnp.asarray(h.mean(0)), "var": jnp.asarray(h.var(0))}},
        "block_1": state.batch_stats["block_1"],
    }
    stats = jax.tree.map(lambda a: a.astype(jnp.float32), stats)
    known = look(BEFORE, 3, state._replace(batch_stats=stats), data.train)
    np.testing.assert_allclose(known.mean_gap[0], 0, atol=1e-5)
    np.testing.assert_allclose(known.var_ratio[0], 1, rtol=1e-4)
    assert float(known.scale[0]) == 1.0


def test_probes_at_the_end_hold_curvature_and_the_mean_logit_with_both_kinds_of_statistics():
    setup = BEFORE._replace(probes=ProbesConfig(seeds=1, eigenvalues=2, mean_logit=True, predictiveness=True))
    probes = train_arm(setup, make_data(), [lane(0.1, 3), lane(0.1, 4)], SCAN, test=True)[0]["probes"]
    assert set(probes["eigenvalues"]) == set(probes["mean_logit"]) == {"batch", "frozen"}
    for values in probes["eigenvalues"].values():
        assert len(values) == 2 and values[0] >= values[1] and values[0] > 0
    assert list(probes["mean_logit"]["frozen"]) == ["block_0/layer", "block_1/layer", "head"]
    along = probes["predictiveness"]
    assert np.shape(along["losses"]) == (4, len(along["step_sizes"])) and len(along["smoothness"]) == 4


def test_no_program_of_the_sweep_has_a_collective():
    """Two stages run at a time, in threads: each would wait for the other's devices, for ever."""
    data, lanes = make_data(), [lane(0.1, seed) for seed in range(8)]
    mesh = Mesh(np.array(jax.devices()), ("lanes",))
    state, tuned = start(BEFORE, 3, mesh, lanes, data.train.x)
    order = jnp.zeros((8, 4, 10), jnp.int32)
    test = batches(data.test, 8)
    lowered = [
        programs.scan_lanes.jitted.lower(BEFORE, 3, mesh, 12, state, tuned, order, data.train),
        programs.step_lanes.jitted.lower(BEFORE, 3, mesh, 12, state, tuned, order, data.train),
        programs.evaluate_lanes.jitted.lower(BEFORE, 3, mesh, True, state, test),
        programs.population_lanes.jitted.lower(BEFORE, 3, mesh, state, test),
    ]
    for program in lowered:
        text = program.compile().as_text()
        assert not re.search(r"(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\(", text)
