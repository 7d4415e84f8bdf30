"""The lines of JavaScript of one program, while they are written.

A line is `const name = expression;`. The same expression is one line, a line that depends on no argument is computed
once, and a line that no result needs is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from explainer.kernels import ARRAYS

DTYPES = {"bool": "i1", "float32": "f32", "int32": "i32", "uint32": "ui32", "uint8": "ui8"}


class Value(NamedTuple):
    """An array in the program: its name in JavaScript, and its type."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Line(NamedTuple):
    """`const name = text;`, and the names that it reads."""

    name: str
    text: str
    reads: tuple[str, ...]


class Code:
    """The lines of one program, and the kernels that they call."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}  # by text
        self.fixed: set[str] = set()  # names of lines that depend on no argument
        self.kernels: dict[str, str] = {}  # source by name

    def line(self, text: str, reads: Iterable[str] = (), *, argument: bool = False) -> str:
        """The name of an expression."""
        if text not in self.lines:
            line = self.lines[text] = Line(f"v{len(self.lines)}", text, tuple(reads))
            if not argument and self.fixed.issuperset(line.reads):
                self.fixed.add(line.name)
        return self.lines[text].name

    def call(self, dtype: str, shape: Sequence[int], function: str, *args: Any) -> Value:
        """The call of a function, by default of the runtime, with values, numbers, or lists of these."""
        reads = [a.name for arg in args for a in (arg if isinstance(arg, list) else [arg]) if isinstance(a, Value)]
        function = function if "." in function else f"runtime.{function}"
        return Value(self.line(f"{function}({', '.join(map(_text, args))})", reads), dtype, tuple(shape))

    def kernel(self, name: str, source: str) -> str:
        """The name by which to call a kernel, which is written once."""
        self.kernels[name] = source
        return f"kernels.{name}"

    def constant(self, numbers: np.ndarray) -> Value:
        """An array that is written out."""
        dtype = DTYPES[numbers.dtype.name]
        text = f"{ARRAYS[dtype]}.of({', '.join(literal(n.item()) for n in numbers.ravel())})"
        return Value(self.line(text), dtype, numbers.shape)

    def zero(self, dtype: str) -> Value:
        return Value(self.line(f"{ARRAYS[dtype]}.of(0)"), dtype, ())

    def view(self, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Value:
        """An index: for each element of `shape`, where it stands in memory."""
        return self.call("i32", shape, "view", list(shape), list(strides), offset)

    def moved(self, a: Value, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Value:
        """The array of `shape` whose elements are those of `a` at these places."""
        if math.prod(shape) == math.prod(a.shape) and _walked(shape, strides) == _walked(shape, row_major(shape)):
            return a._replace(shape=tuple(shape))
        if math.prod(a.shape) == 1:
            return self.call(a.dtype, shape, "fill", a, math.prod(shape))
        return self.call(a.dtype, shape, "take", a, self.view(shape, strides, offset))

    def spread(self, a: Value, shape: Sequence[int]) -> Value:
        """A scalar repeated; an array of that shape as it is."""
        return a if a.shape == tuple(shape) else self.moved(a, shape, [0] * len(shape))

    def needed(self, names: Iterable[str]) -> list[Line]:
        """The lines that these names depend on, in order."""
        wanted, kept = set(names), list[Line]()
        for line in reversed(self.lines.values()):
            if line.name in wanted:
                wanted.update(line.reads)
                kept.append(line)
        return kept[::-1]


def row_major(shape: Sequence[int]) -> list[int]:
    """The distance in memory from one element to the next, along each axis."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def literal(number: float) -> str:
    """A number in JavaScript; nine digits tell all float32 apart."""
    if isinstance(number, bool | int):
        return str(int(number))
    if math.isfinite(number):
        return f"{number:.9g}"
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _walked(shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    return [stride for n, stride in zip(shape, strides, strict=True) if n > 1]


def _text(arg: Any) -> str:
    if isinstance(arg, Value):
        return arg.name
    if isinstance(arg, list):
        return f"[{', '.join(map(_text, arg))}]"
    return str(arg).lower() if isinstance(arg, bool) else str(arg)
