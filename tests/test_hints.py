"""What XLA:CPU is told changes no number and no derivative, says nothing elsewhere, and is heeded."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import affine, assert_close, batch, normalized, ulps

from jbn import _hints

HINTS = {
    "apart": lambda x: _hints.apart(2, x),
    "settled": _hints.settled,
    "reread": lambda x: _hints.reread(2, x, jnp.bfloat16),
    "written": lambda x: _hints.written(2, x, jnp.bfloat16),
}
SHAPES = [pytest.param((64, 32, 40), id="many-features"), pytest.param((512, 64, 3), id="few-features")]


def numbers(size=_hints.SMALL) -> jax.Array:
    """What bfloat16 can hold, so that reading it from there again loses nothing."""
    rest = np.random.default_rng(0).normal(size=size - 5).astype(np.float32)
    found = jnp.asarray(np.concatenate([[0.0, -0.0, np.inf, -np.inf, np.nan], rest]).astype(np.float32))
    return found.astype(jnp.bfloat16).astype(jnp.float32)


@pytest.mark.parametrize("name", HINTS)
@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, jax.vmap, jax.checkpoint], ids=["eager", "jit", "vmap", "remat"]
)
def test_a_hint_is_the_identity_and_so_are_its_derivatives(name, wrap):
    x, f = numbers(), wrap(lambda x: HINTS[name](x.reshape(-1)).reshape(x.shape))
    x = x[:, None] if wrap is jax.vmap else x
    y, vjp = jax.vjp(f, x)
    for found in (y, jax.jvp(f, (x,), (x,))[1], vjp(x)[0]):
        assert np.asarray(found).tobytes() == np.asarray(x).tobytes()


@pytest.mark.parametrize("name", HINTS)
def test_only_cpus_are_told(name):
    def told(platform: str, x: jax.Array) -> bool:
        program = jax.jit(HINTS[name]).trace(x).lower(lowering_platforms=(platform,)).as_text()
        return bool(re.search("optimization_barrier|divide|convert", program))

    assert not told("cuda", numbers()) and not told("tpu", numbers())
    assert told("cpu", numbers()) == (name != "written")
    assert told("cpu", numbers(31)) == (name == "apart")  # which its user asks for where it pays


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
    """x goes into both, and what is summed there is in half precision: so large terms may cancel."""
    x, (scale, bias) = batch(shape, dtype="bfloat16"), affine(shape)
    dy = batch(shape, dtype="bfloat16", seed=5, mean=0.5)

    def twice(f):
        return lambda x, scale, bias, dy: gradient(lambda *a: gradient(f)(*a, dy))(x, scale, bias, dy)

    exact = twice(plain)(*(a.astype(jnp.float64) for a in (x, scale, bias, dy)))
    assert_close(jax.jit(twice(normalized))(x, scale, bias, dy), exact, 2**-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_compiled_passes_compute_no_vector_for_each_element(dtype):
    """In the loops over the large array stand the operations on it alone."""
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
