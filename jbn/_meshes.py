"""Arrays whose types say how they are spread over devices: explicit axes of a mesh, the default of `jax.make_mesh`.

On such axes JAX has rules for some operations alone: for few that cut or join a spread axis, or pick from it, and for
none that chooses between two arrays that are spread differently. So a function that users call hands its arrays to the
compiler, as under automatic axes, and says of its results alone how they are spread:

    what is shaped as x            as x
    new running statistics         as the old ones, so that a scan can carry them
    what has the feature shape     as the feature axes of x
    all else                       not at all

On other meshes, and on none, nothing is done.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, NamedSharding, get_abstract_mesh, reshard, use_abstract_mesh
from jax.sharding import PartitionSpec as P

from jbn import _axes

F = TypeVar("F", bound=Callable[..., Any])
_GIVEN: ContextVar[tuple[tuple[int, ...], P]] = ContextVar("jbn_given", default=((), P()))  # the input's shape and spec


def spread_axes(x: jax.Array) -> tuple[int, ...]:
    """The axes along which an input of this shape was said to be spread: to cut there would move it."""
    shape, spec = _GIVEN.get()
    return tuple(a for a, names in enumerate(spec) if names is not None) if x.shape == shape else ()


def by_compiler(function: F) -> F:
    """`function` of an input (or of running statistics), on explicit axes, too.

    The caller's own functions among its arguments, such as an activation, meet the types that the caller knows: they
    may hold other arrays of that mesh.
    """

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, options), is_leaf=callable)
        arrays = {i: v for i, v in enumerate(leaves) if isinstance(v, jax.Array)}
        meshes = (jax.typeof(a).sharding.mesh for a in arrays.values())
        mesh = next((m for m in meshes if m.explicit_axes), None)
        if mesh is None:
            return function(*args, **options)
        automatic = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
        outside = get_abstract_mesh()

        x = args[0] if args else options.get("x")
        given = (x.shape, _spec(x)) if isinstance(x, jax.Array) else ((), P())
        records = {type(v): jax.tree.map(_spec, v) for v in (*args, *options.values()) if hasattr(v, "_fields")}

        def enter(value: Any) -> Any:
            if isinstance(value, jax.Array):
                return reshard(value, P())
            return typed(value) if callable(value) and not isinstance(value, type) else value

        def leave(value: Any, spec: P | None = None) -> Any:
            if not isinstance(value, jax.Array):
                return value
            spec = _by_shape(value.shape, *given, options.get("axis", -1)) if spec is None else spec
            return reshard(value, NamedSharding(mesh, spec))

        def typed(f: Callable[..., Any]) -> Callable[..., Any]:
            def g(*args: Any) -> Any:
                with use_abstract_mesh(outside):
                    result = f(*jax.tree.map(leave, args))
                return jax.tree.map(enter, result)

            return g

        def run(arrays: dict[int, jax.Array]) -> Any:
            with use_abstract_mesh(automatic):
                args, options = jax.tree.unflatten(tree, [enter(arrays.get(i, v)) for i, v in enumerate(leaves)])
                results = function(*args, **options)

            def restored(value: Any) -> Any:
                specs = records.get(type(value))
                return leave(value) if specs is None else jax.tree.map(leave, value, specs)

            return jax.tree.map(restored, results, is_leaf=lambda v: type(v) in records)

        token = _GIVEN.set(given)
        try:
            # Where no mesh is set, JAX knows of a constant's place in a program alone.
            return (jax.jit(run) if outside.empty else run)(arrays)
        finally:
            _GIVEN.reset(token)

    return call  # type: ignore[return-value]


def _spec(value: Any) -> P:
    return jax.typeof(value).sharding.spec


def _by_shape(shape: tuple[int, ...], given: tuple[int, ...], spec: P, axis: _axes.Axis) -> P:
    """How a result of `shape` is spread, made from an input of the shape `given` that is spread by `spec`."""
    if shape == given or not given:
        return spec
    axes = _axes.feature_axes(axis, len(given))
    more = len(shape) - len(axes)
    alike = more >= 0 and shape[more:] == _axes.feature_shape(axis, given)
    return P(*[None] * more, *(spec[a] for a in axes)) if alike else P()
