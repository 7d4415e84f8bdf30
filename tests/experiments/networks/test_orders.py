"""Every network calls its layers in the order that the placement, or the residual unit, names."""

import itertools
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import assert_close
from small_networks import CIFAR, TINY, filled, images, network, resnet_parameters

import jbn.linen
from experiments.networks import (
    NETWORKS,
    UNITS,
    Whitening,
    no_norm,
    parameter_count,
)
from jbn.placement import ORDER, Placement

# Order


def calls(model, shape, monkeypatch):
    """The layers that the forward pass calls, in order."""
    log, pool = [], nn.max_pool

    def logged(kind, function):
        return lambda *args: (log.append(kind), function(*args))[1]

    kinds = {nn.Dense: "layer", nn.Conv: "layer", Whitening: "whitening", jbn.linen.BatchNorm: "norm"}

    def intercept(call, args, kwargs, context):
        if context.method_name == "__call__" and type(context.module) in kinds:
            kind = kinds[type(context.module)]
            log.append("head" if context.module.name == "head" else kind)
        return call(*args, **kwargs)

    model = model.clone(activation=logged("activation", model.activation))
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, *shape)))
    log.clear()
    monkeypatch.setattr(nn, "max_pool", logged("pool", pool))
    with nn.intercept_methods(intercept):
        jax.eval_shape(partial(model.apply, mutable=["batch_stats"]), variables, jnp.zeros((2, *shape)))
    monkeypatch.undo()
    return log


def pooled(block):
    return [*block, "pool"]


def split(block):
    """A block that pools right after its layer."""
    at = block.index("layer") + 1
    return [*block[:at], "pool", *block[at:]]


# Each network, written out by hand with blocks b.
PLANS = {
    "mlp": lambda b: 3 * b + ["head"],
    "strided_cnn": lambda b: 4 * b + [s for s in b if s != "activation"],
    "cnn9": lambda b: ["layer"] + 8 * b + ["head"],
    "vgg16": lambda b: 2 * (b + pooled(b)) + 3 * (2 * b + pooled(b)) + ["head"],
    "simple8": lambda b: b + 3 * (pooled(b) + b) + ["head"],
    "airbench94": lambda b: ["whitening", "activation"] + 3 * (split(b) + b) + ["head"],
}


@pytest.mark.parametrize("placement", get_args(Placement))
@pytest.mark.parametrize("name", PLANS)
def test_every_network_calls_its_layers_in_the_order_of_its_placement(name, placement, monkeypatch):
    expected = PLANS[name](list(ORDER[placement]))
    if name == "strided_cnn" and placement == "both":
        expected = expected[:-1]  # there is nothing between the two norms of the logits
    assert calls(network(name, placement, **TINY[name]), CIFAR, monkeypatch) == expected


@pytest.mark.parametrize("placement", get_args(Placement))
@pytest.mark.parametrize("name", ["vgg16", "simple8", "airbench94"])
def test_pooling_moves_from_the_end_of_the_block_to_right_after_its_layer(name, placement, monkeypatch):
    b = list(ORDER[placement])
    plans = {
        ("vgg16", "before_norm"): 2 * (b + split(b)) + 3 * (2 * b + split(b)) + ["head"],
        ("simple8", "before_norm"): b + 3 * (split(b) + b) + ["head"],
        ("airbench94", "after_block"): ["whitening", "activation"] + 3 * (pooled(b) + b) + ["head"],
    }
    pooling = "after_block" if name == "airbench94" else "before_norm"
    assert calls(network(name, placement, pooling=pooling, **TINY[name]), CIFAR, monkeypatch) == plans[name, pooling]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_final_norm_is_one_more_in_front_of_the_classifier(name, monkeypatch):
    without = calls(network(name, **TINY[name]), CIFAR, monkeypatch)
    at = -2 if name == "strided_cnn" else -1  # its classifier is a layer with a norm
    expected = [*without[:at], "norm", *without[at:]]
    assert calls(network(name, final_norm=True, **TINY[name]), CIFAR, monkeypatch) == expected


# k: layers, n: norms, a: activation, s: shortcut; with `early`, the shortcut starts after the first steps.
MEANING = {
    "original": lambda k, n, a, s, early, x: a(s(x) + n[1](k[1](a(n[0](k[0](x)))))),
    "bn_after_addition": lambda k, n, a, s, early, x: a(n[1](s(x) + k[1](a(n[0](k[0](x)))))),
    "relu_before_addition": lambda k, n, a, s, early, x: s(x) + a(n[1](k[1](a(n[0](k[0](x)))))),
    "relu_only_preactivation": lambda k, n, a, s, early, x: s(a(x) if early else x) + n[1](k[1](a(n[0](k[0](a(x)))))),
    "full_preactivation": lambda k, n, a, s, early, x: s(a(n[0](x)) if early else x) + k[1](a(n[1](k[0](a(n[0](x)))))),
    "no_relu_bn_before_addition": lambda k, n, a, s, early, x: s(x) + n[1](k[1](a(n[0](k[0](x))))),
    "no_relu_bn_after_addition": lambda k, n, a, s, early, x: n[1](s(x) + k[1](a(n[0](k[0](x))))),
}
# The remaining steps of the stem, and the steps after the last unit.
ENDS = dict.fromkeys(MEANING, (("layer", "norm", "activation"), ())) | {
    "relu_only_preactivation": (("layer", "norm"), ("activation",)),
    "full_preactivation": (("layer",), ("norm", "activation")),
}


def resnet_by_hand(params, x, unit, shortcut):
    """ResNet-14 with 4, 4, 8, 16 features in training mode, from convolutions and moments, without the package."""

    def conv(p, stride=1):
        edge = [(p["kernel"].shape[0] // 2,) * 2] * 2
        dims = ("NHWC", "HWIO", "NHWC")
        return lambda h: jax.lax.conv_general_dilated(h, p["kernel"], (stride,) * 2, edge, dimension_numbers=dims)

    def norm(p):
        return lambda h: (h - h.mean((0, 1, 2))) / jnp.sqrt(h.var((0, 1, 2)) + 1e-5) * p["scale"] + p["bias"]

    def ends(steps, p, h):
        parts = {"layer": lambda: conv(p["layer_0"]), "norm": lambda: norm(p["norm_0"]), "activation": lambda: jnp.tanh}
        for step in steps:
            h = parts[step]()(h)
        return h

    def unit_by_hand(p, h, features, stride, first):
        def skip(h):
            if h.shape[-1] == features:
                return h
            if shortcut == "zeros":
                return jnp.concatenate([h[:, ::2, ::2], 0 * h[:, ::2, ::2]], -1)
            h = conv(p["shortcut"], stride)(h)
            between = unit not in ("bn_after_addition", "full_preactivation", "no_relu_bn_after_addition")
            return norm(p["shortcut_norm"])(h) if between else h

        layers = [conv(p["layer_0"], stride), conv(p["layer_1"])]
        norms = [norm(p["norm_0"]), norm(p["norm_1"])]
        return MEANING[unit](layers, norms, jnp.tanh, skip, first or stride > 1, h)

    before, after = ENDS[unit]
    h = ends(before, params["stage_0_stem"], x)
    for stage, features in ((1, 4), (2, 8), (3, 16)):
        for i in range(2):
            stride = 2 if stage > 1 and i == 0 else 1
            h = unit_by_hand(params[f"stage_{stage}_unit_{i}"], h, features, stride, stage == 1 and i == 0)
    h = ends(after, params.get("stage_4_tail"), h)
    return h.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def test_every_residual_unit_computes_what_is_written_out_by_hand(subtests):
    """Runs eagerly. It is one test, so that all units share the compiled operations."""
    x = images(5, (16, 16, 3))
    for unit, shortcut in itertools.product(UNITS, ("zeros", "projection")):
        with subtests.test(unit=unit, shortcut=shortcut):
            model = network("resnet", unit, depth=14, width=1 / 4, shortcut=shortcut, activation=jnp.tanh)
            variables = filled(model, x)
            logits, _ = model.apply(variables, x, mutable=["batch_stats"])
            assert_close(logits, resnet_by_hand(variables["params"], x, unit, shortcut), 1e-4)


@pytest.mark.parametrize("unit", UNITS)
def test_every_residual_network_calls_what_its_unit_names(unit, monkeypatch):
    assert tuple(MEANING) == tuple(UNITS)
    stem, tail = ENDS[unit]
    body = [step for step in UNITS[unit] if step != "add"]
    assert calls(network("resnet", unit, depth=14), CIFAR, monkeypatch) == [*stem, *6 * body, *tail, "head"]


def test_residual_networks_of_all_units_have_equally_many_parameters():
    assert {parameter_count(network("resnet", unit, depth=14), CIFAR) for unit in UNITS} == {resnet_parameters(2)}


@pytest.mark.parametrize(
    ("padding", "rows"), [("zero", range(0, 32, 4)), ("reflect", range(0, 32, 4)), ("valid", (12, 16))]
)
def test_a_shortcut_samples_the_pixels_that_its_branch_samples(padding, rows):
    """If layers are the identity, each shortcut doubles the input, provided that both show the same pixels."""
    model = network("resnet", depth=8, width=1 / 4, norm=no_norm, activation=lambda x: x, padding=padding)
    x = images(2)

    def passing(leaf):
        kernel = np.zeros(leaf.shape, np.float32)
        if leaf.ndim > 1:
            (kernel[1, 1] if leaf.ndim == 4 else kernel)[:] = np.eye(*leaf.shape[-2:])
        return kernel

    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(passing, shapes)
    expected = 8 * x[:, list(rows)][:, :, list(rows)].mean((1, 2))
    assert_close(model.apply(variables, x)[:, :3], expected, 1e-5)
