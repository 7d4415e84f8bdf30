"""The passes over the large array equal plain jnp, including all derivatives, and write only their results."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import affine as some_affine
from helpers import assert_close, batch, mask, poison
from jax.test_util import check_grads

import jbn
from jbn import _axes
from jbn._kernels import passes
from jbn._kernels import reference as plain
from jbn._kernels.subsampling import subsample

# Few trailing features are packed on a CPU; the last shape cannot be packed, the second to last is complex.
SHAPES = [
    pytest.param((64, 16, 8, 3), -1, "float64", id="few-features"),
    pytest.param((8192, 2), -1, "float64", id="few-features-rows"),
    pytest.param((64, 14, 20), -1, "float64", id="many-features"),
    pytest.param((32, 20, 31), 1, "float64", id="channels-first"),
    pytest.param((31, 3, 5), -1, "complex128", id="complex"),
    pytest.param((5471, 3), -1, "float64", id="odd"),
]


def arguments(shape, axis, dtype):
    x = batch(shape, axis, dtype, mean=30.0)
    shift = jnp.mean(x, _axes.canonical(axis, len(shape)).reduced) + 0.1
    factor, offset = some_affine(shape, axis, dtype)
    return x, shift, factor, offset


def part_of(x, axis, *mask):
    return subsample(x, _axes.canonical(axis, x.ndim), 64, *mask)


def value(f, along, *at):
    return f(*at)


def forward_mode(f, along, *at):
    return jax.jvp(f, at, along)[1]


def reverse_mode(f, along, *at):
    y, vjp = jax.vjp(f, *at)
    return vjp(jax.tree.map(lambda v: jnp.sin(v / 1000), y))  # the sine of a large sum is noise


def forward_over_reverse(f, along, *at):
    return jax.jvp(partial(reverse_mode, f, along), at, along)[1]


@pytest.mark.parametrize("how", ["eager", "jit", "vmap"])
@pytest.mark.parametrize(("shape", "axis", "dtype"), SHAPES)
def test_each_pass_and_its_derivatives_are_those_of_the_plain_twin(shape, axis, dtype, how, x64):
    axes = _axes.canonical(axis, len(shape))
    x, shift, factor, offset = arguments(shape, axis, dtype)
    tangents = jax.tree.map(lambda a: jnp.cos(3 * jnp.real(a)).astype(a.dtype), (x, shift, factor, offset))
    wrap = {"eager": lambda f: f, "jit": jax.jit, "vmap": lambda f: lambda *a: jax.tree.map(
        lambda v: v[0], jax.vmap(f)(*(jnp.stack([v, v]) for v in a)))}[how]  # fmt: skip

    def sums(power_sums):
        return lambda x: power_sums(x, jax.lax.stop_gradient(shift), axes)

    def line(affine):
        return lambda *a: affine(*a, axes)

    pairs = [
        (sums(passes.power_sums), sums(plain.power_sums), (x,), tangents[:1]),
        (line(passes.affine), line(plain.affine), (x, shift, factor, offset), tangents),
    ]
    for ours, twin, at, along in pairs:
        for way in (value, forward_mode, reverse_mode, forward_over_reverse):
            found, wanted = wrap(partial(way, ours, along))(*at), way(twin, along, *at)
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                assert_close(a, b, 1e-11)


def test_derivatives_of_few_features_agree_with_finite_differences(x64):
    x, shift, factor, offset = arguments((1024, 8, 3), -1, "float64")
    axes = _axes.canonical(-1, x.ndim)
    assert passes._rows_to_pack(x, axes) == 8
    check_grads(lambda *a: passes.affine(*a, axes), (x, shift, factor, offset), order=2)
    check_grads(lambda x: passes.power_sums(x, shift, axes), (x,), order=2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "masked"),
    [((64, 16, 16, 32), False), ((128, 32, 32, 3), False), ((64, 16, 16, 32), True)],
    ids=["many-features", "few-features", "masked"],
)
def test_the_compiled_layer_writes_nothing_but_its_results(shape, masked, dtype):
    """Plain jnp on a CPU would write and read x - shift for each sum, and upcast half precision.

    The partial sums of slabs are also written, but into the memory of y.
    """
    x, (scale, bias) = batch(shape, dtype=dtype), some_affine(shape)
    keep = jnp.asarray(mask((shape[0], 1, 1, 1))) if masked else None

    def both(x, scale, bias, dy, keep):
        def forward(x, scale, bias):
            return jbn.batch_norm(x, scale, bias, jbn.init_stats(shape[-1]), train=True, where=keep)[:2]

        y, vjp, stats = jax.vjp(forward, x, scale, bias, has_aux=True)
        return y, vjp(dy), stats

    compiled = jax.jit(both).lower(x, scale, bias, x, keep).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.1 * x.nbytes


@pytest.mark.parametrize(("shape", "axis"), [((64, 16, 16, 32), -1), ((1, 32, 128, 128), 1), ((11, 32, 56, 56), 1)])
def test_statistics_alone_write_an_eighth_of_complex_numbers(shape, axis):
    x = batch(shape, axis)
    compiled = jax.jit(partial(jbn.moments, axis=axis)).lower(x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.3 * x.nbytes


@pytest.mark.parametrize(
    "shape", [(4096, 5), (64, 64, 5), (8, 200, 100, 2), (4099, 3), (1024, 1024), (64, 2, 1, 8192)], ids=str
)
def test_whatever_the_sample_is_a_rough_mean_costs_few_digits(shape):
    """In the worst case, the sampled elements are far from all others: var still has most of its digits."""
    x = np.random.default_rng(0).normal(size=shape)
    sampled = part_of(jnp.arange(x.size, dtype=jnp.int32).reshape(shape), -1)
    assert x.size / 128 <= sampled.size <= x.size
    x.reshape(-1)[np.asarray(sampled).reshape(-1)] += 1e4
    found = jbn.moments(jnp.asarray(x, jnp.float32))
    exact = np.asarray(x, np.float32).astype(np.float64).var(tuple(range(x.ndim - 1)))
    sums = (
        4e-7 if jax.__version_info__ >= (0, 10, 2) else 8e-7
    )  # jaxlib 0.10.0 adds the squares of a column less exactly
    assert_close(found.var, exact, 64 * sums)


@pytest.mark.parametrize(
    ("shape", "free"),
    [((32, 1, 1, 1), 1), ((1, 24, 1, 1), 2), ((32, 24, 1, 1), 2), ((32, 24, 8, 1), None), ((1, 24, 8, 3), 0)],
    ids=str,
)
def test_with_a_mask_the_sample_runs_along_an_axis_on_which_it_does_not_change(shape, free):
    """So the mask keeps the same fraction of the sample as of all elements, for each feature."""
    x = jnp.zeros((32, 24, 8, 3))
    part = part_of(x, -1, jnp.ones(shape, bool))
    assert [a for a in range(4) if part.shape[a] < x.shape[a]] == ([] if free is None else [free])


@pytest.mark.parametrize("kept", [(64, 1, 1, 1), (64, 30, 1, 1), (1, 1, 16, 5), (64, 30, 16, 5)], ids=str)
def test_masked_moments_of_a_large_input_lose_nothing_to_a_large_mean_or_to_padding(kept):
    x, keep = batch((64, 30, 16, 5), mean=1e4), mask(kept)
    found = jax.jit(jbn.moments)(poison(x, keep), where=jnp.asarray(keep))
    mean, var, count = reference.moments(x, where=keep)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-7)
    np.testing.assert_allclose(found.var, var, rtol=2e-6)
    np.testing.assert_array_equal(jnp.broadcast_to(found.count, (5,)), count)


def test_all_of_a_small_input_is_its_sample_and_of_one_with_few_rows():
    for x in (jnp.zeros((12, 7)), jnp.zeros((3, 4, 7)), jnp.zeros((1024, 15)), jnp.zeros((32, 2**15))):
        assert part_of(x, -1) is x


def test_the_sample_is_a_part_of_each_example_and_not_some_examples():
    x = jnp.broadcast_to(jnp.arange(32.0)[:, None, None, None], (32, 24, 8, 3))
    part = part_of(x, -1)
    assert set(np.asarray(part).reshape(-1)) == set(range(32)) and part.size * 24 == x.size
    first = part_of(jnp.moveaxis(x, -1, 1), 1)
    assert first.shape == (32, 3, 1, 8)


def test_few_rows_of_many_features_are_sampled_too_if_they_are_enough():
    assert part_of(jnp.zeros((1024, 1024)), -1).size == 16 * 1024
    assert part_of(jnp.zeros((128, 128)), -1).size == 2 * 128
    assert part_of(jnp.zeros((128, 1, 1, 8192)), -1).size == 2 * 8192  # never along an axis of size 1
