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


def mark(x: jax.Array, kind: str, side: str, path: Path) -> jax.Array:
    """`x`, marked as the `side` ("in", "out") of the layer at `path`, a "norm" or a "linear"."""
    return mark_p.bind(x, kind=kind, side=side, path=path)


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
      shape: of the norm's output.
    """

    layers: tuple[tuple[Path, Callable[[jax.Array], jax.Array]], ...]
    shape: tuple[int, ...]


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
        if calls[path] > 1:
            found[path] = Reason(f"it is called {calls[path]} times (shared)")
        elif (path, "in") not in ends or (path, "out") not in ends:
            found[path] = Reason("it is under scan, remat, jit or vmap, where its neighbours are not to be seen")
        else:
            before = _preceding(program, ends[path, "in"], calls)
            after = before if isinstance(before, Preceding) else _following(program, ends[path, "out"], calls)
            found[path] = Reason(f"{before}, and {after}") if isinstance(after, Reason) else after
    return found


def _marks(jaxpr: Jaxpr) -> Iterator[Any]:
    """The marks of a program and of the programs within it."""
    for eqn in jaxpr.eqns:
        if eqn.primitive is mark_p:
            yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: isinstance(v, Jaxpr | ClosedJaxpr)):
            if isinstance(inner, Jaxpr | ClosedJaxpr):
                yield from _marks(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def _readers(jaxpr: Jaxpr, var: Var) -> list[Any]:
    """The operations that read `var`, and None for the program's own result."""
    return [e for e in jaxpr.eqns if any(v is var for v in e.invars)] + [None] * sum(v is var for v in jaxpr.outvars)


def _name(path: Path) -> str:
    return "/".join(map(str, path))


def _preceding(program: ClosedJaxpr, norm: Any, calls: dict[Path, int]) -> Preceding | Reason:
    var = norm.invars[0]
    makers = [e for e in program.jaxpr.eqns if any(v is var for v in e.outvars)]
    if not makers:
        return Reason("its input is the model's own")
    if makers[0].primitive is not mark_p or makers[0].params["kind"] != "linear":
        return Reason(f"its input comes from {_says(makers[0])}, not from a linear layer")
    layer = makers[0].params["path"]
    if calls[layer] > 1:
        return Reason(f"the layer before it, {_name(layer)}, is called {calls[layer]} times (shared)")
    others = [e for e in _readers(program.jaxpr, var) if e is not norm]
    if others:
        return Reason(f"the output of the layer before it, {_name(layer)}, is also read by {_says(others[0])}")
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
            if calls[layer] > 1:
                return Reason(f"the layer after it, {_name(layer)}, is called {calls[layer]} times (shared)")
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
    return Following(
        tuple((layer, _function(program, way, start, end)) for layer, end in ends), tuple(start.aval.shape)
    )


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
        return f"the {'batch norm' if eqn.params['kind'] == 'norm' else 'layer'} {_name(eqn.params['path'])}"
    inner = eqn.params.get("call_jaxpr")  # of a function with its own derivative, such as relu
    if isinstance(inner, ClosedJaxpr) and inner.jaxpr.eqns:
        eqn = inner.jaxpr.eqns[0]
    name = eqn.params.get("name")
    return f"the operation {name if isinstance(name, str) else eqn.primitive.name}"


def pass_through(
    f: Callable[[jax.Array], jax.Array], scale: np.ndarray, shift: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """s' and t' of f(s·x + t) = s'·f(x) + t', shaped as f(x); None where there are none.

    s and t have one value per feature, of the last axis of `shape`. That f is linear is known of each operation on the
    way; that it mixes no features, or mixes only equal ones, is tested.
    """

    def run(v: np.ndarray) -> np.ndarray:
        return np.asarray(f(jnp.asarray(np.broadcast_to(v, shape).astype(np.float32))), np.float64)

    one = run(np.ones(()))
    if not np.all(one != 0):
        return None
    factor = run(scale) / one
    x = np.random.default_rng(0).normal(1, 1, shape)
    expected = factor * run(x)
    if not np.allclose(run(scale * x), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max(initial=0)):
        return None
    return factor, run(shift)
