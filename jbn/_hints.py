"""What XLA:CPU is told about the passes over the large array; everywhere else, and in numbers, these do nothing.

XLA:CPU hands a sum to a library, and with it what computes the summands, if nobody else needs them; if somebody does,
they are written to memory first. Σ(x - c) and Σ(x - c)² of 26 MB took 4.8 ms so, and 1.9 ms where each has a c of its
own (two cores, jax 0.10.2). Hence `apart` and `reread`. Loops it fuses with all that makes their operands, and then
computes vectors anew for each element of the large array: hence `settled`.

They are primitives, the identity with a compiler's rule for CPUs, because two of them need a transpose of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike

from jbn import _axes


def _hint(name: str, cpu: Callable[..., jax.Array], transpose: Callable[..., jax.Array]) -> Primitive:
    """An elementwise linear map: the identity, on CPUs compiled as `cpu`."""

    def identity(x: Any, **_: Any) -> Any:
        return x

    p = Primitive(name)
    p.def_impl(identity)
    p.def_abstract_eval(identity)
    ad.deflinear2(p, lambda ct, _, **how: [transpose(ct, **how)])
    batching.defvectorized(p)
    mlir.register_lowering(p, mlir.lower_fun(identity, multiple_results=False))
    mlir.register_lowering(p, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")
    return p


def _barrier(x: jax.Array, use: int) -> jax.Array:
    """A barrier for each use, of a length of its own: those that are alike would become one again."""
    return lax.optimization_barrier((x,) * use)[-1]


def _again(x: jax.Array, use: int, stored: jnp.dtype) -> jax.Array:
    return _barrier(x.astype(stored), use).astype(x.dtype)


def _divided(x: jax.Array) -> jax.Array:
    # What is dear is not computed for each element, and a division is dear; one by 1 is exact. Behind a barrier, and a
    # vector of ones, or it would be seen through.
    return x if jnp.iscomplexobj(x) else x / lax.optimization_barrier(jnp.ones_like(x))


_apart_p = _hint("jbn_apart", _barrier, lambda ct, use: apart(use, ct))
_settled_p = _hint("jbn_settled", _divided, lambda ct: settled(ct))
_reread_p = _hint("jbn_reread", _again, lambda ct, use, stored: _written_p.bind(ct, use=use, stored=stored))
_written_p = _hint("jbn_written", lambda x, **_: x, lambda ct, use, stored: _reread_p.bind(ct, use=use, stored=stored))


# Below so many elements the compiler's own program is as fast, and smaller. A loop over fewer than so many features it
# unrolls, and the less such a loop computes, the worse it is vectorized.
SMALL, UNROLLED = 2**16, 32


def small(x: jax.Array) -> bool:
    """Whether nothing need be said about the passes over `x`."""
    return not _axes.known(x.shape) or x.size < SMALL


def apart(use: int, x: jax.Array) -> jax.Array:
    """`x`; what is computed from it is not known to be what another use computes from it."""
    return _apart_p.bind(x, use=use)


def settled(vector: jax.Array) -> jax.Array:
    """`vector`, computed before the pass that reads it, and not anew for each element there; so are its derivatives."""
    return _settled_p.bind(vector) if _axes.known(vector.shape) and vector.size >= UNROLLED else vector


def reread(use: int, x: jax.Array, stored: DTypeLike) -> jax.Array:
    """`x`, which was widened from `stored`, widened once more for this use: the wide one need never be written."""
    return x if x.dtype == stored or small(x) else _reread_p.bind(x, use=use, stored=jnp.dtype(stored))


def written(use: int, x: jax.Array, stored: DTypeLike) -> jax.Array:
    """`x`, a term of what the caller rounds to `stored` next: its cotangent is read with `reread`."""
    return x if x.dtype == stored or small(x) else _written_p.bind(x, use=use, stored=jnp.dtype(stored))
