"""StableHLO to JavaScript: the programs that JAX compiles, as lines that a browser runs.

`jax.jit(f).lower(...)` turns a pure function into a list of StableHLO operations on arrays of fixed shapes. `translate`
walks through that list. Each operation becomes a line of JavaScript: the call of a small function, either one of
`src/runtime.js`, which move numbers (transpose, broadcast, gather) or multiply matrices, or one that `kernels` writes
(add, exp, a sum). A call of a function within the program is replaced by what it calls. `modules` makes a file of these
lines.

JAX is told to lower for a TPU, because a program for a CPU may contain what only XLA:CPU needs, such as jbn's calls
that materialize an array. It means the same on each platform. For an operation that is not known here, `Untranslatable`
names it, the program, and the Python line.

The internals of MLIR enter in this file only: they have no types, and may change with each jax.
"""
# pyright: basic, reportAttributeAccessIssue=false

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo as hlo

from explainer import kernels
from explainer.code import Code, Value, literal, row_major
from explainer.kernels import ARRAYS

Values = list[Value]


class Untranslatable(Exception):
    """An operation that has no JavaScript: the message names the program, the operation and the Python line."""


class _Unknown(Exception):
    """What is not known of an operation."""


def translate(name: str, function: Callable[..., Any], arguments: dict[str, Any], code: Code, inputs: Values) -> Values:
    """Writes the lines of `function(**arguments)` to `code`; `inputs` are its arrays' leaves. Returns the results."""
    traced = jax.jit(function, keep_unused=True).trace(**arguments)
    module: Any = traced.lower(lowering_platforms=("tpu",)).compiler_ir("stablehlo")
    functions = {op.attributes["sym_name"].value: op.regions[0].blocks[0] for op in module.body.operations}

    def run(block: Any, arguments: Values) -> Values:
        known = dict(zip(block.arguments, arguments, strict=True))
        for op in block.operations:
            operands = [known[operand] for operand in op.operands]
            kind = op.operation.name
            if kind.endswith(".return"):
                return operands
            try:
                if kind == "func.call":
                    results = run(functions[ir.FlatSymbolRefAttr(op.attributes["callee"]).value], operands)
                else:
                    results = _operation(code, op, operands)
            except _Unknown as error:
                raise Untranslatable(f"{name}: {kind} has no translation: {error}; {_source(op)}") from None
            known.update(zip(op.results, results, strict=True))
        raise AssertionError("a block without return")

    return run(functions["main"], inputs)


def _operation(code: Code, op: Any, operands: Values) -> Values:
    kind = op.operation.name.split(".")[1]
    types = [_type(result) for result in op.results]
    if kind in OPERATIONS:
        results = OPERATIONS[kind](code, op, *operands)
        return results if isinstance(results, list) else [results]
    ((dtype, shape),) = types
    text, source = _expression(op), operands[-1].dtype
    if kind == "convert" and source == dtype:
        return operands
    function = "_".join(filter(None, (kind, _direction(op).lower(), source, dtype if kind == "convert" else "")))
    code.kernel(function, kernels.elementwise(text, len(operands), dtype))
    return [code.call(dtype, shape, function, *(code.spread(a, shape) for a in operands))]


def _type(value: Any) -> tuple[str, tuple[int, ...]]:
    kind = ir.RankedTensorType(value.type)
    if not kind.has_static_shape:
        raise _Unknown("its shape depends on the arguments")
    if (dtype := str(kind.element_type)) not in ARRAYS:
        raise _Unknown(f"its dtype is {dtype}, known are {', '.join(ARRAYS)}")
    return dtype, tuple(kind.shape)


def _expression(op: Any) -> str:
    """What the operation computes of one number a, or of a, b, c."""
    kind = op.operation.name.split(".")[1]
    source, target = _type(op.operands[-1])[0] if op.operands else "f32", _type(op.results[0])[0]
    text = kernels.expression(kind, source, target, _direction(op))
    if text is None:
        raise _Unknown(f"the operation is not known for {source}")
    return text


def _direction(op: Any) -> str:
    """Which comparison a compare is; empty for other operations."""
    if op.operation.name != "stablehlo.compare":
        return ""
    total = "compare_type" in op.attributes and "TOTALORDER" in str(op.attributes["compare_type"])
    return hlo.ComparisonDirectionAttr(op.attributes["comparison_direction"]).value + ("_TOTAL" if total else "")


def _source(op: Any) -> str:
    """The Python lines that asked for an operation, innermost first."""
    lines = re.findall(r'"([^"]+)"\("([^"]+\.py)":(\d+)', str(op.location))
    return (
        "called by " + ", ".join(f"{file}:{line} ({name})" for name, file, line in lines[:3]) if lines else "no source"
    )


def _region(op: Any) -> tuple[list[str], list[str]]:
    """The function that an operation applies to numbers p0, p1, ...: its statements and results."""
    block = op.regions[0].blocks[0]
    names = {argument: f"p{i}" for i, argument in enumerate(block.arguments)}
    *inner, end = block.operations
    statements = []
    for i, each in enumerate(inner):
        if each.operation.name == "stablehlo.constant":
            names[each.results[0]] = literal(np.asarray(each.attributes["value"]).item())
            continue
        text = kernels.placed(_expression(each), [names[operand] for operand in each.operands])
        if len(inner) > 1:  # a sum alone is not rounded before its end
            text = kernels.ROUNDED[_type(each.results[0])[0]].format(text)
        statements.append(f"const t{i} = {text};")
        names[each.results[0]] = f"t{i}"
    return statements, [names[operand] for operand in end.operands]


def _combine(code: Code, op: Any, starts: Values, updates: Values, index: Value) -> Values:
    """`starts` with `updates` combined into the places of `index`, by the operation's region."""
    statements, results = _region(op)
    operations = list(op.regions[0].blocks[0].operations)
    dtypes = [start.dtype for start in starts]
    source = kernels.combine(statements, results, dtypes)
    kind = operations[0].operation.name.split(".")[1] if len(operations) == 2 else kernels.digest(source)
    function = code.kernel(f"combine_{kind}_{'_'.join(dtypes)}", source)
    if len(starts) == 1:
        return [code.call(dtypes[0], starts[0].shape, function, *starts, *updates, index)]
    both = code.call("", (), function, *starts, *updates, index).name
    return [Value(code.line(f"{both}[{i}]", [both]), s.dtype, s.shape) for i, s in enumerate(starts)]


def _broadcast(code: Code, op: Any, a: Value) -> Value:
    shape, strides = _type(op.results[0])[1], [0] * len(_type(op.results[0])[1])
    for axis, into in enumerate(op.attributes["broadcast_dimensions"]):
        strides[into] = row_major(a.shape)[axis] if a.shape[axis] > 1 else 0
    return code.moved(a, shape, strides)


def _concatenate(code: Code, op: Any, *parts: Value) -> Value:
    (dtype, shape), axis, at = _type(op.results[0]), op.attributes["dimension"].value, 0
    whole = code.spread(code.zero(dtype), shape)
    for part in parts:
        index = code.view(part.shape, row_major(shape), at * row_major(shape)[axis])
        whole, at = code.call(dtype, shape, "put", whole, part, index), at + part.shape[axis]
    return whole


def _constant(code: Code, op: Any) -> Value:
    return code.spread(code.constant(np.asarray(op.attributes["value"])), _type(op.results[0])[1])


def _dot(code: Code, op: Any, a: Value, b: Value) -> Value:
    if a.dtype != "f32":
        raise _Unknown(f"a product of {a.dtype}")
    d = hlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    batch, summed = list(d.lhs_batching_dimensions), list(d.lhs_contracting_dimensions)
    batch_b, summed_b = list(d.rhs_batching_dimensions), list(d.rhs_contracting_dimensions)
    rows = [axis for axis in range(len(a.shape)) if axis not in batch + summed]
    columns = [axis for axis in range(len(b.shape)) if axis not in batch_b + summed_b]
    sizes = [math.prod(v.shape[i] for i in axes) for v, axes in ((a, batch), (a, rows), (a, summed), (b, columns))]
    a, b = _permuted(code, a, batch + rows + summed), _permuted(code, b, batch_b + summed_b + columns)
    return code.call("f32", _type(op.results[0])[1], "dot", a, b, *sizes)


def _permuted(code: Code, a: Value, axes: Sequence[int]) -> Value:
    return code.moved(a, [a.shape[axis] for axis in axes], [row_major(a.shape)[axis] for axis in axes])


def _iota(code: Code, op: Any) -> Value:
    (dtype, shape), axis = _type(op.results[0]), op.attributes["iota_dimension"].value
    return code.call(
        dtype, shape, f"{ARRAYS[dtype]}.from", code.view(shape, [int(i == axis) for i in range(len(shape))])
    )


def _pad(code: Code, op: Any, a: Value, padding: Value) -> Value:
    (_, shape), low = _type(op.results[0]), list(op.attributes["edge_padding_low"])
    if min([*low, *op.attributes["edge_padding_high"]], default=0) < 0:
        raise _Unknown("a negative padding")
    steps = [step * (1 + gap) for step, gap in zip(row_major(shape), op.attributes["interior_padding"], strict=True)]
    offset = sum(step * n for step, n in zip(row_major(shape), low, strict=True))
    return code.call(a.dtype, shape, "put", code.spread(padding, shape), a, code.view(a.shape, steps, offset))


def _reduce(code: Code, op: Any, *operands: Value) -> Values:
    arrays, starts = operands[: len(operands) // 2], operands[len(operands) // 2 :]
    shape, axes = arrays[0].shape, set(op.attributes["dimensions"])
    kept, strides = [axis for axis in range(len(shape)) if axis not in axes], [0] * len(shape)
    for axis, stride in zip(kept, row_major([shape[axis] for axis in kept]), strict=True):
        strides[axis] = stride
    starts = [code.spread(start, [shape[axis] for axis in kept]) for start in starts]
    return _combine(code, op, starts, list(arrays), code.view(shape, strides))


def _reduce_precision(code: Code, op: Any, a: Value) -> Value:
    exponent, mantissa = op.attributes["exponent_bits"].value, op.attributes["mantissa_bits"].value
    if exponent < 8 or a.dtype != "f32":
        raise _Unknown(f"{exponent} bits of exponent")
    return a if mantissa >= 23 else code.call(a.dtype, a.shape, "reducePrecision", a, mantissa)


def _slice(code: Code, op: Any, a: Value) -> Value:
    steps = row_major(a.shape)
    offset = sum(step * start for step, start in zip(steps, op.attributes["start_indices"], strict=True))
    strides = [step * every for step, every in zip(steps, op.attributes["strides"], strict=True)]
    return code.moved(a, _type(op.results[0])[1], strides, offset)


def _reverse(code: Code, op: Any, a: Value) -> Value:
    steps, axes = row_major(a.shape), list(op.attributes["dimensions"])
    offset = sum(steps[axis] * (a.shape[axis] - 1) for axis in axes)
    return code.moved(a, a.shape, [-step if axis in axes else step for axis, step in enumerate(steps)], offset)


def _sort(code: Code, op: Any, *arrays: Value) -> Values:
    shape, axis = arrays[0].shape, op.attributes["dimension"].value % len(arrays[0].shape)
    source = kernels.before(*_region(op), 2 * len(arrays))
    function = code.kernel(f"before_{kernels.digest(source)}", source)
    last = [*(i for i in range(len(shape)) if i != axis), axis]
    back = [last.index(i) for i in range(len(shape))]
    rows = code.view([shape[i] for i in last], [row_major(shape)[i] for i in last])
    order = code.call("i32", rows.shape, "sorted", list(arrays), rows, shape[axis], function)
    return [code.call(a.dtype, shape, "take", a, _permuted(code, order, back)) for a in arrays]


def _dynamic_slice(code: Code, op: Any, a: Value, *starts: Value) -> Value:
    shape = _type(op.results[0])[1]
    return code.call(a.dtype, shape, "take", a, _window(code, a, shape, starts))


def _dynamic_update_slice(code: Code, op: Any, a: Value, update: Value, *starts: Value) -> Value:
    return code.call(a.dtype, a.shape, "put", a, update, _window(code, a, update.shape, starts))


def _window(code: Code, a: Value, shape: Sequence[int], starts: Sequence[Value]) -> Value:
    """Where the elements of a window stand in `a`, which starts at these numbers, but ends within `a`."""
    index = code.view(shape, row_major(a.shape))
    for axis, start in enumerate(starts):
        here = code.view(shape, [0] * len(shape))
        last = [a.shape[axis] - shape[axis]]
        index = code.call("i32", shape, "positions", start, index, here, 0, [row_major(a.shape)[axis]], last, True)
    return index


def _gather(code: Code, op: Any, a: Value, starts: Value) -> Value:
    d, shape = hlo.GatherDimensionNumbers(op.attributes["dimension_numbers"]), _type(op.results[0])[1]
    places = Places(
        d.offset_dims, d.collapsed_slice_dims, d.operand_batching_dims, d.start_indices_batching_dims, d.start_index_map
    )
    return code.call(a.dtype, shape, "take", a, places.index(code, a, starts, shape, d.index_vector_dim, clamp=True))


def _scatter(code: Code, op: Any, a: Value, starts: Value, *updates: Value) -> Values:
    if len(updates) != 1:
        raise _Unknown("several arrays")
    d = hlo.ScatterDimensionNumbers(op.attributes["scatter_dimension_numbers"])
    places = Places(
        d.update_window_dims,
        d.inserted_window_dims,
        d.input_batching_dims,
        d.scatter_indices_batching_dims,
        d.scattered_dims_to_operand_dims,
    )
    index = places.index(code, a, starts, updates[0].shape, d.index_vector_dim, clamp=False)
    return _combine(code, op, [a], list(updates), index)


class Places(NamedTuple):
    """Which axes of an array, of its windows and of the windows' starts belong together, in a gather or scatter."""

    window: Sequence[int]  # axes of the windows' array that run within a window
    dropped: Sequence[int]  # axes of the array along which a window has one place
    batch: Sequence[int]  # axes of the array that go along with axes of the starts
    batch_starts: Sequence[int]  # which these are
    axes: Sequence[int]  # the axis of the array along which each start moves

    def index(self, code: Code, a: Value, starts: Value, shape: Sequence[int], vector: int, *, clamp: bool) -> Value:
        """Where each element of the windows' array, of this shape, stands in `a`; `vector`: the axis of each start."""
        steps, walk = row_major(a.shape), row_major(starts.shape)
        base, first, sizes = [0] * len(shape), [0] * len(shape), [1] * len(a.shape)
        inside = [axis for axis in range(len(a.shape)) if axis not in [*self.dropped, *self.batch]]
        for axis, at in zip(inside, self.window, strict=True):
            base[at], sizes[axis] = steps[axis], shape[at]
        outside = [axis for axis in range(len(starts.shape)) if axis != vector]
        for axis, at in zip(outside, [at for at in range(len(shape)) if at not in list(self.window)], strict=True):
            first[at] = walk[axis]
            if axis in list(self.batch_starts):
                base[at] = steps[list(self.batch)[list(self.batch_starts).index(axis)]]
        strides, last = [steps[axis] for axis in self.axes], [a.shape[axis] - sizes[axis] for axis in self.axes]
        step = walk[vector] if vector < len(walk) else 0
        views = code.view(shape, base), code.view(shape, first)
        return code.call("i32", shape, "positions", starts, *views, step, strides, last, clamp)


def _same(code: Code, op: Any, *operands: Value) -> Values:
    return [a._replace(shape=_type(result)[1]) for a, result in zip(operands, op.results, strict=True)]


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
    "transpose": lambda code, op, a: _permuted(code, a, list(op.attributes["permutation"])),
}
