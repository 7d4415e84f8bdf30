"""`Layer`: a layer of batch norm in a form that every library converts from and to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jbn._running_stats import Momentum, Variance, average_weight
from jbn.interop._arrays import array

# As many batches as leave nothing to debias; an int32 counter can still count on from here.
MANY_BATCHES = 2**30


class Layer(NamedTuple):
    """A layer of batch norm, whatever the library: copies of its variables, and the options that it trains with.

    Attributes:
      scale: gamma, `[features]`, a NumPy array like all others; None if the layer has none.
      bias: beta, `[features]`, or None.
      mean: running mean, `[features]`; None if the layer keeps no running statistics.
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
    count: np.ndarray | None = None  # pyright: ignore[reportIncompatibleMethodOverride]  # of tuple
    momentum: Momentum = 0.99
    epsilon: float = 1e-5
    variance: Variance = "biased"
    debias: bool = False

    def options(self) -> dict[str, Any]:
        """The options that the layer trains with.

        Returns:
          Keyword arguments of `jbn.batch_norm` and of jbn's Flax modules.
        """
        return {name: getattr(self, name) for name in OPTIONS}


OPTIONS = ("momentum", "epsilon", "variance", "debias")


def make_layer(what: str, values: Sequence[Any], **options: Any) -> Layer:
    """A layer with copies of scale, bias, mean and var, each of which may be None."""
    unknown = options.keys() - set(OPTIONS)
    if unknown:
        raise ValueError(f"{what}: no option {', '.join(sorted(unknown))}; use {', '.join(OPTIONS)}")
    scale, bias, mean, var = copies = [None if v is None else array(v) for v in values]
    shapes = {name: v.shape for name, v in zip(Layer._fields, copies, strict=False) if v is not None}
    if len(set(shapes.values())) > 1 or (mean is None) != (var is None):
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"{what} has {found}; pass the variables of one batch norm, all of its feature shape")
    return Layer(scale, bias, mean, var, **options)


def vectors(layer: Layer, library: str, *, statistics: bool = True) -> tuple[Any, ...]:
    """Scale, bias, mean and var for a library whose batch norm has one feature axis."""
    if statistics and layer.mean is None:
        raise ValueError(
            f"the layer has no running statistics, but {library}'s has some; use layer._replace(mean=..., var=...)"
        )
    for name, value in zip(Layer._fields[:4], layer[:4], strict=True):
        if value is not None and np.ndim(value) != 1:
            raise ValueError(
                f"{name} has the feature shape {list(np.shape(value))}, but {library} has one feature axis; "
                "pass a layer with one"
            )
    return tuple(None if v is None else np.array(v) for v in layer[:4])


def batch_count(layer: Layer, library: str) -> int:
    """The number of batches seen, which must be the same for all features."""
    count = np.minimum(np.round(known_count(layer, library)), MANY_BATCHES)
    if np.ptp(count) > 0:
        raise ValueError(
            f"some features have seen {count.min():.0f} batches, others {count.max():.0f} (masks), but {library} has "
            "one number for all; use layer._replace(count=...)"
        )
    return int(count.flat[0])


def known_count(layer: Layer, what: str) -> np.ndarray:
    """The number of batches seen, of each feature or of all."""
    if layer.count is None:
        raise ValueError(
            f"{what} needs the number of batches seen, which the layer does not know; use layer._replace(count=...)"
        )
    return np.asarray(layer.count, np.float64)


def debiased_weight(count: Any, momentum: Any) -> np.ndarray:
    """The total weight of the batches in a debiased average."""
    if callable(momentum):
        raise ValueError(
            "the momentum is a schedule, which does not determine the weight of a debiased average; use "
            "layer._replace(debias=False) to go on from the statistics as they are, or set momentum to a number"
        )
    return average_weight(count, momentum)


def debias_counter(layer: Layer, library: str) -> tuple[int, float]:
    """Counter and total weight for a library that always debiases; many batches if the layer does not debias."""
    if not layer.debias:
        return MANY_BATCHES, 1.0
    count = batch_count(layer, library)
    return count, float(debiased_weight(count, layer.momentum))
