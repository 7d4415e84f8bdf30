"""experiments.networks: as large as published, in the order that the placement names, with any norm."""

import itertools
import math
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import assert_close

import jbn.linen
from experiments.networks import (
    NETWORKS,
    PUBLISHED_NORM,
    UNITS,
    Whitening,
    flops,
    multiply_adds,
    no_norm,
    parameter_count,
    whiten,
    whitening_weights,
)
from experiments.networks.plain import dirac
from jbn.placement import ORDER, Placement
from jbn.population import estimate_linen

BATCH = partial(jbn.linen.BatchNorm, use_running_average=False)
NORMS = {
    "batch": BATCH,
    "renorm": partial(jbn.linen.BatchRenorm, use_running_average=False),
    "layer": nn.LayerNorm,
    "group": partial(nn.GroupNorm, num_groups=2),
    "none": no_norm,
}
# Small enough to run; all have every kind of layer that the whole network has.
TINY = {
    "mlp": dict(hidden=(8, 6, 4)),
    "strided_cnn": dict(width=1 / 2),
    "cnn9": dict(width=1 / 16),
    "vgg16": dict(width=1 / 16),
    "simple8": dict(width=1 / 16),
    "resnet": dict(depth=8, width=1 / 4),
    "wrn": dict(depth=10, width=1 / 4),
    "airbench94": dict(width=1 / 16),
}
WHERE = {"wrn": "full_preactivation"}  # as published
PLAIN = [name for name in NETWORKS if name not in ("resnet", "wrn")]
AGREEING = [name for name in NETWORKS if name not in ("vgg16", "wrn")]
CIFAR, MNIST = (32, 32, 3), (28, 28, 1)
# Every program here runs once: compile it fast.
ONCE = {"xla_backend_optimization_level": 0}


def network(name, where=None, **options):
    """A network by name, of 10 classes, with batch norm and ReLU; `where` is a placement or a unit."""
    order = {"placement": where or "before"} if name in PLAIN else {"unit": where or "original"}
    return NETWORKS[name](**(dict(classes=10, activation=jax.nn.relu, norm=BATCH) | order | options))


def images(n=4, shape=CIFAR, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1, (n, *shape)).astype(np.float32)


def filled(model, x, seed=0):
    """Variables of a model, drawn without compiling its initializers, and none of them what it starts with."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return rng.normal(0, math.sqrt(2 / math.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        low, high = {"scale": (0.5, 1.5), "var": (0.5, 1.5), "bias": (-0.3, 0.3), "mean": (-0.3, 0.3)}.get(kind, (0, 0))
        return rng.uniform(low, high, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), x))


def apply(model, variables, x):
    """Logits, and what the forward pass changed and sowed."""
    run = partial(model.apply, mutable=["batch_stats", "intermediates"])
    return jax.jit(run, compiler_options=ONCE)(variables, x)


# Size


def conv(kernel, *features, norm=2, bias=0):
    """Parameters of convolutions in a row, each with `norm` and `bias` numbers per output."""
    return sum(kernel**2 * a * b + (norm + bias) * b for a, b in itertools.pairwise(features))


def resnet_parameters(n):
    """He et al. 2015, section 4.2: 6n + 2 layers, 16 to 64 features, batch norm after each, no shortcut parameters."""
    stages = conv(3, *(2 * n + 1) * [16]) + conv(3, 16, *2 * n * [32]) + conv(3, 32, *2 * n * [64])
    return conv(3, 3, 16) + stages + 64 * 10 + 10


def wrn_parameters(n, k):
    """Zagoruyko & Komodakis 2016: 6n + 4 layers; a unit is norm, 3 x 3, norm, 3 x 3; projections are bare."""
    total, inputs = 27 * 16, 16
    for features, _ in itertools.product((16 * k, 32 * k, 64 * k), range(n)):
        projection = 0 if inputs == features else inputs * features
        total += 2 * inputs + 9 * inputs * features + 2 * features + 9 * features**2 + projection
        inputs = features
    return total + 2 * inputs + 10 * inputs + 10


VGG = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
SIMPLE = (3, 64, 128, 128, 256, 256, 512, 512)
AIRBENCH = (24, 64, 64, 256, 256, 256, 256)
# name, options, input: parameters as written out above; and as published, in millions, with the digits given there.
PARAMETERS = [
    ("mlp", {}, MNIST, 784 * 100 + 2 * 100**2 + 10 * 100 + 3 * 3 * 100 + 10, None),
    ("strided_cnn", {}, MNIST, conv(5, 1, 8, bias=1) + conv(3, 8, 16, 32, 64, 10, bias=1), None),
    ("cnn9", {}, CIFAR, conv(3, 3, 64, bias=1, norm=0) + conv(3, *9 * [64], bias=1) + 650, None),
    # The README of https://github.com/kuangliu/pytorch-cifar and its descendants.
    ("vgg16", {}, CIFAR, conv(3, *VGG, bias=1) + 5130, "14.728266"),
    ("simple8", {}, CIFAR, conv(3, *SIMPLE) + 5120, None),
    # He et al. 2015, table 6.
    ("resnet", dict(depth=20), CIFAR, resnet_parameters(3), "0.27"),
    ("resnet", dict(depth=56), CIFAR, resnet_parameters(9), "0.85"),
    ("resnet", dict(depth=110), CIFAR, resnet_parameters(18), "1.7"),
    # https://github.com/osmr/imgclsmob; 36.5 million in the paper.
    ("wrn", dict(depth=28, width=10), CIFAR, wrn_parameters(4, 10), "36.479194"),
    ("wrn", dict(depth=16, width=10), CIFAR, wrn_parameters(2, 10), "17.116634"),
    ("wrn", dict(depth=40, width=8), CIFAR, wrn_parameters(6, 8), "35.748314"),
    # Jordan 2024. Trained are the bias of the whitening layer, too, and of the norms only the biases.
    ("airbench94", {}, CIFAR, conv(3, *AIRBENCH, norm=1) + 2560 + 24, "1.97"),
]


@pytest.mark.parametrize(("name", "options", "shape", "by_hand", "published"), PARAMETERS)
def test_parameter_counts_are_the_published_ones(name, options, shape, by_hand, published):
    norm = partial(BATCH, **PUBLISHED_NORM[name])
    count = parameter_count(network(name, WHERE.get(name), norm=norm, **options), shape)
    assert count == by_hand
    assert published is None or f"{count / 1e6:.{len(published.partition('.')[2])}f}" == published


MULTIPLY_ADDS = [
    # Millions, from the table at the head of placement.md.
    ("mlp", {}, MNIST, "0.10"),
    ("mlp", dict(hidden=5 * (512,)), MNIST, "1.46"),
    ("strided_cnn", {}, MNIST, "0.25"),
    ("cnn9", {}, CIFAR, "303.8"),
    ("vgg16", {}, CIFAR, "313.2"),
    ("simple8", {}, CIFAR, "341.5"),
    ("resnet", dict(depth=14), CIFAR, "26"),
    ("resnet", dict(depth=20), CIFAR, "41"),
    ("resnet", dict(depth=110), CIFAR, "253"),
]


@pytest.mark.parametrize(("name", "options", "shape", "published"), MULTIPLY_ADDS)
def test_multiply_adds_are_the_published_ones(name, options, shape, published):
    millions = multiply_adds(network(name, **options), shape) / 1e6
    assert f"{millions:.{len(published.partition('.')[2])}f}" == published


@pytest.mark.parametrize(("epochs", "petaflops"), [(9.9, 0.36), (8, 0.29)])
def test_training_airbench94_costs_what_its_repository_says(epochs, petaflops):
    """Three forward passes a step over 50,000 images; theirs are 2 to 3 % more, and say not what else they count."""
    cost = 3 * flops(network("airbench94"), CIFAR) * 50_000 * epochs / 1e15
    assert 0.97 * petaflops < cost < petaflops


def test_a_wide_residual_network_computes_what_others_count():
    """https://github.com/osmr/imgclsmob: 5,246.98 million, in which norms and activations are, too: 0.07 % of it."""
    assert 0.999 < multiply_adds(network("wrn", WHERE["wrn"]), CIFAR) / 5246.98e6 < 1


@pytest.mark.parametrize("name", ["mlp", "strided_cnn", "resnet", "airbench94"])
def test_flops_are_those_that_the_compiler_counts(name):
    """XLA leaves out products with padding, so there is none here; and it counts what is no product: below 2 %."""
    options = TINY[name] | ({} if name == "mlp" else {"padding": "reflect"})
    model = network(name, norm=no_norm, activation=lambda x: x, **(options | {"use_bias": False}))
    x = images(8)
    step = jax.jit(lambda variables, x: model.apply(variables, x), compiler_options=ONCE)
    counted = step.lower(filled(model, x), x).compile().cost_analysis()["flops"]
    assert 1 <= counted / (len(x) * flops(model, CIFAR)) < 1.02


def test_scanned_layers_are_counted_as_often_as_they_run():
    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(
                lambda cell, x, _: (cell(x), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=5
            )
            return scan(nn.Dense(7), x, None)[0]

    assert (parameter_count(Scanned(), (7,)), multiply_adds(Scanned(), (7,))) == (5 * 56, 5 * 49)


# Order


def calls(model, shape, monkeypatch):
    """What the forward pass calls, first to last."""
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


# Written out by hand: what each network is, of blocks b.
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
        expected = expected[:-1]  # nothing stands between the two norms of the logits
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
    at = -2 if name == "strided_cnn" else -1  # whose classifier is a layer and its norm
    expected = [*without[:at], "norm", *without[at:]]
    assert calls(network(name, final_norm=True, **TINY[name]), CIFAR, monkeypatch) == expected


# k: layers, n: norms, a: activation, s: shortcut; `early` where the shortcut leaves from behind the first steps.
MEANING = {
    "original": lambda k, n, a, s, early, x: a(s(x) + n[1](k[1](a(n[0](k[0](x)))))),
    "bn_after_addition": lambda k, n, a, s, early, x: a(n[1](s(x) + k[1](a(n[0](k[0](x)))))),
    "relu_before_addition": lambda k, n, a, s, early, x: s(x) + a(n[1](k[1](a(n[0](k[0](x)))))),
    "relu_only_preactivation": lambda k, n, a, s, early, x: s(a(x) if early else x) + n[1](k[1](a(n[0](k[0](a(x)))))),
    "full_preactivation": lambda k, n, a, s, early, x: s(a(n[0](x)) if early else x) + k[1](a(n[1](k[0](a(n[0](x)))))),
    "no_relu_bn_before_addition": lambda k, n, a, s, early, x: s(x) + n[1](k[1](a(n[0](k[0](x))))),
    "no_relu_bn_after_addition": lambda k, n, a, s, early, x: n[1](s(x) + k[1](a(n[0](k[0](x))))),
}
# What is left of the stem, and what follows the last unit.
ENDS = dict.fromkeys(MEANING, (("layer", "norm", "activation"), ())) | {
    "relu_only_preactivation": (("layer", "norm"), ("activation",)),
    "full_preactivation": (("layer",), ("norm", "activation")),
}


def resnet_by_hand(params, x, unit, shortcut):
    """ResNet-14 of 4, 4, 8, 16 features in training mode: convolutions and moments, and nothing of the package."""

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
    """Operation by operation; as one test, so that all units share what each operation compiles to."""
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
    """Layers that pass their input on double it with each shortcut, if the two are of the same pixels."""
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


# Norms


# vgg16 is but a longer table for the module of simple8, and slow to compile.
TRAINED = [(name, "batch") for name in NETWORKS if name != "vgg16"]
TRAINED += itertools.product(("mlp",), ("renorm", "layer", "group", "none"))
TRAINED += [("cnn9", "renorm"), ("resnet", "group")]
OTHERS = itertools.product(("cnn9", "resnet"), ("renorm", "layer", "group", "none"))
TRAINED += [pytest.param(*pair, marks=pytest.mark.long) for pair in OTHERS if pair not in TRAINED]


@pytest.mark.parametrize(("name", "norm"), TRAINED)
def test_with_any_norm_one_step_moves_every_parameter_and_lowers_the_loss(name, norm):
    # In front of batch norm, a bias has no effect; gelu, because a dead ReLU has no gradient.
    model = network(name, norm=NORMS[norm], activation=jax.nn.gelu, **(TINY[name] | {"use_bias": False}))
    x, y = images(), np.arange(4)
    variables = filled(model, x)
    rest = {kind: tree for kind, tree in variables.items() if kind != "params"}

    def loss(params):
        logits, _ = model.apply({**rest, "params": params}, x, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    step = jax.jit(jax.value_and_grad(loss), compiler_options=ONCE)
    before, gradients = step(variables["params"])
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.isfinite(gradient).all(), path
        assert (gradient != 0).any(), path
    size = optax.tree.norm(gradients)
    after, _ = step(jax.tree.map(lambda p, g: p - 1e-2 * g / size, variables["params"], gradients))
    assert after < before


def test_frozen_scale_and_bias_have_no_gradient_and_the_layers_have():
    x = images()
    model = network("simple8", norm=partial(BATCH, **PUBLISHED_NORM["simple8"]), **TINY["simple8"])
    variables = filled(model, x)

    def loss(params):
        return (model.apply({**variables, "params": params}, x, mutable=["batch_stats"])[0] ** 2).sum()

    gradients = jax.jit(jax.grad(loss), compiler_options=ONCE)(variables["params"])
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert (gradient != 0).any() == (path[-1].key == "kernel"), path
    assert {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(gradients)} == {"kernel", "scale", "bias"}


# vgg16 and wrn are made of the modules of simple8 and resnet.
@pytest.mark.parametrize("name", [*AGREEING, *(pytest.param(n, marks=pytest.mark.long) for n in ("vgg16", "wrn"))])
def test_training_and_inference_agree_once_the_statistics_are_those_of_the_batch(name):
    x = images(6)
    model = network(name, **TINY[name])
    inference = model.clone(norm=partial(jbn.linen.BatchNorm, use_running_average=True))
    variables = filled(model, x)
    logits, _ = apply(model, variables, x)
    estimated = estimate_linen(inference, variables, [x], progress=False)
    infer = jax.jit(inference.apply, compiler_options=ONCE)
    assert_close(infer(estimated, x), logits, 1e-4)
    assert jnp.abs(infer(variables, x) - logits).max() > 0.01 * jnp.abs(logits).max()


# Whitening


def correlated(n=20):
    """Images whose neighbouring pixels and whose channels go together."""
    noise = images(n, (18, 18, 3))
    blurred = noise[:, 1:, 1:] + 2 * noise[:, :-1, 1:] + noise[:, 1:, :-1]
    return (blurred @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0.2, 0, 0.4]])).astype(np.float32)


def test_whitening_makes_the_outputs_of_the_first_layer_uncorrelated_and_of_size_one():
    x = correlated()
    model = network("airbench94", norm=no_norm, **TINY["airbench94"])
    variables = filled(model, x)
    variables["params"]["block_0"]["layer"]["bias"][:] = 0
    _, seen = apply(model, whiten(variables, x, epsilon=0), x)
    y = np.asarray(seen["intermediates"]["block_0"]["activation_input"][0], np.float64).reshape(-1, 24)
    np.testing.assert_allclose(y[:, :12].T @ y[:, :12] / len(y), np.eye(12), atol=1e-3)
    np.testing.assert_allclose(y[:, 12:], -y[:, :12], atol=1e-6)


def test_whitening_weights_are_the_scaled_eigenvectors_of_the_patches():
    x, epsilon = correlated(5), 0.3
    patches = np.stack(
        [im[i : i + 2, j : j + 2].ravel() for im in np.asarray(x, np.float64) for i in range(16) for j in range(16)]
    )
    moments = patches.T @ patches / len(patches)
    kernel = np.asarray(whitening_weights(x, 2, epsilon), np.float64).reshape(12, 24)[:, :12]
    values = np.linalg.eigvalsh(moments)[::-1]
    np.testing.assert_allclose(kernel.T @ moments @ kernel, np.diag(values / (values + epsilon)), atol=1e-3)


def test_the_whitening_kernel_is_a_constant_and_its_bias_a_parameter():
    x = images(2)
    model = network("airbench94", **TINY["airbench94"])
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert jax.tree.map(lambda a: a.shape, variables["constants"]) == {"block_0": {"layer": {"kernel": (2, 2, 3, 24)}}}
    assert jax.tree.map(lambda a: a.shape, variables["params"]["block_0"]) == {"layer": {"bias": (24,)}}


def test_white_noise_is_white_as_the_first_layer_starts():
    kernel = Whitening(2).init(jax.random.key(0), images(1))["constants"]["kernel"].reshape(12, 24)
    np.testing.assert_array_equal(kernel, np.concatenate([np.eye(12), -np.eye(12)], 1))


# Options


@pytest.mark.parametrize("name", ["mlp", "simple8", "resnet", "airbench94"])
def test_one_seed_gives_every_layer_the_same_weights_whatever_the_option(name):
    x = images(2)

    def kernels(model):
        initialize = jax.jit(lambda key: model.init(key, x)["params"], compiler_options=ONCE)
        # These random bits compile several times as fast as the default ones.
        leaves = jax.tree_util.tree_leaves_with_path(initialize(jax.random.key(3, impl="unsafe_rbg")))
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if path[-1].key == "kernel"}

    where = "after" if name in PLAIN else "full_preactivation"
    others = dict(norm=nn.LayerNorm, final_norm=True, use_bias=True, dtype=jnp.bfloat16)
    others |= {} if name == "mlp" else {"padding": "reflect"}
    others |= {"simple8": {"pooling": "before_norm"}, "airbench94": {"pooling": "after_block"}}.get(name, {})
    first, second = (kernels(network(name, **TINY[name])), kernels(network(name, where, **(TINY[name] | others))))
    assert len(first) > 3
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("name", NETWORKS)
def test_bias_and_affine_controls_remove_exactly_the_biases_and_the_scales(name):
    def names(**options):
        model = network(name, **(TINY[name] | options))
        shapes = jax.eval_shape(model.init, jax.random.key(0), images(2))["params"]
        return {
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, _ in jax.tree_util.tree_leaves_with_path(shapes)
        }

    on, off = names(use_bias=True), names(use_bias=False)
    bare = names(use_bias=True, norm=partial(BATCH, use_scale=False, use_bias=False))
    layers = {path.removesuffix("kernel") for path in on if path.endswith("kernel") and path != "head/kernel"}
    assert on - off == {path + "bias" for path in layers} and off < on
    assert on - bare == {path for path in on if "norm" in path} and bare < on


@pytest.mark.parametrize("name", NETWORKS)
def test_narrow_networks_compute_in_bfloat16_and_keep_float32(name):
    seen = set()

    def intercept(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.path:
            seen.add((context.module.path[-1], y.dtype.name))
        return y

    model = network(name, dtype=jnp.bfloat16, final_norm=True, **TINY[name])
    variables = jax.eval_shape(model.init, jax.random.key(0), images(2))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    with nn.intercept_methods(intercept):
        logits, _ = jax.eval_shape(partial(model.apply, mutable=["batch_stats"]), variables, images(2))
    assert logits.dtype == jnp.float32 and logits.shape == (2, 10)
    # A norm's own result is cast behind it.
    assert {dtype for path, dtype in seen if "norm" not in path} == {"bfloat16"}


def test_padding_is_zero_or_the_mirrored_image_or_none():
    x = images(2, (6, 6, 3))

    class Alone(nn.Module):
        padding: str

        @nn.compact
        def __call__(self, x):
            return network("cnn9", padding=self.padding, use_bias=False).conv(4, 3, 2)(name="layer")(x)

    variables = filled(Alone("zero"), x)
    kernel = np.asarray(variables["params"]["layer"]["kernel"], np.float64)
    for padding, mode in (("zero", "constant"), ("reflect", "reflect"), ("valid", None)):
        padded = x if mode is None else np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode)
        size = (padded.shape[1] - 3) // 2 + 1
        by_hand = np.zeros((2, size, size, 4))
        for i, j in itertools.product(range(size), repeat=2):
            by_hand[:, i, j] = np.einsum("bhwc,hwco", padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], kernel)
        assert_close(Alone(padding).apply(variables, x), by_hand, 1e-5)


def test_blocks_are_named_in_the_order_of_the_forward_pass():
    for name in NETWORKS:
        model, order = network(name, **TINY[name]), []

        def intercept(call, args, kwargs, context, order=order):
            path = context.module.path
            if context.method_name == "__call__" and len(path) == 1:
                order.append(path[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(intercept):
            variables = jax.eval_shape(model.init, jax.random.key(0), images(2))
        assert order == sorted(order, key=lambda name: (name == "head", name))
        assert set(variables["params"]) == set(order)


def test_dirac_kernels_pass_their_input_on():
    x = images(2, (5, 5, 4))
    kernel = jax.jit(dirac, static_argnums=1)(jax.random.key(0), (3, 3, 4, 6))
    y = nn.Conv(6, (3, 3), use_bias=False).apply({"params": {"kernel": kernel}}, x)
    assert_close(y[..., :4], x, 1e-6)
    rest = jnp.abs(kernel[..., 4:])
    assert rest.min() > 0 and rest.max() <= 1 / math.sqrt(36)


WRONG = [
    ("cnn9", dict(placement="befor"), "placement is 'befor'.* did you mean 'before'"),
    ("cnn9", dict(padding="same"), "padding is 'same'; write one of zero, reflect, valid"),
    ("vgg16", dict(pooling="after"), "pooling is 'after'; write one of after_block, before_norm; .*'after_block'"),
    ("cnn9", dict(pooling="before_norm"), 'pooling is "before_norm", but no layer of this network pools'),
    ("vgg16", dict(readout="median"), "readout is 'median'; write one of mean, max, conv"),
    ("vgg16", dict(padding="valid"), "no output: its input is 1 x 1, its window 3 x 3; write larger images"),
    ("resnet", dict(unit="full_preactivaton"), "unit is 'full_preactivaton'.* did you mean 'full_preactivation'"),
    ("resnet", dict(shortcut="zero"), "shortcut is 'zero'; write one of zeros, projection; did you mean 'zeros'"),
    ("resnet", dict(depth=21), "depth of a resnet is 21; write 6n \\+ 2, such as 20"),
    ("wrn", dict(depth=4), "depth of a wrn is 4; write 6n \\+ 4, such as 10"),
    ("wrn", dict(width=0.5, shortcut="zeros"), "cannot turn 16 features into 8; write shortcut="),
]


@pytest.mark.parametrize(("name", "options", "says"), WRONG)
def test_what_a_network_cannot_be_is_refused_in_words(name, options, says):
    order = {key: options[key] for key in ("placement", "unit") if key in options}
    options = {key: value for key, value in options.items() if key not in order}
    with pytest.raises(ValueError, match=says):
        model = network(name, *order.values(), **options)
        jax.eval_shape(model.init, jax.random.key(0), images(2))


@pytest.mark.parametrize(
    ("name", "option"), [("mlp", "padding"), ("resnet", "placement"), ("wrn", "pooling"), ("mlp", "unit")]
)
def test_options_that_would_do_nothing_are_unknown(name, option):
    with pytest.raises(TypeError, match=option):
        network(name, **{option: "none"})
