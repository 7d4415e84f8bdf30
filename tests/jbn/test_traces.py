"""Models that contain `nn.jit` and `nnx.jit`: jbn observes them, and keeps its traces apart from the user's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import batch

import jbn.linen
import jbn.nnx
from jbn import population
from jbn._traces import own_traces
from jbn.fold import fold_linen

X = batch((16, 5), mean=3.0)


def block():
    """A class, its `nn.jit` with a separate cache, and the list of its traces."""
    traces = []

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            traces.append(x.shape)
            return nn.tanh(jbn.linen.BatchNorm(use_running_average=True)(nn.Dense(4)(x)))

    return Block, nn.jit(Block), traces


class Net(nn.Module):
    block: type

    @nn.compact
    def __call__(self, x):
        x = self.block(name="a")(x)
        return jbn.linen.BatchNorm(use_running_average=True)(nn.Dense(3)(self.block(name="b")(x)))


VARIABLES = Net(block()[0]).init(jax.random.key(0), X)  # `nn.jit` draws other values


def estimate(model, mode="together"):
    return population.estimate_linen(model, VARIABLES, [X], mode=mode, progress=False)


def fold(model):
    """The last norm is folded into its layer; the norms under jit are kept."""
    folded, variables = fold_linen(model, VARIABLES, X, rest="keep")
    assert set(variables["batch_stats"]) == {"a", "b"}
    return folded.apply(variables, X)


USES = pytest.mark.parametrize("use", [estimate, fold])
COMPILED = pytest.mark.parametrize("compiled", [False, True])


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), a, b)


@pytest.mark.parametrize("mode", ["together", "layer by layer"])
@COMPILED
def test_a_jitted_block_is_measured_as_a_plain_one_however_often(compiled, mode):
    plain, jitted, _ = block()
    expected, model = estimate(Net(plain), mode), Net(jitted)
    if compiled:
        model.apply(VARIABLES, X)
        fold(model)
        estimate(model, "together" if mode != "together" else "layer by layer")
    for _ in range(2):
        close(estimate(model, mode), expected)


@COMPILED
def test_a_model_with_a_jitted_block_is_folded_however_often(compiled):
    plain, jitted, _ = block()
    expected, model = Net(plain).apply(VARIABLES, X), Net(jitted)
    if compiled:
        model.apply(VARIABLES, X)
        estimate(model)
    for _ in range(2):
        close(fold(model), expected)


@USES
@COMPILED
def test_a_users_calls_are_as_if_nobody_had_watched(compiled, use):
    plain, jitted, traces = block()
    expected, model = Net(plain).apply(VARIABLES, X), Net(jitted)
    if compiled:
        model.apply(VARIABLES, X)
    use(model)
    number = len(traces)
    close(model.apply(VARIABLES, X), expected)
    if compiled:
        assert len(traces) == number  # no new trace
    close(jax.jit(model.apply)(VARIABLES, X), expected)


class Jitted(nnx.Module):
    def __init__(self, traces):
        rngs = nnx.Rngs(0)
        self.traces = traces
        self.dense, self.norm = nnx.Linear(5, 4, rngs=rngs), jbn.nnx.BatchNorm(4, use_running_average=True, rngs=rngs)

    @nnx.jit
    def __call__(self, x):
        self.traces.tell(x)
        return nnx.tanh(self.norm(self.dense(x)))


class Told:
    number = 0

    def tell(self, _):
        self.number += 1


def test_an_nnx_model_with_a_jitted_call_is_measured_however_often_and_its_users_calls_stay():
    told = Told()
    model = Jitted(told)
    expected, before = model(X), told.number
    for mode in ("together", "layer by layer", "together"):
        new = population.estimate_nnx(model, [X], mode=mode, progress=False)
        y = np.asarray(model.dense(X), np.float64)
        np.testing.assert_allclose(new.norm.mean[...], y.mean(0), rtol=1e-5)
    seen = told.number
    np.testing.assert_array_equal(model(X), expected)
    assert told.number == seen > before == 1


def test_what_is_traced_apart_is_traced_anew_and_serves_nobody():
    traces = []
    f = jax.jit(lambda x: (traces.append(x), x + len(traces))[1])
    assert f(jnp.float32(0)) == f(jnp.float32(0)) == 1
    for number in (2, 3):
        with own_traces():
            assert f(jnp.float32(0)) == f(jnp.float32(0)) == number
    assert f(jnp.float32(0)) == 1
