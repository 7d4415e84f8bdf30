"""The network that is trained is the one that the config names: asserted from what is traced, not from the config."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import Arm, ModelConfig, load
from experiments.models import ACTIVATIONS, build
from jbn.placement import ORDER

CONFIGS = sorted(Path(__file__).parent.parent.glob("configs/*.py"))
# The primitive by which each activation is known in a jaxpr; nothing else in an MLP with batch norm uses it on an
# array of the batch's size.
MARKS = {
    "relu": "max",
    "leaky_relu": "select_n",
    "elu": "expm1",
    "gelu": "tanh",
    "silu": "logistic",
    "tanh": "tanh",
    "sigmoid": "logistic",
}


def primitives(jaxpr):
    """Every equation of a jaxpr in order, those inside calls included, as (primitive, shape of the first output)."""
    for equation in jaxpr.eqns:
        inner = [
            p for p in equation.params.values() if isinstance(p, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)
        ]
        if inner:
            for sub in inner:
                yield from primitives(getattr(sub, "jaxpr", sub))
        else:
            yield equation.primitive.name, equation.outvars[0].aval.shape


def traced_order(config, arm, batch=7):
    """The order of layers, norms and activations in the traced forward pass in training mode."""
    model = build(config.model, arm, 10, train=True)
    x = jnp.zeros((batch, 64))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, mutable=["batch_stats"]))(variables, x)
    steps = []
    for name, shape in primitives(jaxpr.jaxpr):
        if name == "dot_general":
            steps.append("layer")
        elif name == "rsqrt" and steps[-1:] != ["norm"]:  # the drift's own rsqrt is dead code beside the norm's
            steps.append("norm")
        elif name == MARKS.get(arm.activation) and shape[:1] == (batch,):
            steps.append("activation")
    return steps


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_traced_model_of_every_config_applies_the_order_that_it_names(path):
    config = load(path)
    for arm in config.arms:
        block = list(ORDER[arm.placement])
        assert traced_order(config, arm) == block * len(config.model.hidden) + ["layer"], arm


@pytest.mark.parametrize("activation", sorted(MARKS))
@pytest.mark.parametrize("placement", sorted(ORDER))
def test_every_placement_and_activation_is_traced_in_its_order(placement, activation):
    config = load(CONFIGS[0].parent / "smoke.py")
    expected = list(ORDER[placement]) * len(config.model.hidden) + ["layer"]
    assert traced_order(config, Arm(placement, activation)) == expected


def test_a_network_equals_its_formula_in_numpy():
    """The same claim by values: the logits of before, after and none, written out by hand in float64."""
    config = ModelConfig(hidden=(5, 4), epsilon=1e-3)
    x = np.random.default_rng(0).normal(2, 3, (11, 6))
    rng = np.random.default_rng(1)

    def norm(h, p):
        return (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-3) * p["scale"] + p["bias"]

    for placement in ("none", "before", "after"):
        model = build(config, Arm(placement, "tanh"), 3, train=True)
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
        "gelu": x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "silu": x * sigmoid,
        "tanh": np.tanh(x),
        "sigmoid": sigmoid,
        "identity": x,
    }[name]
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x, jnp.float32)), expected, rtol=1e-5, atol=1e-6)


def test_initial_layer_weights_are_the_same_in_every_arm_and_differ_between_seeds():
    config = load(CONFIGS[0].parent / "digits_placement.py")

    def weights(arm, seed):
        params = build(config.model, arm, 10, train=True).init(jax.random.key(seed), jnp.zeros((2, 64)))["params"]
        return [np.asarray(params[f"block_{i}"]["layer"]["kernel"]) for i in range(3)] + [
            np.asarray(params["head"]["kernel"])
        ]

    first, *others = (weights(arm, 5) for arm in config.arms)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert all((a != b).all() for a, b in zip(first, weights(config.arms[0], 6), strict=True))
