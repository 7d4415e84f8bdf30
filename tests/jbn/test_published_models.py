"""A linen model that nobody here wrote, jax_resnet's, runs converted as before, in float64, and can be diagnosed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jbn
import jbn.linen
from jbn import population

jax_resnet = pytest.importorskip("jax_resnet", reason="jax-resnet is not installed: pip install -e '.[dev]'")
KINDS = {
    "ResNet": (jax_resnet.ResNetBlock, jax_resnet.ResNetStem),
    "bottleneck": (jax_resnet.ResNetBottleneckBlock, jax_resnet.ResNetStem),
    "ResNet-D": (jax_resnet.ResNetDBlock, jax_resnet.ResNetDStem),
}


def network(name):
    block, stem = KINDS[name]
    return jax_resnet.ResNet(block, stage_sizes=[1, 1], hidden_sizes=(8, 16), n_classes=5, stem_cls=stem)


def assert_close(a, b, tolerance=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), a, b)


@pytest.mark.parametrize("name", KINDS)
def test_outputs_gradients_and_state_are_as_before(name):
    with jax.enable_x64(True):
        x = 3 + jax.random.normal(jax.random.key(0), (4, 16, 16, 3), jnp.float64)
        model = network(name)
        start = model.init(jax.random.key(1), x)
        with jbn.linen.converted():
            made = model.init(jax.random.key(1), x)
        jax.tree.map(np.testing.assert_array_equal, start, made)
        variables = jax.tree.map(lambda a: a.astype(jnp.float64), start)

        @jax.jit
        def step(variables, x):
            def loss(params):
                y, updates = model.apply({**variables, "params": params}, x, mutable=["batch_stats"])
                return jnp.mean((y - 1) ** 2), (y, updates)

            return jax.value_and_grad(loss, has_aux=True)(variables["params"])

        expected = step(variables, x)
        with jbn.linen.converted():
            found = step(variables, x)
        assert_close(found, expected)
        trained = {**variables, **expected[0][1][1]}
        y = model.apply(trained, x)
        with jbn.linen.converted():
            assert_close(model.apply(trained, x), y)


def test_it_can_be_diagnosed_and_cured():
    x = jax.random.normal(jax.random.key(0), (6, 8, 16, 16, 3))
    model = network("ResNet")
    variables = model.init(jax.random.key(1), x[0])
    norms = len(jax.tree.leaves(variables["batch_stats"])) // 2
    found = jbn.diagnose(model, variables, list(x))
    assert len(found.layers) == norms and found.findings[0].kind == "never_updated"
    cured = population.estimate_linen(model, variables, list(x), mode="layer by layer", progress=False)
    assert jbn.diagnose(model, cured, [x.reshape(48, 16, 16, 3)] * 2).findings == ()
