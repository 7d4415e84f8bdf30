"""What is folded, and the proof that the outputs stay: both models, run on random inputs with other numbers in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from jbn.fold._arithmetic import Border, Plan
from jbn.fold._neighbours import Following, Path, Preceding, Reason, name, neighbours, rounding

Rest = Literal["refuse", "keep"]
Seen = dict[Path, list[jax.Array]]


class Face(Protocol):
    """A linen or nnx model that is folded. Its `source` is all that has numbers: variables, or an nnx model."""

    def trace(self, source: Any) -> ClosedJaxpr:
        """The program of the model at inference, with marks."""
        ...

    def fold(self, source: Any, plan: Plan, border: Border) -> Any:
        """A new model, without the norms of the plan."""
        ...

    def run(self, folded: Any, x: Any) -> tuple[Any, Seen]:
        """What a folded model makes of `x`, and what its layers and norms give, in the order of their calls."""
        ...

    def shaken(self, source: Any) -> Any:
        """A source with other numbers for parameters and statistics."""
        ...


def fold(face: Face, source: Any, x: Any, border: Border, rest: Rest) -> Any:
    """The model with all norms folded whose layers take them in and whose outputs, then, stay."""
    if rest not in ("refuse", "keep"):
        raise ValueError(f"rest is {rest!r}; write 'refuse' or 'keep'")
    if border not in ("exact", "refuse"):
        raise ValueError(f"border is {border!r}; write 'exact' or 'refuse'")
    program = face.trace(source)
    found = neighbours(program)
    if not found:
        raise ValueError(
            "the model calls no batch norm (jbn.linen, jbn.nnx or Flax's own), so there is nothing to fold; write a "
            "model that has one"
        )
    plan = _settled(found, rest)
    tolerance = rounding(program.jaxpr) ** 0.5  # half of the digits
    while True:
        folded = face.fold(source, plan, border)
        if not (wrong := _wrong(face, source, x, plan, border, tolerance)):
            return folded
        plan = _settled({**plan, **wrong}, rest)


def _settled(found: Mapping[Path, Preceding | Following | Reason], rest: Rest) -> Plan:
    bad = {path: reason for path, reason in found.items() if isinstance(reason, Reason)}
    if bad and rest == "refuse":
        lines = "; ".join(f"{name(path)}: {reason}" for path, reason in bad.items())
        raise ValueError(f"cannot fold {lines}; write rest='keep' to leave such batch norms in the model")
    return {path: where for path, where in found.items() if not isinstance(where, Reason)}


def _wrong(face: Face, source: Any, x: Any, plan: Plan, border: Border, tolerance: float) -> dict[Path, Reason]:
    """Norms of the plan without which the outputs are others, or those of a layer within, and why it seems so.

    Within, because a deep network may hide at its end what is wrong at its beginning.
    """
    if not plan:
        return {}
    source = face.shaken(source)
    ways = neighbours(face.trace(source))  # other numbers may lie on a way, too
    inputs = _inputs(face, source, x)

    def run(part: Plan) -> list[Seen]:
        folded = face.fold(source, {path: ways[path] for path in part}, border)  # type: ignore[misc]
        results = [face.run(folded, x) for x in inputs]
        return [{**seen, (): jax.tree.leaves(result)} for result, seen in results]

    def search(part: Plan) -> dict[Path, Reason]:
        moved = {where.layer if isinstance(where, Preceding) else path for path, where in part.items()}
        try:
            why = _difference(run(part), expected, moved, tolerance)
        except Exception as e:  # whatever the user's code raises without the norm's variables, say
            why = f"the model cannot be run: {type(e).__name__}: {e}"
        if not why:
            return {}
        if len(part) == 1:
            return dict.fromkeys(part, Reason(f"without it, {why}"))
        paths = list(part)
        halves = paths[: len(paths) // 2], paths[len(paths) // 2 :]
        found = [search({path: part[path] for path in half}) for half in halves]
        return found[0] | found[1] or dict.fromkeys(part, Reason(f"without it and others, {why}"))

    with jax.default_matmul_precision("highest"):  # by default, accelerators are less exact than the dtypes say
        expected = run({})
        if not any(np.isfinite(_wide(leaf)).any() for leaf in expected[0][()]):
            raise ValueError(
                "the model's outputs are nowhere finite on random inputs, so it cannot be seen whether folding keeps "
                "them; write for x an array of data that the model is made for"
            )
        return search(plan)


def _inputs(face: Face, source: Any, x: Any) -> list[Any]:
    """Random inputs like `x`, and of another batch size where the model takes one."""
    rng = np.random.default_rng(0)
    batch = next((leaf.shape[0] for leaf in jax.tree.leaves(x) if np.ndim(leaf)), 0)

    def leaf(size: int, a: Any) -> Any:
        a = jnp.ones(a.shape, a.dtype) if isinstance(a, jax.ShapeDtypeStruct) else jnp.asarray(a)
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a = np.asarray(a)  # which may be spread over devices, and could not be picked from
        if a.ndim and a.shape[0] == batch:
            a = a[np.arange(size) % batch]
        if not a.ndim or not jnp.issubdtype(a.dtype, jnp.inexact):
            return jnp.asarray(a)
        values = np.ravel(a)
        drawn = rng.choice(values, a.shape) if np.ptp(values) > 0 else rng.normal(size=a.shape)
        return jnp.asarray(drawn, a.dtype)

    sizes = (batch, 2 if batch != 2 else 3)
    same, other = (jax.tree.map(lambda a, size=size: leaf(size, a), x) for size in sizes)
    try:
        jax.eval_shape(lambda x: face.run(face.fold(source, {}, "exact"), x)[0], other)
    except Exception:  # a model of one batch size
        return [same]
    return [same, other]


def shaken(tree: Any) -> Any:
    """A tree with every number multiplied by one of its own in [0.75, 1.25], and put near that where it was 0.

    Fresh statistics (0 and 1), scales of zero at the end of a branch and the like hide what folding gets wrong.
    """
    rng = np.random.default_rng(0)

    def leaf(a: Any) -> Any:
        dtype = jnp.result_type(a)
        if not jnp.issubdtype(dtype, jnp.inexact):
            return a
        inputs = np.prod(np.shape(a)[:-1], initial=1)
        return jnp.asarray(np.where(a == 0, inputs**-0.5, a) * rng.uniform(0.75, 1.25, np.shape(a)), dtype)

    return jax.tree.map(leaf, tree)


def see(seen: Seen, path: Path, y: Any) -> None:
    """Keeps what a layer gives, where that is an array: under transforms it is none."""
    if isinstance(y, jax.Array) and not isinstance(y, Tracer):
        seen.setdefault(path, []).append(y)


def _wide(leaf: Any) -> np.ndarray:
    return np.asarray(leaf).astype(np.complex128)


def _difference(got: list[Seen], expected: list[Seen], moved: set[Path], tolerance: float) -> str:
    """Where outputs first differ, of the layers that have not moved and of the model, and by how much; or nothing."""
    pairs = [
        (f"what {name(path) if path else 'the model'} gives", a, b)
        for ours, theirs in zip(got, expected, strict=True)
        for path in theirs
        if path not in moved
        for a, b in zip(ours[path], theirs[path], strict=True)
    ]
    for what, a, b in pairs:
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"{what} is {a.dtype}{a.shape} in place of {b.dtype}{b.shape}"
        a, b = _wide(a), _wide(b)
        finite = np.isfinite(b)
        apart = np.linalg.norm(a[finite] - b[finite]) / max(np.linalg.norm(b[finite]), np.finfo(np.float32).tiny)
        if not (apart <= tolerance and np.array_equal(np.isfinite(a), finite)):
            return (
                f"{what} on random inputs differs by {apart:.2g} of its size: the norm or a layer beside it is not "
                "what its class says, or what they hold is read elsewhere, too"
            )
    return ""
