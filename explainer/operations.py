"""The lines of JavaScript that do what one operation of StableHLO does.

Most operations only move numbers, and are an index: where each element of the result stands in memory. A sum, a largest
value, or a scatter combines elements into the places that an index gives. What is in neither of these tables is an
expression of numbers in `kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from explainer import kernels
from explainer.code import Code, Value, row_major
from explainer.kernels import ARRAYS
from explainer.windows import Axes, places, window

Values = list[Value]
Type = tuple[str, tuple[int, ...]]  # dtype and shape


class Unknown(Exception):
    """What is not known of an operation."""


class Region(NamedTuple):
    """A function of numbers p0, p1, ...: its statements, the names of its results, and the kinds of its operations."""

    statements: list[str]
    results: list[str]
    kinds: list[str]


class Operation(NamedTuple):
    """An operation, without its operands.

    Attributes:
      kind: such as "add".
      source: the dtype of its last operand.
      types: of its results.
      attributes: by name.
      region: what it applies to numbers, if it applies a function.
    """

    kind: str
    source: str
    types: list[Type]
    attributes: Mapping[str, Any]
    region: Region | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its only result."""
        ((_, shape),) = self.types
        return shape


def write(code: Code, op: Operation, operands: Values) -> Values:
    """Writes the lines of one operation; returns its results.

    Raises:
      Unknown: there is no translation.
    """
    if op.kind in OPERATIONS:
        results = OPERATIONS[op.kind](code, op, *operands)
        return results if isinstance(results, list) else [results]
    text, ((dtype, shape),) = expression(op), op.types
    if op.kind == "convert" and op.source == dtype:
        return operands
    name = "_".join(filter(None, (op.kind, _direction(op).lower(), op.source, dtype if op.kind == "convert" else "")))
    function = code.kernel(name, kernels.elementwise(text, len(operands), dtype))
    return [code.call(dtype, shape, function, *(code.spread(a, shape) for a in operands))]


def expression(op: Operation) -> str:
    """What the operation computes of one number a, or of a, b, c.

    Raises:
      Unknown: it is not such an operation.
    """
    text = kernels.expression(op.kind, op.source, op.types[0][0], _direction(op)) if op.types and op.source else None
    if text is None:
        raise Unknown(f"it is not among those for {op.source}" if op.source else "it is not known")
    return text


def _direction(op: Operation) -> str:
    """Which comparison a compare is; empty for other operations."""
    if op.kind != "compare":
        return ""
    total = "TOTALORDER" in str(op.attributes.get("compare_type"))
    return op.attributes["comparison_direction"] + ("_TOTAL" if total else "")


def _broadcast(code: Code, op: Operation, a: Value) -> Value:
    strides = [0] * len(op.shape)
    for axis, into in enumerate(op.attributes["broadcast_dimensions"]):
        strides[into] = row_major(a.shape)[axis] if a.shape[axis] > 1 else 0
    return code.moved(a, op.shape, strides)


def _concatenate(code: Code, op: Operation, *parts: Value) -> Value:
    axis, at, steps = op.attributes["dimension"], 0, row_major(op.shape)
    whole = code.spread(code.zero(parts[0].dtype), op.shape)
    for part in parts:
        whole = code.call(whole.dtype, op.shape, "put", whole, part, code.view(part.shape, steps, at * steps[axis]))
        at += part.shape[axis]
    return whole


def _constant(code: Code, op: Operation) -> Value:
    return code.spread(code.constant(op.attributes["value"]), op.shape)


def _dot(code: Code, op: Operation, a: Value, b: Value) -> Value:
    if a.dtype != "f32":
        raise Unknown(f"it multiplies {a.dtype}")
    d = op.attributes["dot_dimension_numbers"]
    batch, summed = d["lhs_batching_dimensions"], d["lhs_contracting_dimensions"]
    batch_b, summed_b = d["rhs_batching_dimensions"], d["rhs_contracting_dimensions"]
    rows = [axis for axis in range(len(a.shape)) if axis not in batch + summed]
    columns = [axis for axis in range(len(b.shape)) if axis not in batch_b + summed_b]
    sizes = [math.prod(v.shape[i] for i in axes) for v, axes in ((a, batch), (a, rows), (a, summed), (b, columns))]
    a, b = _permuted(code, a, batch + rows + summed), _permuted(code, b, batch_b + summed_b + columns)
    return code.call("f32", op.shape, "dot", a, b, *sizes)


def _iota(code: Code, op: Operation) -> Value:
    ((dtype, shape),) = op.types
    strides = [int(axis == op.attributes["iota_dimension"]) for axis in range(len(shape))]
    return code.call(dtype, shape, f"{ARRAYS[dtype]}.from", code.view(shape, strides))


def _pad(code: Code, op: Operation, a: Value, padding: Value) -> Value:
    low, high, gaps = (op.attributes[name] for name in ("edge_padding_low", "edge_padding_high", "interior_padding"))
    if min(low + high, default=0) < 0:
        raise Unknown("it pads by less than nothing")
    steps = row_major(op.shape)
    apart = [step * (1 + gap) for step, gap in zip(steps, gaps, strict=True)]
    offset = sum(step * n for step, n in zip(steps, low, strict=True))
    return code.call(a.dtype, op.shape, "put", code.spread(padding, op.shape), a, code.view(a.shape, apart, offset))


def _reduce_precision(code: Code, op: Operation, a: Value) -> Value:
    exponent, mantissa = op.attributes["exponent_bits"], op.attributes["mantissa_bits"]
    if exponent < 8 or a.dtype != "f32":
        raise Unknown(f"it rounds {a.dtype} to {exponent} bits of exponent")
    return a if mantissa >= 23 else code.call(a.dtype, a.shape, "reducePrecision", a, mantissa)


def _reverse(code: Code, op: Operation, a: Value) -> Value:
    steps, axes = row_major(a.shape), op.attributes["dimensions"]
    offset = sum(steps[axis] * (a.shape[axis] - 1) for axis in axes)
    return code.moved(a, a.shape, [-step if axis in axes else step for axis, step in enumerate(steps)], offset)


def _same(code: Code, op: Operation, *operands: Value) -> Values:
    return [a._replace(shape=shape) for a, (_, shape) in zip(operands, op.types, strict=True)]


def _slice(code: Code, op: Operation, a: Value) -> Value:
    steps = row_major(a.shape)
    offset = sum(step * start for step, start in zip(steps, op.attributes["start_indices"], strict=True))
    strides = [step * every for step, every in zip(steps, op.attributes["strides"], strict=True)]
    return code.moved(a, op.shape, strides, offset)


def _transpose(code: Code, op: Operation, a: Value) -> Value:
    return _permuted(code, a, op.attributes["permutation"])


def _permuted(code: Code, a: Value, axes: Sequence[int]) -> Value:
    return code.moved(a, [a.shape[axis] for axis in axes], [row_major(a.shape)[axis] for axis in axes])


def _reduce(code: Code, op: Operation, *operands: Value) -> Values:
    arrays, starts = operands[: len(operands) // 2], operands[len(operands) // 2 :]
    shape, places = arrays[0].shape, [0] * len(arrays[0].shape)
    kept = [axis for axis in range(len(shape)) if axis not in op.attributes["dimensions"]]
    result = [shape[axis] for axis in kept]
    for axis, step in zip(kept, row_major(result), strict=True):
        places[axis] = step
    return _combine(code, op, [code.spread(start, result) for start in starts], arrays, code.view(shape, places))


def _combine(code: Code, op: Operation, starts: Values, updates: Sequence[Value], index: Value) -> Values:
    """`starts`, with `updates` combined into the places of `index` by the operation's function."""
    assert op.region is not None
    dtypes, kinds = [start.dtype for start in starts], op.region.kinds
    source = kernels.combine(op.region.statements, op.region.results, dtypes)
    name = kinds[0] if len(kinds) == 1 and kinds[0] in COMMUTATIVE else kernels.digest(source)
    function = code.kernel(f"combine_{name}_{'_'.join(dtypes)}", source)
    if len(starts) == 1:
        return [code.call(dtypes[0], starts[0].shape, function, *starts, *updates, index)]
    all_of = code.call("", (), function, *starts, *updates, index).name
    return [Value(code.line(f"{all_of}[{i}]", [all_of]), s.dtype, s.shape) for i, s in enumerate(starts)]


def _sort(code: Code, op: Operation, *arrays: Value) -> Values:
    assert op.region is not None
    shape, axis = arrays[0].shape, op.attributes["dimension"] % len(arrays[0].shape)
    source = kernels.before(op.region.statements, op.region.results[0], len(arrays))
    before = code.call("", (), code.kernel(f"before_{kernels.digest(source)}", source), *arrays)
    last = [*(i for i in range(len(shape)) if i != axis), axis]  # the sorted axis moves to the end, and back
    rows = code.view([shape[i] for i in last], [row_major(shape)[i] for i in last])
    order = code.call("i32", rows.shape, "sorted", rows, shape[axis], before)
    order = _permuted(code, order, [last.index(i) for i in range(len(shape))])
    return [code.call(a.dtype, shape, "take", a, order) for a in arrays]


def _dynamic_slice(code: Code, op: Operation, a: Value, *starts: Value) -> Value:
    return code.call(a.dtype, op.shape, "take", a, window(code, a, op.shape, starts))


def _dynamic_update_slice(code: Code, op: Operation, a: Value, update: Value, *starts: Value) -> Value:
    return code.call(a.dtype, a.shape, "put", a, update, window(code, a, update.shape, starts))


def _gather(code: Code, op: Operation, a: Value, starts: Value) -> Value:
    d = op.attributes["dimension_numbers"]
    batch = dict(zip(d["start_indices_batching_dims"], d["operand_batching_dims"], strict=True))
    axes = Axes(d["offset_dims"], d["collapsed_slice_dims"], batch, d["start_index_map"], d["index_vector_dim"])
    return code.call(a.dtype, op.shape, "take", a, places(code, a, starts, op.shape, axes, clamp=True))


def _scatter(code: Code, op: Operation, a: Value, starts: Value, *updates: Value) -> Values:
    if len(updates) != 1:
        raise Unknown("it is of several arrays")
    d = op.attributes["scatter_dimension_numbers"]
    batch = dict(zip(d["scatter_indices_batching_dims"], d["input_batching_dims"], strict=True))
    moved = d["scattered_dims_to_operand_dims"]
    axes = Axes(d["update_window_dims"], d["inserted_window_dims"], batch, moved, d["index_vector_dim"])
    index = places(code, a, starts, updates[0].shape, axes, clamp=False)
    return _combine(code, op, [a], updates, index)


COMMUTATIVE = {"add", "and", "maximum", "minimum", "multiply", "or"}
OPERATIONS: dict[str, Callable[..., Value | Values]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "constant": _constant,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "iota": _iota,
    "optimization_barrier": _same,
    "pad": _pad,
    "reduce": _reduce,
    "reduce_precision": _reduce_precision,
    "reshape": _same,
    "reverse": _reverse,
    "scatter": _scatter,
    "slice": _slice,
    "sort": _sort,
    "transpose": _transpose,
}
