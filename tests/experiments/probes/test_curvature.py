"""experiments.probes.curvature: the eigenvalues found without the Hessian equal those of the Hessian."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close
from jax.flatten_util import ravel_pytree

import jbn.linen
from experiments.networks import NETWORKS
from experiments.probes.curvature import (
    batched_loss,
    hessian_vector_product,
    lanczos,
    ritz,
    top_eigenvalues,
)

BATCH = partial(jbn.linen.BatchNorm, use_running_average=False)
# Networks run once, so they are compiled fast.
fast = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# Repeated, negative and zero eigenvalues, in no order.
SPECTRUM = np.array([4, -3, 1, 0, 7.5, 1, -0.5, 4, 0, 1, -3])


def matrix(spectrum, seed=0):
    """A symmetric float64 matrix with this spectrum."""
    n = len(spectrum)
    q = np.linalg.qr(np.random.default_rng(seed).normal(0.5, 1, (n, n)))[0]
    return (q * spectrum) @ q.T


def run(a, iterations, seed=0):
    """Lanczos' method on a matrix."""
    return lanczos(lambda v: a @ v, jnp.zeros(len(a), a.dtype), jax.random.key(seed), iterations)


tridiagonal = fast(run, static_argnums=1)


def eigenvalues(a, iterations, seed=0, dtype="float64"):
    return fast(ritz)(tridiagonal(jnp.asarray(a, dtype), iterations, seed))


def network():
    """A tiny MLP in training mode: a loss as a function of parameters and batch, the parameters, and batches of 7."""
    model = NETWORKS["mlp"](classes=3, activation=jnp.tanh, norm=BATCH, placement="after", hidden=(4,))
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(1, 2, (5, 7, 3))), jnp.asarray(rng.integers(0, 3, (5, 7)))

    def loss(params, batch):
        logits = model.apply({"params": params}, batch[0], mutable=["batch_stats"])[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    shapes = jax.eval_shape(model.init, jax.random.key(0), x[0])["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.3, 1, leaf.shape)), shapes)
    return loss, params, (x, y)


def full_hessian(loss, params):
    flat, unravel = ravel_pytree(params)
    return np.asarray(fast(jax.hessian(lambda p: loss(unravel(p))))(flat))


# Hessian-vector products


def test_product_of_a_batch_normalized_network_is_that_of_the_hessian_and_of_gradient_differences(x64):
    loss_of_batch, params, batches = network()

    def loss(params):
        return loss_of_batch(params, jax.tree.map(lambda a: a[0], batches))

    flat, unravel = ravel_pytree(params)
    v = np.random.default_rng(1).normal(size=flat.size)
    product = ravel_pytree(fast(partial(hessian_vector_product, loss))(params, unravel(v)))[0]
    assert_close(product, full_hessian(loss, params) @ v, 1e-12)
    gradient = fast(jax.grad(lambda p: loss(unravel(p))))
    h = 1e-5
    assert_close(product, (gradient(flat + h * v) - gradient(flat - h * v)) / (2 * h), 1e-7)


# Lanczos


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype,tolerance", [("float64", 1e-12), ("float32", 1e-5)])
def test_as_many_iterations_as_dimensions_find_every_eigenvalue_as_often_as_it_is_there(x64, dtype, tolerance, seed):
    found = eigenvalues(matrix(SPECTRUM), len(SPECTRUM), seed, dtype)
    assert found.values.dtype == dtype
    assert_close(found.values, np.sort(SPECTRUM)[::-1], tolerance)


@pytest.mark.parametrize(
    "spectrum",
    [[2.0] * 5, [0.0] * 5, [0, 0, -3, 0, 0], [1e-8, 1e-8, 3e-8, 0, 0], [1e6] * 5, [7.0]],
    ids=["multiple-of-identity", "zero", "rank-one", "small", "large", "scalar"],
)
def test_breakdown_is_no_trouble_and_more_iterations_than_dimensions_say_no_more(x64, spectrum):
    spectrum = np.array(spectrum)
    found = eigenvalues(matrix(spectrum), 50)
    assert_close(found.values, np.sort(spectrum)[::-1], 1e-12)


def test_one_direction_breaks_down_at_once_and_beta_says_so(x64):
    alpha, beta = tridiagonal(3 * np.eye(5), 50)
    assert_close(alpha, np.full(5, 3.0))
    np.testing.assert_array_equal(beta, np.zeros(5))


def test_two_eigenvalues_break_down_after_two_steps(x64):
    # If A² = 1, A·v is a unit vector: α² + β² = 1. The second step has the same β before it, so the β after it is 0.
    alpha, beta = tridiagonal(matrix(np.array([1.0, -1, 1, -1, -1])), 50)
    assert_close(alpha[0] ** 2 + beta[0] ** 2, 1.0)
    assert_close(alpha[0], -alpha[1], 1e-12)
    assert beta[0] > 0.1 and beta[1] == 0


def test_the_tridiagonal_matrix_has_the_moments_of_the_whole_one(x64):
    # eᵀTᵏe = vᵀAᵏv for k < 2m (Gauss quadrature), where v is the start. The first iteration on Aᵏ measures this.
    a, m = matrix(np.linspace(-2, 3, 40)), 4

    def power(k):
        return np.linalg.matrix_power(a, k)

    moments = [tridiagonal(power(k), m).alpha[:1] for k in range(2 * m + 1)]
    alpha, beta = tridiagonal(a, m)
    t = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    found = [np.linalg.matrix_power(t, k)[:1, 0] for k in range(2 * m + 1)]
    for k in range(2 * m):
        assert_close(found[k], moments[k], 1e-11)
    # The next moment is the first that differs, by the product of all β², including the last.
    assert_close(moments[-1] - found[-1], np.prod(beta**2, keepdims=True), 1e-8)


def test_an_eigenvalue_is_within_the_residual_of_every_ritz_value(x64):
    spectrum = np.concatenate([np.random.default_rng(0).normal(0, 1, 38), [10.0, 5.0]])
    few, more = (eigenvalues(matrix(spectrum), m) for m in (4, 14))
    for found in (few, more):
        away = np.abs(spectrum - np.asarray(found.values)[:, None]).min(1)
        assert (away <= found.residuals + 1e-12).all()
        assert found.residuals.max() > 0.1  # the inner eigenvalues have not converged
    assert more.residuals[0] < 1e-8 and few.residuals[0] > 1e-5
    assert_close(more.values[:1], [10.0])


def test_no_ghosts_in_float32():
    # In float32, the plain recurrence finds the outlier a second time after about a dozen steps.
    spectrum = np.concatenate([np.linspace(0, 1, 99), [1000.0]])
    values = eigenvalues(matrix(spectrum), 60, dtype="float32").values
    assert_close(values[:1], [1000.0])
    assert values[1] < 1.01
    assert_close(values[1:2], [1.0], 1e-3)


def test_the_result_depends_on_the_key_but_not_on_how_the_numbers_are_kept(x64):
    a = matrix(np.linspace(-2, 3, 11))
    like = {"b": jnp.zeros((2, 3)), "a": [jnp.zeros(()), jnp.zeros(4)]}
    unravel = ravel_pytree(like)[1]
    tree = fast(lambda key: lanczos(lambda v: unravel(a @ ravel_pytree(v)[0]), like, key, 11))(jax.random.key(2))
    vector, other = tridiagonal(a, 11, 2), tridiagonal(a, 11, 3)
    assert_close(tree.alpha, vector.alpha, 1e-10)
    assert_close(tree.beta, vector.beta, 1e-10)
    assert abs(other.alpha[0] - vector.alpha[0]) > 1e-3


def test_under_jit_and_vmap_equal_to_eager_also_where_some_lanes_break_down(x64):
    spectra = [SPECTRUM, np.full(11, 2.0), np.linspace(-1, 1, 11), np.zeros(11)]
    matrices, seeds = jnp.stack([jnp.asarray(matrix(s)) for s in spectra]), jnp.arange(4)
    mapped = fast(jax.vmap(lambda a, seed: run(a, 6, seed)))(matrices, seeds)
    for i, alone in [(0, run(matrices[0], 6)), *((i, tridiagonal(matrices[i], 6, i)) for i in range(4))]:
        np.testing.assert_allclose(mapped.alpha[i], alone.alpha, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(mapped.beta[i], alone.beta, rtol=1e-9, atol=1e-9)


# Eigenvalues of a loss


def test_top_eigenvalues_are_those_of_the_full_hessian(x64):
    loss_of_batch, params, batches = network()
    exact = np.linalg.eigvalsh(full_hessian(batched_loss(loss_of_batch, batches), params))[::-1]
    assert exact[-1] < -1e-3  # not convex

    # In float32, as in experiments, the Hessian itself is off by 1e-5 here, because tanh is saturated.
    narrow = partial(jax.tree.map, lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a)

    @fast
    def top(params, batches, sign):
        loss = batched_loss(loss_of_batch, batches)
        return top_eigenvalues(lambda p: sign * loss(p), params, jax.random.key(0), 4, 27)

    for sign, largest in [(1.0, exact[:4]), (-1.0, -exact[:-5:-1])]:
        found = top(*narrow((params, batches)), jnp.float32(sign))
        assert found.values.dtype == jnp.float32
        assert np.abs(found.values - largest).max() < 5e-5 * exact[0]
        assert found.residuals.max() < 1e-4 * exact[0]


def test_top_eigenvalues_mapped_over_seeds_equal_each_by_itself(x64):
    batches = jnp.asarray(np.random.default_rng(0).normal(1, 2, (5, 7, 9)))

    def top(params, key):
        loss = batched_loss(lambda params, x: jnp.sin(x @ params["head"]).mean(), batches)
        return top_eigenvalues(loss, params, key, 3, 6)

    params = {"head": jnp.asarray(np.random.default_rng(1).normal(1, 2, (3, 9)))}
    keys = jax.random.split(jax.random.key(1), 3)
    mapped, alone = fast(jax.vmap(top))(params, keys), fast(top)
    for i in range(3):
        expected = alone({"head": params["head"][i]}, keys[i])
        assert_close(mapped.values[i], expected.values, 1e-9)
        assert_close(mapped.residuals[i], expected.residuals, 1e-7)


@pytest.mark.parametrize("k,iterations,most", [(0, 4, 3), (-1, 2, 2), (4, 9, 3), (3, 2, 2)])
def test_more_eigenvalues_than_there_can_be_are_refused(k, iterations, most):
    with pytest.raises(ValueError, match=f"k is {k}; use 1 to {most}: {iterations} iterations on 3 parameters"):
        top_eigenvalues(lambda x: (x**2).sum(), jnp.zeros(3), jax.random.key(0), k, iterations)


def test_no_iterations_are_refused():
    with pytest.raises(ValueError, match="iterations is 0, of 3 parameters"):
        lanczos(lambda v: v, jnp.zeros(3), jax.random.key(0), 0)


# Many batches


def test_the_batched_loss_is_the_mean_and_so_are_its_derivatives(x64):
    loss_of_batch, params, batches = network()
    v = jax.tree.map(jnp.ones_like, params)

    def everything(loss):
        def compute(params):
            (value, gradient), (_, product) = jax.jvp(jax.value_and_grad(loss), (params,), (v,))
            return value, ravel_pytree(gradient)[0], ravel_pytree(product)[0]

        return fast(compute)(params)

    def plain(params):
        return jax.vmap(loss_of_batch, (None, 0))(params, batches).mean()

    for found, exact in zip(everything(batched_loss(loss_of_batch, batches)), everything(plain), strict=True):
        assert_close(found, exact, 1e-11)


def test_memory_is_that_of_one_batch():
    width = 64
    params = [jnp.ones((width, width)) / width] * 6

    def loss_of_batch(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return (x**2).mean()

    def working_memory(n):
        def product(params, batches):
            return hessian_vector_product(batched_loss(loss_of_batch, batches), params, params)

        compiled = jax.jit(product).lower(params, jnp.ones((n, 256, width))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert working_memory(32) < 1.1 * working_memory(2)
