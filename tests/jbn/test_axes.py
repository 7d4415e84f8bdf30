"""jbn._axes: which axes are features, and which are reduced; broadcasting of features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import jbn
from jbn import _axes

pytestmark = pytest.mark.usefixtures("strict")


@st.composite
def axis_and_rank(draw):
    rank = draw(st.integers(1, 6))
    axes = draw(st.permutations(range(rank)))[: draw(st.integers(1, rank))]
    return [a - rank * draw(st.booleans()) for a in axes], rank


@given(axis_and_rank())
def test_feature_axes_are_sorted_and_counted_from_zero_however_they_are_named(case):
    axes, rank = case
    assert _axes.canonical(axes, rank).features == tuple(sorted(a % rank for a in axes))


@given(axis_and_rank())
def test_feature_and_reduction_axes_split_the_axes_of_the_input(case):
    axes, rank = case
    features, reduced, _ = _axes.canonical(axes, rank)
    assert sorted(features + reduced) == list(range(rank))
    assert reduced == reference.reduced(axes, rank)


@given(axis_and_rank())
def test_expand_is_inverse_to_reducing(case):
    axis, rank = case
    axes, shape = _axes.canonical(axis, rank), tuple(range(2, 2 + rank))
    value = np.arange(np.prod(axes.feature_shape(shape))).reshape(axes.feature_shape(shape))
    spread = np.broadcast_to(axes.expand(jnp.asarray(value)), shape)
    np.testing.assert_array_equal(spread.max(axes.reduced, initial=-1), value)
    np.testing.assert_array_equal(spread.min(axes.reduced, initial=10**9), value)


def test_feature_shape_follows_the_order_of_the_input_not_of_the_argument():
    assert _axes.canonical((-1, 1), 4).feature_shape((2, 3, 5, 7)) == (3, 7)
    assert _axes.canonical([1, 3], 4).feature_shape((2, 3, 5, 7)) == (3, 7)


def test_one_value_for_all_features_expands_to_the_rank():
    np.testing.assert_array_equal(_axes.canonical((0, 2), 3).expand(jnp.asarray(4)), [[[4]]])


@pytest.mark.parametrize("given_shape", [(), (1,), (3,), (5, 1), (5, 3), (2, 1, 1), (1, 5, 3), (2, 5, 3)])
def test_a_mask_lines_up_with_the_input_as_numpy_would_broadcast_it(given_shape):
    where = np.random.default_rng(0).uniform(size=given_shape) < 0.5
    out = _axes.expand_mask(jnp.asarray(where), (2, 5, 3))
    assert out.ndim == 3
    np.testing.assert_array_equal(np.broadcast_to(out, (2, 5, 3)), np.broadcast_to(where, (2, 5, 3)))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32"])
def test_a_mask_is_booleans_or_integers_0_and_1(dtype):
    where = np.array([[0], [1], [1]], dtype)
    for way in (np.asarray, jnp.asarray):
        np.testing.assert_array_equal(_axes.expand_mask(way(where), (3, 4)), [[False], [True], [True]])
    traced = jax.jit(lambda where: _axes.expand_mask(where, (3, 4)))(where)
    np.testing.assert_array_equal(traced, [[False], [True], [True]])
    np.testing.assert_array_equal(jax.jit(lambda: _axes.expand_mask(where, (3, 4)))(), traced)


ADDED_TO_LOGITS = np.array([0.0, -1e9, 0.0], "float32")  # inverted as a mask: 0 means "counts"


@pytest.mark.parametrize(
    ("where", "given"),
    {
        "additive": (ADDED_TO_LOGITS, "dtype float32"),
        "additive, half": (jnp.asarray(ADDED_TO_LOGITS, jnp.bfloat16), "dtype bfloat16"),
        "additive, whole": (np.array([0, -(10**9), 0], "int32"), "dtype int32 and holds -1000000000"),
        "weights": (np.array([0.1, 1.0, 0.5], "float32"), "dtype float32"),
        "counts": (np.array([2, 1, 0], "uint8"), "dtype uint8 and holds 2"),
        "floating flags": (np.array([0.0, 1.0, 1.0], "float32"), "dtype float32"),
        "complex": (np.array([0, 1, 1j], "complex64"), "dtype complex64"),
        "keys": (jax.random.split(jax.random.key(0), 3), "dtype key<fry>"),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_mask_is_refused_with_the_remedy(where, given):
    says = rf"where has {given}; pass booleans or integers 0 and 1, .* `mask >= 0` of an additive mask .*; weights"
    x = jnp.ones((4, 3))
    for call in (
        lambda: jbn.moments(x, where=where),
        lambda: jbn.normalize(x, jnp.zeros(3), jnp.ones(3), None, None, where=where),
        lambda: jbn.batch_norm(x, None, None, None, train=True, where=where),
        lambda: jbn.batch_norm(x, None, None, jbn.init_stats(3), train=False, where=where),
        lambda: jbn.domain_batch_norm(
            x, None, None, jbn.init_domain_stats(2, 3), jnp.zeros(4, int), train=True, where=where
        ),
        lambda: jbn.adaptive_batch_norm(x, None, None, jbn.init_stats(3), where=where),
        lambda: jax.jit(lambda: jbn.moments(x, where=where))(),
    ):
        with pytest.raises(ValueError, match=says):
            call()


@pytest.mark.parametrize(
    ("axis", "says"),
    [
        ((), r"axis=\(\) names no feature axis; pass .* axis=-1"),
        (4, r"axis=4 is out of range .* rank 4; choose axes from -4 to 3"),
        (-5, r"axis=-5 is out of range .* rank 4; choose axes from -4 to 3"),
        ((1, -3), r"axis=\(1, -3\) names an axis of the rank-4 input twice; name each feature axis once"),
    ],
)
def test_an_axis_that_does_not_fit_is_refused(axis, says):
    with pytest.raises(ValueError, match=says):
        _axes.canonical(axis, 4)


@pytest.mark.parametrize("axis", [1.0, "c", (0, 1.5)])
def test_an_axis_that_is_no_integer_is_refused(axis):
    with pytest.raises(TypeError):
        _axes.canonical(axis, 4)


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (1, 5, 3), (2,)])
def test_a_mask_that_does_not_broadcast_is_refused(shape):
    says = rf"where has shape \({', '.join(map(str, shape))},?\), .* input's \(5, 3\); pass .* mask\[:, None\]"
    with pytest.raises(ValueError, match=says):
        _axes.expand_mask(jnp.ones(shape, bool), (5, 3))
