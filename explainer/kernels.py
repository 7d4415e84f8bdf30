"""What StableHLO's operations compute on numbers, as JavaScript: loops over typed arrays.

Each operation is an expression of its operands a, b, c, written once. From it come the loop over arrays (`elementwise`)
and sums, largest values and the like (`combine`). A loop is one small function per operation and dtype, because a
JavaScript engine makes fast code of a small function that always sees the same kind of array, and not of a large one.

JavaScript computes in float64; storing in a Float32Array rounds to float32. For + - * / and sqrt this is what float32
arithmetic gives. XLA on a CPU takes subnormal numbers, below 1.2e-38, for 0; JavaScript does not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

ARRAYS = {"f32": "Float32Array", "i32": "Int32Array", "ui32": "Uint32Array", "ui8": "Uint8Array", "i1": "Uint8Array"}
COMPARED = {"EQ": "===", "NE": "!==", "LT": "<", "LE": "<=", "GT": ">", "GE": ">="}
# One number, rounded or wrapped as its dtype asks. Storing in a typed array does the same.
ROUNDED = {"f32": "Math.fround({})", "i32": "({} | 0)", "ui32": "({} >>> 0)", "ui8": "({} & 255)", "i1": "{}"}

ANY = {
    "add": "a + b",
    "subtract": "a - b",
    "multiply": "a * b",
    "divide": "a / b",
    "maximum": "Math.max(a, b)",
    "minimum": "Math.min(a, b)",
    "clamp": "Math.min(Math.max(b, a), c)",
    "negate": "-a",
    "abs": "Math.abs(a)",
    "sign": "Math.sign(a)",
    "square": "a * a",
    "select": "a ? b : c",
}
FLOAT = {
    "atan2": "Math.atan2(a, b)",
    "cbrt": "Math.cbrt(a)",
    "ceil": "Math.ceil(a)",
    "cosine": "Math.cos(a)",
    "exponential": "Math.exp(a)",
    "exponential_minus_one": "Math.expm1(a)",
    "floor": "Math.floor(a)",
    "is_finite": "a - a === 0 ? 1 : 0",
    "log": "Math.log(a)",
    "log_plus_one": "Math.log1p(a)",
    "logistic": "1 / (1 + Math.exp(-a))",
    "power": "a === 1 || (a === -1 && Math.abs(b) === Infinity) ? 1 : Math.pow(a, b)",
    "remainder": "a % b",
    "round_nearest_afz": "Math.sign(a) * Math.floor(Math.abs(a) + 0.5)",
    # Adding 1.5 · 2^52 leaves no room for a fraction.
    "round_nearest_even": "Math.sign(a) * (Math.abs(a) + 6755399441055744 - 6755399441055744)",
    "rsqrt": "1 / Math.sqrt(a)",
    "sine": "Math.sin(a)",
    "sqrt": "Math.sqrt(a)",
    "tan": "Math.tan(a)",
    "tanh": "Math.tanh(a)",
}
BITS = {"and": "a & b", "or": "a | b", "xor": "a ^ b"}
INTEGER = {
    **BITS,
    "multiply": "Math.imul(a, b)",
    "divide": "b === 0 ? -1 : Math.trunc(a / b)",
    "remainder": "b === 0 ? a : a % b",
    "not": "~a",
}
BOOL = {**BITS, "add": "a | b", "multiply": "a & b", "not": "1 - a"}
TABLES = {"f32": ANY | FLOAT, "i1": ANY | BOOL} | dict.fromkeys(("i32", "ui32", "ui8"), ANY | INTEGER)


def expression(op: str, source: str, target: str, direction: str = "") -> str | None:
    """The operation on operands a, b, c of dtype `source` (the last of them), or None if there is no such operation."""
    if op == "compare":
        if direction == "LT_TOTAL":  # NaN is the largest number; jax sorts by this order, after it made -0 to 0
            return "a < b || (b !== b && a === a) ? 1 : 0"
        return f"a {COMPARED[direction]} b ? 1 : 0" if direction in COMPARED else None
    if op != "convert":
        return TABLES[source].get(op)
    if target == "i1":
        return "a !== 0 ? 1 : 0"
    if source == "f32" and target != "f32":
        low, high = {"i32": (-(2**31), 2**31 - 1), "ui32": (0, 2**32 - 1), "ui8": (0, 255)}[target]
        return f"Math.min(Math.max(Math.trunc(a), {low}), {high})"
    return "a"


def placed(text: str, operands: Sequence[str]) -> str:
    """An expression of a, b, c, with these operands in their places."""
    names = dict(zip("abc", operands, strict=False))
    return re.sub(r"\b[abc]\b", lambda m: names[m[0]], text)


def elementwise(text: str, operands: int, target: str) -> str:
    """The function that applies an expression to each element."""
    names = "abc"[:operands]
    return f"""({", ".join(names)}) => {{
  const o = new {ARRAYS[target]}({names[-1]}.length);
  for (let i = 0; i < o.length; i++) o[i] = {placed(text, [f"{n}[i]" for n in names])};
  return o;
}}"""


def combine(statements: Sequence[str], results: Sequence[str], dtypes: Sequence[str]) -> str:
    """The function that takes the elements of arrays x, one by one, into the places of s that `index` gives.

    Floats are combined in float64 and rounded once at the end. A place of -1 is nowhere.
    """
    k = range(len(dtypes))
    parameters = [f"s{i}" for i in k] + [f"x{i}" for i in k] + ["index"]
    before = [f"p{i} = c{i}[j]" for i in k] + [f"p{len(dtypes) + i} = x{i}[i]" for i in k]
    outputs = [f"new {ARRAYS[dtype]}(c{i})" for i, dtype in enumerate(dtypes)]
    return f"""({", ".join(parameters)}) => {{
  const {", ".join(f"c{i} = new Float64Array(s{i})" for i in k)};
  for (let i = 0; i < index.length; i++) {{
    const j = index[i];
    if (j < 0) continue;
    const {", ".join(before)};
    {" ".join(statements)}
    {" ".join(f"c{i}[j] = {result};" for i, result in enumerate(results))}
  }}
  return {outputs[0] if len(outputs) == 1 else f"[{', '.join(outputs)}]"};
}}"""


def before(statements: Sequence[str], result: str, arrays: int) -> str:
    """The function that says of two places in arrays x whether what is at the first comes before the other."""
    numbers = [f"p{2 * k + n} = x{k}[{place}]" for k in range(arrays) for n, place in enumerate("ij")]
    return f"""({", ".join(f"x{k}" for k in range(arrays))}) => (i, j) => {{
  const {", ".join(numbers)};
  {" ".join(statements)}
  return {result};
}}"""


def digest(text: str) -> str:
    """A short name for a function that has none."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
