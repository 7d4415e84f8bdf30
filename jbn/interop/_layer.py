"""One layer of batch norm whatever the library, and its forms in jbn and in Flax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jbn._running_stats import BatchStats, Momentum, Variance, init_stats
from jbn.interop._trees import array

# Steps after which nothing is left to debias; as an int32 it leaves room to count on.
SETTLED = 2**30


class Layer(NamedTuple):
    """A layer of batch norm, whatever the library: variables, copied, and the options that it trains with.

    Attributes:
      scale: gamma, `[features]`, NumPy like all others; None where the layer has none.
      bias: beta, `[features]`, or None.
      mean: running mean, `[features]`; None where the layer keeps no running statistics.
      var: running variance, `[features]`, or None.
      count: `[]` or `[features]`, batches seen; None if unknown.
      momentum: weight kept on the old statistics, Flax's meaning; None for the cumulative average.
      epsilon: added to the variance.
      variance: "biased" or "unbiased" running variance.
      debias: whether the average is debiased.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> state_dict = {"bn.running_mean": np.full(2, 3.0), "bn.running_var": np.ones(2)}
      >>> layer = interop.from_torch(state_dict, "bn")._replace(momentum=0.99)
      >>> layer.mean, layer.options()
      (array([3., 3.]), {'momentum': 0.99, 'epsilon': 1e-05, 'variance': 'unbiased', 'debias': False})
    """

    scale: np.ndarray | None
    bias: np.ndarray | None
    mean: np.ndarray | None
    var: np.ndarray | None
    count: np.ndarray | None = None
    momentum: Momentum = 0.99
    epsilon: float = 1e-5
    variance: Variance = "biased"
    debias: bool = False

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `jbn.batch_norm` and of `jbn`'s Flax modules."""
        return {name: getattr(self, name) for name in ("momentum", "epsilon", "variance", "debias")}


def from_jbn(scale: Any, bias: Any, stats: BatchStats | None, **options: Any) -> Layer:
    """The layer of `jbn.batch_norm`'s arguments.

    Args:
      scale: `[features]`, or None.
      bias: `[features]`, or None.
      stats: running statistics, or None. Batches skipped, or pending in an accumulation, stay behind.
      options: momentum, epsilon, variance, debias, as given to `batch_norm`.

    Returns:
      Layer.

    Raises:
      ValueError: shapes that differ, no such option, or statistics of other options.

    Example:
      >>> import jbn
      >>> from jbn import interop
      >>> interop.from_jbn(None, None, jbn.init_stats(2), momentum=0.9).momentum
      0.9
    """
    layer = layer_of("jbn", (scale, bias, *(stats[:2] if stats else (None, None))), **options)
    if stats is None:
        return layer
    if callable(layer.momentum):
        return layer if stats.step is None else layer._replace(count=array(stats.step))
    if stats.weight is None:
        return layer
    weight = array(stats.weight).astype(np.float64)
    if layer.momentum is None:
        return layer._replace(count=weight)
    if not layer.debias:
        raise ValueError(
            "the running statistics have a weight, which belongs to momentum=None or debias=True; write the options "
            "of the layer, such as debias=True"
        )
    with np.errstate(divide="ignore", invalid="ignore"):  # the n of weight = 1 - m^n
        count = np.log1p(-weight) / np.log(np.float64(layer.momentum))
    return layer._replace(count=np.where(weight >= 1, np.inf, np.where(weight <= 0, 0, count)))


def to_jbn(layer: Layer) -> tuple[jax.Array | None, jax.Array | None, BatchStats | None]:
    """Scale, bias and running statistics for `jbn.batch_norm(x, scale, bias, stats, ..., **layer.options())`.

    Args:
      layer: a layer.

    Returns:
      Scale, bias and stats; None for what the layer has not.

    Raises:
      ValueError: options that need the number of batches seen, which is unknown.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> layer = interop.Layer(None, None, np.zeros(2), np.ones(2), count=np.array(5), momentum=None)
      >>> interop.to_jbn(layer)[2].weight
      Array([5., 5.], dtype=float32)
    """
    scale, bias, mean, var = (None if v is None else jnp.array(v) for v in layer[:4])
    if mean is None or var is None:
        return scale, bias, None
    stats = BatchStats(mean, var)
    if layer.momentum is None or layer.debias:
        weight = _count(layer, "momentum=None" if layer.momentum is None else "debias=True")
        weight = weight_of(weight, layer.momentum) if layer.debias else weight
        stats = stats._replace(weight=jnp.broadcast_to(jnp.asarray(weight, jnp.float32), mean.shape))
    if callable(layer.momentum):
        stats = stats._replace(step=jnp.asarray(batches(layer, "a schedule"), jnp.int32))
    return scale, bias, stats


def from_linen(variables: Mapping[str, Any], path: str = "", **options: Any) -> Layer:
    """The layer of Flax linen variables, Flax's own or jbn's.

    Args:
      variables: `{"params": {...}, "batch_stats": {...}}`.
      path: of the layer within the collections, such as "block_0/bn".
      options: momentum, epsilon, variance, debias, as given to the module.

    Returns:
      Layer.

    Raises:
      ValueError: no batch norm at that path.

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
      `{"params": {...}, "batch_stats": {...}}`, without params if there would be none. A layer without running
      statistics gets those of the start, which the module needs, though it should not update or use them.

    Raises:
      ValueError: as `to_jbn`; or a layer without any variable.

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
            raise ValueError("the layer has no variables; write one that has, or make the module without")
        features = next(iter(params.values())).shape
        stats = init_stats(features, momentum=layer.momentum, debias=layer.debias)
    state = {name: value for name, value in stats._asdict().items() if value is not None}
    return ({"params": params} if params else {}) | {"batch_stats": state}


def from_nnx(source: Any, **options: Any) -> Layer:
    """The layer of a Flax nnx module, Flax's own or jbn's.

    Args:
      source: module, or its `nnx.State` or pure dictionary.
      options: momentum, epsilon, variance, debias, which a module says itself.

    Returns:
      Layer.

    Raises:
      ValueError: no batch norm.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> interop.from_nnx({"mean": np.zeros(2), "var": np.ones(2)}, epsilon=1e-3).epsilon
      0.001
    """
    if not isinstance(source, Mapping):
        known = {k: getattr(source, k) for k in ("momentum", "epsilon", "variance", "debias") if hasattr(source, k)}
        options = known | options
        source = {k: v for k in ("scale", "bias", *BatchStats._fields) if (v := getattr(source, k, None)) is not None}
    return _from_flax(source, "nnx variables", options)


def to_nnx(layer: Layer) -> dict[str, jax.Array]:
    """Variables of `jbn.nnx.BatchNorm(n, **layer.options(), rngs=...)`, or of Flax's module, for `nnx.update`.

    Args:
      layer: a layer.

    Returns:
      Pure dictionary.

    Raises:
      ValueError: as `to_jbn`.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> list(interop.to_nnx(interop.Layer(np.ones(2), None, np.zeros(2), np.ones(2))))
      ['scale', 'mean', 'var']
    """
    return {name: value for entries in to_linen(layer).values() for name, value in entries.items()}


def layer_of(what: str, values: Sequence[Any], **options: Any) -> Layer:
    """A layer of copies of scale, bias, mean and var; None for what is missing."""
    unknown = options.keys() - set(Layer._fields[5:])
    if unknown:
        raise ValueError(f"{what}: no option {', '.join(sorted(unknown))}; write {', '.join(Layer._fields[5:])}")
    scale, bias, mean, var = copies = [None if v is None else array(v) for v in values]
    shapes = {name: v.shape for name, v in zip(Layer._fields, copies, strict=False) if v is not None}
    if len(set(shapes.values())) > 1 or (mean is None) != (var is None):
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"{what} has {found}; write the variables of one batch norm, all of its feature shape")
    return Layer(scale, bias, mean, var, **options)


def vectors(layer: Layer, library: str, *, statistics: bool = True) -> tuple[Any, ...]:
    """Scale, bias, mean and var as the other libraries have them: over one feature axis."""
    if statistics and layer.mean is None:
        raise ValueError(
            f"the layer has no running statistics, and {library}'s keeps some; write layer._replace(mean=..., var=...)"
        )
    for name, value in zip(Layer._fields[:4], layer[:4], strict=True):
        if value is not None and np.ndim(value) != 1:
            raise ValueError(
                f"{name} has the feature shape {list(np.shape(value))}, and {library} knows one feature axis; write "
                "a layer of one axis"
            )
    return tuple(None if v is None else np.array(v) for v in layer[:4])


def _count(layer: Layer, what: str) -> np.ndarray:
    if layer.count is None:
        raise ValueError(
            f"{what} needs the number of batches seen, which the layer does not know; write layer._replace(count=...)"
        )
    return np.asarray(layer.count, np.float64)


def batches(layer: Layer, library: str) -> int:
    """The number of batches seen, one for all features."""
    count = np.minimum(np.round(_count(layer, library)), SETTLED)
    if np.ptp(count) > 0:
        raise ValueError(
            f"some features have seen {count.min():.0f} batches, others {count.max():.0f} (masks), and {library} has "
            "one number for all; write layer._replace(count=...)"
        )
    return int(count.flat[0])


def weight_of(count: Any, momentum: Any) -> np.ndarray:
    """1 - momentum^count, the weight of all batches in a debiased average."""
    if callable(momentum):
        raise ValueError(
            "the momentum is a schedule, from which the weight of a debiased average cannot be told; write "
            "layer._replace(debias=False) for statistics that keep what they have, or the momentum as a number"
        )
    count = np.asarray(count, np.float64)
    return np.where(np.isinf(count), 1.0, 1 - np.float64(momentum) ** np.where(np.isinf(count), 1, count))


def debiased(layer: Layer, library: str) -> tuple[int, float]:
    """Counter and weight for a library that debiases always: an average that is not is that of endless many steps."""
    if not layer.debias:
        return SETTLED, 1.0
    count = batches(layer, library)
    return count, float(weight_of(count, layer.momentum))


def _from_flax(found: Mapping[str, Any], what: str, options: dict[str, Any]) -> Layer:
    if "mean" not in found:
        raise ValueError(
            f"{what}: there is no batch norm, but {', '.join(map(str, found)) or 'nothing'}; write where one is"
        )
    state: dict[str, Any] = {name: found.get(name) for name in BatchStats._fields}
    return from_jbn(found.get("scale"), found.get("bias"), BatchStats(**state), **options)


def _at(tree: Any, path: str) -> Mapping[str, Any]:
    for name in filter(None, path.split("/")):
        tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
    return tree
