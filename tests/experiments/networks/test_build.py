"""The trained network is the one that the config names. The tests read the traced program, not the config."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import linen as nn
from helpers import ROOT

from experiments.config import Arm, ConfigError, ModelConfig, load
from experiments.networks.build import ACTIVATIONS, as_plain_batch_norm, build
from experiments.vocabulary import RESIDUAL
from jbn.placement import ORDER, Block

CONFIGS = sorted(ROOT.glob("configs/*.py"))
# The primitive that identifies each activation in a jaxpr: nothing else in an MLP with batch norm applies it to an
# array of the batch's size.
MARKS = {
    "relu": "max",
    "leaky_relu": "select_n",
    "elu": "expm1",
    "gelu": "erfc",
    "silu": "logistic",
    "softplus": "log1p",
    "softplus10": "log1p",
    "tanh": "tanh",
    "sigmoid": "logistic",
}


def primitives(jaxpr):
    """Every equation of a jaxpr in order, including those inside calls, as (primitive, shape of the first output)."""
    for equation in jaxpr.eqns:
        inner = [
            p for p in equation.params.values() if isinstance(p, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)
        ]
        if inner:
            for sub in inner:
                yield from primitives(getattr(sub, "jaxpr", sub))
        else:
            yield equation.primitive.name, equation.outvars[0].aval.shape


SHAPES = {"digits": (64,), "mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def traced_order(setup, batch=8):
    """The order of layers, norms and activations in the traced forward pass in training mode."""
    model = build(setup.model, 10, train=True)
    shape = SHAPES[setup.data.name]
    x = jnp.zeros((batch, *(size // setup.data.shrink for size in shape[:2]), *shape[2:]))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, mutable=["batch_stats"]))(variables, x)
    steps = []
    for name, shape in primitives(jaxpr.jaxpr):
        if name in ("dot_general", "conv_general_dilated"):
            steps.append("layer")
        elif name == "rsqrt" and steps[-1:] != ["norm"]:  # the drift's rsqrt is dead code next to the norm's
            steps.append("norm")
        elif name == MARKS.get(setup.model.activation) and shape[:1] == (batch,):
            steps.append("activation")
    return steps


def named_order(setup):
    """The same order, from the network's description."""
    model, blocks = (
        setup.model,
        {"mlp": len(setup.model.hidden), "strided_cnn": 4, "cnn9": 8, "vgg16": 13, "simple8": 7},
    )
    block = [step for step in ORDER[model.placement] if step != "norm" or model.norm != "none"]
    if model.network == "airbench94":
        return ["layer", "activation"] + block * 6 + ["layer"]
    head = [step for step in block if step != "activation"] if model.network == "strided_cnn" else ["layer"]
    head = ["norm"] * model.final_norm + head
    return ["layer"] * (model.network == "cnn9") + block * blocks[model.network] + head


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_traced_model_of_every_config_applies_the_order_that_it_names(path):
    config = load(path)
    for arm in config.arms:
        setup = config.setup(arm)
        if setup.model.network in RESIDUAL:  # test_orders.py writes out by hand what each unit computes
            assert build(setup.model, 10, train=True).unit == arm.treatment
        else:
            assert traced_order(setup) == named_order(setup), arm


@pytest.mark.parametrize("activation", sorted(MARKS))
@pytest.mark.parametrize("placement", sorted(ORDER))
def test_every_placement_and_activation_is_traced_in_its_order(placement, activation):
    config = replace(load(CONFIGS[0].parent / "smoke.py"), placements=(placement,), activations=(activation,))
    expected = list(ORDER[placement]) * len(config.model.hidden) + ["layer"]
    assert traced_order(config.setup(Arm(placement, activation))) == expected


def test_a_network_equals_its_formula_in_numpy():
    """Checks the same by value: the logits of before, after and none, written out by hand in float64."""
    config = ModelConfig(hidden=(5, 4), epsilon=1e-3)
    x = np.random.default_rng(0).normal(2, 3, (11, 6))
    rng = np.random.default_rng(1)

    def norm(h, p):
        return (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-3) * p["scale"] + p["bias"]

    for placement in ("none", "before", "after"):
        model = build(replace(config, placement=placement, activation="tanh"), 3, train=True)
        variables = model.init(jax.random.key(0), jnp.zeros((2, 6)))
        variables = jax.tree.map(lambda a: a + rng.normal(0, 0.5, a.shape).astype(np.float32), variables)
        logits, _ = model.apply(variables, x.astype(np.float32), mutable=["batch_stats"])
        h = x
        for i in range(2):
            p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"][f"block_{i}"])
            h = h @ p["layer"]["kernel"] + p["layer"]["bias"]
            h = norm(h, p["norm"]) if placement == "before" else h
            h = np.tanh(h)
            h = norm(h, p["norm"]) if placement == "after" else h
        head = variables["params"]["head"]
        expected = h @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])
        np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_the_functions_of_their_names(name):
    x = np.linspace(-3, 3, 13)
    sigmoid = 1 / (1 + np.exp(-x))
    expected = {
        "relu": np.maximum(x, 0),
        "leaky_relu": np.where(x > 0, x, 0.01 * x),
        "elu": np.where(x > 0, x, np.expm1(x)),
        "gelu": x / 2 * (1 + scipy.special.erf(x / np.sqrt(2))),
        "silu": x * sigmoid,
        "softplus": np.log1p(np.exp(x)),
        "softplus10": np.log1p(np.exp(10 * x)) / 10,
        "tanh": np.tanh(x),
        "sigmoid": sigmoid,
        "identity": x,
    }[name]
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x, jnp.float32)), expected, rtol=1e-5, atol=1e-6)


def test_initial_layer_weights_are_the_same_in_every_arm_and_differ_between_seeds():
    config = load(CONFIGS[0].parent / "digits_placement.py")

    def weights(arm, seed):
        model = build(config.setup(arm).model, 10, train=True)
        params = model.init(jax.random.key(seed), jnp.zeros((2, 64)))["params"]
        return [np.asarray(params[f"block_{i}"]["layer"]["kernel"]) for i in range(3)] + [
            np.asarray(params["head"]["kernel"])
        ]

    first, *others = (weights(arm, 5) for arm in config.arms)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert all((a != b).all() for a, b in zip(first, weights(config.arms[0], 6), strict=True))


NORMS = ("batch_norm", "batch_renorm", "frozen_batch_norm", "layer_norm", "group_norm", "none")


@pytest.mark.parametrize("norm", NORMS)
def test_a_config_builds_every_norm_with_its_options_and_an_unknown_one_is_refused(norm):
    options = {} if norm == "none" else {"norm_bias": False, "epsilon": 0.5}
    config = ModelConfig(norm=norm, hidden=(8, 8), groups=2, **options)
    x = np.random.default_rng(0).normal(1, 2, (16, 5)).astype(np.float32)
    model = build(config, 3, train=True)
    variables = model.init(jax.random.key(0), x)
    names = set(variables["params"]["block_0"]) - {"layer"}
    assert names == (set() if norm == "none" else {"norm"})
    if norm == "none":
        return
    assert set(variables["params"]["block_0"]["norm"]) == {"scale"}
    _, seen = model.apply(variables, x, mutable=["batch_stats", "intermediates"])
    z = np.asarray(seen["intermediates"]["block_0"]["activation_input"][0])
    h = x @ np.asarray(variables["params"]["block_0"]["layer"]["kernel"])
    h = h.reshape(16, 2, 4) if norm == "group_norm" else h
    axis = {"layer_norm": 1, "group_norm": 2}.get(norm, 0)
    mean, var = h.mean(axis, keepdims=True), h.var(axis, keepdims=True)
    if norm == "frozen_batch_norm":
        mean, var = 0, 1
    np.testing.assert_allclose(z, ((h - mean) / np.sqrt(var + 0.5)).reshape(16, 8), rtol=1e-4, atol=1e-5)


def test_published_options_of_a_network_hold_until_the_config_says_otherwise():
    def norm(**options):
        model = build(ModelConfig(network="airbench94", activation="gelu", **options), 10, train=True)
        return model.norm(name="norm")

    assert (norm().epsilon, norm().use_scale, norm().momentum) == (1e-12, False, 0.6)
    changed = norm(epsilon=1e-3, norm_scale=True, momentum=0.5)
    assert (changed.epsilon, changed.use_scale, changed.momentum) == (1e-3, True, 0.5)


@pytest.mark.parametrize(
    ("init", "std"), [("normal", 0.02), ("he", (2 / 400) ** 0.5), ("glorot", (2 / 900) ** 0.5), ("lecun", 1 / 20)]
)
def test_initial_kernels_have_the_standard_deviation_of_their_name(init, std):
    model = build(ModelConfig(hidden=(500,), init=init, init_std=0.02), 10, train=True)
    params = model.init(jax.random.key(0), jnp.zeros((2, 400)))["params"]
    assert np.std(params["block_0"]["layer"]["kernel"]) == pytest.approx(std, rel=0.02)


class Own(nn.Module):
    """A network that a user might write."""

    classes: int
    activation: Callable
    norm: Callable
    placement: str
    final_norm: bool = False
    dtype: Any = None
    width: float = 1.0

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            x = Block(partial(nn.Dense, round(8 * self.width)), self.norm, self.activation, self.placement,
                      name=f"block_{i}")(x)  # fmt: skip
        return nn.Dense(self.classes, name="head")(x)


def test_a_network_of_ones_own_takes_one_function_and_one_config():
    config = ModelConfig(network=f"{__name__}:Own", activation="tanh", placement="after", width=2.0)
    model = build(config, 3, train=True)
    assert isinstance(model, Own) and model.width == 2.0
    params = model.init(jax.random.key(0), jnp.zeros((2, 5)))["params"]
    assert params["block_1"]["norm"]["scale"].shape == (16,)
    with pytest.raises(ConfigError, match=r"network is 'no_such:net', but No module named 'no_such'; give module:func"):
        build(ModelConfig(network="no_such:net"), 3, train=True)
    with pytest.raises(ConfigError, match=r"model\.network is 'resnt'; choose one of mlp, .*did you mean 'resnet'\?"):
        ModelConfig(network="resnt")


def test_a_measuring_network_takes_the_statistics_of_its_one_batch():
    x = np.random.default_rng(0).normal(3, 2, (16, 5)).astype(np.float32)
    config = ModelConfig(norm="batch_renorm", virtual_batch_size=4, hidden=(6,))
    model = build(as_plain_batch_norm(config), 3, train=True)
    variables = model.init(jax.random.key(0), x)
    _, seen = model.apply(variables, x, mutable=["batch_stats"])
    h = x @ np.asarray(variables["params"]["block_0"]["layer"]["kernel"])
    np.testing.assert_allclose(seen["batch_stats"]["block_0"]["norm"]["var"], h.var(0), rtol=1e-5)
