"""Batch norm of Flax linen and nnx, Flax's own or jbn's: one layer, and whole trees between the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import jax

from jbn._running_stats import BatchStats, init_stats
from jbn.interop._arrays import array
from jbn.interop._jbn import from_jbn, to_jbn
from jbn.interop._layer import OPTIONS, Layer
from jbn.interop._trees import Rename, as_leaf, check_shape, leaves_by_path, match, raise_problems


def from_linen(variables: Mapping[str, Any], path: str = "", **options: Any) -> Layer:
    """The layer of Flax linen variables, Flax's own or jbn's.

    Args:
      variables: `{"params": {...}, "batch_stats": {...}}`.
      path: path of the layer in the collections, such as "block_0/bn".
      **options: momentum, epsilon, variance, debias, as given to the module.

    Returns:
      Layer.

    Raises:
      ValueError: there is no batch norm at that path.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> variables = {"batch_stats": {"bn": {"mean": np.zeros(2), "var": np.ones(2)}}}
      >>> interop.from_linen(variables, "bn").var
      array([1., 1.])
    """
    params, stats = (_at(variables.get(c, {}), path) for c in ("params", "batch_stats"))
    return _from_flax({**params, **stats}, f"linen variables at {path!r}", options)


def to_linen(layer: Layer) -> dict[str, dict[str, jax.Array]]:
    """Variables of `jbn.linen.BatchNorm(**layer.options())`, or of Flax's module.

    Args:
      layer: a layer.

    Returns:
      `{"params": {...}, "batch_stats": {...}}`, without `params` if it would be empty. A layer without running
      statistics gets initial ones: the module needs them, but should neither use nor update them.

    Raises:
      ValueError: as `to_jbn`, or the layer has no variables.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> interop.to_linen(interop.Layer(np.ones(2), None, None, None))["params"]
      {'scale': Array([1., 1.], dtype=float32)}
    """
    scale, bias, stats = to_jbn(layer)
    params = {name: value for name, value in (("scale", scale), ("bias", bias)) if value is not None}
    if stats is None:
        if not params:
            raise ValueError("the layer has no variables; pass one that has some, or use the module as it is")
        features = next(iter(params.values())).shape
        stats = init_stats(features, momentum=layer.momentum, debias=layer.debias)
    state = {name: value for name, value in stats._asdict().items() if value is not None}
    return ({"params": params} if params else {}) | {"batch_stats": state}


def from_nnx(source: Any, **options: Any) -> Layer:
    """The layer of a Flax nnx module, Flax's own or jbn's.

    Args:
      source: the module, or its `nnx.State` or pure dictionary.
      **options: momentum, epsilon, variance, debias; by default those of the module.

    Returns:
      Layer.

    Raises:
      ValueError: the source is no batch norm.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> interop.from_nnx({"mean": np.zeros(2), "var": np.ones(2)}, epsilon=1e-3).epsilon
      0.001
    """
    if isinstance(source, Mapping):
        return _from_flax(cast(Mapping[str, Any], source), "nnx variables", options)
    options = {name: getattr(source, name) for name in OPTIONS if hasattr(source, name)} | options
    names = ("scale", "bias", *BatchStats._fields)
    variables = {name: value for name in names if (value := getattr(source, name, None)) is not None}
    return _from_flax(variables, "nnx variables", options)


def to_nnx(layer: Layer) -> dict[str, jax.Array]:
    """Variables of `jbn.nnx.BatchNorm(n, **layer.options(), rngs=...)`, or of Flax's module, for `nnx.update`.

    Args:
      layer: a layer.

    Returns:
      A pure dictionary.

    Raises:
      ValueError: as `to_jbn`.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> list(interop.to_nnx(interop.Layer(np.ones(2), None, np.zeros(2), np.ones(2))))
      ['scale', 'mean', 'var']
    """
    return {name: value for entries in to_linen(layer).values() for name, value in entries.items()}


def linen_from_nnx(source: Any, like: Any, *, rename: Rename = None) -> Any:
    """Linen variables with the values of an nnx model.

    Args:
      source: nnx model, `nnx.State` or pure dictionary. Of the first two, `nnx.Param` and `nnx.BatchStat` are read.
      like: linen variables, as in `linen_from_torch`.
      rename: from nnx paths to linen paths ("layers/0" to "layers_0"), as in `linen_from_torch`; by default they are
        the same.

    Returns:
      A tree as `like`, with new leaves in its dtypes.

    Raises:
      ValueError: as `linen_from_torch`.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> like = {"params": {"bn": {"scale": np.zeros(2)}}, "batch_stats": {"bn": {"mean": np.zeros(2)}}}
      >>> source = {"layers": {0: {"scale": np.ones(2), "mean": np.ones(2)}}}
      >>> interop.linen_from_nnx(source, like, rename={"layers/0": "bn"})["batch_stats"]["bn"]["mean"]
      array([1., 1.])
    """
    entries, _ = leaves_by_path(_nnx(source))
    leaves, structure = leaves_by_path(like)
    problems: list[str] = []
    values: dict[str, Any] = {}
    for key, path in match(entries, leaves, rename, "/", problems):
        check_shape(key, entries[key].shape, path, entries[key].shape, leaves[path].shape, problems)
        values[path] = array(entries[key])
    raise_problems(problems)
    return jax.tree.unflatten(structure, [as_leaf(values.get(path), leaf) for path, leaf in leaves.items()])


def nnx_from_linen(variables: Any, like: Any, *, rename: Rename = None) -> Any:
    """nnx state with the values of linen variables: the inverse of `linen_from_nnx`.

    Args:
      variables: linen variables.
      like: nnx model, `nnx.State` or pure dictionary.
      rename: from nnx paths to linen paths, as in `linen_from_nnx`.

    Returns:
      `nnx.State` of the `nnx.Param` and `nnx.BatchStat` of `like`, for `nnx.update(model, ...)`; a pure dictionary if
      `like` is one. New leaves, in its dtypes.

    Raises:
      ValueError: as `linen_from_torch`.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> variables = {"params": {"bn": {"scale": np.ones(2)}}, "batch_stats": {"bn": {"mean": np.ones(2)}}}
      >>> interop.nnx_from_linen(variables, {"bn": {"scale": np.zeros(2), "mean": np.zeros(2)}})["bn"]["mean"]
      array([1., 1.])
    """
    entries, structure = leaves_by_path(_nnx(like))
    leaves, _ = leaves_by_path(variables)
    problems: list[str] = []
    values: dict[str, Any] = {}
    for key, path in match(entries, leaves, rename, "/", problems):
        check_shape(path, leaves[path].shape, key, leaves[path].shape, entries[key].shape, problems)
        values[key] = array(leaves[path])
    raise_problems(problems)
    return jax.tree.unflatten(structure, [as_leaf(values[key], leaf) for key, leaf in entries.items()])


def _from_flax(found: Mapping[str, Any], what: str, options: dict[str, Any]) -> Layer:
    if "mean" not in found:
        raise ValueError(
            f"{what}: there is no batch norm, but {', '.join(map(str, found)) or 'nothing'}; pass the path of one"
        )
    state: dict[str, Any] = {name: found.get(name) for name in BatchStats._fields}
    return from_jbn(found.get("scale"), found.get("bias"), BatchStats(**state), **options)


def _at(tree: Any, path: str) -> dict[str, Any]:
    """The subtree at a path; empty if there is none."""
    for name in filter(None, path.split("/")):
        tree = cast(Mapping[str, Any], tree).get(name, {}) if isinstance(tree, Mapping) else {}
    return dict(cast(Mapping[str, Any], tree))


def _nnx(source: Any) -> Any:
    """The parameters and statistics of an nnx model or state; a pure dictionary as it is."""
    from jbn import _needs_flax as _needs_flax  # first

    # isort: split
    from flax import nnx

    from jbn._typed_flax import nnx_filter_state, nnx_state

    variables = nnx.Any(nnx.Param, nnx.BatchStat)
    if isinstance(source, nnx.State):
        return nnx_filter_state(source, variables)
    return cast(Any, source) if isinstance(source, Mapping) else nnx_state(source, variables)
