"""jbn.fold: a model without its batch norms gives the same outputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import batch

import jbn.linen
import jbn.nnx
from jbn.fold import Identity, fold_linen, fold_nnx

IMAGE = batch((3, 9, 8, 4), mean=2.0)
ROWS = batch((7, 4), mean=2.0)


def trained(model, x):
    """Variables far from their initial values: negative scales, means that matter."""
    variables = model.init(jax.random.key(0), x)
    noise = np.random.default_rng(0)
    moved = {}
    for name, tree in variables.items():
        low = 0.1 if name == "batch_stats" else -0.5
        moved[name] = jax.tree.map(lambda a, low=low: a + jnp.asarray(noise.uniform(low, 0.9, a.shape), a.dtype), tree)
    return moved


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(np.abs(b).max()))


class Chain(nn.Module):
    """A chain of steps; a class or partial of a norm becomes a batch norm at inference."""

    steps: tuple
    norm: type = jbn.linen.BatchNorm

    @nn.compact
    def __call__(self, x):
        for step in self.steps:
            if step == "norm":
                x = self.norm(use_running_average=True)(x)
            elif isinstance(step, partial):
                x = step()(x)
            else:
                x = step(x)
        return x


def flatten(x):
    return x.reshape(x.shape[0], -1)


def mean(x):
    return x.mean((1, 2))


CONV = partial(nn.Conv, 6, (3, 3))
PRECEDING = {
    "dense": (ROWS, partial(nn.Dense, 5)),
    "dense-without-bias": (ROWS, partial(nn.Dense, 5, use_bias=False)),
    "conv": (IMAGE, CONV),
    "conv-strided": (IMAGE, partial(CONV, strides=2, use_bias=False)),
    "conv-dilated": (IMAGE, partial(CONV, kernel_dilation=2)),
    "conv-grouped": (IMAGE, partial(CONV, feature_group_count=2)),
    "conv-depthwise": (IMAGE, partial(nn.Conv, 8, (3, 3), feature_group_count=4)),
    "conv-transpose": (IMAGE, partial(nn.ConvTranspose, 6, (3, 3), strides=(2, 2))),
    "conv-transpose-flipped": (IMAGE, partial(nn.ConvTranspose, 6, (3, 3), strides=(2, 2), transpose_kernel=True)),
}
# Folding into the following layer: its bias stays a vector if its border sees the shift, too; else it becomes an array.
FOLLOWING = {
    "dense": (ROWS, (partial(nn.Dense, 5),), "vector"),
    "dense-without-bias": (ROWS, (partial(nn.Dense, 5, use_bias=False),), "vector"),
    "dense-of-images": (IMAGE, (partial(nn.Dense, 5),), "vector"),
    "flatten-dense": (IMAGE, (flatten, partial(nn.Dense, 5)), "vector"),
    "mean-dense": (IMAGE, (mean, partial(nn.Dense, 5)), "vector"),
    "pool-conv": (
        IMAGE,
        (partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2)), partial(CONV, padding="VALID")),
        "vector",
    ),
    "padded-pool-dense": (
        IMAGE,
        (
            partial(nn.avg_pool, window_shape=(2, 2), padding="SAME", count_include_pad=False),
            flatten,
            partial(nn.Dense, 5),
        ),
        "vector",
    ),
    "conv-valid": (IMAGE, (partial(CONV, padding="VALID"),), "vector"),
    "conv-valid-strided": (IMAGE, (partial(CONV, padding="VALID", strides=2, use_bias=False),), "vector"),
    "conv-circular": (IMAGE, (partial(CONV, padding="CIRCULAR"),), "vector"),
    "conv-1x1": (IMAGE, (partial(nn.Conv, 5, (1, 1)),), "vector"),
    "conv-grouped": (IMAGE, (partial(CONV, padding="VALID", feature_group_count=2),), "vector"),
    "conv-depthwise": (IMAGE, (partial(nn.Conv, 8, (3, 3), padding="VALID", feature_group_count=4),), "vector"),
    "conv-same": (IMAGE, (CONV,), "array"),
    "conv-same-strided": (IMAGE, (partial(CONV, strides=2, use_bias=False),), "array"),
    "conv-same-dilated": (IMAGE, (partial(CONV, kernel_dilation=2),), "array"),
    "conv-causal": (IMAGE[:, 0], (partial(nn.Conv, 5, (3,), padding="CAUSAL"),), "array"),
    "conv-transpose": (IMAGE, (partial(nn.ConvTranspose, 6, (3, 3), strides=(2, 2)),), "array"),
    "conv-transpose-flipped": (
        IMAGE,
        (partial(nn.ConvTranspose, 6, (3, 3), strides=(2, 2), transpose_kernel=True, use_bias=False),),
        "array",
    ),
}


def step(s):
    """Instantiates layers, which are classes; pooling is a function and stays one."""
    return (lambda x: s(x)) if isinstance(s, partial) and s.func is nn.avg_pool else s


def norms_run(f, *args) -> bool:
    """Whether the program still contains a part of a batch norm."""
    return "rsqrt" in str(jax.make_jaxpr(f)(*args))


@pytest.mark.parametrize("norm", [jbn.linen.BatchNorm, nn.BatchNorm], ids=["jbn", "flax"])
@pytest.mark.parametrize("name", PRECEDING)
def test_before_the_activation_the_layer_before_takes_the_norm_in(name, norm):
    x, layer = PRECEDING[name]
    model = Chain((layer, "norm", nn.relu), norm)
    variables = trained(model, x)
    folded, new = fold_linen(model, variables, x)
    close(folded.apply(new, x), model.apply(variables, x))
    assert norms_run(model.apply, variables, x) and not norms_run(folded.apply, new, x)
    assert list(new) == ["params"] and len(new["params"]) == 1


@pytest.mark.parametrize("name", FOLLOWING)
def test_after_the_activation_the_layer_after_takes_the_norm_in(name):
    x, layers, bias = FOLLOWING[name]
    model = Chain((nn.tanh, "norm", *map(step, layers)))
    variables = trained(model, x)
    folded, new = fold_linen(model, variables, x)
    close(folded.apply(new, x), model.apply(variables, x))
    assert not norms_run(folded.apply, new, x)
    arrays = [a for p in new["params"].values() for n, a in p.items() if n == "folded_bias" and a.ndim > 1]
    assert bool(arrays) == (bias == "array")
    if arrays:
        with pytest.raises(ValueError, match=r"pads with zeros, .*; use border='exact', padding='VALID'"):
            fold_linen(model, variables, x, border="refuse")
    else:
        fold_linen(model, variables, x, border="refuse")


def test_a_layer_between_two_norms_takes_both_in():
    model = Chain((nn.relu, "norm", CONV, "norm", nn.relu, "norm", flatten, partial(nn.Dense, 3)))
    variables = trained(model, IMAGE)
    folded, new = fold_linen(model, variables, IMAGE)
    close(folded.apply(new, IMAGE), model.apply(variables, IMAGE))
    assert len(folded.norms) == 3


class Branches(nn.Module):
    """One norm followed by two layers, one of them through a mean."""

    @nn.compact
    def __call__(self, x):
        x = jbn.linen.BatchNorm(use_running_average=True)(nn.relu(x))
        return nn.Dense(3)(x.mean((1, 2))) + nn.Conv(3, (2, 2), padding="VALID")(x).sum((1, 2))


def test_every_layer_that_reads_the_norm_takes_it_in():
    variables = trained(Branches(), IMAGE)
    folded, new = fold_linen(Branches(), variables, IMAGE)
    close(folded.apply(new, IMAGE), Branches().apply(variables, IMAGE))


class Fused(nn.Module):
    """The norm's call applies the activation."""

    placement: str

    @nn.compact
    def __call__(self, x):
        norm = jbn.linen.BatchNorm(use_running_average=True)
        x = norm(nn.Dense(5)(x), activation=nn.gelu, placement=self.placement)
        return nn.Dense(3)(x)


@pytest.mark.parametrize("placement", ["before", "after"])
def test_an_activation_within_the_norm_stays(placement):
    model = Fused(placement)
    variables = trained(model, ROWS)
    folded, new = fold_linen(model, variables, ROWS)
    close(folded.apply(new, ROWS), model.apply(variables, ROWS))


class Train(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(5)(x["rows"]))
        x = jbn.linen.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


def test_a_model_with_more_arguments_is_called_as_its_user_calls_it():
    x = {"rows": ROWS}
    variables = trained_with(Train(), x, False)
    folded, new = fold_linen(Train(), variables, x, call=lambda m, x: m(x, train=False))
    close(folded.apply(new, x, train=False), Train().apply(variables, x, False))


def trained_with(model, *args):
    class Bound:
        init = staticmethod(lambda key, _: model.init(key, *args))

    return trained(Bound, None)


def test_the_callers_variables_stay_as_they_are_and_dtypes_are_kept():
    model = Chain((partial(nn.Dense, 5, param_dtype="bfloat16"), "norm"))
    variables = trained(model, ROWS)
    before = jax.tree.map(np.array, variables)
    _, new = fold_linen(model, variables, ROWS)
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    assert {a.dtype for a in jax.tree.leaves(new)} == {jnp.dtype("bfloat16")}


def test_an_example_may_be_a_shape():
    model = Chain((nn.relu, "norm", CONV))
    variables = trained(model, IMAGE)
    folded, new = fold_linen(model, variables, jax.ShapeDtypeStruct(IMAGE.shape, IMAGE.dtype))
    close(folded.apply(new, IMAGE[:2]), model.apply(variables, IMAGE[:2]))


def test_an_input_of_another_size_is_refused_where_the_border_was_folded():
    model = Chain((nn.relu, "norm", CONV))
    folded, new = fold_linen(model, trained(model, IMAGE), IMAGE)
    with pytest.raises(ValueError, match=r"Conv_0 has an output of shape \(3, 5, 8, 6\), .* \(9, 8, 6\) .*fold again"):
        folded.apply(new, IMAGE[:, :5])


# nnx


def nnx_model(norm, x, *steps):
    rngs, layers = nnx.Rngs(0), []
    for s in steps:
        features = jax.eval_shape(nnx.Sequential(*layers), x).shape[-1]
        if s == "norm":
            layers.append(norm(features, use_running_average=True, rngs=rngs))
        elif isinstance(s, tuple):
            make, out, options = s
            layers.append(make(features, out, rngs=rngs, **options))
        else:
            layers.append(s)
    model = nnx.Sequential(*layers)
    noise = np.random.default_rng(0)
    for kind, low in ((nnx.Param, -0.5), (nnx.BatchStat, 0.1)):
        state = nnx.state(model, kind)
        nnx.update(model, jax.tree.map(lambda a, low=low: a + jnp.asarray(noise.uniform(low, 0.9, a.shape)), state))
    return model


CONV_NNX = (nnx.Conv, 6, {"kernel_size": (3, 3)})
NNX = {
    "dense-before": (ROWS, ((nnx.Linear, 5, {"use_bias": False}), "norm", nnx.relu)),
    "dense-after": (ROWS, (nnx.relu, "norm", (nnx.Linear, 5, {"use_bias": False}))),
    "conv-before": (IMAGE, ((nnx.Conv, 6, {"kernel_size": (3, 3), "use_bias": False}), "norm", nnx.relu)),
    "conv-after": (IMAGE, (nnx.relu, "norm", CONV_NNX, nnx.relu)),
    "conv-after-valid": (
        IMAGE,
        (nnx.relu, "norm", (nnx.Conv, 8, {"kernel_size": 3, "padding": "VALID", "feature_group_count": 4})),
    ),
    "transpose-after": (IMAGE, (nnx.relu, "norm", (nnx.ConvTranspose, 6, {"kernel_size": (3, 3), "strides": 2}))),
    "all": (IMAGE, (CONV_NNX, "norm", nnx.relu, CONV_NNX, nnx.relu, "norm", flatten, (nnx.Linear, 3, {}))),
}


@pytest.mark.parametrize("norm", [jbn.nnx.BatchNorm, nnx.BatchNorm], ids=["jbn", "flax"])
@pytest.mark.parametrize("name", NNX)
def test_an_nnx_model_loses_its_norms_and_keeps_its_outputs(name, norm):
    x, steps = NNX[name]
    model = nnx_model(norm, x, *steps)
    before = nnx.to_pure_dict(nnx.state(model))
    folded = fold_nnx(model, x)
    close(folded(x), model(x))
    close(nnx.jit(lambda m, x: m(x))(folded, x), model(x))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), before)
    assert not jax.tree.leaves(nnx.state(folded, nnx.BatchStat))
    assert sum(isinstance(layer, Identity) for layer in folded.layers) == steps.count("norm")


# Errors


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(4, name="branch")(x)
        y = jbn.linen.BatchNorm(use_running_average=True, name="inner")(y)
        return nn.relu(jbn.linen.BatchNorm(use_running_average=True, name="sum")(x + y))


class Shared(nn.Module):
    what: str

    @nn.compact
    def __call__(self, x):
        norm, layer = jbn.linen.BatchNorm(use_running_average=True, name="norm"), nn.Dense(4, name="layer")
        if self.what == "norm":
            return norm(nn.Dense(4)(norm(layer(x))))
        if self.what == "layer":
            return norm(layer(nn.relu(layer(x))))
        y = layer(x)
        return norm(y) + y


class Gated(nn.Module):
    @nn.compact
    def __call__(self, x):
        norm = jbn.linen.BatchNorm(use_running_average=True, name="norm")
        return nn.Dense(3)(norm(nn.relu(x)) * nn.sigmoid(x))


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.remat(Chain)((partial(nn.Dense, 4), "norm"))(x)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Dense(3), r"the model calls no batch norm .*; pass a model that has one"),
        (
            Residual(),
            r"cannot fold sum: its input comes from the operation add, .* into the operation relu; use rest='keep'",
        ),
        (Shared("norm"), r"cannot fold norm: it is called 2 times \(shared\)"),
        (Shared("layer"), r"cannot fold norm: the layer before it, layer, is called 2 times \(shared\)"),
        (Shared("output"), r"the output of the layer before it, layer, is also read by the operation add"),
        (Gated(), r"cannot fold norm: .*its output goes into the operation mul"),
        (Scanned(), r"it is under scan, remat, jit or vmap"),
        (Chain((nn.relu, "norm")), r"its output is the model's own"),
        (Chain(("norm", lambda x: x[:, ::-1], partial(nn.Dense, 3))), r"goes into the operation rev"),
        (Chain(("norm", lambda x: x.reshape(x.shape[0], 2, 2).sum(-1), partial(nn.Dense, 3))), r"mixes features"),
    ],
)
def test_what_cannot_be_folded_is_refused_with_its_path_and_the_reason(model, says):
    variables = trained(model, ROWS)
    with pytest.raises(ValueError, match=says):
        fold_linen(model, variables, ROWS)


def test_what_cannot_be_folded_may_stay():
    variables = trained(Residual(), ROWS)
    folded, new = fold_linen(Residual(), variables, ROWS, rest="keep")
    close(folded.apply(new, ROWS), Residual().apply(variables, ROWS))
    assert set(new["params"]) == {"branch", "sum"} and set(new["batch_stats"]) == {"sum"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"border": "drop"}, r"border is 'drop'; use 'exact' or 'refuse'"),
        ({"rest": "drop"}, r"rest is 'drop'; use 'refuse' or 'keep'"),
    ],
)
def test_unknown_options_are_refused(options, says):
    model = Chain((partial(nn.Dense, 5), "norm"))
    with pytest.raises(ValueError, match=says):
        fold_linen(model, trained(model, ROWS), ROWS, **options)


def test_features_that_are_not_last_are_refused():
    class First(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jbn.linen.BatchNorm(use_running_average=True, axis=1)(nn.Conv(8, (3, 3))(x))

    with pytest.raises(ValueError, match=r"axis=1, but Flax's linear layers have their features last; use axis=-1"):
        fold_linen(First(), trained(First(), IMAGE), IMAGE)
