"""Which linear layer stands next to each batch norm, read off the traced program of a model.

A model is traced with a mark (a primitive that does nothing) on the input and the output of every batch norm and every
linear layer. In the program that comes out, a norm has

    a preceding layer    if the very array that the layer returns is the norm's input, and nothing else reads it
    following layers     if all that its output reaches are linear layers, directly or by way of operations that scale
                         and shift pass through (reshape, mean, average pooling, ...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive, Var, jaxpr_as_fun
from jax.interpreters import batching

Path = tuple[Any, ...]

# What a scale and a shift pass through: f(s·x + t) = s'·f(x) + f(t). Checked by numbers where it is used.
_LINEAR = {"reshape", "squeeze", "expand_dims", "transpose", "broadcast_in_dim", "copy", "copy_p", "slice", "neg"}
_LINEAR |= {"convert_element_type", "reduce_sum", "reduce_window_sum", "mul", "div"}

mark_p = Primitive("batch_norm_neighbour")
mark_p.def_impl(lambda x, **_: x)
mark_p.def_abstract_eval(lambda x, **_: x)
batching.defvectorized(mark_p)


def mark(x: jax.Array, kind: str, side: str, path: Path, why: str = "") -> jax.Array:
    """`x`, marked as the `side` ("in", "out") of the layer at `path`, a "norm" or a "linear"; or `why` it is none."""
    return mark_p.bind(x, kind=kind, side=side, path=path, why=why)


class Preceding(NamedTuple):
    """The norm goes into the layer before it.

    Attributes:
      layer: path of that layer.
    """

    layer: Path


class Following(NamedTuple):
    """The norm goes into the layers after it.

    Attributes:
      layers: path of each, with the function from the norm's output to the layer's input.
      output: shape and dtype of the norm's output.
    """

    layers: tuple[tuple[Path, Callable[[jax.Array], jax.Array]], ...]
    output: jax.ShapeDtypeStruct


class Reason(str):
    """Why a norm has no neighbour to go into."""


def neighbours(program: ClosedJaxpr) -> dict[Path, Preceding | Following | Reason]:
    """Of each batch norm in a marked program, where it can go, or why it cannot."""
    jaxpr = program.jaxpr
    calls: dict[Path, int] = {}
    for eqn in _marks(jaxpr):
        if eqn.params["side"] == "in":
            calls[eqn.params["path"]] = calls.get(eqn.params["path"], 0) + 1
    ends = {(e.params["path"], e.params["side"]): e for e in jaxpr.eqns if e.primitive is mark_p}
    norms = dict.fromkeys(e.params["path"] for e in _marks(jaxpr) if e.params["kind"] == "norm")

    found: dict[Path, Preceding | Following | Reason] = {}
    for path in norms:
        if (path, "in") not in ends or (path, "out") not in ends:
            found[path] = Reason("it is under scan, remat, jit or vmap, where its neighbours are not to be seen")
        elif why := ends[path, "in"].params["why"]:
            found[path] = Reason(f"it {why}")
        elif calls[path] > 1:
            found[path] = Reason(f"it is called {calls[path]} times (shared)")
        else:
            before = _preceding(program, ends[path, "in"], calls)
            after = before if isinstance(before, Preceding) else _following(program, ends[path, "out"], calls)
            found[path] = Reason(f"{before}, and {after}") if isinstance(after, Reason) else after
    return found


def operations(jaxpr: Jaxpr) -> Iterator[Any]:
    """The operations of a program and of the programs within it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: isinstance(v, Jaxpr | ClosedJaxpr)):
            if isinstance(inner, Jaxpr | ClosedJaxpr):
                yield from operations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def rounding(jaxpr: Jaxpr) -> float:
    """The distance of neighbours of 1 in the coarsest numbers of a program."""
    values = [v.aval for e in operations(jaxpr) for v in (*e.invars, *e.outvars)]
    dtypes = {value.dtype for value in values if hasattr(value, "dtype")}
    return max((float(jnp.finfo(dtype).eps) for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)), default=0.0)


def _marks(jaxpr: Jaxpr) -> list[Any]:
    return [eqn for eqn in operations(jaxpr) if eqn.primitive is mark_p]


def _readers(jaxpr: Jaxpr, var: Var) -> list[Any]:
    """The operations that read `var`, and None for the program's own result."""
    return [e for e in jaxpr.eqns if any(v is var for v in e.invars)] + [None] * sum(v is var for v in jaxpr.outvars)


def name(path: Path) -> str:
    """A path, as a reader knows it."""
    return "/".join(map(str, path)) or "the model itself"


def _preceding(program: ClosedJaxpr, norm: Any, calls: dict[Path, int]) -> Preceding | Reason:
    var = norm.invars[0]
    makers = [e for e in program.jaxpr.eqns if any(v is var for v in e.outvars)]
    if not makers:
        return Reason("its input is the model's own")
    if makers[0].primitive is not mark_p or makers[0].params["kind"] != "linear":
        return Reason(f"its input comes from {_says(makers[0])}, not from a linear layer")
    layer = makers[0].params["path"]
    if why := makers[0].params["why"]:
        return Reason(f"the layer before it, {name(layer)}, {why}")
    if calls[layer] > 1:
        return Reason(f"the layer before it, {name(layer)}, is called {calls[layer]} times (shared)")
    others = [e for e in _readers(program.jaxpr, var) if e is not norm]
    if others:
        return Reason(f"the output of the layer before it, {name(layer)}, is also read by {_says(others[0])}")
    return Preceding(layer)


def _following(program: ClosedJaxpr, norm: Any, calls: dict[Path, int]) -> Following | Reason:
    jaxpr, start = program.jaxpr, norm.outvars[0]
    reached, varying = {start}, _varying(jaxpr, set(jaxpr.invars))
    way: list[Any] = []
    ends: list[tuple[Path, Var]] = []
    for eqn in jaxpr.eqns:
        read = [v for v in eqn.invars if not isinstance(v, Literal) and v in reached]
        if not read:
            continue
        if eqn.primitive is mark_p and eqn.params["kind"] == "linear":
            layer = eqn.params["path"]
            if why := eqn.params["why"]:
                return Reason(f"the layer after it, {name(layer)}, {why}")
            if calls[layer] > 1:
                return Reason(f"the layer after it, {name(layer)}, is called {calls[layer]} times (shared)")
            ends.append((layer, read[0]))
        elif _passes(eqn, reached, varying):
            way.append(eqn)
            reached.update(eqn.outvars)
        else:
            return Reason(f"its output goes into {_says(eqn)}")
    if any(v in reached for v in jaxpr.outvars if isinstance(v, Var)):
        return Reason("its output is the model's own")
    if not ends:
        return Reason("its output is not used")
    output = jax.ShapeDtypeStruct(start.aval.shape, jnp.promote_types(start.aval.dtype, jnp.float32))
    layers = tuple((layer, _function(program, way, start, end)) for layer, end in ends)
    between = jaxpr.replace(eqns=way)
    sums = any(e.primitive.name.startswith("reduce") for e in operations(between))
    for layer, f in layers:
        if why := _mixes(f, output, sums, rounding(between)):
            return Reason(f"on the way from it to {name(layer)} {why}")
    return Following(layers, output)


def _varying(jaxpr: Jaxpr, start: set[Var]) -> set[Var]:
    """What depends on `start`."""
    varying = set(start)
    for eqn in jaxpr.eqns:
        if any(isinstance(v, Var) and v in varying for v in eqn.invars):
            varying.update(eqn.outvars)
    return varying


def _passes(eqn: Any, reached: set[Var], varying: set[Var]) -> bool:
    """Whether an operation is linear in the arrays of `reached`, and whatever else it reads are constants."""
    inside = eqn.params.get("jaxpr")
    if eqn.primitive.name in ("jit", "pjit") and isinstance(inside, ClosedJaxpr):
        inner = inside.jaxpr
        known, moving = (
            {v for v, outer in zip(inner.invars, eqn.invars, strict=True) if isinstance(outer, Var) and outer in those}
            for those in (reached, varying)
        )
        moving = _varying(inner, moving)
        for e in inner.eqns:
            if any(isinstance(v, Var) and v in known for v in e.invars):
                if not _passes(e, known, moving):
                    return False
                known.update(e.outvars)
        return True
    touched = [isinstance(v, Var) and v in reached for v in eqn.invars]
    others = [v for v, on in zip(eqn.invars, touched, strict=True) if isinstance(v, Var) and not on]
    if any(v in varying for v in others) or (eqn.primitive.name == "div" and touched[1]):
        return False
    if eqn.primitive.name == "convert_element_type" and not jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        return False
    return eqn.primitive.name in _LINEAR and sum(touched) == 1


def _function(program: ClosedJaxpr, way: list[Any], start: Var, end: Var) -> Callable[[jax.Array], jax.Array]:
    """The part of the program from `start` to `end`; what else it reads are constants of the program."""
    jaxpr = program.jaxpr
    known = {start, *(v for e in way for v in e.outvars)}
    free = list(dict.fromkeys(v for e in way for v in e.invars if isinstance(v, Var) and v not in known))
    # Whatever else the way reads is computed from constants alone, such as the counts of an average pooling.
    before, needed = [], set(free)
    for e in reversed(jaxpr.eqns):
        if any(v in needed for v in e.outvars):
            before.insert(0, e)
            needed.update(v for v in e.invars if isinstance(v, Var))
    constants = dict(zip(jaxpr.constvars, program.consts, strict=True))
    part = jaxpr.replace(constvars=[], invars=[start, *constants], outvars=[end], eqns=[*before, *way])
    return lambda x: jaxpr_as_fun(ClosedJaxpr(part, []))(x, *constants.values())[0]


def _says(eqn: Any) -> str:
    if eqn is None:
        return "the model's own result"
    if eqn.primitive is mark_p:
        return f"the {'batch norm' if eqn.params['kind'] == 'norm' else 'layer'} {name(eqn.params['path'])}"
    inner = eqn.params.get("call_jaxpr")  # of a function with its own derivative, such as relu
    if isinstance(inner, ClosedJaxpr) and inner.jaxpr.eqns:
        eqn = inner.jaxpr.eqns[0]
    called = eqn.params.get("name")
    return f"the operation {called if isinstance(called, str) else eqn.primitive.name}"


def _run(f: Callable[[jax.Array], jax.Array], v: np.ndarray, output: jax.ShapeDtypeStruct) -> np.ndarray:
    return np.asarray(f(jnp.asarray(np.broadcast_to(v, output.shape), output.dtype)), np.float64)


def _mixes(f: Callable[[jax.Array], jax.Array], output: jax.ShapeDtypeStruct, sums: bool, eps: float) -> str:
    """Why there is no f(s·x + t) = s'·f(x) + f(t) for every s and t with one value per feature, or nothing.

    That f is linear is known of each operation on the way; that it mixes no features is tested on random numbers.
    `sums` is whether it adds: of t, a mean makes the same for every size of the input, and a sum does not. `eps` is the
    rounding of its numbers.
    """
    near = max(1e-5, 8 * eps)
    rng = np.random.default_rng(0)
    scale, x = rng.uniform(0.5, 2, output.shape[-1:]), rng.normal(1, 1, output.shape)
    one = _run(f, np.ones(()), output)
    if not np.all(one != 0):
        return "values are lost"
    factor = _run(f, scale, output) / one
    expected = factor * _run(f, x, output)
    atol = near * np.abs(expected).max(initial=0)
    if not np.allclose(_run(f, scale * x, output), expected, rtol=max(1e-4, near), atol=atol):
        return "something mixes features"
    features = factor.reshape(-1, factor.shape[-1])
    if not np.allclose(features, features[:1], rtol=near, atol=0):
        return "positions get different scales"
    if sums and not np.allclose(one, 1, rtol=max(1e-4, near)):
        return "values are summed and not averaged, so that its shift would be right for one size of input"
    return ""


def pass_through(
    f: Callable[[jax.Array], jax.Array], scale: np.ndarray, shift: np.ndarray, output: jax.ShapeDtypeStruct
) -> tuple[np.ndarray, np.ndarray]:
    """s' and f(t) of f(s·x + t) = s'·f(x) + f(t): one value per feature of f(x), and an array like one example of it.

    s and t have one value per feature, of the last axis of `output`.
    """
    factor = _run(f, scale, output) / _run(f, np.ones(()), output)
    return factor.reshape(-1, factor.shape[-1])[0], _run(f, shift, output)[:1]
