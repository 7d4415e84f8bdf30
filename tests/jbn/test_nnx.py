"""jbn.nnx.BatchNorm against flax.nnx.BatchNorm: the same results wherever Flax is right, under every transformation.

Without the `strict` fixture, because Flax itself relies on implicit promotion of ranks and dtypes.
"""

import functools
import inspect
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx
from helpers import SPREAD, assert_close, batch, mask, mesh, poison, ulps
from jax.sharding import PartitionSpec as P

import jbn.nnx

Ours = jbn.nnx.BatchNorm
# Two-pass variance, because Flax's default loses digits already at mean 3, see test_moments.py.
Theirs = functools.partial(nnx.BatchNorm, use_fast_variance=False)


def made(norm=Ours, features=3, seed=0, **options):
    """A layer with every variable away from its initial value, at values that bfloat16 can represent."""
    layer, rng = norm(features, rngs=nnx.Rngs(0), momentum=0.5, **options), np.random.default_rng(seed)
    for name in ("scale", "bias", "mean", "var"):
        variable = getattr(layer, name)
        variable[...] += jnp.asarray(rng.uniform(0.1, 0.9, features), jnp.bfloat16).astype(variable.dtype)
        variable[...] = variable[...].astype(jnp.bfloat16).astype(variable.dtype)
    return layer


def values(layer, *only):
    return nnx.to_pure_dict(nnx.state(layer, *only))


def assert_all_close(ours, theirs, tolerance=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(functools.partial(assert_close, tolerance=tolerance), ours, theirs)


# The same class


@pytest.mark.parametrize("method", ["__init__", "__call__", "set_view"])
def test_every_argument_of_flax_has_the_same_place_and_default(method):
    theirs, ours = (dict(inspect.signature(getattr(m, method)).parameters) for m in (nnx.BatchNorm, Ours))
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, flaxs in theirs.items():
        mine = ours.pop(name)
        assert mine.kind == flaxs.kind, name
        if name.endswith("_init"):
            a, b = (p.default(jax.random.key(0), (3, 2), jnp.bfloat16) for p in (mine, flaxs))
            assert a.dtype == b.dtype and np.array_equal(a, b), name
        else:
            assert mine.default == flaxs.default, name
    assert all(p.default is not p.empty for p in ours.values())
    assert method == "set_view" or all(p.kind == p.KEYWORD_ONLY for p in ours.values())


OPTIONS = {
    "default": {},
    "no-scale": {"use_scale": False},
    "no-bias": {"use_bias": False, "axis": 1},
    "param-bf16": {"param_dtype": jnp.bfloat16},
    "inits": {"scale_init": nnx.initializers.normal(2.0), "bias_init": nnx.initializers.uniform(1.0)},
    "metadata": {"scale_metadata": {"out_sharding": ("a",), "note": "gamma"}, "bias_metadata": {"decay": 0.0}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_variables_and_attributes_are_those_of_flax(options):
    rngs = nnx.Rngs(0), nnx.Rngs(0)
    with jax.set_mesh(jax.make_mesh((2,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))):
        ours, theirs = (m(6, rngs=r, **options) for m, r in zip((Ours, nnx.BatchNorm), rngs, strict=True))
    mine, flaxs = (dict(nnx.to_flat_state(nnx.state(layer))) for layer in (ours, theirs))
    assert list(mine) == list(flaxs)
    for a, b in zip(mine.values(), flaxs.values(), strict=True):
        assert type(a) is type(b) and a.get_metadata() == b.get_metadata()
        assert a.dtype == b.dtype and a[...].sharding == b[...].sharding
        np.testing.assert_array_equal(a[...], b[...])
    # So that the next layer has the same initial values as with Flax.
    assert rngs[0].params.count[...] == rngs[1].params.count[...]
    for name, value in vars(theirs).items():
        assert isinstance(value, nnx.Variable) or name.startswith("_") or getattr(ours, name) == value, name


@pytest.mark.parametrize(("dtype", "axis"), [(None, -1), ("float16", 1), ("bfloat16", -1), ("float32", 1)])
@pytest.mark.parametrize("given", ["float16", "bfloat16", "float32", "float64"])
def test_the_numbers_and_dtypes_are_those_of_flax(given, dtype, axis):
    """Values are exact in bfloat16, because Flax first rounds input, parameters and running statistics to `dtype`."""
    with jax.enable_x64(given == "float64"):
        x = batch((7, 3, 5), axis, "bfloat16").astype(given)
        ours, theirs = layers = [made(m, x.shape[axis], axis=axis, dtype=dtype) for m in (Ours, Theirs)]
        for running, keep in ((True, None), (True, mask((7, 1, 1))), (False, None), (False, mask(x.shape))):
            stats = (ours.mean[...], ours.var[...]) if running else reference.moments(x, axis, keep)[:2]
            exact = reference.normalize(x, *stats, ours.scale[...], ours.bias[...], axis=axis)
            with warnings.catch_warnings():  # Flax writes float64 into float32 statistics
                warnings.simplefilter("ignore", FutureWarning)
                y, y_flax = (m(x, running, mask=None if keep is None else jnp.asarray(keep)) for m in layers)
            assert y.dtype == y_flax.dtype
            if y.dtype.itemsize == 2:
                assert ulps(y, exact) <= 2
                # In Flax, inference rounds intermediate results to `dtype`, training only the output.
                y, error = y.astype("float32"), (4 if running else 1) * float(jnp.finfo(y.dtype).eps)
            else:
                assert_close(y, exact, error := 1e-12 if y.dtype == "float64" else 2e-6, axis=axis)
            assert_close(y, y_flax, 2 * error, axis=axis)
            for a, b in ((ours.mean, theirs.mean), (ours.var, theirs.var)):
                assert a.dtype == b.dtype == jnp.float32
                np.testing.assert_allclose(a[...], b[...], rtol=2e-6)


@pytest.mark.parametrize("running", [False, True], ids=["train", "eval"])
def test_the_gradients_are_those_of_flax(running):
    x, keep = batch((13, 3)), jnp.asarray(mask((13, 1)))

    def loss(layer, x):
        return jnp.sum(jnp.sin(layer(x, running, mask=keep)))

    def grads(norm):
        layer = made(norm)
        value, (by_layer, dx) = nnx.value_and_grad(loss, argnums=(0, 1))(layer, x)
        return value, dx, nnx.to_pure_dict(by_layer), nnx.to_pure_dict(nnx.grad(loss)(made(norm), x)), values(layer)

    assert_all_close(grads(Ours), grads(Theirs))


WRONG = {
    # input, options, running mean, train; Flax rounds the input and the running mean to 1000.
    "bf16-inference": (1000.3 + np.linspace(-1, 1, 39).reshape(13, 3), {"dtype": "bfloat16"}, 1000.3, False),
    "large-mean": (batch((1003, 3), mean=1e4), {}, 0.0, True),
    "complex-mean": (batch((13, 3), dtype="complex64"), {"param_dtype": "complex64"}, 0.0, True),
}


@pytest.mark.parametrize(("x", "options", "start", "train"), WRONG.values(), ids=WRONG)
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning", "ignore:Casting complex")
def test_where_flax_is_wrong_ours_is_right(x, options, start, train):
    x, old = jnp.asarray(x, jnp.result_type(x, jnp.float32)), (np.full(3, start, "float32"), np.ones(3))
    stats = reference.moments(x)[:2] if train else old
    exact = reference.normalize(x, *stats), *(0.75 * a + 0.25 * b for a, b in zip(old, stats, strict=True))

    def error(norm):
        layer = norm(3, rngs=nnx.Rngs(0), momentum=0.75, **options)
        layer.mean[...] = jnp.asarray(old[0])
        got = layer(x, not train), layer.mean[...], layer.var[...]
        return max(np.max(np.abs(reference.wide(a) - b) / (1 + np.abs(b))) for a, b in zip(got, exact, strict=True))

    assert error(Ours) < (2.0**-8 if "dtype" in options else 2e-5)
    assert error(nnx.BatchNorm) > 0.1  # shows that the line above can fail


def test_train_eval_view_and_the_call_switch_as_in_flax():
    def switched(norm):
        net = nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), layer := made(norm))
        steps = [
            lambda: net,
            lambda: net.eval() or net,
            lambda: functools.partial(layer, use_running_average=False),
            lambda: nnx.view(net, use_running_average=False),  # trains the same variables, with its own switch
            lambda: net.train() or functools.partial(layer, use_running_average=True),
            lambda: nnx.view(net, use_running_average=True),
        ]
        return [(step()(batch((13, 3))), jnp.asarray(layer.use_running_average), values(layer)) for step in steps]

    ours = switched(Ours)
    assert_all_close(ours, switched(Theirs))
    assert [bool(eval_mode) for _, eval_mode, _ in ours] == [False, True, True, True, False, False]
    moves = [not np.array_equal(a["mean"], b["mean"]) for (*_, a), (*_, b) in itertools.pairwise(ours)]
    assert moves == [False, True, True, False, False]


def test_the_switch_must_be_set_somewhere():
    layer, x = Ours(3, rngs=nnx.Rngs(0), use_running_average=None), batch((13, 3))
    with pytest.raises(ValueError, match=r"use_running_average is None .*call layer\.train\(\) or layer\.eval\(\)"):
        layer(x)
    np.testing.assert_allclose(layer(x, use_running_average=True), x / np.sqrt(1 + 1e-5), rtol=1e-6)


# Transformations, each against a plain loop

XS = jnp.stack([batch((13, 3), seed=s, mean=3.0 + s) for s in range(4)])


def stacked(results):
    return jax.tree.map(lambda *a: jnp.stack(a), *results)


def call(layer, x, *keep):
    return layer(x, mask=keep[0] if keep else None)


def by_nnx(layer, xs):
    return nnx.jit(nnx.scan(nnx.remat(call), in_axes=(nnx.StateAxes({...: nnx.Carry}), 0), out_axes=0))(layer, xs)


def by_split_and_merge(layer, xs):
    graphdef, params, stats = nnx.split(layer, nnx.Param, nnx.BatchStat)

    def step(stats, x):
        y = (layer := nnx.merge(graphdef, params, stats))(x)
        return nnx.state(layer, nnx.BatchStat), y

    stats, y = jax.jit(lambda *args: jax.lax.scan(step, *args))(stats, xs)
    nnx.update(layer, stats)
    return y


@pytest.mark.parametrize("how", [by_nnx, by_split_and_merge])
def test_compiled_steps_equal_plain_ones(how):
    layer, plain = made(), made()
    assert_all_close((how(layer, XS), values(layer)), (jnp.stack([plain(x) for x in XS]), values(plain)))


@pytest.mark.parametrize("params", [0, None], ids=["stacked", "shared"])
def test_a_vmap_over_constructors_and_calls_equals_a_loop(params):
    keys, axes = jax.random.split(jax.random.key(0), 4), nnx.StateAxes({nnx.Param: params, nnx.BatchStat: 0})

    def make(key):
        layer = made()
        for variable in (layer.mean, layer.scale)[: 1 if params is None else 2]:
            variable[...] += jax.random.normal(key, (3,))
        return layer

    together = nnx.vmap(make, out_axes=axes)(keys)
    y = nnx.vmap(call, in_axes=(axes, 0))(together, XS)
    alone, after = stacked([((layer := make(key))(x), values(layer)) for key, x in zip(keys, XS, strict=True)])
    if params is None:
        after |= {name: after[name][0] for name in ("scale", "bias")}
    assert_all_close((y, values(together)), (alone, after))


def test_layers_under_scan_and_remat_equal_layers_in_a_row():
    x, layers = batch((13, 3)), nnx.List([made(seed=s) for s in range(3)])
    stack = nnx.merge(nnx.graphdef(layers[0]), stacked([nnx.state(layer) for layer in layers]))

    def scan(stack, x):
        block = nnx.remat(lambda layer, x: jnp.tanh(layer(x)))
        return jnp.sum(jnp.sin(nnx.scan(block, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(stack, x)))

    def row(layers, x):
        return jnp.sum(jnp.sin(functools.reduce(lambda x, layer: jnp.tanh(layer(x)), layers, x)))

    value, (grads, dx) = nnx.value_and_grad(scan, argnums=(0, 1))(stack, x)
    expected, (each, dx_row) = nnx.value_and_grad(row, argnums=(0, 1))(layers, x)
    each = stacked(list(nnx.to_pure_dict(each).values()))
    assert_all_close((value, dx, nnx.to_pure_dict(grads)), (expected, dx_row, each), 1e-4)
    assert_all_close(values(stack), stacked(list(map(values, layers))), 1e-4)


def test_shapes_are_known_without_numbers():
    """flax#4734: neither making nor training a layer needs an array."""
    x, abstract = jax.ShapeDtypeStruct((13, 3), jnp.bfloat16), nnx.eval_shape(lambda: Ours(3, rngs=nnx.Rngs(0)))
    before = values(layer := made())
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), values(abstract), before)
    # Closed-over state may not change: nnx refuses a layer in training there, but not one that keeps its statistics.
    closed = nnx.eval_shape(lambda x: layer(x, update_running_average=False), x)
    for y in (nnx.eval_shape(call, abstract, x), nnx.eval_shape(call, layer, x), closed):
        assert (y.shape, y.dtype) == ((13, 3), jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, values(layer), before)


@pytest.mark.parametrize("how", [*SPREAD, "nnx.vmap", "nnx.shard_map"])
def test_many_devices_with_masks_equal_one_also_in_the_running_statistics(how):
    x, keep = batch((4, 11, 3), mean=50.0), mask((4, 11, 1))
    keep[2] = False
    mean, var, _ = reference.moments(x, where=keep)

    def device(norm, x, keep):
        return call(layer := made(norm, axis_name="d"), x, keep), values(layer)

    before, given = values(layer := made(axis_name="d")), (poison(x, keep), jnp.asarray(keep))
    if how in SPREAD:
        y, after = SPREAD[how](functools.partial(device, Ours), 4)(*given)
    else:
        specs = (nnx.StateSharding({...: P()}), P("d"), P("d"))
        over = {
            "nnx.vmap": nnx.vmap(call, in_axes=(nnx.StateAxes({...: None}), 0, 0), axis_name="d"),
            "nnx.shard_map": nnx.shard_map(call, mesh=mesh(d=4), in_specs=specs, out_specs=P("d")),
        }
        y, after = over[how](layer, *given), stacked([values(layer)] * 4)
    exact = reference.normalize(x, mean, var, before["scale"], before["bias"])
    assert_close(jnp.where(keep, y, 0), np.where(keep, exact, 0), 1e-5, axis=-1)
    for name, moment in (("mean", mean), ("var", var)):
        assert_close(after[name], np.broadcast_to((reference.wide(before[name]) + moment) / 2, (4, 3)), 1e-5)
    if how == "vmap":  # shows that this can fail: Flax gives NaN
        assert not np.isfinite(SPREAD[how](functools.partial(device, Theirs), 4)(*given)[1]["mean"]).any()


class CNN(nnx.Module):
    def __init__(self, norm):
        rngs = nnx.Rngs(0)
        self.conv, self.norm = nnx.Conv(2, 4, (3, 3), rngs=rngs), norm(4, momentum=0.9, rngs=rngs)
        self.linear = nnx.Linear(36, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), strides=(2, 2))
        return self.linear(x.reshape(x.shape[0], -1))


def trained(norm, x, steps=3):
    net, labels = CNN(norm), (x.mean((1, 2)) > 1).astype(jnp.float32)
    optimizer = nnx.Optimizer(net, optax.sgd(0.1, 0.9), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer):
        loss, grads = nnx.value_and_grad(lambda net: jnp.mean((net(x) - labels) ** 2))(net)
        optimizer.update(net, grads)
        return loss

    return jnp.stack([step(net, optimizer) for _ in range(steps)]), net


def test_a_network_trains_to_the_same_weights_and_its_checkpoint_loads_in_the_other():
    x = batch((7, 6, 6, 2), mean=1.0)
    (our_losses, ours), (their_losses, theirs) = trained(Ours, x), trained(Theirs, x)
    assert_close(our_losses, their_losses, 1e-5)
    # The bias before the norm has gradient 0 up to rounding, so this needs atol.
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), values(ours), values(theirs))
    for net, other in ((ours, Theirs), (theirs, Ours)):
        state = nnx.state(new := CNN(other))
        nnx.replace_by_pure_dict(state, jax.tree.map(np.asarray, values(net)))
        nnx.update(new, state)
        assert_close(*(nnx.view(m, use_running_average=True)(x) for m in (new, net)), 1e-5)
