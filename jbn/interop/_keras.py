"""Batch norm of Keras 3, which is not imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from jbn._presets import preset
from jbn.interop._layer import Layer, make_layer, vectors

_NAMES = ("gamma", "beta", "moving_mean", "moving_variance")


def from_keras(source: Any) -> Layer:
    """The layer of a Keras 3 BatchNormalization.

    Args:
      source: a layer that has been built; or its weights, as a mapping of names, or as all four of `get_weights()`, and
        then the options are Keras' defaults.

    Returns:
      Layer.

    Raises:
      ValueError: the layer has not been built, or is one of batch renormalization; or there are not four weights.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> interop.from_keras({"moving_mean": np.zeros(2), "moving_variance": np.ones(2)}).epsilon
      0.001
    """
    options = preset("keras")
    if isinstance(source, Mapping):
        found = cast(Mapping[str, Any], source)
    elif isinstance(source, Sequence):
        weights = cast(Sequence[Any], source)
        if len(weights) != 4:
            raise ValueError(
                f"{len(weights)} weights do not say which of {', '.join(_NAMES)} they are; pass a mapping of these "
                "names, or the layer itself"
            )
        found = dict(zip(_NAMES, weights, strict=True))
    else:
        if getattr(source, "renorm", False):
            raise ValueError("the layer has renorm=True, which is another function; pass one with renorm=False")
        if source.moving_mean is None:
            raise ValueError("the layer has no weights yet; call layer.build(input_shape) first")
        options |= {"momentum": source.momentum, "epsilon": source.epsilon}
        found = {name: getattr(source, name) for name in _NAMES}
    # NumPy would convert a Keras variable by a deprecated protocol, but not the array in it.
    values = [getattr(value, "value", value) for value in map(found.get, _NAMES)]
    return make_layer("Keras' batch norm", values, **options)


def to_keras(layer: Layer) -> dict[str, np.ndarray]:
    """Weights of a Keras 3 BatchNormalization, for `keras_layer.set_weights(list(....values()))`.

    Args:
      layer: a layer with one feature axis.

    Returns:
      gamma, beta, moving_mean, moving_variance in this order; without gamma or beta if the layer has none, for
      `scale=False` or `center=False`.

    Raises:
      ValueError: the layer has no running statistics, or several feature axes.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> list(interop.to_keras(interop.Layer(np.ones(2), None, np.zeros(2), np.ones(2))))
      ['gamma', 'moving_mean', 'moving_variance']
    """
    values = vectors(layer, "Keras")
    return {name: value for name, value in zip(_NAMES, values, strict=True) if value is not None}
