"""The same as `test_fold_surprises`, for nnx models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import batch

import jbn.nnx
from jbn.fold import Identity, fold_nnx

IMAGE = batch((3, 6, 6, 4), mean=2.0)
ROWS = batch((7, 4), mean=2.0)
STRANGE = r"computes with other variables than the model has for it \(by vmap, WeightNorm"


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(np.abs(b).max()))


class Nnx(nnx.Module):
    """A layer, a norm, and a function that calls them."""

    def __init__(self, make=None, norm=jbn.nnx.BatchNorm, call=None, features=5, **options):
        rngs = nnx.Rngs(0)
        self.layer = make(rngs) if make else nnx.Linear(4, features, rngs=rngs)
        self.norm = norm(features, use_running_average=True, rngs=rngs, **options)
        self.call = call

    def __call__(self, x):
        return self.norm(self.layer(x)) if self.call is None else self.call(self, x)


class StandardizedNnx(nnx.Conv):
    def __call__(self, inputs):
        return super().__call__(inputs - inputs.mean())


class ReluNnx(nnx.BatchNorm):
    def __call__(self, x, *args, **kwargs):
        return nnx.relu(super().__call__(x, *args, **kwargs))


class Jitted(Nnx):
    @nnx.jit
    def __call__(self, x):
        return self.norm(self.layer(x))


class Remat(Nnx):
    @nnx.remat
    def __call__(self, x):
        return self.norm(self.layer(x))


class Stack(nnx.Module):
    """Three blocks under one transform."""

    def __init__(self, transform):
        self.transform = transform
        self.blocks = nnx.vmap(lambda key: Nnx(lambda r: nnx.Linear(4, 4, rngs=r), features=4))(
            jax.random.split(jax.random.key(0), 3)
        )

    def __call__(self, x):
        if self.transform == "scan":
            return nnx.scan(lambda block, x: nnx.tanh(block(x)), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(
                self.blocks, x
            )
        return nnx.vmap(lambda block, x: block(x), in_axes=(0, None))(self.blocks, x)


def shared():
    first, second = Nnx(lambda r: nnx.Linear(4, 4, rngs=r), features=4), nnx.Linear(4, 4, rngs=nnx.Rngs(1))
    second.kernel = first.layer.kernel
    first.second = second
    first.call = lambda model, x: model.second(nnx.tanh(model.norm(model.layer(x))))
    return first


def conv(kind=nnx.Conv):
    return lambda rngs: kind(4, 5, kernel_size=(3, 3), rngs=rngs)


NNX = {
    "LoRALinear": (lambda: Nnx(lambda r: nnx.LoRALinear(4, 5, lora_rank=2, rngs=r)), ROWS, r"layer, is a LoRALinear"),
    "WeightNorm": (
        lambda: Nnx(lambda r: nnx.WeightNorm(nnx.Linear(4, 5, rngs=r), rngs=r)),
        ROWS,
        r"cannot fold norm: the layer before it, layer/layer_instance, " + STRANGE,
    ),
    "own __call__": (lambda: Nnx(conv(StandardizedNnx)), IMAGE, r"layer, is a StandardizedNnx, with its own __call__"),
    "own __call__ after": (
        lambda: Nnx(conv(StandardizedNnx), features=4, call=lambda m, x: m.layer(m.norm(nnx.relu(x)))),
        IMAGE,
        r"the layer after it, layer, is a StandardizedNnx, with its own __call__",
    ),
    "norm with a relu": (lambda: Nnx(norm=ReluNnx), ROWS, r"cannot fold norm: it is a ReluNnx, with its own __call__"),
    "adaptive": (lambda: Nnx(norm=jbn.nnx.AdaptiveBatchNorm), ROWS, r"it is an AdaptiveBatchNorm, which normalizes by"),
    "domain": (
        lambda: Nnx(norm=jbn.nnx.DomainBatchNorm, domains=2, call=lambda m, x: m.norm(m.layer(x), 1)),
        ROWS,
        r"cannot fold norm: it is a DomainBatchNorm, which has the statistics of several domains",
    ),
    "shared kernel": (shared, ROWS, r"cannot fold norm: the layer before it, layer, shares its kernel with second"),
    "kernel read": (
        lambda: Nnx(call=lambda m, x: (m.norm(m.layer(x)), m.layer.kernel.sum())),
        ROWS,
        r"cannot fold norm: without it, what the model gives .* differs by .* used elsewhere",
    ),
    "gamma read": (
        lambda: Nnx(call=lambda m, x: m.norm(m.layer(x)) + m.norm.scale[...]),
        ROWS,
        r"cannot fold norm: without it, the model cannot be run: AttributeError",
    ),
    "jit": (Jitted, ROWS, r"cannot fold norm: it is under scan, remat, jit or vmap"),
    "remat": (Remat, ROWS, r"cannot fold norm: it is under scan, remat, jit or vmap"),
    "scan": (lambda: Stack("scan"), ROWS, r"cannot fold blocks/norm: it is under scan, remat, jit or vmap"),
    "vmap": (lambda: Stack("vmap"), ROWS, r"cannot fold blocks/norm: it " + STRANGE),
}


def moved(model):
    rng = np.random.default_rng(0)
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda a: a + jnp.asarray(rng.uniform(0.1, 0.9, a.shape)), state))
    return model


@pytest.mark.parametrize("name", NNX)
def test_an_nnx_layer_that_is_not_what_it_seems_is_refused_by_name_or_kept(name):
    make, x, says = NNX[name]
    model = moved(make())
    with pytest.raises(ValueError, match=says):
        fold_nnx(model, x)
    folded = fold_nnx(model, x, rest="keep")
    expected = nnx.clone(model)(x)
    jax.tree.map(close, folded(x), expected)
    assert not any(isinstance(layer, Identity) for _, layer in nnx.iter_graph(folded))


def test_an_nnx_norm_in_training_is_refused():
    model = Nnx()
    model.train()
    with pytest.raises(ValueError, match=r"it normalizes by the batch here, as in training; set .*model.eval\(\)"):
        fold_nnx(model, ROWS)


class ThreesNnx(nnx.Conv):
    def __init__(self, inputs, outputs, *, rngs, **options):
        super().__init__(inputs, outputs, kernel_size=(3, 3), rngs=rngs)


@pytest.mark.parametrize("after", [False, True])
def test_an_nnx_subclass_with_its_own_init_is_folded(after):
    model = moved(Nnx(conv(ThreesNnx), features=4 if after else 5))
    if after:
        model.call = lambda m, x: m.layer(m.norm(nnx.relu(x)))
    folded = fold_nnx(model, IMAGE)
    close(folded(IMAGE), model(IMAGE))
    assert isinstance(folded.norm, Identity)


@pytest.mark.parametrize("dtypes", [{"dtype": "float32"}, {"dtype": "bfloat16"}, {"param_dtype": "bfloat16"}])
def test_an_nnx_norm_leaves_the_dtype_of_its_result(dtypes):
    model = Nnx(lambda r: nnx.Linear(4, 5, dtype="bfloat16", rngs=r), **dtypes)
    folded = fold_nnx(model, ROWS)
    assert folded(ROWS).dtype == model(ROWS).dtype
    close(folded(ROWS).astype("float32"), model(ROWS).astype("float32"), 2e-2)
