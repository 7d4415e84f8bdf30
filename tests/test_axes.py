"""jbn._axes: which axes are features, which are reduced, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

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
    assert _axes.feature_axes(axes, rank) == tuple(sorted(a % rank for a in axes))


@given(axis_and_rank())
def test_feature_and_reduction_axes_split_the_axes_of_the_input(case):
    axes, rank = case
    features, reduced = _axes.feature_axes(axes, rank), _axes.reduction_axes(axes, rank)
    assert sorted(features + reduced) == list(range(rank))
    assert reduced == reference.reduced(axes, rank)


@given(axis_and_rank())
def test_expand_is_inverse_to_reducing(case):
    axes, rank = case
    shape = tuple(range(2, 2 + rank))
    value = np.arange(np.prod(_axes.feature_shape(axes, shape))).reshape(_axes.feature_shape(axes, shape))
    spread = np.broadcast_to(_axes.expand(jnp.asarray(value), axes, rank), shape)
    over = _axes.reduction_axes(axes, rank)
    np.testing.assert_array_equal(spread.max(over, initial=-1), value)
    np.testing.assert_array_equal(spread.min(over, initial=10**9), value)


def test_feature_shape_follows_the_order_of_the_input_not_of_the_argument():
    assert _axes.feature_shape((-1, 1), (2, 3, 5, 7)) == (3, 7)
    assert _axes.feature_shape([1, 3], (2, 3, 5, 7)) == (3, 7)


def test_one_value_for_all_features_expands_to_the_rank():
    np.testing.assert_array_equal(_axes.expand(jnp.asarray(4), (0, 2), 3), [[[4]]])


@pytest.mark.parametrize("given_shape", [(), (1,), (3,), (5, 1), (5, 3), (2, 1, 1), (1, 5, 3), (2, 5, 3)])
def test_a_mask_lines_up_with_the_input_as_numpy_would_broadcast_it(given_shape):
    where = np.random.default_rng(0).uniform(size=given_shape) < 0.5
    out = _axes.expand_mask(jnp.asarray(where), (2, 5, 3))
    assert out.ndim == 3
    np.testing.assert_array_equal(np.broadcast_to(out, (2, 5, 3)), np.broadcast_to(where, (2, 5, 3)))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32])
def test_a_numeric_mask_counts_what_is_not_zero(dtype):
    where = jnp.asarray(np.array([[0], [1], [2]], dtype))
    np.testing.assert_array_equal(_axes.expand_mask(where, (3, 4)), [[False], [True], [True]])


@pytest.mark.parametrize(
    ("axis", "says"),
    [
        ((), r"axis=\(\) names no feature axis; write .* axis=-1"),
        (4, r"axis=4 is out of range .* rank 4; write axes from -4 to 3"),
        (-5, r"axis=-5 is out of range .* rank 4; write axes from -4 to 3"),
        ((1, -3), r"axis=\(1, -3\) names an axis of the rank-4 input twice; write each feature axis once"),
    ],
)
def test_an_axis_that_does_not_fit_is_refused(axis, says):
    with pytest.raises(ValueError, match=says):
        _axes.feature_axes(axis, 4)


@pytest.mark.parametrize("axis", [1.0, "c", (0, 1.5)])
def test_an_axis_that_is_no_integer_is_refused(axis):
    with pytest.raises(TypeError):
        _axes.feature_axes(axis, 4)


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (1, 5, 3), (2,)])
def test_a_mask_that_does_not_broadcast_is_refused(shape):
    says = rf"where has shape \({', '.join(map(str, shape))},?\), .* input's \(5, 3\); write .* mask\[:, None\]"
    with pytest.raises(ValueError, match=says):
        _axes.expand_mask(jnp.ones(shape, bool), (5, 3))


def test_a_mask_that_is_no_mask_is_refused():
    with pytest.raises(ValueError, match=r"where has dtype key<fry>; write a boolean mask"):
        _axes.expand_mask(jax.random.key(0), (5, 3))
