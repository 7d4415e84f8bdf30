"""First and second derivatives of jbn.batch_norm in both modes: closed form, plain jnp, finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import LAYOUTS, assert_close, case, case64, mask, normalized, poison
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

pytestmark = pytest.mark.usefixtures("strict")
MASKS = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
TRANSFORMS = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])


def plain(x, scale, bias, *, where=None, epsilon=1e-5) -> jax.Array:
    """The textbook formula for the last axis, differentiated by jax: the reference for `normalized`."""
    over = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, over, where=where, keepdims=True)
    var = jnp.mean((x - mean) ** 2, over, where=where, keepdims=True)
    wide = (1,) * (x.ndim - 1) + (-1,)
    return (x - mean) / jnp.sqrt(var + epsilon) * scale.reshape(wide) + bias.reshape(wide)


def test_the_plain_twin_equals_the_oracle(x64):
    x, scale, bias, _ = case64((13, 3))
    mean, var, _ = reference.moments(x)
    assert_close(plain(x, scale, bias), reference.normalize(x, mean, var, scale, bias), 1e-12)


# First order


@MASKS
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS[1:])
def test_gradients_equal_the_closed_form(x64, shape, axis, masked):
    x, scale, bias, dy = (a.astype(jnp.float64) for a in case(shape, axis))
    keep = mask(shape) if masked else None
    grads = jax.jit(lambda *a: jax.vjp(lambda *b: normalized(*b, axis=axis, where=keep), *a)[1](dy))(x, scale, bias)
    for got, want in zip(grads, reference.backward(x, dy, scale, axis=axis, where=keep), strict=True):
        assert_close(got, want, 1e-11)


@MASKS
def test_gradients_equal_those_of_the_plain_twin(x64, masked):
    x, scale, bias, dy = case64((7, 3, 5))
    keep = mask((7, 3, 5)) if masked else None
    ours, twins = (jax.vjp(functools.partial(f, where=keep), x, scale, bias)[1](dy) for f in (normalized, plain))
    jax.tree.map(functools.partial(assert_close, tolerance=1e-11), ours, twins)


@pytest.mark.parametrize("mean", [3.0, 1e4])
@TRANSFORMS
def test_float32_gradients_are_right_also_at_a_large_mean(mean, transform):
    x, scale, bias, dy = case((257, 3), mean=mean)
    grads = transform(lambda *a: jax.vjp(normalized, *a)[1](dy))(x, scale, bias)
    for got, want in zip(grads, reference.backward(x, dy, scale), strict=True):
        assert_close(got, want, 1e-5, axis=-1 if got.ndim == 2 else None)


def test_the_gradient_is_orthogonal_to_what_normalization_removes(x64):
    x, scale, bias, dy = case64((13, 3))
    dx = jax.vjp(functools.partial(normalized, epsilon=0.0), x, scale, bias)[1](dy)[0]
    xhat = normalized(x, None, None, epsilon=0.0)
    size = jnp.sum(jnp.abs(dx), 0)
    assert np.max(np.abs(jnp.sum(dx, 0)) / size) < 1e-12
    assert np.max(np.abs(jnp.sum(dx * xhat, 0)) / size) < 1e-12


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e38])
@TRANSFORMS
def test_junk_in_padding_reaches_neither_the_kept_outputs_nor_any_gradient(junk, transform):
    x, scale, bias, dy = case((13, 3))
    keep = mask((13, 3))
    dy = jnp.where(keep, dy, 0)
    y, grads = transform(
        lambda *a: (normalized(*a, where=keep), jax.vjp(lambda *b: normalized(*b, where=keep), *a)[1](dy))
    )(poison(x, keep, junk), scale, bias)
    mean, var, _ = reference.moments(x, where=keep)
    assert_close(jnp.where(keep, y, 0), np.where(keep, reference.normalize(x, mean, var, scale, bias), 0), axis=-1)
    for got, want in zip(grads, reference.backward(x, dy, scale, where=keep), strict=True):
        assert_close(got, want, 5e-6, axis=-1 if got.ndim == 2 else None)


# Second order, both modes, under transformations


def over_layers(f):
    """Two residual layers under one scan, as a deep net has them."""

    def apply(x, scale, bias):
        two = jax.tree.map(lambda a: jnp.stack([a, a * 0.5]), (scale, bias))
        return jax.lax.scan(lambda x, p: (x + jnp.tanh(f(x, *p)), None), x, two)[0]

    return apply


def over_batches(f):
    """Two batches in one vmap, with shared parameters."""
    return lambda x, s, b: jax.vmap(f, in_axes=(0, None, None))(jnp.stack([x, 2 * x + x**2]), s, b)


TRANSFORMED = {
    "alone": lambda f: f,
    "jit": jax.jit,
    "vmap": over_batches,
    "scan": over_layers,
    "remat": jax.checkpoint,
    "all": lambda f: jax.jit(jax.checkpoint(over_batches(over_layers(f)))),
}


@pytest.mark.parametrize(("how", "order"), [("jit", 2), ("all", 1)])
def test_derivatives_of_both_orders_and_modes_equal_finite_differences(x64, how, order):
    x, scale, bias, _ = case64(mean=0.5)
    f = TRANSFORMED[how](functools.partial(normalized, where=mask((5, 2))))
    check_grads(f, (x, scale, bias), order=order, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", TRANSFORMED)
def test_first_and_second_derivatives_equal_those_of_the_plain_twin_under(x64, how):
    *args, dy = case64(mean=0.5)
    tangent = jax.tree.map(lambda a: jnp.sin(3 * a), tuple(args))

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(f, args):
        loss = lambda *a: jnp.sum(jnp.sin(y := TRANSFORMED[how](f)(*a)) * jnp.broadcast_to(dy, y.shape))  # noqa: E731
        grad = jax.grad(loss, argnums=(0, 1, 2))
        return jax.jvp(loss, args, tangent), *jax.jvp(grad, args, tangent)

    ours, twins = derivatives(normalized, tuple(args)), derivatives(plain, tuple(args))
    jax.tree.map(functools.partial(assert_close, tolerance=1e-11), ours, twins)


def test_second_derivatives_across_devices_equal_those_of_one_device(x64):
    *args, dy = case64((6, 2))
    tangent = jax.tree.map(lambda a: jnp.sin(3 * a), tuple(args))

    def across(x, scale, bias):
        f = functools.partial(normalized, axis_name="d")
        return jax.vmap(f, (0, None, None), axis_name="d")(x.reshape(2, 3, 2), scale, bias).reshape(6, 2)

    def products(f):
        grad = jax.grad(lambda *a: jnp.sum(dy * jnp.sin(f(*a))), argnums=(0, 1, 2))
        return jax.jit(lambda args: jax.jvp(grad, args, tangent))(tuple(args))

    jax.tree.map(functools.partial(assert_close, tolerance=1e-11), products(across), products(plain))


@MASKS
def test_hessian_vector_products_agree_whichever_way_round(x64, masked):
    *args, dy = case64((4, 2))
    keep = mask((4, 2), seed=3) if masked else None

    def loss(f, args):
        return jnp.sum(dy * jnp.sin(f(*args, where=keep)))

    flat, unravel = ravel_pytree(tuple(args))
    ours = lambda v: loss(normalized, unravel(v))  # noqa: E731
    v = jnp.sin(1.7 * jnp.arange(1.0 * flat.size))
    dense = jax.jit(jax.jacrev(jax.grad(lambda v: loss(plain, unravel(v)))))(flat)
    products = {
        "forward over reverse": lambda u: jax.jvp(jax.grad(ours), (u,), (v,))[1],
        "reverse over reverse": jax.grad(lambda u: jnp.vdot(jax.grad(ours)(u), v)),
        "reverse over forward": jax.grad(lambda u: jax.jvp(ours, (u,), (v,))[1]),
        "dense": lambda u: jax.hessian(ours)(u) @ v,
    }
    for product in products.values():
        assert_close(jax.jit(product)(flat), dense @ v, 1e-11)


def test_forward_and_reverse_jacobians_agree(x64):
    *args, _ = case64()
    forward, reverse = (jax.jit(jac(normalized, argnums=(0, 1, 2)))(*args) for jac in (jax.jacfwd, jax.jacrev))
    jax.tree.map(functools.partial(assert_close, tolerance=1e-12), forward, reverse)
