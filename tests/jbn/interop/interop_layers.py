"""A common interface to the layers of every library: train, evaluate, and convert to and from `interop.Layer`.

A library is imported only when its layer is made; if it is not installed, the test is skipped.
"""

import functools
import os

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
    """y, the other results of `forward`, and the parameters after a step of gradient descent."""

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
        os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it at import
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
        fast = {"use_fast_variance": False}  # Flax's default variance loses digits
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
    """The other library's layer after a few steps, and batches with targets for more steps."""
    make, shape, options = OTHERS[name]
    other = make(dtype=dtype, shape=shape, **options)
    axis = other.axis % len(shape)
    data = [(batch(shape, axis, dtype, mean=mean, seed=s), batch(shape, axis, dtype, seed=9 + s)) for s in range(9)]
    for _ in range(warm):
        other.train(*data.pop())
    return other, data


def assert_same_layer(a, b, tolerance=1e-5):
    """Same arrays and options; compares the count only if the average depends on it."""
    counts = a.debias or not isinstance(a.momentum, float)
    for name, x, y in zip(interop.Layer._fields, a, b, strict=True):
        if name in ("scale", "bias", "mean", "var") or (name == "count" and counts):
            assert (x is None) == (y is None), name
            if x is not None:
                assert_close(*np.broadcast_arrays(np.asarray(x, np.float64), y), tolerance)
        else:
            assert x == y or name == "count", name


def moved(layer, seed=0):
    """The same options with other arrays."""
    rng = np.random.default_rng(seed)
    return layer._replace(
        **{
            name: (rng.uniform(0.5, 2, N) + shift).astype(np.float32)
            for name, shift in (("scale", 0), ("bias", 0), ("mean", 3), ("var", 0))
        }
    )


def like_of(module, *args, **options):
    """Shapes and dtypes of a linen model's variables."""
    return jax.eval_shape(functools.partial(module.init, **options), jax.random.key(0), *map(jnp.asarray, args))
