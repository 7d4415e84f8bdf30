"""Ghost batch norm (virtual_batch_size): every virtual batch uses its own statistics, against float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import SPREAD, assert_close, batch, case, collectives, mask, mesh, normalized, poison, ulps
from jax.sharding import PartitionSpec as P

import jbn

pytestmark = pytest.mark.usefixtures("strict")

CUTS = [
    pytest.param((12, 3), -1, 4, id="NC"),
    pytest.param((12, 3), -1, 5, id="NC-ragged"),
    pytest.param((3, 11), 0, 4, id="CN-ragged"),
    pytest.param((6, 3, 5), 1, 2, id="NCL"),
    pytest.param((5, 2, 3, 4), -1, 2, id="NHWC-ragged"),
    pytest.param((3, 6, 2, 3), (0, 3), 4, id="two-feature-axes-ragged"),
    pytest.param((4, 3), -1, 100, id="larger-than-the-batch"),
]


def slices(shape, axis, size):
    """The index of each virtual batch in the input."""
    at = reference.reduced(axis, len(shape))[0]
    for start in range(0, shape[at], size):
        yield (slice(None),) * at + (slice(start, min(start + size, shape[at])),)


def oracle(x, scale, bias, dy, axis, size, where=None):
    """y and the three gradients, computed one virtual batch after another."""
    y, dx = np.empty(x.shape), np.empty(x.shape)
    dscale = dbias = 0
    for s in slices(x.shape, axis, size):
        keep = None if where is None else np.broadcast_to(where, x.shape)[s]
        mean, var, _ = reference.moments(x[s], axis, keep)
        y[s] = reference.normalize(x[s], mean, var, scale, bias, axis=axis)
        dx[s], one, other = reference.backward(x[s], dy[s], scale, axis=axis, where=keep)
        dscale, dbias = dscale + one, dbias + other
    return y, dx, dscale, dbias


def ghost(x, scale, bias, dy, **options):
    f = functools.partial(normalized, ragged_groups="exact", **options)
    y, pull = jax.vjp(f, x, scale, bias)
    return y, *pull(dy)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("mean", [3.0, 1e4])
@pytest.mark.parametrize(("shape", "axis", "size"), CUTS)
def test_each_virtual_batch_is_a_batch_of_its_own_forwards_and_backwards(shape, axis, size, mean, masked):
    x, scale, bias, dy = case(shape, axis, mean=mean)
    keep = None
    if masked:
        keep = mask(shape)
        dy = jnp.where(keep, dy, 0)
    given = x if keep is None else poison(x, keep)
    f = jax.jit(functools.partial(ghost, axis=axis, virtual_batch_size=size))
    got = f(given, scale, bias, dy, where=keep)
    want = oracle(x, scale, bias, dy, axis, size, keep)
    if masked:
        got = (jnp.where(keep, got[0], 0), *got[1:])
        want = (np.where(keep, want[0], 0), *want[1:])
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, 1e-5 if mean < 10 else 3e-4)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(("shape", "axis", "size"), CUTS)
def test_the_running_statistics_follow_the_whole_batch(shape, axis, size, masked):
    x, scale, bias, _ = case(shape, axis, mean=100.0)
    keep = jnp.asarray(mask(shape)) if masked else None
    train = functools.partial(jbn.batch_norm, train=True, axis=axis, where=keep, momentum=0.25)
    start = jbn.init_stats(scale.shape)
    _, stats, info = train(x, scale, bias, start, virtual_batch_size=size, ragged_groups="exact")
    _, plain, plain_info = train(x, scale, bias, start)
    assert_close(stats.mean, plain.mean, 2e-6)
    np.testing.assert_allclose(stats.var, plain.var, rtol=1e-5)
    np.testing.assert_array_equal(info.moments.count, plain_info.moments.count)


@pytest.mark.parametrize("flags", [(12, 1), (1, 3), (12, 3)], ids=str)
def test_a_mask_may_depend_on_any_axes(flags):
    x, scale, bias, dy = case((12, 3))
    keep = mask(flags, share=0.8)
    dy = jnp.where(keep, dy, 0)
    got = ghost(poison(x, keep), scale, bias, dy, virtual_batch_size=4, where=keep)
    want = oracle(x, scale, bias, dy, -1, 4, keep)
    kept = np.broadcast_to(keep, (12, 3))
    for a, b in zip((jnp.where(kept, got[0], 0), *got[1:]), (np.where(kept, want[0], 0), *want[1:]), strict=True):
        assert_close(a, b, 1e-5)


@pytest.mark.parametrize("size", [12, 40])
def test_one_virtual_batch_is_batch_norm_to_the_last_bit(size):
    x, scale, bias, _ = case((12, 3), mean=100.0)
    stats = jbn.init_stats(3)
    train = functools.partial(jbn.batch_norm, x, scale, bias, stats, train=True)
    ours, plain = train(virtual_batch_size=size, ragged_groups="exact"), train()
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert_close(a, b, 3e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_within_two_ulp(dtype):
    x, scale, bias, dy = case((12, 3), dtype=dtype)
    y = normalized(x, scale, bias, virtual_batch_size=4)
    assert ulps(y, oracle(reference.wide(x.astype(jnp.float32)), scale, bias, dy, -1, 4)[0]) <= 2


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("how", SPREAD)
def test_with_an_axis_name_virtual_batch_i_is_that_of_all_devices(how, masked):
    x, scale, bias, dy = case((4, 6, 3), mean=50.0)
    keep = np.ones((4, 6, 3), bool)
    if masked:
        keep = mask((4, 6, 3))
        keep[2] = False
        dy = jnp.where(keep, dy, 0)

    def device(x, dy, keep):
        options = {"where": keep if masked else None, "virtual_batch_size": 2, "axis_name": "d"}
        y, stats, _ = jbn.batch_norm(x, scale, bias, jbn.init_stats(3), train=True, momentum=0.0, **options)
        dx = jax.grad(lambda x: jnp.sum(dy * normalized(x, scale, bias, **options)))(x)
        return y, dx, stats.mean, stats.var

    y, dx, mean, var = SPREAD[how](device, 4)(poison(x, keep), dy, jnp.asarray(keep))
    for g in range(3):
        s = (slice(None), slice(2 * g, 2 * g + 2))
        group_mean, group_var, _ = reference.moments(x[s], where=keep[s])
        exact = reference.normalize(x[s], group_mean, group_var, scale, bias)
        assert_close(jnp.where(keep[s], y[s], 0), np.where(keep[s], exact, 0), 1e-5)
        assert_close(dx[s], reference.backward(x[s], dy[s], scale, where=keep[s])[0], 3e-5)
    whole_mean, whole_var, _ = reference.moments(x, where=keep)
    assert_close(mean, np.broadcast_to(whole_mean, (4, 3)), 1e-6)
    assert_close(var, np.broadcast_to(whole_var, (4, 3)), 1e-5)


def test_with_index_groups_the_devices_of_a_group_share_their_virtual_batches():
    x, scale, bias, _ = case((4, 6, 3), mean=50.0)
    groups = [[0, 3], [1, 2]]
    f = functools.partial(normalized, axis_name="d", axis_index_groups=groups, virtual_batch_size=3)
    y = jax.vmap(lambda x: f(x, scale, bias), axis_name="d")(x)
    for members in groups:
        for s in (slice(0, 3), slice(3, 6)):
            part = np.asarray(x)[members, s]
            mean, var, _ = reference.moments(part)
            assert_close(y[jnp.asarray(members), s], reference.normalize(part, mean, var, scale, bias), 1e-5)


def test_synchronized_virtual_batches_take_one_collective_forwards():
    x, scale, bias, _ = case((4, 6, 3))

    def device(x):
        options = {"virtual_batch_size": 2, "axis_name": "d", "train": True}
        return jbn.batch_norm(x[0], scale, bias, jbn.init_stats(3), **options)[0][None]

    assert collectives(jax.shard_map(device, mesh=mesh(d=4), in_specs=P("d"), out_specs=P("d")), x) == 1


def test_backpropagation_keeps_the_input_and_vectors_of_each_virtual_batch():
    x, scale, bias, _ = case((40, 3))
    f = functools.partial(normalized, virtual_batch_size=10)
    kept = [a for a in jax.tree.leaves(jax.vjp(f, x, scale, bias)[1]) if isinstance(a, jax.Array)]
    assert [a.size for a in kept if a.size > 4 * 3] == [x.size]


def test_junk_in_one_virtual_batch_stays_there():
    x, scale, bias, dy = case((12, 3))
    y = normalized(x.at[5, 1].set(jnp.nan), scale, bias, virtual_batch_size=4)
    exact = oracle(x, scale, bias, dy, -1, 4)[0]
    others = np.r_[0:4, 8:12]
    assert_close(y[others], exact[others])
    assert np.isnan(y[4:8, 1]).all() and not np.isnan(y[4:8, [0, 2]]).any()


def test_an_empty_batch_leaves_the_statistics():
    y, stats, _ = jbn.batch_norm(jnp.ones((0, 3)), None, None, jbn.init_stats(3), train=True, virtual_batch_size=4)
    assert y.shape == (0, 3)
    np.testing.assert_array_equal(stats.var, np.ones(3))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"virtual_batch_size": 5},
            r"virtual_batch_size=5 does not divide the batch of 12 .*ragged_groups='exact'.* 2$",
        ),
        ({"virtual_batch_size": 0}, r"virtual_batch_size=0; pass the number of examples"),
        ({"virtual_batch_size": 4, "ragged_groups": "drop"}, r"ragged_groups is 'drop'; choose 'refuse' or 'exact'"),
        (
            {"virtual_batch_size": 4, "axis": (0, 1)},
            r"virtual_batch_size=4 cuts the batch axis, but axis=\(0, 1\) keeps",
        ),
        ({"virtual_batch_size": 1}, r"a virtual batch of 1 of .* has 1 value per feature, .*; pass a larger"),
        ({"virtual_batch_size": 11, "ragged_groups": "exact"}, r"a virtual batch of 1 of .* has 1 value per feature"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(options, says):
    features = (12, 3) if options.get("axis") else 3
    with pytest.raises(ValueError, match=says):
        jbn.batch_norm(batch((12, 3)), None, None, jbn.init_stats(features), train=True, **options)
