"""The largest eigenvalues of a loss's Hessian, by Lanczos' method on Hessian-vector products.

The Hessian H of n parameters is never formed. From a random unit vector v₁, Lanczos builds orthonormal v₂, v₃, ... by

    H·v_j = β_(j-1)·v_(j-1) + α_j·v_j + β_j·v_(j+1),    that is    H·V = V·T + β_m·v_(m+1)·e_mᵀ

with T symmetric and tridiagonal: α on its diagonal, β next to it. If T·s = θ·s, the Ritz value θ is within |β_m·s_m| of
an eigenvalue of H; the outer Ritz values converge first.

References: Golub & Van Loan, "Matrix Computations", chapter 10 (4th edition). On networks: Ghorbani, Krishnan & Xiao
2019, "An Investigation into Neural Net Optimization via Hessian Eigenvalue Density" (https://arxiv.org/abs/1901.10159);
with and without batch norm: Page 2019 (https://github.com/davidcpage/cifar10-fast, batch_norm_post.ipynb).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

Loss = Callable[[PyTree], Float[Array, ""]]

# By default GPUs and TPUs multiply float32 matrices with fewer bits, and then the basis would not be orthogonal.
_EXACT = lax.Precision.HIGHEST


class Tridiagonal(NamedTuple):
    """The tridiagonal matrix T that Lanczos' method computes, and β_m.

    Attributes:
      alpha: diagonal of T, `[m]`.
      beta: off-diagonal of T, followed by β_m, the norm of the residual, `[m]`. An entry is 0 where the method broke
        down and restarted.
    """

    alpha: Float[Array, " m"]
    beta: Float[Array, " m"]


class Ritz(NamedTuple):
    """Approximate eigenvalues.

    Attributes:
      values: θ, largest first, `[k]`.
      residuals: `|β_m·s_m|` of each, `[k]`: up to rounding, an eigenvalue of H is at most this far away.
    """

    values: Float[Array, " k"]
    residuals: Float[Array, " k"]


def hessian_vector_product(loss: Loss, params: PyTree, v: PyTree) -> PyTree:
    """H·v, where H is the Hessian of `loss` at `params`: the derivative of the gradient in the direction v.

    Forward-over-reverse differentiation takes about twice the time and memory of a gradient.

    Args:
      loss: a scalar function of the parameters.
      params: the point at which to differentiate.
      v: a tree with the structure and shapes of `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> from experiments.probes.curvature import hessian_vector_product
      >>> print(hessian_vector_product(lambda x: (x**3).sum(), jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0])))
      [  6. -12.]

    Reference: Pearlmutter 1994, "Fast Exact Multiplication by the Hessian".
    """
    return jax.jvp(jax.grad(loss), (params,), (v,))[1]


def lanczos(hvp: Callable[[PyTree], PyTree], like: PyTree, key: Key[Array, ""], iterations: int) -> Tridiagonal:
    """m steps of Lanczos' method with full re-orthogonalization.

    Without re-orthogonalization, rounding makes eigenvalues appear repeatedly ("ghosts"). It keeps all vectors, which
    takes memory for m · n numbers. If the vectors so far span an invariant subspace, β_j is 0 and the method continues
    with a random vector orthogonal to them. So it finds all copies of a repeated eigenvalue, of which a single Krylov
    space contains only one.

    Args:
      hvp: function that multiplies a tree by a symmetric matrix.
      like: a tree with the structure and shapes of its argument; values are ignored.
      key: random key of the start vector.
      iterations: m; capped at the number n of values in `like`, which suffice.
    """
    flat, unravel = ravel_pytree(like)
    n, dtype = flat.size, flat.dtype
    m = min(iterations, n)
    if m < 1:
        raise ValueError(f"iterations is {iterations}, of {n} parameters; use at least 1 of either")
    start_key, fresh_key = jax.random.split(key)
    tiny = 10 * jnp.finfo(dtype).eps

    def step(carry, j):
        basis, size = carry  # rows after j are 0
        v = basis[j]
        w = ravel_pytree(hvp(unravel(v)))[0].astype(dtype)
        alpha = jnp.vdot(v, w, precision=_EXACT)
        w = _orthogonal(w, basis)
        beta = jnp.linalg.norm(w)
        size = jnp.maximum(size, jnp.maximum(jnp.abs(alpha), beta))
        broken = beta <= tiny * size
        fresh = _orthogonal(jax.random.normal(jax.random.fold_in(fresh_key, j), (n,), dtype), basis)
        basis = basis.at[j + 1].set(_unit(jnp.where(broken, fresh, w)), mode="drop")
        return (basis, size), Tridiagonal(alpha, jnp.where(broken, 0, beta))

    start = _unit(jax.random.normal(start_key, (n,), dtype))
    basis = jnp.zeros((m, n), dtype).at[0].set(start)
    return lax.scan(step, (basis, jnp.zeros((), dtype)), jnp.arange(m))[1]


def ritz(tridiagonal: Tridiagonal) -> Ritz:
    """All eigenvalues of T, with a bound on the distance of each to an eigenvalue of the whole matrix.

    Example:
      >>> import jax.numpy as jnp
      >>> from experiments.probes.curvature import Tridiagonal, ritz
      >>> values, residuals = ritz(Tridiagonal(alpha=jnp.array([0.0, 0.0]), beta=jnp.array([2.0, 0.0])))
      >>> print(values.round(4), residuals)
      [ 2. -2.] [0. 0.]
    """
    alpha, beta = tridiagonal
    off_diagonal = jnp.diag(beta[:-1], 1)
    values, vectors = jnp.linalg.eigh(jnp.diag(alpha) + off_diagonal + off_diagonal.T)
    return Ritz(values[::-1], jnp.abs(beta[-1] * vectors[-1, ::-1]))


def top_eigenvalues(loss: Loss, params: PyTree, key: Key[Array, ""], k: int, iterations: int) -> Ritz:
    """The k largest eigenvalues of the Hessian of `loss` at `params`, approximated by Lanczos' method.

    These are the largest by value, not by absolute value; for the most negative ones, pass -loss. Of equal eigenvalues
    only one is found unless the method breaks down (see ``lanczos``), so lower eigenvalues may move up in rank.

    Args:
      loss: a scalar function of the parameters; for many examples, see ``batched_loss``.
      params: the point at which to differentiate.
      key: random key of the start vector.
      k: the number of eigenvalues.
      iterations: the number of Hessian-vector products; the residuals show whether it was enough.

    Raises:
      ValueError: k is larger than `iterations` or than the number of parameters.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from experiments.probes.curvature import top_eigenvalues
      >>> loss = lambda x: (jnp.array([3.0, -5.0, 1.0]) * x**2).sum() / 2
      >>> print(top_eigenvalues(loss, jnp.zeros(3), jax.random.key(0), 2, 3).values.round(4))
      [3. 1.]
    """
    n = sum(leaf.size for leaf in jax.tree.leaves(params))
    if not 1 <= k <= min(iterations, n):
        raise ValueError(
            f"k is {k}; use 1 to {min(iterations, n)}: {iterations} iterations on {n} parameters yield no more"
        )
    found = ritz(lanczos(lambda v: hessian_vector_product(loss, params, v), params, key, iterations))
    return Ritz(found.values[:k], found.residuals[:k])


def batched_loss(loss_of_batch: Callable[[PyTree, PyTree], Float[Array, ""]], batches: PyTree) -> Loss:
    """The mean loss over batches of equal size, with derivatives that need the memory of only one batch.

    Activations are recomputed, not stored, which costs one more forward pass per gradient. Norms in training mode
    normalize each batch by itself, as in training.

    Args:
      loss_of_batch: `loss_of_batch(params, batch)`, a scalar.
      batches: a tree of arrays `[batches, ...]`.

    Returns:
      The loss as a function of the parameters, which can be differentiated or passed to `top_eigenvalues`.
    """

    def loss(params: PyTree) -> Float[Array, ""]:
        # XLA does not merge computations across the iterations of a loop, so checkpoint needs no barrier against CSE.
        one = jax.checkpoint(loss_of_batch, prevent_cse=False)
        return lax.map(lambda batch: one(params, batch), batches).mean()

    return loss


def _orthogonal(w: Float[Array, " n"], basis: Float[Array, "m n"]) -> Float[Array, " n"]:
    """Removes from w its components along the rows of `basis`, which are orthonormal or 0."""
    for _ in range(2):  # One pass is inexact if little is left of w; "twice is enough" (Kahan).
        w = w - jnp.matmul(jnp.matmul(basis, w, precision=_EXACT), basis, precision=_EXACT)
    return w


def _unit(w: Float[Array, " n"]) -> Float[Array, " n"]:
    norm = jnp.linalg.norm(w)
    return w / jnp.where(norm == 0, 1, norm)
