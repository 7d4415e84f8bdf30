"""Random ranks, axes, dtypes, masks, ghost batches and hostile values, against the float64 oracle.

The tolerance is the bound of a rounding analysis, for each element. With eps of the working precision (float32 for half
precision), n kept values of a feature, `a` the largest |x| among them, s² = var and sigma² = var + epsilon:

    k = 8 + 2·√n                roundings in a sum, probabilistically (Higham & Mary 2019), and a few more
    off = (4 + n)·eps·a         distance of the shift from the mean: the shift lacks three bits, and its sum is rounded
    |Δmean| <= eps·|mean| + k·eps·(s + off)
    |Δvar|  <= k·eps·(s + off)²
    |Δy|    <= k·eps·(|bias| + |scale|·(|xhat|·(1 + (s + off)²/sigma²) + (s + off)/sigma))

The mean enters only through `off`, with eps²: a mean of 1e4 standard deviations costs nothing. Half precision is
rounded once more, by half a unit in the last place. `tiny` is allowed because XLA may flush subnormal numbers to 0.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import jbn

pytestmark = pytest.mark.usefixtures("strict")
EPSILON, MOMENTUM = 1e-5, 0.75
# By dtype: magnitudes, each with the largest mean (in standard deviations) that keeps squares and sums in range.
MAGNITUDES = {
    "float16": {1.0: 1e3, 3e2: 10, 1e-4: 1e3, 1e-7: 1},
    "bfloat16": {1.0: 1e4, 1e14: 1e4, 1e16: 1, 1e-20: 1e4, 1e-40: 1},
    "float32": {1.0: 1e4, 1e14: 1e4, 1e16: 1, 1e-20: 1e4, 1e-40: 1},
    "float64": {1.0: 1e4, 1e100: 1e4, 1e-100: 1e4, 1e-310: 1},
}


class Case(NamedTuple):
    """The options and inputs of a call. x is about `magnitude` times noise of standard deviation 1 and mean ±`mean`.

    On average, `share` of the mask is True. Where it is False, x is `junk`, or an ordinary value if `junk` is 0. `size`
    is the virtual batch size. The repr is enough to call `law` with the case again.
    """

    shape: tuple[int, ...]
    axis: int | tuple[int, ...]
    dtype: str
    kind: str
    magnitude: float
    mean: float
    mask: tuple[int, ...] | None
    share: float
    junk: float
    size: int | None
    seed: int


def case_of(structures: int, seed: int) -> Case:
    """One of `structures` combinations of shape and options, each compiled once, with values that depend on the seed.

    Every choice is uniform. Draws by hypothesis are not: half of them are the simplest.
    """
    rng = np.random.default_rng([1, seed % structures])
    one_of = lambda options: options[rng.integers(len(options))]  # noqa: E731
    ndim = one_of([1, 2, 2, 3, 3, 4, 4, 5, 5])
    shape = tuple(int(n) for n in rng.integers(1, 33 if ndim < 3 else 5, ndim))
    features = rng.permutation(ndim)[: one_of([1, 1, 1, 2, ndim])]
    axis = tuple(int(a) - one_of([0, ndim]) for a in features)
    reduced = reference.reduced(axis, ndim)
    dtype, mask = one_of(list(MAGNITUDES)), None
    if rng.integers(2):
        mask = tuple(one_of([1, n, n]) for n in shape)
        mask = mask[one_of([0, next((i for i, n in enumerate(mask) if n > 1), ndim)]) :]
    size = one_of([None, int(rng.integers(1, shape[reduced[0]] + 2))]) if reduced else None

    rng = np.random.default_rng([2, seed])
    magnitude = one_of(list(MAGNITUDES[dtype]))
    return Case(
        shape,
        axis[0] if len(axis) == 1 else axis,
        dtype,
        one_of(["normal", "normal", "zero", "constant", "outlier", "two"]),
        magnitude,
        one_of([m for m in (0.0, 1.0, 10.0, 1e3, 1e4) if m <= MAGNITUDES[dtype][magnitude]]),
        mask,
        one_of([0.0, 0.3, 0.7, 1.0]),
        one_of([0.0, np.nan, np.inf, -np.inf]),
        size,
        seed,
    )


def cases(structures: int):
    return st.integers(0, 2**32 - 1).map(functools.partial(case_of, structures))


def working(dtype) -> str:
    return "float64" if dtype == "float64" else "float32"


def numbers(case: Case):
    """x in its dtype, scale, bias, running mean and variance, and the mask, by NumPy, which compiles nothing."""
    rng, over = np.random.default_rng(case.seed), reference.reduced(case.axis, len(case.shape))
    broad = tuple(1 if a in over else n for a, n in enumerate(case.shape))
    noise = {
        "normal": rng.normal(size=case.shape),
        "zero": np.zeros(case.shape),
        "constant": np.full(case.shape, rng.normal()),
        "outlier": np.where(rng.uniform(size=case.shape) < 0.1, 30.0, 1e-3 * rng.normal(size=case.shape)),
        "two": rng.choice([-1.0, 1.0], size=case.shape),
    }[case.kind]
    mean = 0 if case.kind == "zero" else case.mean * rng.choice([-1.0, 1.0], size=broad)
    x = np.asarray(case.magnitude * np.exp(rng.uniform(-1, 1, broad)) * (noise + mean)).astype(case.dtype)
    keep = None if case.mask is None else rng.uniform(size=case.mask) < case.share
    if keep is not None and case.junk:
        x = np.where(keep, x, np.asarray(case.junk, x.dtype))
    features = tuple(n for a, n in enumerate(case.shape) if a not in over)
    layer = (
        rng.uniform(-2, 2, features),
        rng.normal(size=features),
        rng.normal(size=features),
        rng.uniform(1, 3, features),
    )
    return x, *(p.astype(working(case.dtype)) for p in layer), keep


def exact_moments(x, axis, keep):
    """The shift, and the oracle's moments of x minus the shift, so that a large mean costs no digit of float64."""
    centre, _, _ = reference.moments(x, axis, keep)
    rest, var, count = reference.moments(x - np.expand_dims(centre, reference.reduced(axis, x.ndim)), axis, keep)
    return centre, rest, var, count


def roundings(x, axis, keep, var, count, eps):
    """k·eps and s + off of the module's docstring, per feature."""
    a = np.abs(np.where(keep, x, 0)).max(reference.reduced(axis, x.ndim), initial=0)
    return (8 + 2 * np.sqrt(count)) * eps, np.sqrt(var) + (4 + count) * eps * a


def exact_output(x, axis, keep, scale, bias, work):
    """y of one batch, and its largest allowed error."""
    scale, bias = reference.wide(scale), reference.wide(bias)
    over = reference.reduced(axis, x.ndim)
    centre, mean, var, count = exact_moments(x, axis, keep)
    d = x - np.expand_dims(centre, over)
    y = reference.normalize(d, mean, var, scale, bias, EPSILON, axis)
    k, wide = roundings(x, axis, keep, var, count, work.eps)
    sigma = np.sqrt(var + EPSILON)
    k, wide, sigma, scale, bias, mean = (np.expand_dims(v, over) for v in (k, wide, sigma, scale, bias, mean))
    xhat = np.abs(d - mean) / sigma
    slack = k * (np.abs(bias) + np.abs(scale) * (xhat * (1 + (wide / sigma) ** 2) + wide / sigma))
    return y, slack + np.abs(scale) * work.tiny / sigma


def assert_within(actual, exact, slack) -> None:
    error = np.abs(reference.wide(actual) - exact)
    assert (error <= slack).all(), f"off by {np.max(error / slack):.3g} times what rounding explains"


def assert_rounded(y, exact, slack) -> None:
    """`y` is `exact` rounded to its dtype, up to the slack."""
    kind = jnp.finfo(y.dtype)
    unit = 2.0 ** np.maximum(np.floor(np.log2(np.abs(exact) + slack)) - kind.nmant, kind.minexp - kind.nmant)
    slack = slack + (unit / 2 if kind.bits == 16 else 0)
    assert_within(y, exact, slack)


@functools.cache
def compiled(train, axis, size):
    options = {} if size is None else {"virtual_batch_size": size, "ragged_groups": "exact"}

    def step(x, scale, bias, stats, where):
        y, stats, info = jbn.batch_norm(
            x,
            scale,
            bias,
            stats,
            train=train,
            momentum=MOMENTUM,
            epsilon=EPSILON,
            axis=axis,
            where=where,
            **options,
        )
        return y, stats, info.moments, info.dead

    return jax.jit(step)


def law(case: Case) -> None:
    with jax.enable_x64(case.dtype == "float64"):
        given, scale, bias, mean, var, mask = numbers(case)
        axis, over, work = case.axis, reference.reduced(case.axis, given.ndim), jnp.finfo(working(given.dtype))
        stats = jbn.BatchStats(mean, var)
        keep = np.broadcast_to(True if mask is None else mask, given.shape)
        junk = ~np.isfinite(reference.wide(given))
        assert not (junk & keep).any()
        x = np.where(junk, 0, reference.wide(given))
        expanded = np.expand_dims(reference.wide(bias), over)
        fitting = lambda y: np.where(~junk & (np.abs(y) < float(jnp.finfo(given.dtype).max)), y, expanded)  # noqa: E731

        n = given.shape[over[0]] if over else 1
        ends = [*range(0, n, case.size or n), n]  # ends of the virtual batches
        if min(np.diff(ends)) * np.prod([given.shape[a] for a in over[1:]]) == 1:
            with pytest.raises(ValueError, match="has 1 value per feature"):
                compiled(True, axis, case.size)(given, scale, bias, stats, mask)
            y, *_ = compiled(False, axis, None)(given, scale, bias, stats, mask)
            exact = fitting(reference.normalize(x, mean, var, scale, bias, EPSILON, axis))
            assert_rounded(y, exact, 8 * work.eps * (np.abs(exact) + np.abs(expanded)) + work.tiny)
            return

        y, new, moments, dead = compiled(True, axis, case.size)(given, scale, bias, stats, mask)
        assert y.dtype == given.dtype
        cuts = [(slice(None),) * over[0] + (slice(*pair),) for pair in itertools.pairwise(ends)]
        parts = [exact_output(x[cut], axis, keep[cut], scale, bias, work) for cut in cuts]
        exact, slack = (np.concatenate(p, over[0]) for p in zip(*parts, strict=True))
        assert_rounded(y, fitting(exact), slack)
        assert_statistics(x, axis, keep, moments, stats, new, work)
        if case.kind in ("zero", "constant"):
            np.testing.assert_array_equal(moments.var, 0)
            np.testing.assert_array_equal(dead, np.broadcast_to(moments.count > 0, dead.shape))


def assert_statistics(x, axis, keep, moments, old, new, work) -> None:
    """Statistics are of the whole batch, also with virtual batches; a feature with only padding keeps its own."""
    centre, rest, var, count = exact_moments(x, axis, keep)
    mean = centre + rest
    k, wide = roundings(x, axis, keep, var, count, work.eps)
    slacks = work.eps * np.abs(mean) + k * wide + 2 * work.tiny, k * wide**2 + 4 * work.tiny
    np.testing.assert_array_equal(np.broadcast_to(moments.count, count.shape), count)
    for got, exact, slack, was, now in zip(moments[:2], (mean, var), slacks, old[:2], new[:2], strict=True):
        assert_within(got, exact, slack)
        moved = np.where(count, reference.ema(was, [exact], MOMENTUM), was)
        assert_within(now, moved, (1 - MOMENTUM) * slack + 4 * work.eps * (np.abs(reference.wide(was)) + np.abs(exact)))
        np.testing.assert_array_equal(np.where(count == 0, now, was), was)


@settings(max_examples=200)
@given(cases(120))
def test_whatever_comes_is_the_oracle(case):
    law(case)


@pytest.mark.long
@settings(max_examples=2000)
@given(cases(2**32))
def test_whatever_comes_is_the_oracle_at_length(case):
    law(case)


# Cases that were found above


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_padding_too_large_for_half_precision_comes_out_as_bias(train):
    """A batch of only padding is normalized by variance 0: 1000/sqrt(1e-5) = 3e5, which float16 cannot represent."""
    x, stats = jnp.full((4, 1), 1e3, jnp.float16), jbn.BatchStats(jnp.zeros(1), jnp.zeros(1))
    y, _, _ = jbn.batch_norm(x, None, jnp.ones(1), stats, train=train, where=jnp.zeros((4, 1), bool))
    np.testing.assert_array_equal(y, np.ones((4, 1)))


def test_a_constant_feature_is_dead_also_where_virtual_batches_differ_in_size():
    x = jnp.full((7, 1), 1e4 + 1 / 3)
    _, _, info = jbn.batch_norm(x, None, None, None, train=True, virtual_batch_size=4, ragged_groups="exact")
    np.testing.assert_array_equal(info.dead, [True])
