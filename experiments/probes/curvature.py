"""The largest eigenvalues of a loss's Hessian, by Lanczos' method on Hessian-vector products.

The Hessian H of n parameters is never formed. From a random unit vector v₁, Lanczos builds orthonormal v₂, v₃, ... by

    H·v_j = β_(j-1)·v_(j-1) + α_j·v_j + β_j·v_(j+1),    that is    H·V = V·T + β_m·v_(m+1)·e_mᵀ

with T symmetric and tridiagonal: α on its diagonal, β beside it. With T·s = θ·s, each Ritz value θ is within |β_m·s_m|
of an eigenvalue of H; the outer ones converge first.

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

# GPUs and TPUs multiply float32 matrices in fewer bits unless told otherwise, and the basis would not be orthogonal.
_EXACT = lax.Precision.HIGHEST


class Tridiagonal(NamedTuple):
    """What Lanczos' method leaves of a symmetric matrix.

    Attributes:
      alpha: diagonal of T, `[m]`.
      beta: beside the diagonal, and last β_m, which is not in T: the size of what m vectors do not explain, `[m]`. 0
        where the method broke down and began anew.
    """

    alpha: Float[Array, " m"]
    beta: Float[Array, " m"]


class Ritz(NamedTuple):
    """Approximate eigenvalues.

    Attributes:
      values: θ, largest first, `[k]`.
      residuals: |β_m·s_m| of each, `[k]`: an eigenvalue is no farther away, but for rounding.
    """

    values: Float[Array, " k"]
    residuals: Float[Array, " k"]


def hessian_vector_product(loss: Loss, params: PyTree, v: PyTree) -> PyTree:
    """H·v, where H is the Hessian of `loss` at `params`: the derivative of the gradient in the direction v.

    Forward over reverse, which takes about twice the time and memory of a gradient.

    Args:
      loss: parameters to a scalar.
      params: where.
      v: a tree shaped as `params`.

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

    Without it, rounding lets eigenvalues already found appear again ("ghosts"). It keeps all vectors: memory for m · n
    numbers. Where the vectors so far span an invariant space, β_j = 0 and a fresh random vector, orthogonal to them,
    goes on; so copies of a repeated eigenvalue are found, of which the vectors from one start see only one.

    Args:
      hvp: multiplies a tree by a symmetric matrix.
      like: a tree shaped as its argument; its values do not matter.
      key: of the random start.
      iterations: m; no more than the n numbers in `like` are run, since these say all.
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
    """All eigenvalues of T, and how far each may be from one of the whole matrix.

    Example:
      >>> import jax.numpy as jnp
      >>> from experiments.probes.curvature import Tridiagonal, ritz
      >>> values, residuals = ritz(Tridiagonal(alpha=jnp.array([0.0, 0.0]), beta=jnp.array([2.0, 0.0])))
      >>> print(values.round(4), residuals)
      [ 2. -2.] [0. 0.]
    """
    alpha, beta = tridiagonal
    beside = jnp.diag(beta[:-1], 1)
    values, vectors = jnp.linalg.eigh(jnp.diag(alpha) + beside + beside.T)
    return Ritz(values[::-1], jnp.abs(beta[-1] * vectors[-1, ::-1]))


def top_eigenvalues(loss: Loss, params: PyTree, key: Key[Array, ""], k: int, iterations: int) -> Ritz:
    """The k largest eigenvalues of the Hessian of `loss` at `params`, as far as `iterations` of Lanczos' method see.

    Largest, not largest in size: for the most negative ones, take those of -loss. Of eigenvalues that are equal, one is
    found until the method breaks down, see `lanczos`; what follows then moves up in rank.

    Args:
      loss: parameters to a scalar; of many examples, see `batched_loss`.
      params: where.
      key: of the random start.
      k: how many.
      iterations: Hessian-vector products; judge by the residuals whether they were enough.

    Raises:
      ValueError: k is more than `iterations`, or than there are parameters.

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
    """The mean loss over batches of equal size; its derivatives need the memory of one batch at a time.

    That is one more forward pass for each gradient: what a batch's derivative needs is computed again, not kept. With
    norms in training mode, each batch is normalized by itself, as in training.

    Args:
      loss_of_batch: `loss_of_batch(params, batch)`, a scalar.
      batches: a tree of arrays `[batches, ...]`.

    Returns:
      The loss as a function of the parameters: differentiate it, or hand it to `top_eigenvalues`.
    """

    def loss(params: PyTree) -> Float[Array, ""]:
        # Nothing is merged across the iterations of a loop, so that no barrier against it is needed.
        one = jax.checkpoint(loss_of_batch, prevent_cse=False)
        return lax.map(lambda batch: one(params, batch), batches).mean()

    return loss


def _orthogonal(w: Float[Array, " n"], basis: Float[Array, "m n"]) -> Float[Array, " n"]:
    """w without its part along the rows of `basis`, which are orthonormal or 0."""
    for _ in range(2):  # Once leaves a part that counts where little is left of w; "twice is enough" (Kahan).
        w = w - jnp.matmul(jnp.matmul(basis, w, precision=_EXACT), basis, precision=_EXACT)
    return w


def _unit(w: Float[Array, " n"]) -> Float[Array, " n"]:
    norm = jnp.linalg.norm(w)
    return w / jnp.where(norm == 0, 1, norm)
