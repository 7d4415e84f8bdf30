"""Each of twelve faults that are planted in a trained network is found and named, with the right layer; healthy ones
have no finding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from digits import TEST, TRAIN, Network, X, accuracy, batches, call, dropped, healthy, trained, with_stats
from flax import linen as nn

import jbn
import jbn.linen
from jbn import population
from jbn.diagnosis._measure import root_mean_square

EVALUATION = batches(TEST, 258)
ALL = ("norm_0", "norm_1", "norm_2")


def diagnosed(model, variables, data=None, evaluation=EVALUATION, **options):
    data = batches(TRAIN) if data is None else data
    options = {"metric": accuracy, "call": call} | options
    return jbn.diagnose(model, variables, data, evaluation=evaluation, **options)


def only(diagnosis):
    assert len(diagnosis.findings) == 1, str(diagnosis)
    return diagnosis.findings[0]


def layer_of(diagnosis, name):
    return next(layer for layer in diagnosis.layers if layer.name == name)


def training(model, batch):
    return model(batch["x"], train=True)


@pytest.mark.parametrize("steps", [None, 150])
def test_a_momentum_too_high_for_the_steps(steps):
    model = Network(own=(("norm_1", (("momentum", 0.997),)),))
    found = only(diagnosed(model, trained(model), steps=steps))
    assert (found.kind, found.layers) == ("start_value", ("norm_1",))
    left = 0.997**150
    assert found.number == pytest.approx(left, abs=1e-6 if steps else 0.1)
    assert "still their start value (mean 0, variance 1), as left by momentum 0.997 after" in found.sentence
    assert "estimate them anew with jbn.population" in found.sentence
    assert ("in the next training use momentum 0.9, or debias=True" in found.sentence) == (steps is not None)


def test_batches_of_two_in_training():
    model, variables = healthy()
    found = only(diagnosed(model, variables, batches(TRAIN, 2)))
    assert found.kind == "small_batches"
    assert set(found.layers) <= set(ALL) and "norm_0" in found.layers
    # Of independent normal values, the mean of two scatters by 1/sqrt(2), half the variance by the same / sqrt(2).
    assert found.number == pytest.approx((1 / 2 + 1 / 4) ** 0.5, abs=0.15)
    assert "batches of 2 examples" in found.sentence
    again = only(diagnosed(model, variables, batch_size=2))
    assert again.kind == "small_batches" and "batches of 2 examples" in again.sentence


def test_evaluation_data_that_are_scaled_otherwise():
    model, variables = healthy()
    found = only(diagnosed(model, variables, evaluation=batches(TEST, 258, lambda x: x * 16)))
    assert (found.kind, found.layers[0]) == ("evaluation_scale", "norm_0")
    assert found.number == pytest.approx(16, rel=0.1)


def test_augmentation_that_evaluation_has_not():
    def change(x, key):
        return x + jax.random.normal(key, x.shape)

    model = Network()
    variables = trained(model, change=change)
    data = batches(TRAIN, change=lambda x: change(x, jax.random.key(5)))
    found = only(diagnosed(model, variables, data))
    assert (found.kind, found.layers[0]) == ("evaluation_shift", "norm_0")
    assert "augmentation or dropout" in found.sentence


def test_dropout_ahead_of_a_layer():
    """Dropout is the augmentation of an inner layer: the shift is first seen behind it."""
    model = Network()

    def train_call(model, batch):
        return model(batch["x"], train=True, noise=dropped(jax.random.key(0), len(batch["x"])))

    found = only(diagnosed(model, trained(model, dropout=True), train_call=train_call))
    assert (found.kind, found.layers) == ("evaluation_shift", ("norm_2",))


def test_averaged_weights_with_old_statistics():
    model = Network()
    variables, mean = trained(model, rate=0.5, average=0.97, steps=60)
    diagnosis = diagnosed(model, variables, params=mean)
    found = only(diagnosis)
    inputs = [b["x"] for b in batches(TRAIN)]
    new = population.estimate_linen(model, variables, inputs, params=mean, progress=False)["batch_stats"]
    off = {name: np.abs(variables["batch_stats"][name]["mean"] - s["mean"]).max() for name, s in new.items()}
    assert found.kind == "stale" and "EMA or SWA" in found.sentence
    assert found.layers == tuple(sorted(ALL, key=lambda n: -root_mean_square(layer_of(diagnosis, n).difference)))
    assert min(off.values()) > 0.1  # each layer has other statistics under the average


def test_statistics_that_were_never_updated():
    model, variables = healthy()
    zeros, ones = np.zeros(24, np.float32), np.ones(24, np.float32)
    found = only(diagnosed(model, with_stats(variables, "norm_2", mean=zeros, var=ones)))
    assert (found.kind, found.layers) == ("never_updated", ("norm_2",))


def test_a_frozen_layer_with_another_epsilon():
    model = Network(kinds=(("norm_1", jbn.linen.FrozenBatchNorm),), own=(("norm_1", (("epsilon", 1e-1),)),))
    _, variables = healthy()
    found = [f for f in diagnosed(model, variables).findings if f.kind == "epsilon"]
    assert [f.layers for f in found] == [("norm_1",)]
    assert "norm_1 is frozen and has epsilon 0.1 where other layers have 1e-05" in found[0].sentence


def test_a_momentum_of_the_other_convention():
    model = Network(own=(("norm_0", (("momentum", 0.1),)),))
    found = only(diagnosed(model, trained(model)))
    assert (found.kind, found.layers, found.number) == ("momentum_convention", ("norm_0",), 0.1)
    assert "torch's 0.1 is momentum=0.9" in found.sentence


def test_statistics_in_half_precision():
    options = (("force_float32_reductions", False), ("param_dtype", jnp.bfloat16), ("dtype", jnp.float32))
    model = Network(norm=jbn.linen.BatchNorm, own=(("norm_1", options),))
    found = [f for f in diagnosed(model, trained(model)).findings if f.kind == "half_precision"]
    assert [f.layers for f in found] == [("norm_1",)]
    assert "keeps its running statistics in bfloat16" in found[0].sentence


def test_a_batch_with_nan_in_training():
    model = Network()
    variables = trained(model, steps=5)
    poison = {"x": np.where(np.arange(64) == 7, np.nan, X[:64])}

    @jax.jit
    def step(variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])[1]

    poisoned = {**variables, **step(variables, poison["x"])}
    found = diagnosed(model, poisoned).findings
    assert (found[0].kind, found[0].layers) == ("not_finite", ALL)
    assert all("NaN" in f.sentence or f.kind == "start_value" for f in found)
    data = batches(TRAIN)
    data[3] = {**data[3], "x": np.where(np.arange(64) == 7, np.nan, data[3]["x"])}
    healthy_model, healthy_variables = healthy()
    bad = only(diagnosed(healthy_model, healthy_variables, data))
    assert (bad.kind, bad.layers[0], bad.number) == ("bad_batch", "norm_0", 1)
    assert "1 of 20 training batches are not finite at norm_0, the first of them number 3" in bad.sentence


def test_a_mask_that_inference_has_not():
    model, variables = healthy()

    def masked(model, batch):
        return model(batch["x"], train=True, mask=(jnp.arange(batch["x"].shape[0]) < 48)[:, None])

    found = only(diagnosed(model, variables, train_call=masked, evaluation=None))
    assert (found.kind, found.layers) == ("mask", ALL)
    assert found.number == pytest.approx(1 / 4)
    assert "norm_0 (and 2 more layers) is given a mask at training and none at inference" in found.sentence


@pytest.mark.parametrize("fast", [True, False])
def test_a_large_mean_under_flax_fast_variance(fast):
    _, variables = healthy()
    params, old = variables["params"], variables["batch_stats"]["norm_1"]["mean"]
    moved = {**params["dense_1"], "bias": params["dense_1"]["bias"] + 1e4}
    variables = with_stats({**variables, "params": {**params, "dense_1": moved}}, "norm_1", mean=old + 1e4)
    model = Network(own=(("norm_1", (("use_fast_variance", fast),)),))
    variables = trained(model, variables=variables, rate=0.0, steps=40)
    found = diagnosed(model, variables).findings
    # The layers behind it were trained on what it made, which is no finding of its own.
    assert [(f.kind, f.layers) for f in found] == ([("cancellation", ("norm_1",))] if fast else [])


def rising(step):
    """A schedule of momentum."""
    return jnp.minimum(0.5 + step / 100, 0.9)


def test_frozen_layers_keep_their_statistics():
    """Constants that are not those of the data are what the model was trained with."""
    own = tuple((f"norm_{i}", ()) for i in (0, 1))
    model = Network(kinds=tuple((name, jbn.linen.FrozenBatchNorm) for name, _ in own))
    _, start = healthy()
    variables = trained(model, variables=start, change=lambda x, key: 1 - x, rate=0.05)
    inverted = functools.partial(batches, change=lambda x: 1 - x)
    found = diagnosed(model, variables, inverted(TRAIN), evaluation=inverted(TEST, 258))
    assert found.findings == (), str(found)
    assert found.scores["population"] == pytest.approx(found.scores["running"], abs=1.5)


def test_renormalization_is_made_for_small_batches():
    model = Network(norm=jbn.linen.BatchRenorm)
    assert diagnosed(model, trained(model), batches(TRAIN, 2)).findings == ()


class Shared(nn.Module):
    """One norm at three places."""

    @nn.compact
    def __call__(self, x, train=False, mask=None, noise=None):
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="shared")
        for i in range(3):
            x = nn.relu(norm(nn.Dense(24)(x) * (1 + 2 * i)))
        return nn.Dense(10)(x)


def test_a_layer_that_is_called_at_several_places():
    found = only(diagnosed(Shared(), trained(Shared())))
    assert (found.kind, found.layers, found.number) == ("called_twice", ("shared",), 3)


class Stack(nn.Module):
    """Blocks that are one scanned module, whose trace jax makes twice."""

    @nn.compact
    def __call__(self, x, train=False, mask=None, noise=None):
        scanned = nn.scan(
            Step, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, in_axes=nn.broadcast,
            length=3,
        )  # fmt: skip
        x, _ = scanned(name="steps")(nn.Dense(24)(x), train)
        return nn.Dense(10)(x)


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(nn.Dense(24)(x))), None


def test_a_scanned_stack_is_called_once():
    model = Stack()
    variables = trained(model)
    assert diagnosed(model, variables).findings == ()
    stats = variables["batch_stats"]["steps"]["norm"]
    moved = {**stats, "mean": stats["mean"] + 0.5 * np.sqrt(stats["var"])}
    found = only(diagnosed(model, {**variables, "batch_stats": {"steps": {"norm": moved}}}))
    assert (found.kind, found.layers) == ("stale", ("steps/norm",))


@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_shift_is_judged_by_all_examples_whatever_the_batch_size_in_training(batch_size):
    model, variables = healthy()
    covered = batches(TEST, 258, lambda x: x * (np.arange(64) < 40))
    found = diagnosed(model, variables, evaluation=covered, batch_size=batch_size)
    assert [(f.kind, f.layers[0]) for f in found.findings] == [("evaluation_shift", "norm_0")]


def test_one_batch_of_few_examples_says_nothing_but_that():
    model, variables = healthy()
    found = diagnosed(model, variables, batches(TRAIN, 16)[:1])
    assert [f.kind for f in found.findings] == ["one_batch"]


def test_statistics_that_lag_behind_fast_weights():
    """Each layer is off by less than would be said of it alone."""
    model = Network(options=(("momentum", 0.9),), features=32)
    variables = trained(model, steps=100)
    stats = variables["batch_stats"]
    for name in ALL:
        spread = np.sqrt(np.asarray(stats[name]["var"]))
        variables = with_stats(variables, name, mean=stats[name]["mean"] + 0.18 * spread)
    found = only(diagnosed(model, variables))
    assert (found.kind, set(found.layers)) == ("stale", set(ALL))
    assert "lag behind the weights" in found.sentence and found.number > 0.3


HEALTHY = {
    "jbn": {"norm": jbn.linen.BatchNorm},
    "flax": {},
    "wide": {"features": 48},
    "narrow": {"features": 12},
    "tanh": {"activation": "tanh"},
    "gelu": {"activation": "gelu"},
    "silu": {"activation": "silu"},
    "sigmoid": {"activation": "sigmoid"},
    "elu": {"activation": "elu"},
    "momentum 0.8": {"options": (("momentum", 0.8),)},
    "momentum 0.95": {"options": (("momentum", 0.95),)},
    "epsilon 1e-3": {"options": (("epsilon", 1e-3),)},
    "no scale": {"options": (("use_scale", False),)},
    "no bias": {"options": (("use_bias", False),)},
    "debiased": {"norm": jbn.linen.BatchNorm, "options": (("debias", True), ("momentum", 0.99))},
    "schedule": {"norm": jbn.linen.BatchNorm, "options": (("momentum", rising),)},
    "unbiased": {"norm": jbn.linen.BatchNorm, "options": (("variance", "unbiased"),)},
    "skips": {"norm": jbn.linen.BatchNorm, "options": (("skip_nonfinite", True),)},
    "virtual batches": {"norm": jbn.linen.BatchNorm, "options": (("virtual_batch_size", 16),)},
    "renorm": {"norm": jbn.linen.BatchRenorm},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_model_has_no_finding(name):
    model = Network(**HEALTHY[name])
    diagnosis = diagnosed(model, _quick(name), steps=150, train_call=training)
    assert diagnosis.findings == (), str(diagnosis)


@functools.cache
def _quick(name):
    return trained(Network(**HEALTHY[name]), seed=len(name))
