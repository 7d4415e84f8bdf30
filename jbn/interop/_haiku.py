"""Batch norm of Haiku, which is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jbn.interop._arrays import array
from jbn.interop._layer import Layer, debias_counter, make_layer, vectors


def from_haiku(
    params: Mapping[str, Any],
    state: Mapping[str, Any],
    name: str = "batch_norm",
    *,
    decay_rate: float,
    eps: float = 1e-5,
) -> Layer:
    """The layer of a Haiku BatchNorm.

    Args:
      params: parameters of the whole network.
      state: state of the whole network.
      name: name of the batch norm, such as "resnet/~/batch_norm_1".
      decay_rate: as given to the module; the state does not hold it.
      eps: as given to the module.

    Returns:
      Layer, debiased.

    Raises:
      ValueError: there is no batch norm of that name.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> ema = {"counter": np.array(1), "hidden": np.full((1, 2), 0.3), "average": np.full((1, 2), 3.0)}
      >>> state = {"batch_norm/~/mean_ema": ema, "batch_norm/~/var_ema": ema}
      >>> interop.from_haiku({}, state, decay_rate=0.9).mean
      array([3., 3.])
    """
    if f"{name}/~/mean_ema" not in state:
        norms = [key[: -len("/~/mean_ema")] for key in state if key.endswith("/~/mean_ema")]
        raise ValueError(f"the state has no batch norm {name!r}; use one of the names {', '.join(norms)}")
    own, mean, var = params.get(name, {}), state[f"{name}/~/mean_ema"], state[f"{name}/~/var_ema"]
    values = own.get("scale"), own.get("offset"), mean["average"], var["average"]
    vectors = [None if v is None else array(v).reshape(-1) for v in values]
    options: dict[str, Any] = {"momentum": decay_rate, "epsilon": eps, "debias": True}
    return make_layer(f"Haiku's {name}", vectors, **options)._replace(count=array(mean["counter"]))


def to_haiku(
    layer: Layer, name: str = "batch_norm", *, ndim: int = 2, axis: int = -1
) -> tuple[dict[str, dict[str, jax.Array]], dict[str, dict[str, jax.Array]]]:
    """Params and state of `hk.BatchNorm(..., decay_rate=layer.momentum, eps=layer.epsilon)`.

    Args:
      layer: a layer with one feature axis.
      name: name of the batch norm.
      ndim: number of axes of the input: Haiku's variables have as many, of size 1 except for the features.
      axis: the feature axis.

    Returns:
      `({name: {scale, offset}}, {name/~/mean_ema: {counter, hidden, average}, name/~/var_ema: ...})`.

    Raises:
      ValueError: the layer has no running statistics or several feature axes, or its features have seen different
        numbers of batches.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> params, state = interop.to_haiku(interop.Layer(np.ones(2), None, np.zeros(2), np.ones(2)), ndim=4)
      >>> params["batch_norm"]["scale"].shape, sorted(state)
      ((1, 1, 1, 2), ['batch_norm/~/mean_ema', 'batch_norm/~/var_ema'])
    """
    shape = [1] * ndim
    shape[axis] = -1
    rows = [None if v is None else jnp.asarray(v.reshape(shape)) for v in vectors(layer, "Haiku")]
    params = {key: row for key, row in zip(("scale", "offset"), rows, strict=False) if row is not None}
    count, weight = debias_counter(layer, "Haiku")
    state = {
        f"{name}/~/{moment}_ema": {"counter": jnp.asarray(count, jnp.int32), "hidden": row * weight, "average": row}
        for moment, row in zip(("mean", "var"), rows[2:], strict=True)
        if row is not None
    }
    return {name: params} if params else {}, state
