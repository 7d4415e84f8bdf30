"""jbn.linen.BatchNorm against flax.linen.BatchNorm: the same results wherever Flax is right.

Without the `strict` fixture, because Flax itself relies on implicit promotion of ranks and dtypes.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import SPREAD, assert_close, batch, mask, poison

import jbn.linen

# Two-pass variance, because Flax's default loses digits already at mean 3, see test_moments.py.
Theirs = functools.partial(nn.BatchNorm, use_fast_variance=False)
OPTIONS = {
    "default": {},
    "momentum-epsilon": {"momentum": 0.75, "epsilon": 1e-2},
    "no-scale": {"use_scale": False},
    "no-bias": {"use_bias": False},
    "neither": {"use_scale": False, "use_bias": False},
    "axis-1": {"axis": 1},
    "two-axes": {"axis": (1, -1)},
    "list-of-axes": {"axis": [-1, 1]},
    "dtype-bf16": {"dtype": jnp.bfloat16},
    "param-bf16": {"param_dtype": jnp.bfloat16},
    "inits": {"scale_init": nn.initializers.constant(2.5), "bias_init": nn.initializers.normal(1.0)},
}


def both(**options):
    return jbn.linen.BatchNorm(**options), Theirs(**options)


def variables_of(layer, x):
    """Variables away from their initial values, as in a trained network."""
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + jnp.asarray(noise.uniform(0.1, 0.9, a.shape), a.dtype), variables)


def assert_same(ours, theirs, tolerance=None):
    """Same tree, shapes and dtypes; values equal up to rounding in the dtype."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        eps = float(jnp.finfo(a.dtype).eps)
        assert_close(a.astype(jnp.promote_types(a.dtype, jnp.float32)), b, tolerance or 16 * eps)


def test_the_fields_are_those_of_flax_in_the_same_order_with_the_same_defaults():
    ours, theirs = ([(f.name, f.default) for f in dataclasses.fields(m)] for m in (jbn.linen.BatchNorm, nn.BatchNorm))
    theirs = [f for f in theirs if f[0] not in ("parent", "name")]
    assert ours[: len(theirs)] == theirs  # jbn's additional arguments come after Flax's


NARROW = {"force_float32_reductions": False, "param_dtype": jnp.bfloat16}


@pytest.mark.parametrize("options", [*OPTIONS.values(), NARROW], ids=[*OPTIONS, "narrow-stats"])
def test_the_variables_are_those_of_flax(options):
    x = batch((5, 3, 7, 4))
    ours, theirs = (layer.init(jax.random.key(0), x, use_running_average=False) for layer in both(**options))
    assert_same(ours, theirs, tolerance=1e-7)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_numbers_are_those_of_flax(options, masked):
    x, keep = batch((5, 3, 7, 4)), jnp.asarray(mask((5, 1, 7, 1))) if masked else None
    ours, theirs = both(**options)
    variables = variables_of(theirs, x)
    for use_running_average in (False, True):
        call = {"use_running_average": use_running_average, "mask": keep, "mutable": ["batch_stats"]}
        assert_same(ours.apply(variables, x, **call), theirs.apply(variables, x, **call))


@pytest.mark.parametrize("given", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "float32"])
@pytest.mark.parametrize("param_dtype", ["bfloat16", "float32"])
def test_the_dtypes_are_those_of_flax(given, dtype, param_dtype):
    x = batch((13, 3), dtype=given)
    layers = both(dtype=dtype, param_dtype=param_dtype)
    variables = variables_of(layers[0], x)
    ours, theirs = (m.apply(variables, x, use_running_average=False, mutable=["batch_stats"]) for m in layers)
    assert_same(ours, theirs)


def test_the_gradients_are_those_of_flax():
    x = batch((13, 3))
    variables = variables_of(jbn.linen.BatchNorm(), x)

    def grads(layer):
        def loss(params, x):
            y, _ = layer.apply(variables | {"params": params}, x, use_running_average=False, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y))

        return jax.grad(loss, argnums=(0, 1))(variables["params"], x)

    assert_same(*map(grads, both()), tolerance=1e-5)


def test_complex_input_gives_the_numbers_of_flax():
    x = batch((13, 3), dtype="complex64")
    ours, theirs = both(param_dtype=jnp.complex64)
    variables = ours.init(jax.random.key(0), x, use_running_average=False)
    for use_running_average in (False, True):
        call = {"use_running_average": use_running_average, "mutable": ["batch_stats"]}
        (y, mine), (y_theirs, yours) = ours.apply(variables, x, **call), theirs.apply(variables, x, **call)
        assert_close(y, y_theirs, 1e-5)
        jax.tree.map(functools.partial(assert_close, tolerance=1e-5), mine, yours)
        variables |= yours


def test_where_flax_loses_the_variance_ours_keeps_it():
    x = batch((1003, 3), mean=1e4)
    mean, var, _ = reference.moments(x)
    exact = reference.normalize(x, mean, var)
    y, theirs = (
        layer(use_running_average=False).init_with_output(jax.random.key(0), x)[0]
        for layer in (jbn.linen.BatchNorm, nn.BatchNorm)
    )
    assert_close(y, exact, 1e-5, axis=-1)
    assert np.max(np.abs(theirs - exact)) > 10  # shows that the line above can fail


def test_a_fully_masked_batch_leaves_the_running_statistics_alone():
    x, layer = batch((13, 3)), jbn.linen.BatchNorm(use_running_average=False)
    variables = variables_of(jbn.linen.BatchNorm(), x)
    nothing = jnp.zeros((13, 1), bool)
    y, updates = layer.apply(variables, jnp.full_like(x, jnp.nan), mask=nothing, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
    np.testing.assert_allclose(y, jnp.broadcast_to(variables["params"]["bias"], x.shape), rtol=1e-6)


@pytest.mark.parametrize("how", SPREAD)
def test_many_devices_with_masks_equal_one_also_in_the_running_statistics(how):
    x, keep = batch((4, 11, 3), mean=50.0), mask((4, 11, 1))
    keep[2] = False
    variables = variables_of(jbn.linen.BatchNorm(), x[0])

    def device(x, keep):
        layer = jbn.linen.BatchNorm(use_running_average=False, axis_name="d", momentum=0.5)
        return layer.apply(variables, x, mask=keep, mutable=["batch_stats"])[1]["batch_stats"]

    stats = SPREAD[how](device, 4)(poison(x, keep), jnp.asarray(keep))
    mean, var, _ = reference.moments(x, where=keep)
    for name, exact in (("mean", mean), ("var", var)):
        expected = 0.5 * reference.wide(variables["batch_stats"][name]) + 0.5 * exact
        assert_close(stats[name], np.broadcast_to(expected, (4, 3)), 1e-5)


# State


def test_init_neither_updates_the_statistics_nor_needs_the_axis_name():
    x = batch((13, 3))
    layer = jbn.linen.BatchNorm(use_running_average=False, axis_name="nowhere", axis_index_groups=[[0, 1]])
    variables = layer.init(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(3))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(3))


def test_inference_needs_no_axis_name_and_leaves_the_statistics():
    x = batch((13, 3))
    variables = variables_of(jbn.linen.BatchNorm(), x)
    layer = jbn.linen.BatchNorm(use_running_average=True, axis_name="nowhere")
    y, updates = layer.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, nn.BatchNorm(use_running_average=True).apply(variables, x))
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


def test_immutable_statistics_are_refused_with_a_remedy():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jbn.linen.BatchNorm(use_running_average=False, name="norm")(x)

    x = batch((13, 3))
    variables = Net().init(jax.random.key(0), x)
    says = r"norm is to update .* batch_stats is not mutable .*use .*mutable=\['batch_stats'\]"
    with pytest.raises(ValueError, match=says):
        Net().apply(variables, x)


def test_training_or_inference_must_be_said_once():
    x = batch((13, 3))
    with pytest.raises(ValueError, match="use_running_average"):
        jbn.linen.BatchNorm().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="use_running_average"):
        jbn.linen.BatchNorm(use_running_average=True).init(jax.random.key(0), x, use_running_average=False)


def test_narrow_statistics_stay_narrow_though_the_sums_are_wide():
    """Flax also sums in half precision here, and is off by a few percent."""
    x = batch((1003, 3), dtype="bfloat16", mean=30.0)
    layer = jbn.linen.BatchNorm(use_running_average=False, momentum=0.0, **NARROW)
    stats = layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])[1]["batch_stats"]
    mean, var, _ = reference.moments(x.astype(jnp.float32))
    for name, exact in (("mean", mean), ("var", var)):
        assert stats[name].dtype == jnp.bfloat16
        np.testing.assert_allclose(stats[name].astype(jnp.float32), exact, rtol=2.0**-8)


# In a network


class Net(nn.Module):
    norm: type[nn.Module]

    @nn.compact
    def __call__(self, x, train: bool):
        for i, layer in enumerate((nn.Conv(4, (3, 3), use_bias=False), nn.Dense(6, use_bias=False))):
            x = nn.relu(self.norm(use_running_average=not train, momentum=0.9, name=f"norm_{i}")(layer(x)))
        return nn.Dense(2)(x.mean((1, 2)))


def trained(norm, steps=3):
    """Losses, then the variables: a few steps of gradient descent, compiled."""
    net, x = Net(norm), batch((7, 5, 5, 2), mean=1.0)
    labels = (x.mean((1, 2)) > 1).astype(jnp.float32)

    @jax.jit
    def step(variables):
        def loss(params):
            y, updates = net.apply(variables | {"params": params}, x, True, mutable=["batch_stats"])
            return jnp.mean((y - labels) ** 2), updates

        (value, updates), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return value, updates | {"params": jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads)}

    variables, losses = net.init(jax.random.key(0), x, True), []
    for _ in range(steps):
        value, variables = step(variables)
        losses.append(value)
    return net, x, jnp.stack(losses), variables


def test_a_network_trains_to_the_same_weights_and_its_checkpoint_loads_in_the_other():
    ours, x, our_losses, our_variables = trained(jbn.linen.BatchNorm)
    theirs, _, their_losses, their_variables = trained(Theirs)
    assert_close(our_losses, their_losses, 1e-4)
    assert_same(our_variables, their_variables, tolerance=1e-3)
    for variables in (our_variables, their_variables):
        assert_same(ours.apply(variables, x, False), theirs.apply(variables, x, False), tolerance=1e-5)


def test_layers_under_scan_and_remat_equal_layers_in_a_row():
    x, depth = batch((13, 3)), 3

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return jnp.tanh(jbn.linen.BatchNorm(use_running_average=False, momentum=0.5)(x)), None

    over = {"variable_axes": {"params": 0, "batch_stats": 0}, "split_rngs": {"params": True}, "length": depth}
    stack = nn.scan(nn.remat(Layer), **over)()
    variables = stack.init(jax.random.key(0), x, None)
    (y, _), updates = stack.apply(variables, x, None, mutable=["batch_stats"])
    row = x
    for layer in range(depth):
        own = jax.tree.map(lambda a: a[layer], variables)  # noqa: B023
        (row, _), new = Layer().apply(own, row, None, mutable=["batch_stats"])
        jax.tree.map(lambda u, n: assert_close(u[layer], n), updates, new)  # noqa: B023
    assert_close(y, row, axis=-1)
