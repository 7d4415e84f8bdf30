"""Which linear layers stand next to each batch norm, read from the traced program of a model.

The program has tags on the input and the output of every batch norm and every linear layer. In it, a norm has

    a preceding layer    if its input is the very array that the layer returns, and nothing else reads that array
    following layers     if its output reaches linear layers only, directly or through operations that a scale and a
                         shift pass through (reshape, mean, average pooling, ...)
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jbn._paths import Path, path_name
from jbn.fold._between import Between, depends_on, eps, is_linear, subprogram, why_not_pass_through
from jbn.fold._tags import describe, operations, tag_of, tags


class Preceding(NamedTuple):
    """The norm can be folded into the layer before it.

    Attributes:
      layer: path of that layer.
    """

    layer: Path


class Following(NamedTuple):
    """The norm can be folded into the layers after it.

    Attributes:
      layers: path of each, with the function from the norm's output to the layer's input.
      output: shape and dtype of the norm's output.
    """

    layers: tuple[tuple[Path, Between], ...]
    output: jax.ShapeDtypeStruct


class NotFoldable(str):
    """Why a norm cannot be folded."""


Place = Preceding | Following


def adjacency(program: ClosedJaxpr) -> dict[Path, Place | NotFoldable]:
    """For each batch norm of a tagged program: where it can be folded, or why it cannot."""
    jaxpr = program.jaxpr
    calls = Counter(tag.path for tag in tags(jaxpr) if tag.side == "in")
    ends = {(tag.path, tag.side): eqn for eqn in jaxpr.eqns if (tag := tag_of(eqn))}
    norms = dict.fromkeys(tag.path for tag in tags(jaxpr) if tag.kind == "norm")

    found: dict[Path, Place | NotFoldable] = {}
    for path in norms:
        start, end = ends.get((path, "in")), ends.get((path, "out"))
        tag = tag_of(start) if start else None
        if start is None or end is None or tag is None:
            found[path] = NotFoldable("it is under scan, remat, jit or vmap, where adjacent layers cannot be seen")
        elif tag.why:
            found[path] = NotFoldable(f"it {tag.why}")
        elif calls[path] > 1:
            found[path] = NotFoldable(f"it is called {calls[path]} times (shared)")
        else:
            before = _preceding(program, start, calls)
            after = before if isinstance(before, Preceding) else _following(program, end, calls)
            found[path] = NotFoldable(f"{before}, and {after}") if isinstance(after, NotFoldable) else after
    return found


def _preceding(program: ClosedJaxpr, norm: JaxprEqn, calls: Counter[Path]) -> Preceding | NotFoldable:
    var = norm.invars[0]
    makers = [eqn for eqn in program.jaxpr.eqns if any(v is var for v in eqn.outvars)]
    if not makers:
        return NotFoldable("its input is the model's own")
    tag = tag_of(makers[0])
    if tag is None or tag.kind != "linear":
        return NotFoldable(f"its input comes from {describe(makers[0])}, not from a linear layer")
    if tag.why:
        return NotFoldable(f"the layer before it, {path_name(tag.path)}, {tag.why}")
    if calls[tag.path] > 1:
        return NotFoldable(f"the layer before it, {path_name(tag.path)}, is called {calls[tag.path]} times (shared)")
    others = [eqn for eqn in _readers(program.jaxpr, var) if eqn is not norm]
    if others:
        return NotFoldable(
            f"the output of the layer before it, {path_name(tag.path)}, is also read by {describe(others[0])}"
        )
    return Preceding(tag.path)


def _following(program: ClosedJaxpr, norm: JaxprEqn, calls: Counter[Path]) -> Following | NotFoldable:
    jaxpr, start = program.jaxpr, norm.outvars[0]
    reached, varying = {start}, depends_on(jaxpr, set(jaxpr.invars))
    between: list[JaxprEqn] = []
    ends: list[tuple[Path, Var]] = []
    for eqn in jaxpr.eqns:
        read = [v for v in eqn.invars if not isinstance(v, Literal) and v in reached]
        if not read:
            continue
        tag = tag_of(eqn)
        if tag and tag.kind == "linear":
            layer = path_name(tag.path)
            if tag.why:
                return NotFoldable(f"the layer after it, {layer}, {tag.why}")
            if calls[tag.path] > 1:
                return NotFoldable(f"the layer after it, {layer}, is called {calls[tag.path]} times (shared)")
            ends.append((tag.path, read[0]))
        elif is_linear(eqn, reached, varying):
            between.append(eqn)
            reached.update(eqn.outvars)
        else:
            return NotFoldable(f"its output goes into {describe(eqn)}")
    if any(v in reached for v in jaxpr.outvars if isinstance(v, Var)):
        return NotFoldable("its output is the model's own")
    if not ends:
        return NotFoldable("its output is not used")
    aval: Any = start.aval
    output = jax.ShapeDtypeStruct(aval.shape, jnp.promote_types(aval.dtype, jnp.float32))
    layers = tuple((layer, subprogram(program, between, start, end)) for layer, end in ends)
    part = jaxpr.replace(eqns=between)
    sums = any(eqn.primitive.name.startswith("reduce") for eqn in operations(part))
    for layer, f in layers:
        if why := why_not_pass_through(f, output, sums, eps(part)):
            return NotFoldable(f"between it and {path_name(layer)} {why}")
    return Following(layers, output)


def _readers(jaxpr: Jaxpr, var: object) -> list[JaxprEqn | None]:
    """The operations that read `var`, and None for the program's own result."""
    readers: list[JaxprEqn | None] = [eqn for eqn in jaxpr.eqns if any(v is var for v in eqn.invars)]
    return readers + [None] * sum(v is var for v in jaxpr.outvars)
