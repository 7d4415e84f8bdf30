"""Folds every norm that can be folded, and verifies it: both models run on random inputs with perturbed parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from jbn._paths import Path, path_name
from jbn._typed import eval_shape
from jbn.fold._adjacency import NotFoldable, Place, Preceding, adjacency
from jbn.fold._arithmetic import Border, Plan
from jbn.fold._between import eps

Rest = Literal["refuse", "keep"]
Outputs = dict[Path, list[jax.Array]]  # of each layer and norm, in the order of their calls; of the model, at ()
Source = TypeVar("Source")
Result = TypeVar("Result")


class Adapter(Protocol[Source, Result]):
    """What folding asks of a linen or an nnx model.

    A `Source` holds all arrays: the variables of a linen model, or an nnx model. A `Result` is what the user gets.
    """

    def trace(self, source: Source) -> ClosedJaxpr:
        """Returns the program of the model at inference, with tags."""
        ...

    def fold(self, source: Source, plan: Plan, border: Border) -> Result:
        """Returns a new model, without the norms of the plan."""
        ...

    def run(self, folded: Result, x: Any) -> tuple[Any, Outputs]:
        """Returns the output of a folded model, and those of its layers and norms."""
        ...

    def perturbed(self, source: Source) -> Source:
        """Returns a source with other numbers for parameters and statistics."""
        ...


def fold(adapter: Adapter[Source, Result], source: Source, x: Any, border: Border, rest: Rest) -> Result:
    """The model with every norm folded that has a place, and without which the outputs stay the same."""
    if rest not in ("refuse", "keep"):
        raise ValueError(f"rest is {rest!r}; use 'refuse' or 'keep'")
    if border not in ("exact", "refuse"):
        raise ValueError(f"border is {border!r}; use 'exact' or 'refuse'")
    program = adapter.trace(source)
    found = adjacency(program)
    if not found:
        raise ValueError(
            "the model calls no batch norm (jbn.linen, jbn.nnx or Flax's own), so there is nothing to fold; pass a "
            "model that has one"
        )
    plan = _foldable(found, rest)
    tolerance = eps(program.jaxpr) ** 0.5  # half of the digits
    while True:
        folded = adapter.fold(source, plan, border)
        if not (wrong := _wrong(adapter, source, x, plan, border, tolerance)):
            return folded
        plan = _foldable({**plan, **wrong}, rest)


def _foldable(found: Mapping[Path, Place | NotFoldable], rest: Rest) -> Plan:
    reasons = {path: place for path, place in found.items() if isinstance(place, NotFoldable)}
    if reasons and rest == "refuse":
        lines = "; ".join(f"{path_name(path)}: {reason}" for path, reason in reasons.items())
        raise ValueError(f"cannot fold {lines}; use rest='keep' to leave such batch norms in the model")
    return {path: place for path, place in found.items() if not isinstance(place, NotFoldable)}


def _wrong(
    adapter: Adapter[Source, Any], source: Source, x: Any, plan: Plan, border: Border, tolerance: float
) -> dict[Path, NotFoldable]:
    """The norms of the plan without which some output differs, with the difference.

    Outputs of inner layers are compared, too: a deep network may hide at its end what is wrong at its beginning.
    """
    if not plan:
        return {}
    source = adapter.perturbed(source)
    places = adjacency(adapter.trace(source))  # functions between norm and layer may hold perturbed numbers, too
    inputs = _inputs(adapter, source, x)

    def run(part: Plan) -> list[Outputs]:
        perturbed = {path: place for path in part if not isinstance(place := places[path], NotFoldable)}
        folded = adapter.fold(source, perturbed, border)
        results = [adapter.run(folded, x) for x in inputs]
        return [{**outputs, (): jax.tree.leaves(result)} for result, outputs in results]

    def search(part: Plan) -> dict[Path, NotFoldable]:
        changed = {place.layer if isinstance(place, Preceding) else path for path, place in part.items()}
        try:
            why = _difference(run(part), expected, changed, tolerance)
        except Exception as e:  # anything, from the user's code that reads a folded norm's variables, for example
            why = f"the model cannot be run: {type(e).__name__}: {e}"
        if not why:
            return {}
        if len(part) == 1:
            return dict.fromkeys(part, NotFoldable(f"without it, {why}"))
        paths = list(part)
        halves = paths[: len(paths) // 2], paths[len(paths) // 2 :]
        found = [search({path: part[path] for path in half}) for half in halves]
        return found[0] | found[1] or dict.fromkeys(part, NotFoldable(f"without it and others, {why}"))

    with jax.default_matmul_precision("highest"):  # the default of accelerators is less precise than the dtypes
        expected = run({})
        if not any(np.isfinite(_wide(leaf)).any() for leaf in expected[0][()]):
            raise ValueError(
                "the model's outputs are nowhere finite on random inputs, so folding cannot be verified; pass as x an "
                "array of data that the model is made for"
            )
        return search(plan)


def _inputs(adapter: Adapter[Source, Any], source: Source, x: Any) -> list[Any]:
    """Random inputs like `x`, and others of a different batch size if the model accepts one."""
    rng = np.random.default_rng(0)
    batch = next((leaf.shape[0] for leaf in jax.tree.leaves(x) if np.ndim(leaf)), 0)

    def like(a: Any, size: int) -> jax.Array:
        a = jnp.ones(a.shape, a.dtype) if isinstance(a, jax.ShapeDtypeStruct) else jnp.asarray(a)
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a = np.asarray(a)  # a sharded array could not be indexed
        if a.ndim and a.shape[0] == batch:
            a = a[np.arange(size) % batch]
        if not a.ndim or not jnp.issubdtype(a.dtype, jnp.inexact):
            return jnp.asarray(a)
        values = np.ravel(a)
        return jnp.asarray(rng.choice(values, a.shape) if np.ptp(values) > 0 else rng.normal(size=a.shape), a.dtype)

    def run(x: Any) -> Any:
        return adapter.run(adapter.fold(source, {}, "exact"), x)[0]

    same, other = (jax.tree.map(partial(like, size=n), x) for n in (batch, 2 if batch != 2 else 3))
    try:
        eval_shape(run, other)
    except Exception:  # a model of one batch size
        return [same]
    return [same, other]


def perturbed(tree: Any) -> Any:
    """A tree with every number multiplied by one in [0.75, 1.25], and zeros replaced by small numbers.

    Initial statistics (0 and 1) or scales of zero at the end of a residual branch would hide errors of folding.
    """
    rng = np.random.default_rng(0)

    def leaf(a: Any) -> Any:
        dtype = jnp.result_type(a)
        if not jnp.issubdtype(dtype, jnp.inexact):
            return a
        fan_in = np.prod(np.shape(a)[:-1], initial=1)
        return jnp.asarray(np.where(a == 0, fan_in**-0.5, a) * rng.uniform(0.75, 1.25, np.shape(a)), dtype)

    return jax.tree.map(leaf, tree)


def record(outputs: Outputs, path: Path, y: Any) -> None:
    """Adds the output of a layer, if it is a concrete array: under transforms it is a tracer."""
    if isinstance(y, jax.Array) and not isinstance(y, Tracer):
        outputs.setdefault(path, []).append(y)


def _wide(leaf: Any) -> np.ndarray:
    return np.asarray(leaf).astype(np.complex128)


def _difference(got: list[Outputs], expected: list[Outputs], changed: set[Path], tolerance: float) -> str:
    """Which output of the model, or of a layer not in `changed`, differs first, and by how much; empty if none does."""
    pairs = [
        (f"what {path_name(path) if path else 'the model'} gives", a, b)
        for ours, theirs in zip(got, expected, strict=True)
        for path in theirs
        if path not in changed
        for a, b in zip(ours[path], theirs[path], strict=True)
    ]
    for what, a, b in pairs:
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"{what} is {a.dtype}{a.shape} instead of {b.dtype}{b.shape}"
        a, b = _wide(a), _wide(b)
        finite = np.isfinite(b)
        relative = np.linalg.norm(a[finite] - b[finite]) / max(np.linalg.norm(b[finite]), np.finfo(np.float32).tiny)
        if not (relative <= tolerance and np.array_equal(np.isfinite(a), finite)):
            return (
                f"{what} on random inputs differs by {relative:.2g} of its size: the norm or a layer next to it does "
                "not do what its class says, or their variables are used elsewhere, too"
            )
    return ""
