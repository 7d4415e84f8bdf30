"""Folding keeps the outputs, even if a layer is not what its class says, or its parameters are used elsewhere."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import freeze
from helpers import batch

import jbn.linen
from jbn.fold import fold_linen

IMAGE = batch((3, 6, 6, 4), mean=2.0)
ROWS = batch((7, 4), mean=2.0)
STRANGE = r"computes with other variables than the model has for it \(by vmap, WeightNorm"


class Model(nn.Module):
    """A model that is one function."""

    body: Callable

    @nn.compact
    def __call__(self, x, **options):
        return self.body(x, **options)


def norm(name="norm", kind=jbn.linen.BatchNorm, **options):
    return kind(use_running_average=True, name=name, **options)


def started(model, x, **options):
    """Variables that all differ, away from their initial values; the statistics are positive."""
    variables = model.init(jax.random.key(0), x, **options)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + jnp.asarray(rng.uniform(0.1, 0.9, a.shape), a.dtype), variables)


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(np.abs(b).max()))


# Layers that are not what their classes say


class Standardized(nn.Conv):
    """Weight standardization, as in Big Transfer."""

    def param(self, name, *args, **kwargs):
        p = super().param(name, *args, **kwargs)
        if name != "kernel":
            return p
        return (p - p.mean((0, 1, 2))) / (p.std((0, 1, 2)) + 1e-5)


class Scaled(nn.Dense):
    """An equalized learning rate."""

    @nn.compact
    def __call__(self, inputs):
        return super().__call__(inputs) * self.features**-0.5 + 1


class Padded(nn.Conv):
    """A subclass with its own `__call__`, which pads the input by 1."""

    @nn.compact
    def __call__(self, inputs):
        return super().__call__(jnp.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0))


class WithRelu(jbn.linen.BatchNorm):
    def __call__(self, x, **options):
        return nn.relu(super().__call__(x, **options))


class Centred(nn.BatchNorm):
    @nn.compact
    def __call__(self, x):
        return super().__call__(x) - x.mean()


def rounded(a, b, dimensions, **options):
    """A matrix product of integers, as in quantized training."""
    return jax.lax.dot_general(jnp.round(a * 8) / 8, jnp.round(b * 8) / 8, dimensions, **options)


def tied(x):
    layer = nn.Dense(5, name="layer")
    y = norm()(layer(x))
    return nn.tanh(y) @ layer.variables["params"]["kernel"].T


def penalized(x):
    layer = nn.Dense(5, name="layer")
    return norm()(layer(x)), jnp.sum(layer.variables.get("params", {}).get("kernel", jnp.zeros(())) ** 2)


def gamma_read(x):
    layer = norm()
    y = layer(nn.Dense(5, name="layer")(x))
    return y, layer.variables["params"]["scale"].sum()


def twice(x):
    layer = nn.Dense(4, name="layer")
    return norm("second")(layer(nn.relu(norm("first")(layer(x)))))


def mapped(x):
    """Halves every parameter of a block before its use."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return norm()(nn.Dense(5, name="layer")(x))

    halved = nn.map_variables(Block, "params", trans_in_fn=lambda tree: jax.tree.map(lambda a: a / 2, tree), init=True)
    return halved(name="block")(x)


def over_layers(x):
    many = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3)
    return norm()(many(5, name="layer")(x))


LINEN = {
    "standardized kernel": (
        lambda x: norm()(Standardized(6, (3, 3), name="layer")(x)),
        IMAGE,
        r"cannot fold norm: the layer before it, layer, is a Standardized, with its own param in place of that of Conv",
    ),
    "standardized kernel after": (
        lambda x: Standardized(6, (3, 3), name="layer")(norm()(nn.relu(x))),
        IMAGE,
        r"the layer after it, layer, is a Standardized, with its own param",
    ),
    "WeightNorm": (lambda x: norm()(nn.WeightNorm(nn.Dense(5))(x)), ROWS, r"the layer before it, \w+, " + STRANGE),
    "WeightNorm after": (lambda x: nn.WeightNorm(nn.Dense(5))(norm()(nn.relu(x))), ROWS, STRANGE),
    "SpectralNorm": (lambda x: norm()(nn.SpectralNorm(nn.Dense(5))(x, update_stats=False)), ROWS, STRANGE),
    "map_variables": (mapped, ROWS, r"cannot fold block/norm: it " + STRANGE),
    "vmap": (over_layers, ROWS, STRANGE),
    "own __call__": (lambda x: norm()(Scaled(5, name="layer")(x)), ROWS, r"layer, is a Scaled, with its own __call__"),
    "own __call__ after": (
        lambda x: Padded(5, (3, 3), name="layer")(norm()(nn.relu(x))),
        IMAGE,
        r"the layer after it, layer, is a Padded, with its own __call__ in place of that of Conv",
    ),
    "norm with a relu": (
        lambda x: norm(kind=WithRelu)(nn.Dense(5)(x)),
        ROWS,
        r"cannot fold norm: it is a WithRelu, with its own __call__ in place of that of BatchNorm",
    ),
    "norm of Flax's": (lambda x: norm(kind=Centred)(nn.Dense(5)(x)), ROWS, r"it is a Centred, with its own __call__"),
    "norm with a relu before": (lambda x: nn.Dense(5)(norm(kind=WithRelu)(nn.tanh(x))), ROWS, r"it is a WithRelu"),
    "adaptive": (
        lambda x: norm(kind=jbn.linen.AdaptiveBatchNorm)(nn.Dense(5)(x)),
        ROWS,
        r"cannot fold norm: it is an AdaptiveBatchNorm, which normalizes by the test batch, too",
    ),
    "domain": (
        lambda x: norm(kind=jbn.linen.DomainBatchNorm)(nn.Dense(5)(x), 1),
        ROWS,
        r"cannot fold norm: it is a DomainBatchNorm, which has the statistics of several domains",
    ),
    "integers": (
        lambda x: norm()(nn.Dense(5, dot_general=rounded)(x)),
        ROWS,
        r"cannot fold norm: without it, what norm gives on random inputs differs by 0\.\d+ of its size",
    ),
    "tied": (tied, ROWS, r"cannot fold norm: without it, what the model gives .* differs by .* used elsewhere"),
    "penalized": (
        penalized,
        ROWS,
        r"cannot fold norm: without it, what the model gives .* differs by .* used elsewhere",
    ),
    "gamma read": (gamma_read, ROWS, r"cannot fold norm: without it, the model cannot be run: KeyError"),
    "called twice": (twice, ROWS, r"first: the layer before it, layer, is called 2 times \(shared\).*; second: "),
    "LayerNorm between": (lambda x: nn.Dense(5)(nn.LayerNorm()(norm()(nn.relu(x)))), ROWS, r"goes into the operation"),
    "DenseGeneral": (lambda x: norm()(nn.DenseGeneral(5)(x)), ROWS, r"comes from the operation"),
    "Einsum": (lambda x: norm()(nn.Einsum((4, 5), "bi,io->bo")(x)), ROWS, r"comes from the operation"),
    "summed": (
        lambda x: nn.Dense(5, name="layer")(norm()(nn.relu(x)).sum((1, 2))),
        IMAGE,
        r"between it and layer values are summed, not averaged, so that its shift would be right",
    ),
    "features last": (lambda x: norm(axis=1)(nn.Dense(5)(x)), IMAGE, r"it has axis=1, .* use axis=-1"),
}


@pytest.mark.parametrize("name", LINEN)
def test_a_linen_layer_that_is_not_what_it_seems_is_refused_by_name_or_kept(name):
    body, x, says = LINEN[name]
    model = Model(body)
    variables = started(model, x)
    with pytest.raises(ValueError, match=says):
        fold_linen(model, variables, x)
    folded, new = fold_linen(model, variables, x, rest="keep")
    jax.tree.map(close, folded.apply(new, x), model.apply(variables, x))
    assert not folded.norms


def test_only_what_differs_is_kept():
    """Of five norms, the search finds the one whose layer is used elsewhere, and folds the others."""

    def body(x):
        read = nn.Dense(4, name="read")
        x = norm("a")(nn.Dense(4)(x))
        x = norm("b")(nn.Dense(4)(nn.tanh(x)))
        x = norm("c")(read(nn.tanh(x)))
        x = norm("d")(nn.Dense(4)(nn.tanh(x)))
        return norm("e")(nn.Dense(4)(nn.tanh(x))) + read.variables["params"]["kernel"].sum()

    variables = started(Model(body), ROWS)
    with pytest.raises(ValueError, match=r"cannot fold c: without it, [^;]*; use rest='keep'"):
        fold_linen(Model(body), variables, ROWS)
    folded, new = fold_linen(Model(body), variables, ROWS, rest="keep")
    assert folded.norms == {("a",), ("b",), ("d",), ("e",)}
    close(folded.apply(new, ROWS), Model(body).apply(variables, ROWS))


@pytest.mark.parametrize("value", [None, False])
def test_a_norm_in_training_is_refused(value):
    model = Model(lambda x, of=value: jbn.linen.BatchNorm(name="norm")(nn.Dense(5)(x), use_running_average=of))
    variables = model.init(jax.random.key(0), ROWS, of=True)
    with pytest.raises(ValueError, match=r"cannot fold norm: it normalizes by the batch here, .*set use_running_av"):
        fold_linen(model, variables, ROWS)
    folded, new = fold_linen(model, variables, ROWS, call=lambda m, x: m(x, of=True))
    close(folded.apply(new, ROWS, of=True), model.apply(variables, ROWS, of=True))


# Unusual layers that are what their classes say


MASK = np.broadcast_to(np.tri(3)[:, :, None, None], (3, 3, 4, 6))


class Threes(nn.Conv):
    """A subclass that sets only attributes."""

    kernel_size: tuple = (3, 3)
    kernel_init: Callable = nn.initializers.he_normal()


class Slow(jbn.linen.BatchNorm):
    momentum: float = 0.9


class Gain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("gain", nn.initializers.ones, ())


def halves(layer, norms):
    return lambda x: nn.Dense(2)(nn.relu(norm(**norms)(nn.Dense(5, **layer)(x))))


USUAL = {
    "subclass of attributes": (lambda x: nn.relu(norm(kind=Slow)(Threes(6)(x))), IMAGE),
    "subclass of attributes after": (lambda x: Threes(6)(norm(kind=Slow)(nn.relu(x))), IMAGE),
    "renorm": (lambda x: norm(kind=jbn.linen.BatchRenorm)(nn.Dense(5)(x)), ROWS),
    "frozen": (lambda x: jbn.linen.FrozenBatchNorm(name="norm")(nn.Dense(5)(x)), ROWS),
    "by keyword": (lambda x: norm()(x=nn.Dense(5)(inputs=x)), ROWS),
    "masked kernel": (lambda x: norm()(nn.Conv(6, (3, 3), mask=MASK)(x)), IMAGE),
    "masked kernel after": (lambda x: nn.Conv(6, (3, 3), mask=MASK)(norm()(nn.relu(x))), IMAGE),
    "parameter on the way": (lambda x: nn.Dense(5)(Gain()(norm()(nn.relu(x)))), ROWS),
    "axis counted from the front": (lambda x: norm(axis=3)(nn.Conv(6, (3, 3))(x)), IMAGE),
    "half precision before": (halves({"dtype": "bfloat16"}, {"dtype": "float32"}), ROWS),
    "half precision after": (halves({}, {"dtype": "bfloat16"}), ROWS),
    "half precision": (halves({"dtype": "float16", "param_dtype": "float16"}, {"param_dtype": "float16"}), ROWS),
    "half precision, averaged": (
        lambda x: nn.Dense(5, dtype="bfloat16")(norm(dtype="bfloat16")(nn.relu(x)).mean((1, 2))),
        IMAGE,
    ),
    "of one batch size": (lambda x: norm()(nn.Dense(5)(x.reshape(7, 4))), ROWS),
    "minus infinity": (lambda x: jnp.where(jnp.arange(5) > 2, norm()(nn.Dense(5)(x)), -jnp.inf), ROWS),
}


@pytest.mark.parametrize("name", USUAL)
def test_a_layer_that_is_what_it_says_is_folded(name):
    body, x = USUAL[name]
    model = Model(body)
    variables = started(model, x)
    folded, new = fold_linen(model, variables, x)
    y, expected = folded.apply(new, x), model.apply(variables, x)
    assert folded.norms == {("norm",)} and (y.dtype, y.shape) == (expected.dtype, expected.shape)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    close(y[finite].astype("float32"), expected[finite].astype("float32"), 3e-2 if name.startswith("half") else 1e-5)


def test_fresh_statistics_hide_nothing():
    """At initialization a norm is almost the identity, so that a wrong fold would change almost nothing."""
    variables = Model(tied).init(jax.random.key(0), ROWS)
    with pytest.raises(ValueError, match=r"cannot fold norm: without it, what the model gives .* differs by"):
        fold_linen(Model(tied), variables, ROWS)


def test_a_deep_network_hides_nothing():
    """With statistics far from its data, a network forgets its input, and with it an error near the input."""

    def body(x):
        first = nn.Dense(4)
        x = norm("first")(first(x)) + first.variables.get("params", {}).get("kernel", jnp.zeros(())).sum()
        for i in range(30):
            x = nn.tanh(0.1 * norm(f"norm{i}")(nn.Dense(4)(x)))
        return x

    variables = Model(body).init(jax.random.key(0), ROWS)
    with pytest.raises(ValueError, match=r"cannot fold first: without it, what Dense_1 gives [^;]*; use rest='keep'"):
        fold_linen(Model(body), variables, ROWS)


def test_parameters_in_boxes_stay_in_them():
    init = nn.with_partitioning(nn.initializers.normal(), (None, "model"))
    model = Model(lambda x: norm()(nn.Dense(5, kernel_init=init, name="layer")(x)))
    variables = model.init(jax.random.key(0), ROWS)
    folded, new = fold_linen(model, variables, ROWS)
    close(folded.apply(new, ROWS), model.apply(variables, ROWS))
    assert new["params"]["layer"]["kernel"].names == (None, "model")


@pytest.mark.parametrize("kind", [freeze, lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree)])
def test_variables_may_be_frozen_or_of_numpy(kind):
    model = Model(lambda x: norm()(nn.Dense(5, name="layer")(x)))
    variables = kind(started(model, ROWS))
    folded, new = fold_linen(model, variables, ROWS)
    close(folded.apply(new, ROWS), model.apply(variables, ROWS))


def test_in_double_precision_the_proof_is_as_exact(x64):
    model = Model(lambda x: nn.Dense(3, param_dtype="float64")(norm(param_dtype="float64")(nn.relu(x))))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)))
    variables = model.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda a: a.astype("float64") + 0.1, variables)
    folded, new = fold_linen(model, variables, x)
    np.testing.assert_allclose(folded.apply(new, x), model.apply(variables, x), rtol=1e-12)


def test_a_convolution_that_pads_at_other_sizes_is_not_taken_for_one_that_never_does():
    model = Model(lambda x: nn.Conv(5, (2, 2), strides=2)(norm()(nn.relu(x))))
    variables = started(model, IMAGE)
    folded, new = fold_linen(model, variables, IMAGE)
    close(folded.apply(new, IMAGE), model.apply(variables, IMAGE))
    with pytest.raises(ValueError, match="fold again with an x of this size"):
        folded.apply(new, jnp.ones((2, 7, 7, 4)))


def test_inputs_stay_in_the_domain_of_the_given_ones():
    model = Model(lambda x: norm()(nn.Dense(5)(jnp.log(x))))
    x = jnp.abs(ROWS) + 0.1
    variables = started(model, x)
    folded, new = fold_linen(model, variables, x)
    close(folded.apply(new, x), model.apply(variables, x))


def test_outputs_that_are_nowhere_finite_prove_nothing():
    model = Model(lambda x: norm()(nn.Dense(5)(jnp.log(-jnp.abs(x)))))
    with pytest.raises(ValueError, match=r"nowhere finite on random inputs, .*pass as x an array of data"):
        fold_linen(model, started(model, ROWS), ROWS)
