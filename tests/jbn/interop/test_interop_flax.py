"""jbn.interop with whole Flax models: from linen to nnx and back."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, batch
from interop_layers import like_of

import jbn.linen
import jbn.nnx
from jbn import interop

TRAINED = nnx.Any(nnx.Param, nnx.BatchStat)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = jbn.linen.BatchNorm(True, debias=True, skip_nonfinite=True, name="norm")(x)
        return nn.Dense(2, name="layers_2")(nn.Dropout(0.5, deterministic=True)(x))


class Nnxs(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(7)
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        norm = jbn.nnx.BatchNorm(4, use_running_average=True, debias=True, skip_nonfinite=True, rngs=rngs)
        self.layers = nnx.List([norm, nnx.Dropout(0.5, deterministic=True, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])

    def __call__(self, x):
        x = self.conv(x)
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_network_goes_from_linen_to_nnx_and_back():
    names = {"layers/0": "norm", "layers/2": "layers_2"}
    x, linen, module = batch((2, 5, 5, 3)), Linear(), Nnxs()
    variables = jax.tree.map(lambda a: np.full(a.shape, 0.1, a.dtype), like_of(linen, x))
    state = interop.nnx_from_linen(variables, module, rename=names)
    assert isinstance(state, nnx.State)
    nnx.update(module, state)
    assert_close(module(x), linen.apply(variables, x), 2e-6)

    for source in (module, nnx.state(module), nnx.to_pure_dict(nnx.state(module, TRAINED))):
        back = interop.linen_from_nnx(source, like_of(linen, x), rename=names)
        jax.tree.map(np.testing.assert_array_equal, back, variables)
        assert jax.tree.structure(back) == jax.tree.structure(variables)

    pure = nnx.to_pure_dict(nnx.state(Nnxs(), TRAINED))
    jax.tree.map(
        np.testing.assert_array_equal, interop.nnx_from_linen(variables, pure, rename=names), nnx.to_pure_dict(state)
    )
    with pytest.raises(ValueError, match=r"layers/0/mean \[4\] belongs to .*no layers/0 .*\n"):
        interop.nnx_from_linen(variables, module)
    with pytest.raises(ValueError, match=r"batch_stats/norm/weight \[4\] has no partner"):
        interop.linen_from_nnx({"layers": {0: {"mean": np.ones(4)}}}, variables, rename=names)
