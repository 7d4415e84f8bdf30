"""StableHLO to JavaScript: the programs that JAX compiles, as lines that a browser runs.

`jax.jit(f).lower(...)` turns a pure function into a list of StableHLO operations on arrays of fixed shapes. `translate`
walks through that list, and has `operations` write the lines of JavaScript that do the same. A line calls a small
function: one of `src/runtime.js`, which move numbers (transpose, broadcast, gather) or multiply matrices, or one that
`kernels` writes (add, exp, a sum). A call of a function within the program is replaced by what it calls. `code` keeps
the lines, and leaves out what is not needed; `modules` makes a file of them.

JAX is told to lower for a TPU, because a program for a CPU may contain what only XLA:CPU needs, such as jbn's calls
that materialize an array. It means the same on each platform. For an operation that is not known here, `Untranslatable`
names it, the program, and the Python line.

The internals of MLIR enter in this file only: they have no types, and may change with each jax.
"""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import re
from itertools import takewhile
from typing import Any

import jax
import numpy as np
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo as hlo

from explainer import kernels, operations
from explainer.code import Code, Value, literal
from explainer.operations import Operation, Region, Type, Unknown
from explainer.programs import Program

Values = list[Value]


class Untranslatable(Exception):
    """An operation that has no JavaScript: the message names the program, the operation and the Python line."""


def translate(name: str, program: Program, code: Code, inputs: Values) -> tuple[Values, Any]:
    """Writes the lines of a program.

    Args:
      name: of the program, for errors.
      program: what to translate.
      code: the lines, to which those of the program are added.
      inputs: the leaves of the program's arguments.

    Returns:
      The leaves of the result, and the pytree of their shapes.

    Raises:
      Untranslatable: an operation is not known.
    """
    traced = jax.jit(program.function, keep_unused=True).trace(**program.arguments)
    module: Any = traced.lower(lowering_platforms=("tpu",)).compiler_ir("stablehlo")
    functions = {op.attributes["sym_name"].value: op.regions[0].blocks[0] for op in module.body.operations}

    def run(block: Any, arguments: Values, caller: str) -> Values:
        known = dict(zip(block.arguments, arguments, strict=True))
        for op in block.operations:
            operands = [known[operand] for operand in op.operands]
            kind = op.operation.name
            if kind == "func.return":
                return operands
            if kind == "func.call":
                results = run(functions[op.attributes["callee"].value], operands, _source(op) or caller)
            else:
                try:
                    results = operations.write(code, _read(op), operands)
                except Unknown as error:
                    raise Untranslatable(
                        f"{name}: no translation of {kind}: {error}; from {_source(op) or caller}"
                    ) from None
            known.update(zip(op.results, results, strict=True))
        raise AssertionError("a function without return")

    return run(functions["main"], inputs, ""), traced.out_info


def _read(op: Any) -> Operation:
    """What MLIR says of an operation, as plain values."""
    kind = op.operation.name.split(".")[1]
    source = _type(op.operands[-1])[0] if len(op.operands) else ""
    attributes = {name: _plain(value) for name, value in op.attributes.items()}
    region = _region(op) if kind in operations.OPERATIONS and len(op.regions) else None
    return Operation(kind, source, [_type(result) for result in op.results], attributes, region)


def _type(value: Any) -> Type:
    kind = ir.RankedTensorType(value.type)
    if (dtype := str(kind.element_type)) not in kernels.ARRAYS:
        raise Unknown(f"its dtype is {dtype}; known are {', '.join(kernels.ARRAYS)}")
    return dtype, tuple(kind.shape)


def _plain(value: Any) -> Any:
    """An attribute as a Python value: a number, a list of numbers, an array, or dimension numbers by name."""
    for kind, fields in DIMENSIONS.items():
        if kind.isinstance(value):
            numbers = kind(value)
            return {name: getattr(numbers, name) for name in fields}
    if hlo.ComparisonDirectionAttr.isinstance(value):
        return hlo.ComparisonDirectionAttr(value).value
    if isinstance(value, ir.DenseElementsAttr):
        return np.asarray(value)
    if isinstance(value, ir.DenseI64ArrayAttr):
        return list(value)
    return value.value if hasattr(value, "value") else str(value)


DIMENSIONS = {
    kind: [name for name, value in vars(kind).items() if isinstance(value, property)]
    for kind in (hlo.DotDimensionNumbers, hlo.GatherDimensionNumbers, hlo.ScatterDimensionNumbers)
}


def _region(op: Any) -> Region:
    """The function that an operation applies to numbers."""
    block = op.regions[0].blocks[0]
    names = {argument: f"p{i}" for i, argument in enumerate(block.arguments)}
    *inner, end = block.operations
    statements, kinds = [], []
    for i, each in enumerate(inner):
        (result,) = each.results
        read = _read(each)
        if read.kind == "constant":
            names[result] = literal(read.attributes["value"].item())
            continue
        text = kernels.placed(operations.expression(read), [names[operand] for operand in each.operands])
        if len(inner) > 1:  # a sum alone is not rounded before its end
            text = kernels.ROUNDED[read.types[0][0]].format(text)
        statements.append(f"const t{i} = {text};")
        names[result] = f"t{i}"
        kinds.append(read.kind)
    return Region(statements, [names[operand] for operand in end.operands], kinds)


def _source(op: Any) -> str:
    """The Python lines that asked for an operation, innermost first; none in functions that jax has cached."""
    frames = re.findall(r'"([^"]+)"\("([^"]+\.py)":(\d+)', str(op.location))
    lines = [
        f"{file}:{line} ({function})" for function, file, line in takewhile(lambda frame: frame[1] != __file__, frames)
    ]
    return ", ".join(dict.fromkeys(lines))
