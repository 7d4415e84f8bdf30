"""Inputs that can fail, comparisons with meaningful tolerances, and ways to shard a batch over devices."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import jbn

ROOT = Path(__file__).parents[1]

# A few rounding errors of the working precision. Half precision is computed in float32 and rounded once: see `ulps`.
TOLERANCE = {"float32": 2e-6, "complex64": 2e-6, "float64": 1e-13, "complex128": 1e-13}
SIGNIFICAND_BITS = {"float16": 10, "bfloat16": 7, "float32": 23}

LAYOUTS = [
    pytest.param((5,), -1, id="rank1"),
    pytest.param((13, 5), -1, id="NC"),
    pytest.param((5, 13), 0, id="CN"),
    pytest.param((7, 3, 11), 1, id="NCL"),
    pytest.param((3, 5, 7, 3), -1, id="NHWC"),
    pytest.param((3, 3, 5, 7), -3, id="NCHW"),
    pytest.param((3, 5, 2, 3, 5), (4, -3, 1), id="unsorted-axes"),
]


def feature_shape(shape, axis) -> tuple[int, ...]:
    over = reference.reduced(axis, len(shape))
    return tuple(n for a, n in enumerate(shape) if a not in over)


def batch(shape, axis=-1, dtype="float32", *, mean=3.0, seed=0) -> jax.Array:
    """Normal numbers; features differ in mean (around ±`mean`) and in spread (0.3 to 3)."""
    rng, over = np.random.default_rng(seed), reference.reduced(axis, len(shape))
    features = feature_shape(shape, axis)
    n = int(np.prod(features))
    means = mean * np.linspace(0.9, 1.1, n) * (-1.0) ** np.arange(n)
    spread = np.expand_dims(np.geomspace(0.3, 3, n).reshape(features), over)
    x = np.expand_dims(means.reshape(features), over) + spread * rng.normal(size=shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        x = x + 1j * spread * rng.normal(2.0, 0.5, size=shape)
    return jnp.asarray(x.astype(np.result_type(x, 0)), dtype)


def affine(shape, axis=-1, dtype="float32", seed=1) -> tuple[jax.Array, jax.Array]:
    """scale (with one negative entry) and bias."""
    rng, features = np.random.default_rng(seed), feature_shape(shape, axis)
    scale = rng.uniform(0.5, 2, size=features)
    scale.flat[0] *= -1
    return jnp.asarray(scale, dtype), jnp.asarray(rng.normal(size=features), dtype)


def mask(shape, seed=2, share=0.6) -> np.ndarray:
    """True where an element counts. The first along every axis always counts, and there is always padding."""
    keep = np.random.default_rng(seed).uniform(size=shape) < share
    keep.flat[0], keep.flat[-1] = True, False
    return keep


def poison(x: jax.Array, where, value=np.nan) -> jax.Array:
    """`x` with `value` where the mask is False."""
    return jnp.where(jnp.broadcast_to(jnp.asarray(where), x.shape), x, jnp.asarray(value, x.dtype))


def case(shape=(7, 3), axis=-1, dtype="float32", mean=3.0):
    """x, scale, bias and the cotangent of y."""
    return batch(shape, axis, dtype, mean=mean), *affine(shape, axis), batch(shape, axis, seed=5, mean=0.5)


def case64(shape=(5, 2), mean=3.0):
    """The same inputs in float64, in a small shape."""
    return [a.astype(jnp.float64) for a in case(shape, mean=mean)]


def normalized(x, scale, bias, **options) -> jax.Array:
    """Training without running statistics; returns only y."""
    return jbn.batch_norm(x, scale, bias, None, train=True, **options)[0]


def assert_close(actual, exact, tolerance=None, *, axis=None, factor=1) -> None:
    """The error is at most `tolerance` (default: by dtype) · `factor` of the exact array's largest entry.

    With `axis`: of the largest entry of the same feature, so that large features do not hide errors in small ones.
    """
    tolerance = factor * (TOLERANCE[jnp.asarray(actual).dtype.name] if tolerance is None else tolerance)
    actual, exact = reference.wide(actual), reference.wide(exact)
    assert actual.shape == exact.shape
    over = tuple(range(exact.ndim)) if axis is None else reference.reduced(axis, exact.ndim)
    size = np.abs(exact).max(over, keepdims=True, initial=0)
    error = np.abs(actual - exact)
    assert (error <= tolerance * size).all(), f"off by {np.max(error / (size + 1e-300)):.3g}, allowed {tolerance:.3g}"


def statistics(dtype="float32") -> jbn.BatchStats:
    return jbn.BatchStats(jnp.asarray([2.0, -1.0, 0.5], dtype), jnp.asarray([4.0, 0.25, 1.0], dtype))


def tree_close(ours, theirs, tolerance=3e-6):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert_close(np.asarray(a, np.float64), b, tolerance)


def ulps(actual: jax.Array, exact) -> float:
    """The largest error in units in the last place of `actual`'s dtype; numbers below 2^-10 count as 2^-10."""
    bits = SIGNIFICAND_BITS[actual.dtype.name]
    unit = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-10))) - bits)
    return float(np.max(np.abs(reference.wide(actual.astype(jnp.float32)) - exact) / unit))


def mesh(**axes: int) -> Mesh:
    n = int(np.prod(list(axes.values())))
    return Mesh(np.array(jax.devices()[:n]).reshape(tuple(axes.values())), tuple(axes))


def _vmap(f, n):
    return jax.jit(jax.vmap(f, axis_name="d"))


def _shard_map(f, n):
    def one(*blocks):
        return jax.tree.map(lambda r: r[None], f(*jax.tree.map(lambda b: b[0], blocks)))

    return jax.jit(jax.shard_map(one, mesh=mesh(d=n), in_specs=P("d"), out_specs=P("d")))


def _pmap(f, n):
    return jax.pmap(f, axis_name="d")


# f of one device's arrays -> f of arrays with a leading axis of devices, named "d".
SPREAD = {"vmap": _vmap, "shard_map": _shard_map, "pmap": _pmap}


def collectives(f, *args) -> int:
    """The number of collectives in the compiled f."""
    text = jax.jit(f).lower(*args).compile().as_text()
    kinds = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|collective-broadcast"
    return len(re.findall(rf" (?:{kinds})(?:-start)?\(", text))
