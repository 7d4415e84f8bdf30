"""The operations between a batch norm and the linear layer after it: whether a scale and a shift pass through them.

Each operation must be linear in the norm's output. That they mix no features is checked numerically.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun

from jbn.fold._tags import operations

Between = Callable[[jax.Array], jax.Array]

_LINEAR = {
    *("reshape", "squeeze", "expand_dims", "transpose", "broadcast_in_dim", "slice", "copy", "copy_p"),
    *("convert_element_type", "neg", "mul", "div", "reduce_sum", "reduce_window_sum"),
}


def eps(jaxpr: Jaxpr) -> float:
    """The machine epsilon of the least precise floating dtype in a program."""
    values: list[Any] = [v.aval for eqn in operations(jaxpr) for v in (*eqn.invars, *eqn.outvars)]
    dtypes = {value.dtype for value in values if hasattr(value, "dtype")}
    infos: list[Any] = [jnp.finfo(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    return max((float(info.eps) for info in infos), default=0.0)


def depends_on(jaxpr: Jaxpr, start: set[Var]) -> set[Var]:
    """The variables that depend on `start`, themselves included."""
    varying = set(start)
    for eqn in jaxpr.eqns:
        if any(isinstance(v, Var) and v in varying for v in eqn.invars):
            varying.update(eqn.outvars)
    return varying


def is_linear(eqn: JaxprEqn, reached: set[Var], varying: set[Var]) -> bool:
    """Whether an operation is linear in the variables of `reached`, and reads nothing else that depends on the input.

    `varying` are the variables that depend on the model's input.
    """
    nested = eqn.params.get("jaxpr")
    if eqn.primitive.name in ("jit", "pjit") and isinstance(nested, ClosedJaxpr):
        inner = nested.jaxpr
        inner_reached, inner_varying = (
            {v for v, outer in zip(inner.invars, eqn.invars, strict=True) if isinstance(outer, Var) and outer in those}
            for those in (reached, varying)
        )
        inner_varying = depends_on(inner, inner_varying)
        for e in inner.eqns:
            if any(isinstance(v, Var) and v in inner_reached for v in e.invars):
                if not is_linear(e, inner_reached, inner_varying):
                    return False
                inner_reached.update(e.outvars)
        return True
    touched = [isinstance(v, Var) and v in reached for v in eqn.invars]
    others = [v for v, on in zip(eqn.invars, touched, strict=True) if isinstance(v, Var) and not on]
    if any(v in varying for v in others) or (eqn.primitive.name == "div" and touched[1]):
        return False
    if eqn.primitive.name == "convert_element_type" and not jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        return False
    return eqn.primitive.name in _LINEAR and sum(touched) == 1


def subprogram(program: ClosedJaxpr, eqns: list[JaxprEqn], start: Var, end: Var) -> Between:
    """The operations `eqns` of a program, as a function from `start` to `end`."""
    jaxpr = program.jaxpr
    known = {start, *(v for eqn in eqns for v in eqn.outvars)}
    # What else they read is computed from constants only, such as the counts of an average pooling.
    needed = {v for eqn in eqns for v in eqn.invars if isinstance(v, Var) and v not in known}
    before: list[JaxprEqn] = []
    for eqn in reversed(jaxpr.eqns):
        if any(v in needed for v in eqn.outvars):
            before.insert(0, eqn)
            needed.update(v for v in eqn.invars if isinstance(v, Var))
    constants = dict(zip(jaxpr.constvars, program.consts, strict=True))
    part = jaxpr.replace(constvars=[], invars=[start, *constants], outvars=[end], eqns=[*before, *eqns])

    run = cast(Callable[..., list[jax.Array]], jaxpr_as_fun(ClosedJaxpr(part, [])))
    return lambda x: run(x, *constants.values())[0]


def why_not_pass_through(f: Between, output: jax.ShapeDtypeStruct, sums: bool, eps: float) -> str:
    """Why f(s·x + t) = s'·f(x) + f(t) does not hold for all s and t with one value per feature; empty if it holds.

    Args:
      f: a function that is linear in its input.
      output: shape and dtype of that input, the norm's output.
      sums: whether f adds numbers. A mean maps t to the same value for every size of the input, a sum does not.
      eps: machine epsilon of the dtype in which f computes.
    """
    tolerance = max(1e-5, 8 * eps)
    rng = np.random.default_rng(0)
    shape: tuple[int, ...] = output.shape
    scale, x = rng.uniform(0.5, 2, shape[-1:]), rng.normal(1, 1, shape)
    one = _apply(f, np.ones(()), output)
    if not np.all(one != 0):
        return "values are lost"
    factor = _apply(f, scale, output) / one
    expected = factor * _apply(f, x, output)
    atol = tolerance * np.abs(expected).max(initial=0)
    if not np.allclose(_apply(f, scale * x, output), expected, rtol=max(1e-4, tolerance), atol=atol):
        return "something mixes features"
    features = factor.reshape(-1, factor.shape[-1])
    if not np.allclose(features, features[:1], rtol=tolerance, atol=0):
        return "positions get different scales"
    if sums and not np.allclose(one, 1, rtol=max(1e-4, tolerance)):
        return "values are summed, not averaged, so that its shift would be right for one size of input only"
    return ""


def pass_through(
    f: Between, scale: np.ndarray, shift: np.ndarray, output: jax.ShapeDtypeStruct
) -> tuple[np.ndarray, np.ndarray]:
    """s' and f(t) of f(s·x + t) = s'·f(x) + f(t).

    Args:
      f: a function for which that holds.
      scale: s, one value per feature: per entry of the last axis of `output`.
      shift: t, likewise.
      output: shape and dtype of the norm's output.

    Returns:
      s', one value per feature of f(x), and f(t) of a batch of one.
    """
    factor = _apply(f, scale, output) / _apply(f, np.ones(()), output)
    return factor.reshape(-1, factor.shape[-1])[0], _apply(f, shift, output)[:1]


def _apply(f: Between, v: np.ndarray, output: jax.ShapeDtypeStruct) -> np.ndarray:
    return np.asarray(f(jnp.asarray(np.broadcast_to(v, output.shape), output.dtype)), np.float64)
