"""Batch norm of Equinox, which is not imported."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbn.interop._arrays import array
from jbn.interop._layer import Layer, debias_counter, make_layer, vectors


def from_equinox(module: Any, state: Any) -> Layer:
    """The layer of an Equinox BatchNorm.

    Args:
      module: `eqx.nn.BatchNorm`, of either mode.
      state: the `eqx.nn.State` of the model.

    Returns:
      Layer; debiased for the mode "batch". In mode "ema", which has no statistics before its first step, it then has
      mean 0 and var 1.

    Example: `layer = interop.from_equinox(model.norm, state)`.
    """
    batch = module.mode == "batch"
    if batch:
        count = state.get(module.batch_counter)
        mean, var = (hidden / _total(module, count) for hidden in state.get(module.batch_state_index))
    else:
        count, (mean, var) = None, state.get(module.ema_state_index)
        if state.get(module.ema_first_time_index):
            mean, var = jnp.zeros_like(mean), jnp.ones_like(var)
    options: dict[str, Any] = {"momentum": module.momentum, "epsilon": module.eps, "debias": batch}
    layer = make_layer("Equinox' batch norm", (module.weight, module.bias, mean, var), **options)
    return layer if count is None else layer._replace(count=array(count))


def to_equinox(layer: Layer, module: Any, state: Any) -> tuple[Any, Any]:
    """Copies of an Equinox BatchNorm and a state, with the values of the layer.

    Args:
      layer: a layer with one feature axis.
      module: `eqx.nn.BatchNorm(n, ..., eps=layer.epsilon, momentum=layer.momentum)`, of either mode. With
        ``channelwise_affine``, a missing scale is 1 and a missing bias 0.
      state: the `eqx.nn.State` of the model; it stays usable.

    Returns:
      Module and state.

    Raises:
      ValueError: the module has another epsilon, another number of features, or no scale and bias, and the layer has;
        the layer has no running statistics or several feature axes; or its features have seen different numbers of
        batches.

    Example: `norm, state = interop.to_equinox(layer, model.norm, state)`.
    """
    scale, bias, mean, var = vectors(layer, "Equinox")
    if module.eps != layer.epsilon:
        raise ValueError(
            f"the Equinox layer has eps={module.eps}, the layer {layer.epsilon}; use eqx.nn.BatchNorm(..., "
            f"eps={layer.epsilon})"
        )
    if mean.size != module.input_size:
        raise ValueError(
            f"the layer has {mean.size} features, the Equinox layer {module.input_size}; use "
            f"eqx.nn.BatchNorm({mean.size}, ...)"
        )
    if module.weight is None and (scale is not None or bias is not None):
        raise ValueError(
            "the layer has scale or bias, the Equinox layer neither; use eqx.nn.BatchNorm(..., channelwise_affine=True)"
        )
    new = {
        "weight": np.ones_like(mean) if scale is None else scale,
        "bias": np.zeros_like(mean) if bias is None else bias,
    }

    def put(path: Any, leaf: Any) -> Any:
        name = getattr(path[0], "name", None) if len(path) == 1 else None
        return jnp.asarray(new[name], leaf.dtype) if name in new else leaf

    module = jax.tree_util.tree_map_with_path(put, module)
    leaves, structure = jax.tree.flatten(state)
    state = jax.tree.unflatten(structure, leaves)  # a copy, because set() invalidates the state that it is called on
    index = module.ema_state_index if module.mode == "ema" else module.batch_state_index
    values = [jnp.asarray(v, old.dtype) for v, old in zip((mean, var), state.get(index), strict=True)]
    if module.mode == "ema":
        return module, state.set(module.ema_first_time_index, jnp.array(False)).set(index, tuple(values))
    count = jnp.asarray(debias_counter(layer, "Equinox")[0])
    hidden = tuple(v * _total(module, count) for v in values)
    return module, state.set(module.batch_counter, count).set(index, hidden)


def _total(module: Any, count: Any) -> jax.Array:
    """What Equinox divides by at inference, rounded as it rounds; 1 before the first step."""
    return jnp.where(count == 0, 1, 1 - module.momentum**count)
