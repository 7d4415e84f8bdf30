"""Explicit mesh axes, the default of `jax.make_mesh`: the type of an array says how it is sharded.

On explicit axes JAX has sharding rules for some operations only: for few that split, join or index a sharded axis, and
for none that selects between two arrays of different shardings. So a public function runs on automatic axes inside,
where the compiler decides, and only its results get explicit shardings:

    a result of the shape of x     the sharding of x
    new running statistics         the sharding of the old ones, so that a scan can carry them
    a result of the feature shape  the sharding of the feature axes of x
    everything else                replicated

Without a mesh, or on a mesh without explicit axes, nothing changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import jax
from jax.sharding import AxisType, NamedSharding, get_abstract_mesh, use_abstract_mesh
from jax.sharding import PartitionSpec as P

from jbn import _axes
from jbn._typed import jit, reshard

F = TypeVar("F", bound=Callable[..., Any])
# Shape and spec of the input of the function that is being called.
_input: ContextVar[tuple[tuple[int, ...], P]] = ContextVar("jbn_input", default=((), P()))


def sharded_axes(x: jax.Array) -> tuple[int, ...]:
    """The sharded axes of `x`, if it has the shape of the current call's input: slicing there would move data."""
    shape, spec = _input.get()
    return tuple(a for a, names in enumerate(spec) if names is not None) if x.shape == shape else ()


def by_compiler(function: F) -> F:
    """Decorates a function of an input (or of running statistics) to accept arrays on explicit axes.

    Functions among its arguments, such as an activation, still see explicit axes, as their author expects: they may
    close over other arrays of that mesh.
    """

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        arrays = (v for v in jax.tree.leaves((args, options)) if isinstance(v, jax.Array))
        meshes = (jax.typeof(a).sharding.mesh for a in arrays)
        mesh = next((m for m in meshes if m.explicit_axes), None)
        return function(*args, **options) if mesh is None else _on_explicit(mesh, function, args, options)

    return cast(F, call)


def _on_explicit(mesh: Any, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """`function(*args, **options)` under automatic axes, with the shardings of the results said."""
    leaves, tree = jax.tree.flatten((args, options), is_leaf=callable)
    arrays = {i: v for i, v in enumerate(leaves) if isinstance(v, jax.Array)}
    automatic = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
    outside = get_abstract_mesh()

    x = args[0] if args else options.get("x")
    given = (x.shape, _spec(x)) if isinstance(x, jax.Array) else ((), P())
    records: dict[type[Any], Any] = {
        type(v): jax.tree.map(_spec, v) for v in (*args, *options.values()) if hasattr(v, "_fields")
    }

    def enter(value: Any) -> Any:
        if isinstance(value, jax.Array):
            return reshard(value, P())
        return on_explicit(value) if callable(value) and not isinstance(value, type) else value

    def leave(value: Any, spec: P | None = None) -> Any:
        if not isinstance(value, jax.Array):
            return value
        spec = _by_shape(value.shape, *given, options.get("axis", -1)) if spec is None else spec
        return reshard(value, NamedSharding(mesh, spec))

    def on_explicit(f: Callable[..., Any]) -> Callable[..., Any]:
        def g(*args: Any) -> Any:
            with use_abstract_mesh(outside):
                result = f(*jax.tree.map(leave, args))
            return jax.tree.map(enter, result)

        return g

    def run(arrays: dict[int, jax.Array]) -> Any:
        with use_abstract_mesh(automatic):
            args, options = jax.tree.unflatten(tree, [enter(arrays.get(i, v)) for i, v in enumerate(leaves)])
            results = function(*args, **options)

        def with_sharding(value: Any) -> Any:
            specs = records.get(cast(type[Any], type(value)))
            return leave(value) if specs is None else jax.tree.map(leave, value, specs)

        return jax.tree.map(with_sharding, results, is_leaf=lambda v: type(v) in records)

    token = _input.set(given)
    try:
        # Without a mesh in context, JAX can place constants on this one only under jit.
        return (jit(run) if outside.empty else run)(arrays)
    finally:
        _input.reset(token)


def _spec(value: Any) -> P:
    return jax.typeof(value).sharding.spec


def _by_shape(shape: tuple[int, ...], given: tuple[int, ...], spec: P, axis: _axes.Axis) -> P:
    """The spec of a result of shape `shape`, computed from an input of shape `given` with the spec `spec`."""
    if shape == given or not given:
        return spec
    axes = _axes.canonical(axis, len(given))
    more = len(shape) - len(axes.features)
    has_features = more >= 0 and shape[more:] == axes.feature_shape(given)
    return P(*[None] * more, *(spec[a] for a in axes.features)) if has_features else P()
