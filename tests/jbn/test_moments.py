"""jbn.moments and jbn.merge: laws, against float64 NumPy."""

import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax.linen import normalization as peer
from helpers import LAYOUTS, SPREAD, assert_close, batch, mask, mesh, poison
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

import jbn

pytestmark = pytest.mark.usefixtures("strict")
JUNK = [np.nan, np.inf, -np.inf, 1e38]


def assert_moments(m: jbn.Moments, exact, *, var_tolerance=None, mean_tolerance=None) -> None:
    """Compares each variance relative to itself, and each mean relative to the standard deviation of its feature."""
    mean, var, count = exact
    np.testing.assert_array_equal(np.broadcast_to(m.count, count.shape), count)
    real = helpers.TOLERANCE[m.var.dtype.name]
    np.testing.assert_allclose(m.var, var, rtol=var_tolerance or real, atol=0)
    mean_error = np.abs(reference.wide(m.mean) - mean)
    np.testing.assert_array_less(mean_error, (mean_tolerance or real) * np.maximum(np.abs(mean), np.sqrt(var)) + 1e-300)


# One batch on one device


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_moments_equal_the_oracle(shape, axis):
    x = batch(shape, axis)
    m = jax.jit(functools.partial(jbn.moments, axis=axis))(x)
    assert m.mean.shape == m.var.shape == helpers.feature_shape(shape, axis) and m.count.shape == ()
    assert_moments(m, reference.moments(x, axis))


@pytest.mark.parametrize("n", [3, 333, 4099, 50_001])
@pytest.mark.parametrize(("mean", "tolerance"), [(1e4, 1e-5), (-1e6, 1e-2), (1e-6, 1e-5)])
def test_a_large_mean_costs_no_variance(mean, tolerance, n):
    x = batch((n, 3), mean=mean)
    assert_moments(jax.jit(jbn.moments)(x), reference.moments(x), var_tolerance=tolerance)


def test_the_peers_default_variance_is_lost_at_a_large_mean():
    """The reason for this library. This test fails if Flax fixes it."""
    x = batch((4099, 3), mean=1e4)
    _, var, _ = reference.moments(x)
    _, theirs = peer._compute_stats(x, (0,), None)
    assert np.max(np.abs(theirs - var) / var) > 0.5


@pytest.mark.parametrize("ratio", [1e-15, 1e15])
def test_tiny_and_huge_numbers_keep_their_relative_precision(ratio):
    x = batch((333, 3)) * np.float32(ratio)
    assert_moments(jbn.moments(x), reference.moments(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_accumulated_in_float32(dtype):
    x = batch((5003, 3), dtype=dtype, mean=30.0)
    m = jax.jit(jbn.moments)(x)
    assert {a.dtype for a in m} == {jnp.dtype("float32")}
    assert_moments(m, reference.moments(x.astype(jnp.float32)))


@pytest.mark.parametrize("where", [None, mask((333, 1)), mask((333, 3))], ids=["whole", "masked", "per-feature"])
@pytest.mark.parametrize("mean", [3.0, 1e4])
def test_float64_stays_float64_to_the_last_digits(x64, mean, where):
    x = batch((333, 3), dtype="float64", mean=mean)
    assert_moments(jbn.moments(x, where=where), reference.moments(x, where=where), var_tolerance=1e-12)


@pytest.mark.parametrize("where", [None, mask((333, 1))], ids=["whole", "masked"])
def test_the_variance_of_complex_numbers_is_the_mean_squared_distance(where):
    x = batch((333, 3), dtype="complex64", mean=100.0)
    m = jbn.moments(x, where=where)
    assert m.mean.dtype == "complex64" and m.var.dtype == "float32"
    assert_moments(m, reference.moments(x, where=where))


@pytest.mark.parametrize("n", [1, 333, 4099])
@pytest.mark.parametrize("value", [0.0, -3.0, 0.1, 1e4 + 1 / 3, -1e6 / 3, 1e-8 / 3])
def test_a_constant_feature_has_variance_exactly_zero(value, n):
    x = jnp.full((n, 2), value, jnp.float32)
    m = jax.jit(jbn.moments)(x)
    np.testing.assert_array_equal(m.mean, x[0])
    np.testing.assert_array_equal(m.var, 0.0)


def test_an_empty_batch_has_seen_nothing():
    m = jbn.moments(jnp.zeros((0, 3)))
    np.testing.assert_array_equal(jnp.stack([m.mean, m.var]), np.zeros((2, 3)))
    assert m.count == 0


# Masks


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_masked_equals_sliced_whatever_lies_beneath(junk, transform):
    x, keep = batch((333, 3), mean=1e4), mask((333,))
    m = transform(jbn.moments)(poison(x, keep[:, None], junk), where=keep[:, None])
    assert_moments(m, reference.moments(x[keep]))
    assert m.count.shape == () and float(m.count) == keep.sum()


@pytest.mark.parametrize("mask_shape", [(3, 5, 7, 3), (3, 1, 1, 1), (3, 5, 7, 1), (1, 5, 1, 3), (7, 1), (3,)])
def test_a_mask_may_depend_on_any_axes(mask_shape):
    x, keep = batch((3, 5, 7, 3)), mask(mask_shape)
    exact = reference.moments(x, where=np.broadcast_to(keep, x.shape))
    m = jax.jit(jbn.moments)(poison(x, keep), where=keep)
    assert_moments(m, exact)
    assert m.count.shape == ((3,) if mask_shape[-1] == 3 else ())


def test_a_mask_may_depend_on_one_of_several_feature_axes():
    shape, axis, keep = (3, 5, 2, 3, 5), (4, 1), mask((3, 5, 1, 3, 1))
    x = batch(shape, axis)
    m = jax.jit(functools.partial(jbn.moments, axis=axis))(poison(x, keep), where=keep)
    assert_moments(m, reference.moments(x, axis, where=keep))


def test_a_fully_masked_feature_has_seen_nothing_and_leaves_the_others_alone():
    x, keep = batch((13, 3)), mask((13, 3))
    keep[:, 1] = False
    m = jbn.moments(poison(x, keep), where=keep)
    assert_moments(m, reference.moments(x, where=keep))
    assert (m.mean[1], m.var[1], m.count[1]) == (0, 0, 0)


def test_a_mask_of_true_changes_nothing():
    x = batch((13, 3))
    for whole, masked in zip(jbn.moments(x), jbn.moments(x, where=np.ones((13, 1), bool)), strict=True):
        np.testing.assert_allclose(masked, whole, rtol=1e-6)


# Merging

EMPTY = jbn.Moments(jnp.zeros(3), jnp.zeros(3), jnp.zeros(()))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 332), max_size=6), st.sampled_from([3.0, 1e4]))
def test_merging_any_parts_gives_the_whole(cuts, mean):
    x = np.asarray(batch((333, 3), mean=mean), np.float64)
    parts = []
    for part in np.split(x, sorted(cuts)):  # parts may be empty
        m, v, n = reference.moments(part)
        parts.append(jbn.Moments(jnp.float32(m), jnp.float32(v), jnp.float32(n[0])))
    # The oracle's moments are rounded to float32 as inputs: at 1e4 a mean is off by 5e-4; the smallest sd is 0.3.
    assert_moments(functools.reduce(jbn.merge, parts), reference.moments(x), var_tolerance=3e-3 if mean > 3 else 3e-6)


def test_merging_many_unequal_parts_gives_the_whole_in_float64(x64):
    x = batch((1001, 3), dtype="float64", mean=1e4)
    parts = [jbn.moments(part) for part in jnp.split(x, [1, 2, 5, 77, 400, 999])]
    assert_moments(functools.reduce(jbn.merge, parts), reference.moments(x), var_tolerance=1e-11)


@pytest.fixture
def three():
    return [jbn.moments(batch((n, 3), mean=mean, seed=n)) for n, mean in ((5, 3.0), (77, -4.0), (1, 20.0))]


def test_merge_is_commutative(three):
    for ab, ba in zip(jbn.merge(*three[:2]), jbn.merge(*three[1::-1]), strict=True):
        np.testing.assert_allclose(ab, ba, rtol=1e-6)


def test_merge_is_associative(three):
    a, b, c = three
    for left, right in zip(jbn.merge(jbn.merge(a, b), c), jbn.merge(a, jbn.merge(b, c)), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-6)


def test_nothing_is_the_identity_of_merge(three):
    for m in (*three, EMPTY):
        for merged in (jbn.merge(m, EMPTY), jbn.merge(EMPTY, m)):
            jax.tree.map(np.testing.assert_array_equal, merged, m)


def test_merge_counts_each_feature_by_itself():
    x, keep = batch((40, 3)), mask((40, 3))
    keep[:17, 1] = False
    parts = [jbn.moments(poison(x, keep)[s], where=keep[s]) for s in (slice(0, 17), slice(17, 40))]
    assert_moments(jbn.merge(*parts), reference.moments(x, where=keep))


# One batch on several devices

DEVICES = 6


def unequal(mean=1e4):
    """A batch over six devices: unequal counts, NaN under the mask, the third device fully masked."""
    x, keep = batch((DEVICES, 11, 3), mean=mean), mask((DEVICES, 11, 1))
    keep[0], keep[2] = True, False
    return x, keep


@pytest.mark.parametrize("how", SPREAD)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_many_devices_equal_one(how, masked):
    x, keep = unequal()
    f = SPREAD[how](lambda x, w: jbn.moments(x, where=w if masked else None, axis_name="d"), DEVICES)
    m = f(poison(x, keep) if masked else x, jnp.asarray(keep))
    exact = reference.moments(x, where=keep if masked else None)
    for device in range(DEVICES):
        assert_moments(jax.tree.map(lambda a: a[device], m), exact, var_tolerance=1e-5)  # noqa: B023


@pytest.mark.parametrize("how", SPREAD)
def test_many_devices_equal_one_for_masks_of_each_feature_and_complex_numbers(how):
    x, keep = batch((DEVICES, 11, 3), dtype="complex64"), mask((DEVICES, 11, 3))
    keep[:4, :, 1] = False
    m = SPREAD[how](lambda x, w: jbn.moments(x, where=w, axis_name="d"), DEVICES)(poison(x, keep), jnp.asarray(keep))
    for device in (0, DEVICES - 1):
        assert_moments(jax.tree.map(lambda a: a[device], m), reference.moments(x, where=keep))  # noqa: B023


def test_many_devices_equal_one_in_float64(x64):
    x, keep = unequal()
    m = SPREAD["vmap"](lambda x, w: jbn.moments(x, where=w, axis_name="d"), DEVICES)(
        poison(x.astype(jnp.float64), keep), jnp.asarray(keep)
    )
    assert_moments(jax.tree.map(lambda a: a[0], m), reference.moments(x, where=keep), var_tolerance=1e-12)


def test_every_device_masked_has_seen_nothing():
    x = jnp.full((4, 5, 3), jnp.nan)
    m = SPREAD["vmap"](lambda x, w: jbn.moments(x, where=w, axis_name="d"), 4)(x, jnp.zeros((4, 5, 1), bool))
    jax.tree.map(lambda a: np.testing.assert_array_equal(a, np.zeros(a.shape)), m)


def test_the_work_under_vmap_over_examples_grows_with_their_number():
    """Not with its square, as it would if each example made a table of all."""

    def flops(n):
        call = jax.vmap(lambda x: jbn.moments(x, axis=0, axis_name="n"), axis_name="n")
        return jax.jit(call).lower(jnp.ones((n, 8))).compile().cost_analysis()["flops"]

    assert flops(256) < 5 * flops(64)


@pytest.mark.parametrize("names", [("d", "n"), ("n", "d")])
def test_examples_under_vmap_on_several_devices_equal_one_batch(names):
    """Also their order, which groups depend on."""
    x, groups = batch((4, 6, 3)), [[*range(0, 24, 2)], [*range(1, 24, 2)]]

    def device(x):
        one = functools.partial(jbn.moments, axis=0, axis_name=names, axis_index_groups=groups)
        return jax.vmap(one, axis_name="n")(x[0])

    # JAX refuses every collective of vmap within a shard_map that checks replication.
    m = jax.jit(jax.shard_map(device, mesh=mesh(d=4), in_specs=P("d"), out_specs=P("d"), check_vma=False))(x)
    order = x if names == ("d", "n") else jnp.swapaxes(x, 0, 1)
    for parity in (0, 1):
        want = reference.moments(order.reshape(24, 3)[parity::2])
        of = np.arange(24).reshape(order.shape[:2]) % 2 == parity
        got = jax.tree.map(lambda a: a.reshape(4, 6, *a.shape[1:]), m)
        at = of if names == ("d", "n") else of.T
        for i in zip(*np.nonzero(at), strict=True):
            assert_moments(jax.tree.map(lambda a: a[i], got), want)  # noqa: B023


def test_two_axis_names_equal_one_device():
    x, keep = batch((2, 3, 11, 3), mean=1e4), mask((2, 3, 11, 1))
    both = functools.partial(jbn.moments, axis_name=("a", "b"))
    exact = reference.moments(x, where=keep)
    nested = jax.vmap(jax.vmap(lambda x, w: both(x, where=w), axis_name="b"), axis_name="a")
    assert_moments(jax.tree.map(lambda a: a[1, 2], jax.jit(nested)(poison(x, keep), jnp.asarray(keep))), exact)
    # P() as out_specs: shard_map itself proves that the result is the same on every device.
    sharded = jax.shard_map(lambda x, w: both(x, where=w), mesh=mesh(a=2, b=3), in_specs=P("a", "b"), out_specs=P())
    assert_moments(jax.jit(sharded)(poison(x, keep), jnp.asarray(keep)), exact)


@pytest.mark.parametrize("how", SPREAD)
@pytest.mark.parametrize("groups", [[[0, 2, 4], [1, 3, 5]], [[3], [5, 0, 1, 4], [2]]], ids=["equal", "unequal"])
def test_each_group_of_devices_is_a_batch_of_its_own(how, groups):
    x, keep = unequal()
    f = SPREAD[how](lambda x, w: jbn.moments(x, where=w, axis_name="d", axis_index_groups=groups), DEVICES)
    m = f(poison(x, keep), jnp.asarray(keep))
    for group in groups:
        exact = reference.moments(x[np.array(group)], where=keep[group])
        for device in group:
            assert_moments(jax.tree.map(lambda a: a[device], m), exact, var_tolerance=1e-5)  # noqa: B023


def test_sharded_arrays_under_jit_equal_one_device():
    x, keep = batch((8 * 11, 3), mean=1e4), mask((8 * 11, 1))
    sharding = jax.sharding.NamedSharding(mesh(d=8), P("d"))
    put = functools.partial(jax.device_put, device=sharding)
    m = jax.jit(jbn.moments)(put(poison(x, keep)), where=put(jnp.asarray(keep)))
    assert_moments(m, reference.moments(x, where=keep), var_tolerance=1e-5)


# Differentiation


@pytest.mark.parametrize("where", [None, mask((7, 3))], ids=["whole", "masked"])
def test_the_derivatives_of_the_moments_are_the_closed_forms(x64, where):
    x, a, b = batch((7, 3), dtype="float64"), jnp.asarray([1.0, -2.0, 0.5]), jnp.asarray([0.3, 1.0, -1.0])

    def loss(x):
        m = jbn.moments(x, where=where)
        return jnp.sum(a * m.mean + b * m.var)

    mean, _, n = reference.moments(x, where=where)
    exact = (reference.wide(a) + 2 * reference.wide(b) * (reference.wide(x) - mean)) / n
    exact = exact if where is None else np.where(where, exact, 0)
    assert_close(jax.grad(loss)(x), exact, axis=-1, factor=10)


# Errors


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: jbn.moments(jnp.ones((4, 3), jnp.int32)), r"x has dtype int32; .*pass x\.astype\(jnp\.float32\)"),
        (lambda: jbn.moments(jnp.ones((4, 3)), axis=2), r"axis=2 is out of range for an input of rank 2; choose axes"),
        (
            lambda: jbn.moments(jnp.ones((4, 3)), where=jnp.ones(4, bool)),
            r"where has shape \(4,\), .* input's \(4, 3\); pass .* mask\[:, None\]",
        ),
        (
            lambda: jbn.moments(jnp.ones((4, 3)), axis_index_groups=[[0, 1]]),
            r"axis_index_groups needs the axis .*; pass axis_name=",
        ),
        (
            lambda: jbn.moments(jnp.ones((4, 3)), axis_name="nowhere"),
            r"axis_name='nowhere' is not bound here; call inside vmap, shard_map or pmap .*, or set axis_name=None",
        ),
        *[
            (
                lambda g=g: jax.vmap(lambda x: jbn.moments(x, axis_name="d", axis_index_groups=g), axis_name="d")(
                    jnp.ones((4, 5, 3))
                ),
                r"axis_index_groups=.* does not name each index of an axis of size 4 once; pass groups .* 0 to 3",
            )
            for g in ([[0, 1], [2]], [[0, 1], [1, 2, 3]], [[0, 1], [2, 3, 4]])
        ],
        (
            lambda: jbn.merge(jbn.moments(jnp.ones((4, 3))), jbn.moments(jnp.ones((4, 2)))),
            r"features of shape \(3,\) and \(2,\); pass moments over the same features",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(call, says):
    with pytest.raises(ValueError, match=says):
        call()
