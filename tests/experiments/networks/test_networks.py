"""experiments.networks: networks train with any norm, and every option has its documented effect."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import assert_close
from small_networks import AGREEING, BATCH, NORMS, ONCE, PLAIN, TINY, apply, filled, images, network

import jbn.linen
from experiments.networks import (
    NETWORKS,
    PUBLISHED_NORM,
)
from experiments.networks.plain import dirac
from jbn.population import estimate_linen

# Norms


# vgg16 is the module of simple8 with a longer table, and slow to compile.
TRAINED = [(name, "batch") for name in NETWORKS if name != "vgg16"]
TRAINED += itertools.product(("mlp",), ("renorm", "layer", "group", "none"))
TRAINED += [("cnn9", "renorm"), ("resnet", "group")]
OTHERS = itertools.product(("cnn9", "resnet"), ("renorm", "layer", "group", "none"))
TRAINED += [pytest.param(*pair, marks=pytest.mark.long) for pair in OTHERS if pair not in TRAINED]


@pytest.mark.parametrize(("name", "norm"), TRAINED)
def test_with_any_norm_one_step_moves_every_parameter_and_lowers_the_loss(name, norm):
    # Before batch norm, a bias has no effect. GELU, because a dead ReLU has no gradient.
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


# vgg16 and wrn use the modules of simple8 and resnet.
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


# Options


@pytest.mark.parametrize("name", ["mlp", "simple8", "resnet", "airbench94"])
def test_one_seed_gives_every_layer_the_same_weights_whatever_the_option(name):
    x = images(2)

    def kernels(model):
        initialize = jax.jit(lambda key: model.init(key, x)["params"], compiler_options=ONCE)
        # This generator compiles several times as fast as the default one.
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
    # The result of a norm is cast after it.
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
    ("cnn9", dict(padding="same"), "padding is 'same'; choose one of zero, reflect, valid"),
    ("vgg16", dict(pooling="after"), "pooling is 'after'; choose one of after_block, before_norm; .*'after_block'"),
    ("cnn9", dict(pooling="before_norm"), 'pooling is "before_norm", but no layer of this network pools'),
    ("vgg16", dict(readout="median"), "readout is 'median'; choose one of mean, max, conv"),
    ("vgg16", dict(padding="valid"), "no output: its input is 1 x 1, its window 3 x 3; use larger images"),
    ("resnet", dict(unit="full_preactivaton"), "unit is 'full_preactivaton'.* did you mean 'full_preactivation'"),
    ("resnet", dict(shortcut="zero"), "shortcut is 'zero'; choose one of zeros, projection; did you mean 'zeros'"),
    ("resnet", dict(depth=21), "depth of a resnet is 21; use 6n \\+ 2, such as 20"),
    ("wrn", dict(depth=4), "depth of a wrn is 4; use 6n \\+ 4, such as 10"),
    ("wrn", dict(width=0.5, shortcut="zeros"), "cannot turn 16 features into 8; use shortcut="),
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
