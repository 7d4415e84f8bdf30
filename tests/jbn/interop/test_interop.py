"""jbn.interop against the real packages: loaded from them, batch norm gives their numbers, and trains as they do.

A test whose package is not installed skips; those of errors, copies and both Flax need none.
"""

import copy
import functools
import inspect
import os
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, batch

import jbn.linen
import jbn.nnx
from jbn import interop

N, STEPS, RATE, MOMENTUM, EPSILON = 3, 5, 0.3, 0.75, 1e-2


def loss(y, target):
    return ((y - target) ** 2).mean()


def jax_step(forward, params, x, target):
    """y, whatever else `forward` gives, and the parameters after a step of gradient descent."""

    def f(params):
        y, rest = forward(params, x)
        return loss(y, target), (y, rest)

    grads, (y, rest) = jax.grad(f, has_aux=True)(params)
    return y, rest, jax.tree.map(lambda p, g: p - RATE * g, params, grads)


class Ours:
    """The functional core, with the variables and options of a layer."""

    def __init__(self, layer, axis):
        *params, self.stats = interop.to_jbn(layer)
        self.params, self.options, self.axis = tuple(params), layer.options(), axis

    def forward(self, params, x, train=True):
        options = self.options | {"axis": self.axis, "train": train or self.stats is None}
        return jbn.batch_norm(x, *params, self.stats, **options)[:2]

    def train(self, x, target):
        y, self.stats, self.params = jax_step(self.forward, self.params, x, target)
        return y

    def evaluate(self, x):
        return self.forward(self.params, x, train=False)[0]

    def layer(self):
        return interop.from_jbn(*self.params, self.stats, **self.options)


# The others: each trains, evaluates, gives its layer, and takes a layer on.


class Torch:
    package, axis = "torch", 1

    def __init__(self, module, dtype, shape, **options):
        self.lib = pytest.importorskip("torch")
        self.dtype = getattr(self.lib, dtype)
        self.net = getattr(self.lib.nn, module)(N, dtype=self.dtype, **options)

    def tensor(self, x):
        return self.lib.tensor(np.asarray(x))

    def train(self, x, target):
        self.net.train()
        y = self.net(self.tensor(x))
        if params := list(self.net.parameters()):
            for p, g in zip(params, self.lib.autograd.grad(loss(y, self.tensor(target)), params), strict=True):
                p.data -= RATE * g
        return y.detach().numpy()

    def evaluate(self, x):
        return self.net.eval()(self.tensor(x)).detach().numpy()

    def layer(self):
        return interop.from_torch(self.net)

    def load(self, layer):
        state = interop.to_torch(layer)
        self.net.load_state_dict({name: self.lib.as_tensor(value) for name, value in state.items()})


class Keras:
    package = "keras"

    def __init__(self, dtype, shape, axis=-1, **options):
        os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is first imported
        self.net = pytest.importorskip("keras").layers.BatchNormalization(axis=axis, dtype=dtype, **options)
        self.net.build(shape)
        self.axis = axis

    def train(self, x, target):
        fixed = [v.value for v in self.net.non_trainable_variables]
        forward = functools.partial(self.net.stateless_call, training=True)
        y, fixed, params = jax_step(
            lambda params, x: forward(params, fixed, x), [v.value for v in self.net.trainable_variables], x, target
        )
        for variable, value in zip(self.net.trainable_variables, params, strict=True):
            variable.assign(value)
        for variable, value in zip(self.net.non_trainable_variables, fixed, strict=True):
            variable.assign(value)
        return y

    def evaluate(self, x):
        return self.net(x, training=False)

    def layer(self):
        return interop.from_keras(self.net)

    def load(self, layer):
        self.net.set_weights(list(interop.to_keras(layer).values()))


class Haiku:
    package = "haiku"

    def __init__(self, dtype, shape, scale=True, offset=True, data_format="channels_last"):
        hk = pytest.importorskip("haiku")
        self.axis, self.shape = -1 if data_format == "channels_last" else 1, shape

        def forward(x, train):
            return hk.BatchNorm(scale, offset, MOMENTUM, EPSILON, data_format=data_format, name="norm")(x, train)

        self.net = hk.transform_with_state(forward)
        self.params, self.state = self.net.init(None, jnp.ones(shape, dtype), True)

    def train(self, x, target):
        y, self.state, self.params = jax_step(
            lambda params, x: self.net.apply(params, self.state, None, x, True), self.params, x, target
        )
        return y

    def evaluate(self, x):
        return self.net.apply(self.params, self.state, None, x, False)[0]

    def layer(self):
        return interop.from_haiku(self.params, self.state, "norm", decay_rate=MOMENTUM, eps=EPSILON)

    def load(self, layer):
        self.params, self.state = interop.to_haiku(layer, "norm", ndim=len(self.shape), axis=self.axis)


class Equinox:
    package, axis = "equinox", 1

    def __init__(self, dtype, shape, mode="batch", **options):
        self.lib = pytest.importorskip("equinox")
        make = self.lib.nn.make_with_state(self.lib.nn.BatchNorm)
        self.net, self.state = make(N, "batch", EPSILON, momentum=MOMENTUM, dtype=dtype, mode=mode, **options)

    def forward(self, params, x, inference=False):
        net = self.net if params[0] is None else self.lib.tree_at(lambda m: (m.weight, m.bias), self.net, params)
        state = jax.tree.map(lambda leaf: leaf, self.state)
        call = functools.partial(net, inference=inference)
        return jax.vmap(call, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)

    def train(self, x, target):
        params = self.net.weight, self.net.bias
        y, self.state, params = jax_step(self.forward, params, x, target)
        if params[0] is not None:
            self.net = self.lib.tree_at(lambda m: (m.weight, m.bias), self.net, params)
        return y

    def evaluate(self, x):
        return self.forward((self.net.weight, self.net.bias), x, inference=True)[0]

    def layer(self):
        return interop.from_equinox(self.net, self.state)

    def load(self, layer):
        self.net, self.state = interop.to_equinox(layer, self.net, self.state)


class Linen:
    package, axis = "flax", -1

    def __init__(self, module, dtype, shape, **options):
        fast = {"use_fast_variance": False}  # Flax's default loses digits
        self.net = module(epsilon=EPSILON, **{"momentum": MOMENTUM} | options, param_dtype=dtype, **fast)
        self.given = {k: v for k, v in options.items() if not k.startswith("use")}
        self.variables = self.net.init(jax.random.key(0), jnp.ones(shape, dtype), use_running_average=False)

    def train(self, x, target):
        stats = {"batch_stats": self.variables["batch_stats"]}
        call = functools.partial(self.net.apply, use_running_average=False, mutable=["batch_stats"])
        params = self.variables.get("params", {})
        y, stats, params = jax_step(lambda params, x: call(stats | {"params": params}, x), params, x, target)
        self.variables = stats | {"params": params}
        return y

    def evaluate(self, x):
        return self.net.apply(self.variables, x, use_running_average=True)

    def layer(self):
        return interop.from_linen(self.variables, **{"momentum": MOMENTUM} | self.given, epsilon=EPSILON)

    def load(self, layer):
        self.variables = interop.to_linen(layer)


class Nnx:
    package, axis = "flax", -1

    def __init__(self, module, dtype, shape, **options):
        options = {"momentum": MOMENTUM, "use_fast_variance": False} | options
        self.net = module(N, epsilon=EPSILON, param_dtype=dtype, rngs=nnx.Rngs(0), **options)

    def train(self, x, target):
        def f(net):
            y = net(x, use_running_average=False)
            return loss(y, target), y

        grads, y = nnx.grad(f, has_aux=True)(self.net)
        nnx.update(self.net, jax.tree.map(lambda p, g: p - RATE * g, nnx.state(self.net, nnx.Param), grads))
        return y

    def evaluate(self, x):
        return self.net(x, use_running_average=True)

    def layer(self):
        return interop.from_nnx(self.net)

    def load(self, layer):
        nnx.update(self.net, interop.to_nnx(layer))


SCHEDULE = lambda step: 1 - 1 / (step + 2.0)  # noqa: E731
OTHERS = {
    "torch-1d": (functools.partial(Torch, "BatchNorm1d"), (13, N), {}),
    "torch-2d": (functools.partial(Torch, "BatchNorm2d"), (5, N, 4, 1), {"momentum": 0.3, "eps": EPSILON}),
    "torch-cumulative": (functools.partial(Torch, "BatchNorm1d"), (5, N, 4), {"momentum": None}),
    "torch-no-affine": (functools.partial(Torch, "BatchNorm1d"), (13, N), {"affine": False}),
    "torch-no-bias": (functools.partial(Torch, "BatchNorm1d"), (13, N), {"bias": False}),
    "torch-no-statistics": (functools.partial(Torch, "BatchNorm1d"), (13, N), {"track_running_stats": False}),
    "keras": (Keras, (13, N), {}),
    "keras-options": (Keras, (5, N, 4), {"momentum": 0.7, "epsilon": 1e-2, "axis": 1}),
    "keras-no-scale": (Keras, (13, N), {"scale": False}),
    "keras-no-center": (Keras, (13, N), {"center": False}),
    "haiku": (Haiku, (13, N), {}),
    "haiku-first": (Haiku, (5, N, 4), {"data_format": "channels_first"}),
    "haiku-neither": (Haiku, (13, N), {"scale": False, "offset": False}),
    "equinox": (Equinox, (13, N), {}),
    "equinox-no-affine": (Equinox, (5, N, 4), {"channelwise_affine": False}),
    "flax-linen": (functools.partial(Linen, nn.BatchNorm), (5, 4, N), {}),
    "flax-linen-no-bias": (functools.partial(Linen, nn.BatchNorm), (13, N), {"use_bias": False}),
    "flax-linen-neither": (functools.partial(Linen, nn.BatchNorm), (13, N), {"use_bias": False, "use_scale": False}),
    "flax-nnx": (functools.partial(Nnx, nnx.BatchNorm), (13, N), {}),
    "flax-nnx-no-scale": (functools.partial(Nnx, nnx.BatchNorm), (13, N), {"use_scale": False}),
    "jbn-linen": (functools.partial(Linen, jbn.linen.BatchNorm), (13, N), {"debias": True, "variance": "unbiased"}),
    "jbn-linen-schedule": (functools.partial(Linen, jbn.linen.BatchNorm), (13, N), {"momentum": SCHEDULE}),
    "jbn-nnx": (functools.partial(Nnx, jbn.nnx.BatchNorm), (13, N), {"debias": True}),
    "jbn-nnx-cumulative": (functools.partial(Nnx, jbn.nnx.BatchNorm), (13, N), {"momentum": None}),
}


def made(name, dtype, mean, warm=3):
    """The other's layer after a few steps, and batches with targets for more."""
    make, shape, options = OTHERS[name]
    other = make(dtype=dtype, shape=shape, **options)
    axis = other.axis % len(shape)
    data = [(batch(shape, axis, dtype, mean=mean, seed=s), batch(shape, axis, dtype, seed=9 + s)) for s in range(9)]
    for _ in range(warm):
        other.train(*data.pop())
    return other, data


def assert_same_layer(a, b, tolerance=1e-5):
    """The same numbers and options; of the count, where the average depends on it."""
    counts = a.debias or not isinstance(a.momentum, float)
    for name, x, y in zip(interop.Layer._fields, a, b, strict=True):
        if name in ("scale", "bias", "mean", "var") or (name == "count" and counts):
            assert (x is None) == (y is None), name
            if x is not None:
                assert_close(*np.broadcast_arrays(np.asarray(x, np.float64), y), tolerance)
        else:
            assert x == y or name == "count", name


# In float64 nothing hides behind roundings, however large the mean. But Keras computes in float32 then, and Flax nnx
# has float32 statistics.
WIDE = ["torch-cumulative", "haiku-first", "equinox", "jbn-linen"]
CASES = [*((name, "float32", 3.0) for name in OTHERS), *((name, "float64", 100.0) for name in WIDE)]
# One pass over E[x²] in Haiku, x/std - mean/std in Keras: digits go already at mean 3.
ROUNDING = {"haiku": 2e-5, "keras": 1e-5}


@pytest.mark.parametrize(("name", "dtype", "mean"), CASES, ids=["-".join(case[:2]) for case in CASES])
def test_a_layer_goes_over_and_trains_as_before_and_comes_back(name, dtype, mean):
    with jax.enable_x64(dtype == "float64"):
        other, data = made(name, dtype, mean)
        rounding = 1e-9 if dtype == "float64" else ROUNDING.get(name.partition("-")[0], 5e-6)
        layer, test = other.layer(), data.pop()[0]
        kept = copy.deepcopy(layer)
        ours = Ours(layer, other.axis)
        assert_close(ours.evaluate(test), other.evaluate(test), 1e-6)
        for step in data[:STEPS]:
            assert_close(ours.train(*step), other.train(*step), rounding)
        assert_close(ours.evaluate(test), other.evaluate(test), rounding)
        assert_same_layer(ours.layer(), other.layer(), min(rounding, 1e-5))
        jax.tree.map(np.testing.assert_array_equal, kept, layer)  # torch trains in place

        fresh, _ = made(name, dtype, 1.0, warm=1)
        fresh.load(ours.layer())
        assert_close(fresh.evaluate(test), ours.evaluate(test), 1e-6)
        for step in data[:2]:
            assert_close(fresh.train(*step), ours.train(*step), rounding)
        assert_same_layer(fresh.layer(), ours.layer(), min(rounding, 1e-5))


def moved(layer, seed=0):
    """The same options, other numbers."""
    rng = np.random.default_rng(seed)
    return layer._replace(
        **{
            name: (rng.uniform(0.5, 2, N) + shift).astype(np.float32)
            for name, shift in (("scale", 0), ("bias", 0), ("mean", 3), ("var", 0))
        }
    )


AVERAGES = {
    "moving": interop.Layer(None, None, None, None, None, MOMENTUM, EPSILON),
    "debiased": interop.Layer(None, None, None, None, np.array(4), MOMENTUM, EPSILON, debias=True),
    "debiased-start": interop.Layer(None, None, None, None, np.array(0), MOMENTUM, EPSILON, debias=True),
    "cumulative": interop.Layer(None, None, None, None, np.array(4), None, EPSILON),
    "unbiased": interop.Layer(None, None, None, None, None, MOMENTUM, EPSILON, "unbiased"),
    "schedule": interop.Layer(None, None, None, None, np.array(4), SCHEDULE, EPSILON),
}
RECEIVERS = {
    "torch": (functools.partial(Torch, "BatchNorm1d"), {"eps": EPSILON, "momentum": 1 - MOMENTUM}, ["unbiased"]),
    "keras": (Keras, {"epsilon": EPSILON, "momentum": MOMENTUM}, ["moving"]),
    "haiku": (Haiku, {}, ["moving", "debiased", "debiased-start"]),
    "equinox": (Equinox, {}, ["moving", "debiased"]),
    "equinox-ema": (functools.partial(Equinox, mode="ema"), {}, ["moving"]),
    "flax-linen": (functools.partial(Linen, nn.BatchNorm), {}, ["moving"]),
    "flax-nnx": (functools.partial(Nnx, nnx.BatchNorm), {}, ["moving"]),
}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("receiver", RECEIVERS)
def test_any_average_goes_anywhere_for_inference_and_the_same_average_trains_on(receiver, average):
    make, options, same = RECEIVERS[receiver]
    other = make(dtype="float32", shape=(13, N), **options)
    layer = moved(AVERAGES[average])
    other.load(layer)
    x, target = batch((13, N)), batch((13, N), seed=1)
    ours = Ours(layer, -1)
    assert_close(other.evaluate(x), ours.evaluate(x), 2e-6)
    # What holds the arrays is not shared: torch trains in place.
    kept = copy.deepcopy(layer)
    other.train(x, target), ours.train(x, target)
    for name in ("scale", "bias", "mean", "var"):
        np.testing.assert_array_equal(getattr(layer, name), getattr(kept, name))
        if average in same and name in ("mean", "var"):
            assert_close(getattr(other.layer(), name), getattr(ours.layer(), name), 1e-5)


def test_an_average_that_is_not_debiased_stays_so_at_any_momentum():
    layer = moved(AVERAGES["moving"]._replace(momentum=0.999999))
    for ema in interop.to_haiku(layer)[1].values():
        assert jnp.float32(layer.momentum) ** ema["counter"] == 0 and ema["counter"] + 2**29 > ema["counter"]
        np.testing.assert_array_equal(ema["hidden"], ema["average"])


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_equinox_states_stay_usable(mode):
    other = Equinox("float32", (13, N), mode=mode)
    net, state = interop.to_equinox(moved(AVERAGES["moving"]), other.net, other.state)
    assert interop.from_equinox(other.net, other.state).mean.max() == 0
    assert interop.from_equinox(net, state).mean.min() > 3


def test_equinox_mode_ema_keeps_a_moving_average():
    """Its outputs in training are by the running statistics, and nobody else's."""
    other = Equinox("float32", (13, N), mode="ema")
    first = other.layer()
    np.testing.assert_array_equal((first.mean, first.var), ([0] * N, [1] * N))
    x, target = batch((13, N)), batch((13, N), seed=1)
    other.train(x, target)
    ours = Ours(other.layer(), -1)
    other.train(x, target), ours.train(x, target)
    for name in ("mean", "var"):
        assert_close(getattr(ours.layer(), name), getattr(other.layer(), name), 1e-5)


@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_options_make_a_flax_module_train_as_torch(kind, momentum):
    shape = {"BatchNorm1d": (13, N), "BatchNorm2d": (5, N, 4, 1)}[kind]
    torchs = Torch(kind, "float32", shape, momentum=momentum)
    data = [(batch(shape, 1, seed=s), batch(shape, 1, seed=s + 9)) for s in range(3)]
    torchs.train(*data[0])
    layer = torchs.layer()
    linen = jbn.linen.BatchNorm(axis=1, **layer.options())
    module = jbn.nnx.BatchNorm(N, axis=1, **layer.options(), rngs=nnx.Rngs(0))
    variables = interop.to_linen(layer)
    assert jax.tree.structure(variables) == jax.tree.structure(
        linen.init(jax.random.key(0), data[0][0], use_running_average=False)
    )
    nnx.update(module, interop.to_nnx(layer))
    for x, _ in data:
        y, updates = linen.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        variables |= updates
        torch_y = torchs.net.train()(torchs.tensor(x)).detach().numpy()
        assert_close(y, torch_y, 2e-6)
        assert_close(module(x), torch_y, 2e-6)
    for mine in (interop.from_linen(variables, **layer.options()), interop.from_nnx(module)):
        assert_same_layer(mine, torchs.layer())


def test_a_layer_without_statistics_trains_and_infers_alike_in_flax():
    torchs = Torch("BatchNorm1d", "float32", (13, N), track_running_stats=False)
    x = batch((13, N))
    variables = interop.to_linen(torchs.layer())
    y = jbn.linen.BatchNorm(False, update_running_average=False, **torchs.layer().options()).apply(variables, x)
    assert_close(y, torchs.evaluate(x), 2e-6)


def test_bfloat16_and_prefixes_come_over_from_torch():
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3, eps=1e-3)).to(torch.bfloat16)
    net[1].running_mean += 1.5
    layer = interop.from_torch(net, "1")
    assert (layer.mean.dtype, layer.scale.dtype, layer.epsilon) == (jnp.bfloat16, jnp.bfloat16, 1e-3)
    named = interop.from_torch(net.state_dict(), "1")
    jax.tree.map(np.testing.assert_array_equal, layer[:4], named[:4])
    assert named.options() == jbn.preset("torch") | {"debias": False}
    back = {name: torch.as_tensor(value) for name, value in interop.to_torch(layer).items()}
    assert back["running_mean"].dtype == torch.float32
    net[1].running_mean.zero_()
    net[1].load_state_dict(back)
    assert net[1].running_mean.tolist() == [1.5, 1.5, 1.5]


def test_keras_weights_are_read_by_name_or_all_four():
    weights = [np.full(2, v, np.float32) for v in (2, 3, 4, 5)]
    layer = interop.from_keras(weights)
    np.testing.assert_array_equal(np.stack(layer[:4]), np.stack(weights))
    assert layer.options() == jbn.preset("keras") | {"debias": False}
    np.testing.assert_array_equal(list(interop.to_keras(layer).values()), weights)
    assert (
        interop.from_keras(dict(zip(("beta", "moving_mean", "moving_variance"), weights, strict=False))).scale is None
    )


def test_torch_counts_batches_for_the_cumulative_average_alone():
    counts = {None: 0, 7: 7, np.inf: 2**30}
    for count, said in counts.items():
        layer = SETTLED._replace(count=None if count is None else np.array([2, count]), debias=True)
        assert interop.to_torch(layer)["num_batches_tracked"] == said


def test_a_weight_survives_the_count_to_the_last_bit():
    for momentum in (0.9, 0.999, 0.0):
        weight = np.float32(1 - momentum ** np.array([0, 1, 7, 500, 10**6], np.float64))
        stats = jbn.BatchStats(jnp.zeros(5), jnp.ones(5), weight=jnp.asarray(weight))
        layer = interop.from_jbn(None, None, stats, momentum=momentum, debias=True)
        np.testing.assert_array_equal(interop.to_jbn(layer)[2].weight, weight)


# Errors

VECTOR, SQUARE = np.ones(2), np.ones((2, 2))
SETTLED = interop.Layer(VECTOR, VECTOR, VECTOR, VECTOR)
LINEN = {"params": {"a": {"kernel": SQUARE, "bias": VECTOR}}}
EMA = {f"norm/~/{m}_ema": {"counter": 1, "hidden": VECTOR, "average": VECTOR} for m in ("mean", "var")}


class Made:
    """Stands in for a layer of Keras or Equinox."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


REFUSED = {
    "nothing": (lambda: interop.from_linen({}), r"no batch norm, but nothing; write where one is"),
    "no-norm-nnx": (
        lambda: interop.from_nnx(nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
        r"nnx variables: there is no .* bias",
    ),
    "no-variables": (lambda: interop.to_linen(interop.Layer(None, None, None, None)), r"no variables; write"),
    "unknown-option": (
        lambda: interop.from_jbn(VECTOR, None, None, eps=1),
        r"no option eps; write momentum, epsilon, variance",
    ),
    "shapes": (
        lambda: interop.from_jbn(VECTOR, np.ones(3), None),
        r"scale \[2\], bias \[3\]; write the variables of one batch norm",
    ),
    "half": (lambda: interop.from_torch({"running_mean": VECTOR}), r"mean \[2\]; write the variables of one"),
    "weight-without-option": (
        lambda: interop.from_jbn(None, None, jbn.init_stats(2, debias=True)),
        r"have a weight, which belongs to .*debias=True; write",
    ),
    "no-count": (
        lambda: interop.to_jbn(SETTLED._replace(momentum=None)),
        r"momentum=None needs the number .* write layer\._replace\(count=",
    ),
    "no-count-debias": (lambda: interop.to_haiku(SETTLED._replace(debias=True)), r"Haiku needs the number of batches"),
    "schedule-debias": (
        lambda: interop.to_haiku(SETTLED._replace(debias=True, momentum=SCHEDULE, count=np.array(1))),
        r"momentum is a schedule, .* write layer\._replace\(debias=False\)",
    ),
    "counts": (
        lambda: interop.to_torch(SETTLED._replace(momentum=None, count=np.array([1, 5]))),
        r"have seen 1 batches, others 5 .*torch has one number for all; write layer\._replace\(count=",
    ),
    "axes": (
        lambda: interop.to_torch(interop.Layer(SQUARE, None, None, None)),
        r"\[2, 2\], and torch knows one feature",
    ),
    "no-statistics": (lambda: interop.to_keras(SETTLED._replace(mean=None, var=None)), r"no running .* Keras"),
    "no-layer-linen": (lambda: interop.from_linen(LINEN, "a"), r"at 'a': there is no batch norm, but kernel, bias"),
    "no-path-linen": (lambda: interop.from_linen(LINEN, "b/c"), r"at 'b/c': there is no batch norm, but nothing"),
    "no-prefix-torch": (
        lambda: interop.from_torch({"a.bn.running_mean": VECTOR}, "bn"),
        r"no batch norm 'bn'; write one of the names a\.bn",
    ),
    "no-name-haiku": (lambda: interop.from_haiku({}, EMA, "n", decay_rate=0.9), r"no batch norm 'n'; .* names norm"),
    "three-weights": (lambda: interop.from_keras([VECTOR] * 3), r"3 weights do not say which .*write a mapping"),
    "unbuilt": (lambda: interop.from_keras(Made(moving_mean=None)), r"no weights yet; write layer\.build"),
    "renorm": (lambda: interop.from_keras(Made(renorm=True)), r"renorm=True.* write one with renorm=False"),
    "equinox-epsilon": (
        lambda: interop.to_equinox(SETTLED, Made(eps=1.0, input_size=2), None),
        r"has eps=1\.0, the layer 1e-05; write eqx\.nn\.BatchNorm\(\.\.\., eps=1e-05\)",
    ),
    "equinox-features": (
        lambda: interop.to_equinox(SETTLED, Made(eps=1e-5, input_size=3), None),
        r"2 features, the Equinox layer 3; write eqx\.nn\.BatchNorm\(2",
    ),
    "equinox-affine": (
        lambda: interop.to_equinox(SETTLED, Made(eps=1e-5, input_size=2, weight=None), None),
        r"the Equinox layer neither; write .*channelwise_affine=True",
    ),
}


@pytest.mark.parametrize(("call", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_what_to_write(call, says):
    with pytest.raises(ValueError, match=re.compile(says, re.S)):
        call()


def test_a_torch_module_that_is_no_batch_norm_is_refused():
    net = pytest.importorskip("torch").nn.Sequential(pytest.importorskip("torch").nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"'0' is Linear; write the name of a BatchNorm"):
        interop.from_torch(net, "0")


# Whole trees


def like_of(module, *args, **options):
    """Shapes and dtypes of a linen model's variables."""
    return jax.eval_shape(functools.partial(module.init, **options), jax.random.key(0), *map(jnp.asarray, args))


def other_numbers(net):
    """Every parameter and statistic of a torch network away from its start."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            shift = 1.0 if name.endswith("running_var") else 0.0
            value.copy_(shift + torch.rand(value.shape, generator=generator))
    return net.eval()


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def padded(*pads):
    return {"padding": [(p, p) for p in pads]}


# torch, linen, shape of torch's input
MODULES = {
    "Linear": (lambda t: t.Linear(3, 4), nn.Dense(4), (5, 3)),
    "Linear-no-bias": (lambda t: t.Linear(3, 3, bias=False), nn.Dense(3, use_bias=False), (5, 3)),
    "Conv1d": (lambda t: t.Conv1d(3, 4, 3), nn.Conv(4, (3,), padding="VALID"), (2, 3, 7)),
    "Conv2d-strided": (
        lambda t: t.Conv2d(3, 4, (3, 2), stride=2, padding=(1, 0)),
        nn.Conv(4, (3, 2), strides=2, **padded(1, 0)),
        (2, 3, 7, 6),
    ),
    "Conv2d-grouped": (
        lambda t: t.Conv2d(4, 6, 3, groups=2, dilation=2),
        nn.Conv(6, (3, 3), feature_group_count=2, kernel_dilation=2, padding="VALID"),
        (2, 4, 7, 6),
    ),
    "Conv2d-depthwise": (
        lambda t: t.Conv2d(3, 6, 2, groups=3),
        nn.Conv(6, (2, 2), feature_group_count=3, padding="VALID"),
        (2, 3, 4, 5),
    ),
    "Conv3d": (lambda t: t.Conv3d(2, 2, (1, 2, 3)), nn.Conv(2, (1, 2, 3), padding="VALID"), (2, 2, 3, 4, 5)),
    "ConvTranspose1d": (
        lambda t: t.ConvTranspose1d(3, 2, 4, stride=2),
        nn.ConvTranspose(2, (4,), strides=(2,), padding="VALID"),
        (2, 3, 5),
    ),
    "ConvTranspose2d": (
        lambda t: t.ConvTranspose2d(3, 3, (3, 2), stride=(2, 1), padding=(1, 0), output_padding=(1, 0)),
        nn.ConvTranspose(3, (3, 2), strides=(2, 1), padding=[(1, 2), (1, 1)]),
        (2, 3, 5, 4),
    ),
    "ConvTranspose3d": (
        lambda t: t.ConvTranspose3d(2, 3, 2),
        nn.ConvTranspose(3, (2, 2, 2), padding="VALID"),
        (2, 2, 3, 4, 2),
    ),
    "Embedding": (lambda t: t.Embedding(7, 3), nn.Embed(7, 3), None),
    "LayerNorm": (lambda t: t.LayerNorm(6), nn.LayerNorm(epsilon=1e-5, use_fast_variance=False), (5, 6)),
    "GroupNorm": (
        lambda t: t.GroupNorm(2, 6),
        nn.GroupNorm(2, epsilon=1e-5, use_fast_variance=False),
        (5, 6, 4),
    ),
    "BatchNorm2d": (lambda t: t.BatchNorm2d(3), jbn.linen.BatchNorm(use_running_average=True), (5, 3, 4, 2)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_torch_gives_the_same_outputs_in_linen_and_comes_back_bit_by_bit(name):
    torch = pytest.importorskip("torch")
    make, module, shape = MODULES[name]
    net = other_numbers(make(torch.nn))
    x = np.array([[1, 6], [0, 2]]) if shape is None else np.asarray(batch(shape, 1))
    given = x if shape is None else channels_last(x)
    like = like_of(module, given)
    variables = interop.linen_from_torch(net, like)
    expected = net(torch.tensor(x)).detach().numpy()
    expected = expected if shape is None else channels_last(expected)
    np.testing.assert_allclose(module.apply(variables, jnp.asarray(given)), expected, atol=3e-6, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), variables, like)
    back = interop.torch_from_linen(variables, net)
    assert list(back) == list(net.state_dict())
    for key, value in net.state_dict().items():
        assert back[key].dtype == value.dtype and torch.equal(back[key], value), key
        assert back[key].data_ptr() != value.data_ptr()


def torch_network(momentum):
    t = pytest.importorskip("torch").nn

    def block(stride, groups):
        conv = t.Conv2d(8, 8, 3, stride=stride, padding=1, groups=groups, bias=False)
        return t.Sequential(conv, t.BatchNorm2d(8, momentum=momentum), t.ReLU())

    stem = t.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, bias=False)
    body = t.Sequential(block(1, 8), t.Sequential(block(2, 1), block(1, 4)))
    up = t.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1)
    head = t.Sequential(t.Flatten(), t.Linear(8 * 4 * 4, 5), t.BatchNorm1d(5, affine=False, momentum=momentum))
    modules = {"stem": stem, "bn1": t.BatchNorm2d(8, eps=1e-3, momentum=momentum), "body": body, "up": up, "head": head}
    net = t.Sequential()
    for name, module in modules.items():
        net.add_module(name, module)
    return other_numbers(net)


class Network(nn.Module):
    momentum: float | None

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(jbn.linen.BatchNorm, not train, **jbn.preset("torch") | {"momentum": self.momentum})
        pad = {"padding": [(1, 1)] * 2}
        x = nn.Conv(8, (3, 3), 2, **pad, feature_group_count=2, use_bias=False, name="stem")(x)
        x = norm(epsilon=1e-3, name="bn1")(x)
        for i, (stride, groups) in enumerate([(1, 8), (2, 1), (1, 4)]):
            x = nn.Conv(8, (3, 3), stride, **pad, feature_group_count=groups, use_bias=False, name=f"conv_{i}")(x)
            x = norm(name=f"norm_{i}")(x, activation=nn.relu)
        x = nn.ConvTranspose(8, (3, 3), (2, 2), padding=[(1, 2)] * 2, name="up")(x)
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # torch flattens the channels first
        return norm(use_scale=False, use_bias=False, name="norm_head")(nn.Dense(5, name="dense")(x))


BLOCKS = ("body.0", "body.1.0", "body.1.1")
RENAME = {f"{block}.{k}": f"{name}_{i}" for i, block in enumerate(BLOCKS) for k, name in enumerate(("conv", "norm"))}
RENAME |= {"head.1": "dense", "head.2": "norm_head"}


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_network_of_torch_gives_the_same_outputs_in_linen_and_comes_back_bit_by_bit(momentum):
    torch = pytest.importorskip("torch")
    net, model = torch_network(momentum), Network(None if momentum is None else 1 - momentum)
    x = np.asarray(batch((6, 4, 8, 8), 1))
    given = jnp.asarray(channels_last(x))
    variables = interop.linen_from_torch(net, like_of(model, given, train=False), rename=RENAME)
    assert_close(model.apply(variables, given, False), net(torch.tensor(x)).detach().numpy(), 1e-5)

    back = interop.torch_from_linen(variables, net.state_dict(), rename=RENAME, transposed=["up"])
    assert all(torch.equal(value, back[key]) for key, value in net.state_dict().items())

    for _ in range(2):  # and trained: outputs, then running statistics
        y, updates = model.apply(variables, given, True, mutable=["batch_stats"])
        variables = variables | updates
        assert_close(y, net.train()(torch.tensor(x)).detach().numpy(), 1e-5)
    for key, value in interop.torch_from_linen(variables, net, rename=RENAME).items():
        if momentum is None or not key.endswith("num_batches_tracked"):
            np.testing.assert_allclose(value, net.state_dict()[key], rtol=2e-5, atol=1e-6)


def test_a_state_dict_does_not_say_how_it_averages():
    net, model = torch_network(None), Network(None)
    like = like_of(model, np.zeros((2, 8, 8, 4)), train=False)
    with pytest.raises(ValueError, match=r"(?s)num_batches_tracked: batch_stats/.*give the torch model"):
        interop.linen_from_torch(net.state_dict(), like, rename=RENAME, transposed=["up"])


def test_a_module_that_torch_uses_twice_is_known_by_both_names():
    torch = pytest.importorskip("torch")
    norm, up = torch.nn.BatchNorm2d(3, momentum=None), torch.nn.ConvTranspose2d(3, 3, 2)
    net = other_numbers(torch.nn.Sequential(up, norm, up, norm))
    part = interop.linen_from_torch(torch.nn.Sequential(up, norm), like_of_pairs(1))
    both = interop.linen_from_torch(net, like_of_pairs(2))
    for collection, modules in part.items():
        for name, values in modules.items():
            for twin in (name, str(int(name) + 2)):
                jax.tree.map(np.testing.assert_array_equal, both[collection][twin], values)


def like_of_pairs(n):
    """A transposed convolution and a cumulative batch norm, `n` times."""
    names, vector = [str(i) for i in range(2 * n)], np.zeros(3, np.float32)
    up, norm = {"kernel": np.zeros((2, 2, 3, 3), np.float32), "bias": vector}, {"scale": vector, "bias": vector}
    stats = {"mean": vector, "var": vector, "weight": vector}
    return {
        "params": {name: (up, norm)[int(name) % 2] for name in names},
        "batch_stats": {name: stats for name in names if int(name) % 2},
    }


def test_a_debiased_average_takes_on_torchs_as_it_is():
    torchs = Torch("BatchNorm1d", "float32", (13, N))
    x, target = batch((13, N)), batch((13, N), seed=1)
    torchs.train(x, target), torchs.train(x, target)
    model = jbn.linen.BatchNorm(False, **jbn.preset("torch"), debias=True)
    variables = interop.linen_from_torch(torchs.net, like_of(model, x))
    np.testing.assert_array_equal(variables["batch_stats"]["weight"], np.ones(N))
    stats = model.apply(variables, x, mutable=["batch_stats"])[1]["batch_stats"]
    torchs.train(x, target)
    assert_close(stats["mean"], torchs.layer().mean, 1e-6)


TREE = {
    "params": {
        "block_0": {"conv": {"kernel": np.zeros((3, 3, 2, 4), np.float32)}, "bn": {"scale": np.zeros(4, np.float16)}},
        "up": {"kernel": np.zeros((3, 3, 4, 2), np.float32)},
        "tokens": np.zeros((1, 3), np.float32),
    },
    "batch_stats": {"block_0": {"bn": {"mean": np.zeros(4), "skipped": np.array(3, np.int32)}}},
    "cache": {"index": np.array(7)},
}
STATE = {
    "layer1.0.conv.weight": np.ones((4, 2, 3, 3)),
    "layer1.0.bn.weight": np.ones(4),
    "layer1.0.bn.running_mean": np.ones(4),
    "layer1.0.bn.num_batches_tracked": np.array(9),
    "up.weight": np.ones((4, 2, 3, 3)),
    "tokens": np.ones((1, 3)),
}
HOW = {"rename": {"layer1.0": "block_0"}, "transposed": ["up"]}


def test_what_torch_lacks_stays_and_nothing_is_changed_in_place():
    given = copy.deepcopy((TREE, STATE))
    tree = interop.linen_from_torch(STATE, TREE, **HOW)
    assert tree["cache"] == TREE["cache"] and tree["batch_stats"]["block_0"]["bn"]["skipped"] == 3
    dtypes = [(a.shape, a.dtype) for a in jax.tree.leaves(TREE)]
    assert [(a.shape, a.dtype) for a in jax.tree.leaves(tree)] == dtypes
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(tree["params"]))
    back = interop.torch_from_linen(tree, STATE, **HOW)
    jax.tree.map(np.testing.assert_array_equal, back, STATE)
    for leaf in [*jax.tree.leaves(tree["params"]), *back.values()]:
        leaf[...] = 5
    jax.tree.map(np.testing.assert_array_equal, (TREE, STATE), given)


def test_names_may_be_a_function_and_arrays_may_be_boxed():
    boxed = jax.tree.map(lambda a: nn.Partitioned(a, names=(None,) * a.ndim), TREE["params"])
    tree = interop.linen_from_torch(
        STATE,
        TREE | {"params": boxed},
        rename=lambda name: {"layer1.0.conv": "block_0/conv"}.get(name, name.replace("layer1.0.", "block_0/")),
        transposed=["up"],
    )
    kernel = tree["params"]["block_0"]["conv"]["kernel"]
    assert isinstance(kernel, nn.Partitioned) and (kernel.value == 1).all()


MISFITS = {
    "extra": (
        STATE | {"layer1.0.bn.bias": np.ones(4)},
        r"differ in 1 entry:\n  layer1\.0\.bn\.bias \[4\] belongs to params/block_0/bn/bias or batch_stats/.*, "
        r"but block_0/bn has mean, skipped, scale\nwrite rename=",
    ),
    "nearest": (
        STATE | {"block0.bn.bias": np.ones(4)},
        r"block0\.bn\.bias \[4\] .* there is no block0/bn \(the nearest is block_0/bn\)",
    ),
    "missing": (
        {k: v for k, v in STATE.items() if k != "up.weight"},
        r"params/up/kernel \[3, 3, 4, 2\] has no partner",
    ),
    "misshapen": (
        STATE | {"layer1.0.conv.weight": np.ones((4, 2, 5, 5))},
        r"conv\.weight is \[4, 2, 5, 5\], which is \[5, 5, 2, 4\] there, but .*/conv/kernel is \[3, 3, 2, 4\]",
    ),
    "shape": (STATE | {"tokens": np.ones(3)}, r"tokens is \[3\], but params/tokens is \[1, 3\]"),
    "twice": (
        STATE | {"block_0.bn.weight": np.ones(4)},
        r"block_0\.bn\.weight and layer1\.0\.bn\.weight both belong to",
    ),
    "many": (
        STATE | {f"layer{i}.weight": np.ones(2) for i in range(5, 20)},
        r"differ in 15 entries:(\n  layer\d+\.weight.*){10}\n  and 5 more\nwrite",
    ),
}


@pytest.mark.parametrize(("state", "says"), MISFITS.values(), ids=MISFITS)
def test_trees_that_do_not_fit_are_refused_with_every_path(state, says):
    with pytest.raises(ValueError, match=says):
        interop.linen_from_torch(state, TREE, **HOW)
    if "twice" not in says:
        with pytest.raises(ValueError, match=r"the two models differ in \d+ entr"):
            interop.torch_from_linen(TREE, state, **HOW)


def test_a_kernel_that_would_fit_transposed_says_so():
    with pytest.raises(
        ValueError, match=r"up\.weight is .*if it is a transposed convolution, write transposed=\['up'\]"
    ):
        interop.linen_from_torch(STATE, TREE, rename=HOW["rename"])


def test_counts_that_differ_between_features_are_no_number_of_torchs():
    variables = {"batch_stats": {"bn": {"mean": VECTOR, "var": VECTOR, "weight": np.array([3.0, 4.0])}}}
    like = {"bn.running_mean": VECTOR, "bn.running_var": VECTOR, "bn.num_batches_tracked": np.array(0)}
    with pytest.raises(ValueError, match=r"batch_stats/bn/weight differs between features"):
        interop.torch_from_linen(variables, like)
    variables["batch_stats"]["bn"]["weight"] = np.array([4.0, 4.0])
    assert interop.torch_from_linen(variables, like)["bn.num_batches_tracked"] == 4
    variables["batch_stats"]["bn"]["weight"] = np.array([0.5, 0.25])  # debiased
    assert interop.torch_from_linen(variables, like)["bn.num_batches_tracked"] == 0


# Linen and nnx


TRAINED = nnx.Any(nnx.Param, nnx.BatchStat)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = jbn.linen.BatchNorm(True, debias=True, skip_nonfinite=True, name="norm")(x)
        return nn.Dense(2, name="layers_2")(nn.Dropout(0.5, deterministic=True)(x))


class Nnxs(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(7)
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        norm = jbn.nnx.BatchNorm(4, use_running_average=True, debias=True, skip_nonfinite=True, rngs=rngs)
        self.layers = nnx.List([norm, nnx.Dropout(0.5, deterministic=True, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])

    def __call__(self, x):
        x = self.conv(x)
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_network_goes_from_linen_to_nnx_and_back():
    names = {"layers/0": "norm", "layers/2": "layers_2"}
    x, linen, module = batch((2, 5, 5, 3)), Linear(), Nnxs()
    variables = jax.tree.map(lambda a: np.full(a.shape, 0.1, a.dtype), like_of(linen, x))
    state = interop.nnx_from_linen(variables, module, rename=names)
    assert isinstance(state, nnx.State)
    nnx.update(module, state)
    assert_close(module(x), linen.apply(variables, x), 2e-6)

    for source in (module, nnx.state(module), nnx.to_pure_dict(nnx.state(module, TRAINED))):
        back = interop.linen_from_nnx(source, like_of(linen, x), rename=names)
        jax.tree.map(np.testing.assert_array_equal, back, variables)
        assert jax.tree.structure(back) == jax.tree.structure(variables)

    pure = nnx.to_pure_dict(nnx.state(Nnxs(), TRAINED))
    jax.tree.map(
        np.testing.assert_array_equal, interop.nnx_from_linen(variables, pure, rename=names), nnx.to_pure_dict(state)
    )
    with pytest.raises(ValueError, match=r"layers/0/mean \[4\] belongs to .*no layers/0 .*\n"):
        interop.nnx_from_linen(variables, module)
    with pytest.raises(ValueError, match=r"batch_stats/norm/weight \[4\] has no partner"):
        interop.linen_from_nnx({"layers": {0: {"mean": np.ones(4)}}}, variables, rename=names)


# What users meet


def test_every_public_name_is_documented_to_the_last_argument():
    for name in interop.__all__:
        function, text = getattr(interop, name), inspect.getdoc(getattr(interop, name))
        assert "Example:" in text, name
        if inspect.isfunction(function):
            arguments = text.partition("Args:\n")[2].partition("\nReturns:")[0]
            assert all(re.search(rf"^ +{p}: ", arguments, re.M) for p in inspect.signature(function).parameters), name
        else:
            assert all(re.search(rf"^ +{f}: ", text, re.M) for f in function._fields), name


def test_no_other_library_is_imported():
    code = "import sys, jbn.interop; print(*{m.partition('.')[0] for m in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(found) & {"torch", "keras", "haiku", "equinox", "flax"}
