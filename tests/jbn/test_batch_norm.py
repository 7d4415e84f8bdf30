"""jbn.batch_norm: laws of the forward and backward pass, against float64 NumPy and plain jnp."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import (
    LAYOUTS,
    SPREAD,
    affine,
    assert_close,
    batch,
    case,
    case64,
    collectives,
    mask,
    mesh,
    normalized,
    poison,
    ulps,
)
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jbn

pytestmark = pytest.mark.usefixtures("strict")
MASKS = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
TRANSFORMS = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])


# Forward


@MASKS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS[1:])
def test_training_and_inference_equal_the_oracle(shape, axis, dtype, masked):
    x, scale, bias, _ = case(shape, axis, dtype)
    keep = mask(shape[:1] + (1,) * (len(shape) - 1)) if masked and axis == -1 else mask(shape) if masked else None
    mean, var, count = reference.moments(x.astype(jnp.float32), axis, keep)
    old = jbn.BatchStats(*(jnp.asarray(v, "float32") for v in (mean + 0.5, var * 1.7)))
    given = x if keep is None else poison(x, keep)
    train = jax.jit(functools.partial(jbn.batch_norm, train=True, axis=axis, momentum=0.75))
    y, stats, info = train(given, scale, bias, old, where=keep)

    def close(y, mean, var):
        exact = reference.normalize(x.astype(jnp.float32), mean, var, scale, bias, axis=axis)
        exact = exact if keep is None else np.where(keep, exact, np.expand_dims(bias, reference.reduced(axis, x.ndim)))
        assert y.dtype == dtype
        assert_close(y, exact, axis=axis, tolerance=2e-6 if dtype == "float32" else 2.0**-8)

    close(y, mean, var)
    np.testing.assert_array_equal(np.broadcast_to(info.moments.count, count.shape), count)
    assert_close(info.moments.mean, mean)
    np.testing.assert_allclose(info.moments.var, var, rtol=2e-6)
    np.testing.assert_allclose(info.drift, 0.5 / np.sqrt(reference.wide(old.var) + 1e-5), rtol=2e-5)
    assert_close(stats.mean, 0.75 * reference.wide(old.mean) + 0.25 * mean)
    np.testing.assert_allclose(stats.var, 0.75 * reference.wide(old.var) + 0.25 * var, rtol=2e-6)

    y, same, info = jbn.batch_norm(given, scale, bias, old, train=False, axis=axis, where=keep)
    close(y, old.mean, old.var)
    assert same is old and info == jbn.Info(None, None)


@TRANSFORMS
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_within_two_ulp_of_the_exact_result(dtype, train, transform):
    x, scale, bias, _ = case((1003, 3), dtype=dtype)
    mean, var, _ = reference.moments(x.astype(jnp.float32))
    stats = jbn.BatchStats(jnp.asarray(mean, "float32"), jnp.asarray(var, "float32"))
    y, _, _ = transform(functools.partial(jbn.batch_norm, train=train))(x, scale, bias, stats)
    assert y.dtype == dtype
    assert ulps(y, reference.normalize(x.astype(jnp.float32), mean, var, scale, bias)) <= 2


@TRANSFORMS
@pytest.mark.parametrize("mean", [1e4, -1e6])
def test_a_large_mean_costs_nothing(mean, transform):
    x, scale, bias, _ = case((4099, 3), mean=mean)
    y = transform(normalized)(x, scale, bias)
    exact_mean, var, _ = reference.moments(x)
    assert_close(y, reference.normalize(x, exact_mean, var, scale, bias), 1e-5, axis=-1)


def test_epsilon_may_be_traced():
    x, stats = batch((32, 3)), jbn.init_stats(3)
    norm = functools.partial(jbn.batch_norm, train=True)
    traced, static = jax.jit(norm)(x, None, None, stats, epsilon=0.25), norm(x, None, None, stats, epsilon=0.25)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), traced, static)


def test_scale_and_bias_may_be_left_out():
    x, scale, bias, _ = case()
    whole = normalized(x, scale, bias)
    np.testing.assert_allclose(normalized(x, None, None) * scale[None] + bias[None], whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(normalized(x, scale, None) + bias[None], whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e5])
def test_output_is_invariant_to_affine_change_of_the_input(x64, factor):
    x, scale, bias, _ = case64((13, 3))
    a, b = factor * jnp.asarray([[1.0, 0.5, 3.0]]), factor * jnp.asarray([[1e4, -3.0, 0.0]])
    y = normalized(x, scale, bias, epsilon=0.0)
    assert_close(normalized(a * x + b, scale, bias, epsilon=0.0), y, 1e-10)
    assert_close(normalized(-a * x, scale, bias, epsilon=0.0), normalized(-x, scale, bias, epsilon=0.0), 1e-10)


def test_an_exact_shift_of_the_input_changes_nothing_in_float32():
    x, scale, bias, _ = case((333, 3))
    x = jnp.round(x * 256) / 256  # so that x + 2^14 is exact
    assert_close(normalized(x + 2.0**14, scale, bias), normalized(x, scale, bias), 1e-6)


def test_a_batch_normalized_twice_is_normalized_once(x64):
    x, scale, bias, _ = case64((13, 3))
    once = normalized(x, None, None, epsilon=0.0)
    mean, var, _ = reference.moments(x)
    assert_close(normalized(once, scale, bias, epsilon=0.0), reference.normalize(x, mean, var, scale, bias, 0.0), 1e-12)


def test_examples_may_change_places():
    x, scale, bias, _ = case((13, 3))
    order = np.random.default_rng(0).permutation(13)
    assert_close(normalized(x[order], scale, bias), normalized(x, scale, bias)[order], axis=-1)


def test_inference_by_the_batchs_own_statistics_equals_training():
    x, scale, bias, _ = case((333, 3))
    y, stats, _ = jbn.batch_norm(x, scale, bias, jbn.init_stats(3), train=True, momentum=0.0)
    assert_close(jbn.batch_norm(x, scale, bias, stats, train=False)[0], y, axis=-1)


@pytest.mark.parametrize("value", [0.1, 1e4 + 1 / 3, -1e6 / 3])
def test_a_constant_feature_gives_bias_and_the_closed_form_gradients(value):
    x, scale, bias, dy = case((13, 3))
    x = x.at[:, 1].set(value)
    y, pull = jax.vjp(normalized, x, scale, bias)
    np.testing.assert_allclose(y[:, 1], np.full(13, bias[1]), atol=2e-5)
    # Its gradient is 1/sqrt(epsilon) = 316 times the centred cotangent, so errors are judged per feature.
    for got, want in zip(pull(dy), reference.backward(x, dy, scale), strict=True):
        assert_close(got, want, 1e-4, axis=-1 if got.ndim == 2 else None)


def test_running_statistics_get_and_give_no_gradient():
    x, scale, bias, _ = case()
    stats = jbn.BatchStats(jnp.full(3, 2.0), jnp.full(3, 3.0))

    def of_the_new_statistics(x, scale, bias, stats):
        _, new, info = jbn.batch_norm(x, scale, bias, stats, train=True)
        return sum(jnp.sum(a) for a in (new.mean, new.var, *info.moments[:2], info.drift, info.cancellation))

    grads = jax.grad(of_the_new_statistics, argnums=(0, 1, 2))(x, scale, bias, stats)
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, np.zeros(g.shape)), grads)
    for train in (True, False):
        grads = jax.grad(lambda s: jnp.sum(jbn.batch_norm(x, scale, bias, s, train=train)[0] ** 3))(stats)  # noqa: B023
        jax.tree.map(lambda g: np.testing.assert_array_equal(g, np.zeros(3)), grads)


# Many seeds and many devices


def test_a_vmap_over_seeds_equals_a_loop():
    seeds = 3
    x = jnp.stack([batch((13, 3), seed=s, mean=3.0 + s) for s in range(seeds)])
    scale, bias = (jnp.stack(p) for p in zip(*(affine((13, 3), seed=s) for s in range(seeds)), strict=True))
    stats = jbn.BatchStats(jnp.arange(9.0).reshape(3, 3), 1 + jnp.arange(9.0).reshape(3, 3))

    def step(x, scale, bias, stats):
        out, pull = jax.vjp(lambda *p: jbn.batch_norm(x, *p, stats, train=True), scale, bias)
        return out, pull(jax.tree.map(jnp.sin, out))

    together = jax.jit(jax.vmap(step))(x, scale, bias, stats)
    for s in range(seeds):
        alone = step(*jax.tree.map(lambda a: a[s], (x, scale, bias, stats)))  # noqa: B023
        jax.tree.map(lambda t, a: np.testing.assert_allclose(t[s], a, rtol=1e-5, atol=1e-5), together, alone)  # noqa: B023


@pytest.mark.parametrize("how", SPREAD)
def test_many_devices_equal_one_forwards_and_backwards(how):
    """Unequal counts, one device fully masked, NaN under the mask, mean 1e4; the loss is the sum over devices."""
    n = 4
    x, scale, bias, dy = case((n, 11, 3), mean=1e4)
    keep = mask((n, 11, 1))
    keep[2] = False
    dy = jnp.where(keep, dy, 0)

    def device(x, where, dy):
        return jax.value_and_grad(
            lambda x: (jnp.sum(dy * (y := normalized(x, scale, bias, where=where, axis_name="d"))), y), has_aux=True
        )(x)

    (_, y), dx = SPREAD[how](device, n)(poison(x, keep), jnp.asarray(keep), dy)
    mean, var, _ = reference.moments(x, where=keep)
    exact = reference.normalize(x, mean, var, scale, bias)
    assert_close(jnp.where(keep, y, 0), np.where(keep, exact, 0), 1e-5, axis=-1)
    assert_close(dx, reference.backward(x, dy, scale, where=keep)[0], 1e-5, axis=-1)


@pytest.mark.parametrize("how", ["vmap", "shard_map"])
def test_a_group_of_devices_equals_a_batch_of_its_own(how):
    groups, (x, scale, bias, dy) = [[1, 2, 5], [0, 3, 4]], case((6, 11, 3))
    device = lambda x, dy: jax.vjp(  # noqa: E731
        lambda x: normalized(x, scale, bias, axis_name="d", axis_index_groups=groups), x
    )
    y, dx = SPREAD[how](lambda x, dy: ((out := device(x, dy))[0], *out[1](dy)), 6)(x, dy)
    for group in map(np.array, groups):
        mean, var, _ = reference.moments(x[group])
        assert_close(y[group], reference.normalize(x[group], mean, var, scale, bias), axis=-1)
        assert_close(dx[group], reference.backward(x[group], dy[group], scale)[0], 1e-5, axis=-1)


def sharded(axis_name, **axes):
    """Training over a mesh; the new statistics are replicated, which shard_map itself checks."""
    names = tuple(axes)

    def f(x, scale, bias, stats):
        return jbn.batch_norm(x, scale, bias, stats, train=True, axis_name=axis_name)[:2]

    return jax.shard_map(f, mesh=mesh(**axes), in_specs=(P(names), P(), P(), P()), out_specs=(P(names), P()))


@pytest.mark.parametrize(("name", "axes"), [("a", {"a": 8}), (("a", "b"), {"a": 2, "b": 4})], ids=["one", "two"])
def test_one_collective_forwards_and_one_more_backwards(name, axes):
    x, scale, bias, dy = case((8 * 11, 3), mean=1e4)
    f, stats = sharded(name, **axes), jbn.init_stats(3)
    assert collectives(f, x, scale, bias, stats) == 1
    backwards = lambda x: jax.vjp(lambda x: f(x, scale, bias, stats)[0], x)  # noqa: E731
    assert collectives(lambda x: (lambda y, pull: (y, pull(dy)))(*backwards(x)), x) == 2
    y, new = jax.jit(f)(x, scale, bias, stats)
    alone = jbn.batch_norm(x, scale, bias, stats, train=True)
    assert_close(y, alone[0], 1e-5)
    jax.tree.map(functools.partial(assert_close, tolerance=1e-6), new, alone[1])


def test_sharded_arrays_under_jit_equal_one_device():
    x, scale, bias, dy = case((8 * 11, 3), mean=1e4)
    by_batch = NamedSharding(mesh(d=8), P("d"))
    f = jax.jit(lambda x, s, b, dy: (lambda y, pull: (y, *pull(dy)))(*jax.vjp(normalized, x, s, b)))
    spread = f(jax.device_put(x, by_batch), scale, bias, jax.device_put(dy, by_batch))
    for got, want in zip(spread, f(x, scale, bias, dy), strict=True):
        assert_close(got, want, 1e-5)


# Errors

OK = {"x": jnp.ones((5, 3, 7)), "scale": jnp.ones(3), "bias": jnp.ones(3), "stats": jbn.init_stats(3)}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        *[
            ({name: jnp.ones(4)}, rf"{name} has shape \(4,\), but axis=1 .* feature shape \(3,\); pass a {name}")
            for name in ("scale", "bias")
        ],
        ({"stats": jbn.init_stats(7)}, r"stats\.mean has shape \(7,\), but axis=1 .* \(3,\); pass a stats\.mean"),
        ({"stats": jbn.BatchStats(jnp.ones(3), jnp.ones(1))}, r"stats\.var has shape \(1,\), .*; pass a stats\.var"),
        ({"stats": None, "train": False}, r"stats is None and train is False; pass .*jbn\.init_stats\("),
        ({"axis": 3}, r"axis=3 is out of range for an input of rank 3; choose axes from -3 to 2"),
        ({"where": jnp.ones((5, 3), bool)}, r"where has shape \(5, 3\), .* input's \(5, 3, 7\); pass"),
        ({"axis_name": "nowhere"}, r"axis_name='nowhere' is not bound here; .* or set axis_name=None"),
        ({"axis_index_groups": [[0]]}, r"axis_index_groups needs .*; pass axis_name="),
        *[
            ({"x": jnp.ones((5, 3, 7), jnp.int32), "train": train}, r"x has dtype int32; .*pass x\.astype\(")
            for train in (True, False)
        ],
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(wrong, says):
    call = OK | {"axis": 1, "train": True} | wrong
    with pytest.raises(ValueError, match=says):
        jbn.batch_norm(**call)
