"""Two sums in one pass equal the separate sums, for all derivatives, axes, devices and lowerings."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import affine, assert_close, batch, normalized, ulps
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jbn
from jbn._kernels.paired_sums import broadcast_pair, sum_pair
from jbn._kernels.tuning import SMALL

SHAPES = [pytest.param((64, 32, 40), id="many-features"), pytest.param((512, 64, 3), id="few-features")]
CUTS = [
    pytest.param((3136, 64), (0,), id="8-slabs"),
    pytest.param((17 * 7 * 7, 40), (0,), id="7-slabs"),
    pytest.param((1013, 40), (0,), id="odd"),
    pytest.param((3, 9000), (0,), id="few-rows"),
    pytest.param((1, 20000), (0,), id="one-row"),
    pytest.param((12, 9, 8, 20), (0, 1, 2), id="channels-last"),
    pytest.param((12, 20, 9, 8), (0, 2, 3), id="channels-first"),
    pytest.param((1, 6, 51, 60), (0, 2, 3), id="channels-first-of-one"),
    pytest.param((11, 6, 20, 16), (0, 2, 3), id="channels-first-odd"),
    pytest.param((5, 11, 8, 50), (1, 2), id="kept-before"),
    pytest.param((6, 4, 5, 8, 20), (1, 3), id="two-apart"),
]


def pair(shape, dtype="float64") -> tuple[jax.Array, jax.Array]:
    assert np.prod(shape) >= SMALL
    return batch(shape, dtype=dtype, mean=3.0), batch(shape, dtype=dtype, seed=1)


def dot(a, b) -> jax.Array:
    return sum(jnp.vdot(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("shape", "axes"), CUTS)
def test_two_sums_in_one_pass_are_the_sums(shape, axes, x64):
    a, b = pair(shape)
    program = jax.jit(partial(sum_pair, axes=axes))
    assert "complex" in program.lower(a, b).as_text()
    for found, of in zip(program(a, b), (a, b), strict=True):
        assert_close(found, np.asarray(of).sum(axes), 1e-12)


@pytest.mark.parametrize(("shape", "axes"), [cut for cut in CUTS if cut.id not in ("few-rows", "one-row")])
def test_they_are_more_exact_than_adding_one_after_another(shape, axes):
    a, b = pair(shape, "float32")
    exact = np.asarray(a, np.float64).sum(axes)
    assert_close(
        jax.jit(partial(sum_pair, axes=axes))(a, b)[0],
        exact,
        2e-7 * np.abs(a).sum(axes).max() / np.abs(exact).max(),
    )


@pytest.mark.parametrize(("shape", "axes"), CUTS)
def test_sums_and_spread_are_transposes_of_each_other(shape, axes, x64):
    large = pair(shape)
    small = tuple(jnp.cos(v.sum(axes)) for v in large)
    sums, spread = (
        jax.jit(partial(sum_pair, axes=axes)),
        jax.jit(lambda *ab: broadcast_pair(*ab, large[0], axes)),
    )
    assert_close(dot(sums(*large), small), dot(large, spread(*small)), 1e-12)
    for found, wanted in ((jax.linear_transpose(sums, *large)(small), spread(*small)),
                          (jax.linear_transpose(spread, *small)(large), sums(*large))):  # fmt: skip
        for f, w in zip(found, wanted, strict=True):
            assert_close(f, w, 1e-12)


@pytest.mark.parametrize("used", [0, 1])
def test_a_gradient_of_one_of_the_two_alone(used, x64):
    """The other sum has no cotangent."""
    a, b = pair((512, 40))
    found = jax.jit(jax.grad(lambda *ab: jnp.sum(sum_pair(*ab, (0,))[used] ** 2), (0, 1)))(a, b)
    wanted = [jnp.broadcast_to(2 * v.sum(0), v.shape) if i == used else jnp.zeros_like(v) for i, v in enumerate((a, b))]
    u, v = a[0], b[0]
    back = jax.jit(jax.grad(lambda *uv: jnp.vdot(broadcast_pair(*uv, a, (0,))[used], a), (0, 1)))(u, v)
    wanted += [a.sum(0) if i == used else jnp.zeros_like(u) for i in range(2)]
    for f, w in zip((*found, *back), wanted, strict=True):
        assert_close(f, w, 1e-12)


@pytest.mark.parametrize("dims", [(0, 0), (1, None), (None, 2)], ids=str)
def test_under_vmap_they_are_the_sums_of_each(dims, x64):
    shape, size = (600, 40), 3
    args = [
        v if d is None else jnp.stack([v * (i + 1) for i in range(size)], d)
        for v, d in zip(pair(shape), dims, strict=True)
    ]
    found = jax.jit(jax.vmap(partial(sum_pair, axes=(0,)), dims))(*args)
    for i in range(size):
        each = [v if d is None else jnp.take(v, i, d) for v, d in zip(args, dims, strict=True)]
        for f, v in zip(found, each, strict=True):
            assert_close(f[i], v.sum(0), 1e-12)
    grads = jax.jit(jax.grad(lambda *a: dot(jax.vmap(partial(sum_pair, axes=(0,)), dims)(*a), found), (0, 1)))(*args)
    plain = jax.grad(lambda *a: dot(jax.vmap(lambda a, b: (a.sum(0), b.sum(0)), dims)(*a), found), (0, 1))(*args)
    for f, w in zip(grads, plain, strict=True):
        assert_close(f, w, 1e-12)


def test_what_is_not_finite_in_one_sum_stays_out_of_the_other():
    a, b = (np.array(v) for v in pair((1024, 40), "float32"))
    a[3, 0], a[900, 1], b[5, 2], b[6, 3], b[7, 3] = np.nan, np.inf, -np.inf, np.inf, -np.inf
    found = jax.jit(partial(sum_pair, axes=(0,)))(a, b)
    np.testing.assert_array_equal(np.isfinite(found[0]), np.arange(40) >= 2)
    np.testing.assert_array_equal(np.isfinite(found[1]), ~np.isin(np.arange(40), (2, 3)))
    assert found[0][1] == np.inf and found[1][2] == -np.inf and np.isnan(found[1][3])


def test_only_cpus_are_told_and_of_large_arrays():
    def told(platform: str, *args) -> bool:
        program = jax.jit(partial(sum_pair, axes=(0,))).trace(*args).lower(lowering_platforms=(platform,))
        return "complex" in program.as_text()

    large = pair((1024, 40), "float32")
    assert told("cpu", *large) and not told("cpu", *(v[:40] for v in large))
    assert not told("cuda", *large) and not told("tpu", *large)


@pytest.mark.parametrize("rows", [17, 49, 64, 128, 1000])
def test_slabs_are_added_along_rows_and_not_within_the_sum_down_a_column(rows):
    """If the last reduce contained the additions of the slabs, a batch of 64 would take three times as long."""
    program = jax.jit(partial(sum_pair, axes=(0,))).lower(*pair((rows, 1024), "float32")).compile().as_text()
    loops = [part for part in program.split("\n\n") if re.search(r" slice\(", part)]
    assert loops and not any(re.search(r" reduce\(", loop) for loop in loops)


def test_a_sum_that_nobody_asks_for_is_not_differentiated():
    """Otherwise its derivative would be 0 times a value that is not finite."""
    x = np.array(batch((1024, 40)))
    x[3, 0], x[900, 1] = np.nan, np.inf
    for where in (None, jnp.ones((1024, 1), bool)):
        found = jax.jit(jax.grad(lambda x, where=where: jbn.moments(x, where=where).mean.sum()))(x)
        assert_close(found, np.full(x.shape, 1 / 1024), 1e-6)


def test_the_gradient_of_bias_alone_does_not_read_the_input():
    x, dy, stats = batch((1024, 40)), batch((1024, 40), seed=1), jbn.init_stats(40)

    def gradient(x, bias, dy):
        return jax.vjp(lambda bias: jbn.batch_norm(x, None, bias, stats, train=False)[0], bias)[1](dy)[0]

    program = jax.jit(gradient).lower(x, jnp.zeros(40), dy).compile()
    assert not re.search(r"c64\[\d|complex", program.as_text())
    assert_close(program(x, jnp.zeros(40), dy), np.asarray(dy, np.float64).sum(0), 1e-6)


def both_passes(x, scale, bias, dy, **options):
    def forward(x, scale, bias):
        return jbn.batch_norm(x, scale, bias, jbn.init_stats(x.shape[-1]), train=True, **options)[:2]

    y, vjp, stats = jax.vjp(forward, x, scale, bias, has_aux=True)
    return y, vjp(dy), stats


PLACES = [
    ((16, 8, 8, 64), P("batch")),
    ((16, 8, 8, 64), P(None, "batch")),
    ((256, 128), P("batch")),
    ((64, 32, 40), P(None, "batch")),
    ((4096, 24), P("batch")),
    ((16, 16, 16, 8), P("batch")),
]


@pytest.mark.parametrize("axes", ["auto", "explicit"])
@pytest.mark.parametrize(("shape", "place"), PLACES, ids=str)
def test_an_array_spread_over_devices_is_not_moved(shape, place, axes):
    kind = jax.sharding.AxisType.Auto if axes == "auto" else jax.sharding.AxisType.Explicit
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,), devices=jax.devices()[:4])
    x, dy, (scale, bias) = batch(shape, mean=3.0), batch(shape, seed=5), affine(shape)
    alone = jax.jit(both_passes)(x, scale, bias, dy)
    with jax.set_mesh(mesh):
        x, dy = jax.device_put((x, dy), NamedSharding(mesh, place))
        program = jax.jit(both_passes).lower(x, scale, bias, dy).compile()
        moves = re.findall(r"= \w+\[([\d,]+)\]\S* (?:all-gather|all-to-all|collective-permute)", program.as_text())
        moved = sum(np.prod([int(n) for n in dims.split(",")]) for dims in moves)
        # The sample is taken along the second axis.
        assert moved <= (x.size / 8 if axes == "auto" and place[0] is None else 0)
        jax.tree.map(partial(assert_close, tolerance=1e-5), program(x, scale, bias, dy), alone)


@pytest.mark.parametrize("shape", [(8192, 40), (8192, 8)], ids=str)
def test_devices_exchange_vectors_alone(shape):
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    x, dy, (scale, bias) = batch(shape, mean=3.0), batch(shape, seed=5), affine(shape)
    specs = (P("d"), P(), P(), P("d"))
    step = jax.shard_map(
        partial(both_passes, axis_name="d"), mesh=mesh, in_specs=specs, out_specs=(P("d"), (P("d"), P(), P()), P())
    )
    program = jax.jit(step).lower(x, scale, bias, dy).compile()
    exchanged = re.findall(r"= (.*?) all-reduce\(", program.as_text())
    sizes = [
        int(np.prod([int(n) for n in dims.split(",")])) for op in exchanged for dims in re.findall(r"\[([\d,]+)\]", op)
    ]
    assert sizes and max(sizes) <= 4 * 4 * shape[-1]  # four rows per device
    jax.tree.map(
        partial(assert_close, tolerance=1e-5), program(x, scale, bias, dy), jax.jit(both_passes)(x, scale, bias, dy)
    )


def plain(x, scale, bias):
    d = x - x.mean((0, 1))
    return d * jax.lax.rsqrt((d**2).mean((0, 1)) + 1e-5) * scale + bias


def gradient(f):
    return lambda x, scale, bias, dy: jax.vjp(f, x, scale, bias)[1](dy)[0]


def tangent(f):
    return lambda x, scale, bias, dx: jax.jvp(lambda x: f(x, scale, bias), (x,), (dx,))[1]


def forward_over_reverse(f):
    return lambda x, scale, bias, dy: tangent(lambda x, s, b: gradient(f)(x, s, b, dy))(x, scale, bias, dy)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("derivative", [gradient, tangent, forward_over_reverse])
def test_a_derivative_in_half_precision_is_rounded_once(derivative, shape, x64):
    x, (scale, bias) = batch(shape, dtype="bfloat16"), affine(shape)
    along = batch(shape, dtype="bfloat16", seed=5, mean=0.5)
    found = jax.jit(derivative(normalized))(x, scale, bias, along)
    exact = derivative(plain)(*(a.astype(jnp.float64) for a in (x, scale, bias, along)))
    assert found.dtype == jnp.bfloat16 and ulps(found, reference.wide(exact)) <= 0.55


@pytest.mark.parametrize("shape", SHAPES)
def test_reverse_over_reverse_rounds_what_comes_back_from_each_of_the_two_passes(shape, x64):
    """x enters both passes, and their contributions are added in half precision, so large terms may cancel."""
    x, (scale, bias) = batch(shape, dtype="bfloat16"), affine(shape)
    dy = batch(shape, dtype="bfloat16", seed=5, mean=0.5)

    def twice(f):
        return lambda x, scale, bias, dy: gradient(lambda *a: gradient(f)(*a, dy))(x, scale, bias, dy)

    exact = twice(plain)(*(a.astype(jnp.float64) for a in (x, scale, bias, dy)))
    assert_close(jax.jit(twice(normalized))(x, scale, bias, dy), exact, 2**-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_compiled_passes_compute_no_vector_for_each_element(dtype):
    """The loops over the large array contain only operations on that array."""
    shape = (64, 32, 40)
    x, (scale, bias) = batch(shape, dtype=dtype), affine(shape)

    def both(x, scale, bias, dy):
        y, vjp = jax.vjp(normalized, x, scale, bias)
        return y, vjp(dy)

    program = jax.jit(both).lower(x, scale, bias, x).compile().as_text()
    loops = [part for part in program.split("\n\n") if re.search(r"ROOT .* = \w+\[64,32,40\]", part)]
    assert len(loops) == 2  # y and dx
    for loop in loops:
        vectors = re.findall(r"= f32\[40\]\S* (\w[\w-]*)\(", loop)
        assert set(vectors) == {"parameter"}, loop
