"""Values that a program on a CPU computes once and keeps in memory, instead of recomputing them at each use.

XLA:CPU fuses the cheap operations that produce an operand into every loop that reads it. Then a vector of twenty
operations is recomputed for each element of the array beside it; and in a stack of norms with nothing between them, all
earlier norms and activations are recomputed in every sum, so that the time grows with the square or the cube of the
depth. A call that XLA must not inline prevents that: it reads its operand from memory and returns it. If the operand is
in memory anyway, as a parameter or the result of a product, the call costs nothing.

On other platforms, and where the compiler shards arrays over devices, these functions do nothing.
"""
# The internals of jax have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike

from jbn import _axes, _dtypes
from jbn._kernels.fallback import or_plainly
from jbn._kernels.plain import plain
from jbn._kernels.tuning import FEW, LITTLE, MOST, large

# What XLA:CPU recomputes at each use. It does not recompute expensive operations (a division, exp, tanh).
CHEAP = frozenset(
    f"stablehlo.{name}"
    for line in (
        "abs add and bitcast_convert clamp compare complex concatenate convert imag is_finite maximum",
        "minimum multiply negate not or pad real reduce_precision reshape reverse select sign slice subtract transpose",
    )
    for name in line.split()
)
PRODUCTS = frozenset(("stablehlo.convolution", "stablehlo.dot_general"))


def materialize_vector(vector: jax.Array, x: jax.Array) -> jax.Array:
    """`vector`, computed before the pass over `x` that reads it, not for each element; its derivatives likewise."""
    return _materialize(vector, "vector", x) if _axes.known(vector.shape) and vector.size >= FEW else vector


def fusion_barrier(x: jax.Array) -> jax.Array:
    """`x`, materialized if more than a few elementwise operations produce it; its cotangent likewise."""
    return _fusion_barrier_p.bind(x, size=x.size, when="result") if _axes.known(x.shape) and not plain() else x


def upcast(x: jax.Array, *others: DTypeLike, once: bool = False) -> jax.Array:
    """`_dtypes.upcast`, materialized for a small array of half precision; its cotangent likewise.

    XLA:CPU splits a loop over threads if it has more than one operation per byte, which loops over half precision have:
    they add conversions and halve the bytes. For a small array, waking a thread takes longer than the loop.
    """
    wide = _dtypes.upcast(x, *others)
    if wide.dtype == x.dtype:
        return wide
    if not once:
        return _materialize(wide, "half", x)
    small = _axes.known(x.shape) and x.size <= LITTLE["half, one pass"]
    return _not_inlined(wide) if small and jax.default_backend() == "cpu" else wide


# Inference programs contain no primitive of ours, because exporters would not know it. For them, what the lowering
# decides elsewhere is decided at trace time, by operations that are harmless if the program runs on another platform.


def divided_by_one(factor: jax.Array) -> jax.Array:
    """`factor`, computed before the pass that reads it, not for each element, because XLA:CPU recomputes no division.

    The division is by 1, thus exact. XLA cannot remove it, because for a factor of NaN it is by 0.
    """
    if jax.default_backend() != "cpu" or jnp.iscomplexobj(factor):
        return factor
    return factor / (factor >= -jnp.inf).astype(factor.dtype)


def downcast(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """`x.astype(dtype)`, the transpose of `upcast`."""
    return x if x.dtype == dtype else _materialize(x, "half", x).astype(dtype)


def is_unpartitioned(ctx: mlir.LoweringRuleContext) -> bool:
    """Whether the compiler shards no array, except over mesh axes that shard_map has made manual.

    If it shards arrays, any axis may be sharded, and slicing it might move data between devices.
    """
    context: Any = ctx.module_context.axis_context
    if hasattr(context, "mesh"):
        return all(size == 1 for name, size in context.mesh.shape.items() if name not in context.manual_axes)
    return getattr(context, "num_devices", 0) == 1


@jax.jit
def _call(x: jax.Array) -> jax.Array:
    return x


def _not_inlined(x: jax.Array) -> jax.Array:
    with set_xla_metadata(inlineable="false"):
        return _call(x)


def _materialize(x: jax.Array, when: str, beside: jax.Array) -> jax.Array:
    return _materialize_p.bind(x, size=beside.size, when=when) if _axes.known(beside.shape) and not plain() else x


def _same(x: Any, **_: Any) -> Any:
    return x


def _unchanged(ctx: Any, x: Any, **_: Any) -> Any:
    return [x]


def _lowered(ctx: mlir.LoweringRuleContext, x: Any, writes: bool) -> Any:
    return mlir.lower_fun(_not_inlined, multiple_results=False)(ctx, x) if writes and is_unpartitioned(ctx) else [x]


def _divided(x: jax.Array) -> jax.Array:
    """`x` divided by 1, which is exact and not recomputed; the barrier keeps XLA from removing it."""
    return x if jnp.iscomplexobj(x) else x / lax.optimization_barrier(jnp.ones_like(x))


@or_plainly(_unchanged)
def _beside_others(ctx: mlir.LoweringRuleContext, x: Any, *, size: int, when: str) -> Any:
    little = _axes.known((size,)) and size <= LITTLE[when]
    if when != "vector":
        return _lowered(ctx, x, little)
    if little and large(size):
        return mlir.lower_fun(_divided, multiple_results=False)(ctx, x)
    return _lowered(ctx, x, large(size))


@or_plainly(_unchanged)
def _at_an_end(ctx: mlir.LoweringRuleContext, x: Any, *, size: int, when: str) -> Any:
    on_cpu = tuple(ctx.platforms or ctx.module_context.platforms) == ("cpu",)
    return _lowered(ctx, x, on_cpu and large(size) and _fused_op_count_exceeds(ctx, x, MOST[when]))


def _fused_op_count_exceeds(ctx: mlir.LoweringRuleContext, x: Any, most: int) -> bool:
    """Whether more than `most` cheap operations on large arrays compute `x` from arrays in memory.

    Called functions, as those of jax.nn are, are searched, too.
    """
    found: set[Any] = set()
    todo: list[tuple[Any, tuple[Any, ...]]] = [(x, ())]  # a value, and the calls that enclose it
    while todo and len(found) <= most:
        value, calls = todo.pop()
        op = value.owner
        if isinstance(op, ir.Block):
            if calls:
                todo.append((calls[-1].operands[value.arg_number], calls[:-1]))
        elif not large(math.prod(ir.RankedTensorType(value.type).shape)) or _is_read(value):
            continue
        elif op.name == "func.call" and "mhlo.frontend_attributes" not in op.attributes:
            callee: Any = ctx.module_context.symbol_table[ir.FlatSymbolRefAttr(op.attributes["callee"]).value]
            results = callee.body.blocks[0].operations[-1].operands  # of its return
            todo.append((results[value.result_number], (*calls, op)))
        elif op.name in CHEAP and (op, calls) not in found:
            found.add((op, calls))
            todo += [(operand, calls) for operand in op.operands]
    return len(found) > most


def _is_read(value: Any) -> bool:
    """Whether a matrix product or convolution in the program so far reads it, too."""
    return any(use.owner.name in PRODUCTS for use in value.uses)


def _identity(name: str, transposed: dict[str, str]) -> Primitive:
    """A primitive that returns its operand; `transposed` maps its parameter `when` to that of its transpose."""
    p = Primitive(name)

    def batch(values: Any, dims: Any, *, size: int, when: str) -> Any:
        return p.bind(*values, size=size * values[0].shape[dims[0]], when=when), dims[0]

    def transpose(cotangent: Any, _: Any, *, size: int, when: str) -> Any:
        return [p.bind(cotangent, size=size, when=transposed.get(when, when))]

    p.def_impl(_same)
    p.def_abstract_eval(_same)
    ad.deflinear2(p, transpose)
    batching.primitive_batchers[p] = batch
    mlir.register_lowering(p, _unchanged)
    return p


_materialize_p = _identity("jbn_materialize", {})
mlir.register_lowering(_materialize_p, _beside_others, platform="cpu")
# Not cacheable, because the lowering depends on the program before it; jax accepts such rules for all platforms only.
_fusion_barrier_p = _identity("jbn_fusion_barrier", {"result": "derivative"})
mlir.register_lowering(_fusion_barrier_p, _at_an_end, cacheable=False)
