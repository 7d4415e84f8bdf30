"""A layer of batch norm from and to torch, Keras, Haiku and Equinox, none of which is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbn._presets import preset
from jbn.interop._layer import SETTLED, Layer, batches, debiased, layer_of, vectors
from jbn.interop._trees import array, for_torch

_KERAS = ("gamma", "beta", "moving_mean", "moving_variance")


def from_torch(source: Any, prefix: str = "") -> Layer:
    """The layer of a torch BatchNorm (1d to 3d, Sync).

    Args:
      source: module, or state dict: names to tensors or arrays. A state dict does not say momentum and epsilon; they
        are then torch's defaults, and `layer._replace(momentum=..., epsilon=...)` changes them.
      prefix: name of the batch norm within it, such as "layer1.0.bn1".

    Returns:
      Layer; with `track_running_stats=False` one without mean and var, to be normalized by the batch at all times.

    Raises:
      ValueError: no batch norm of that name.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> state_dict = {"bn.running_mean": np.zeros(2), "bn.running_var": np.ones(2)}
      >>> interop.from_torch(state_dict, "bn").options()
      {'momentum': 0.9, 'epsilon': 1e-05, 'variance': 'unbiased', 'debias': False}
    """
    options = preset("torch")
    if hasattr(source, "state_dict"):
        module = source.get_submodule(prefix)
        if not hasattr(module, "running_mean"):
            raise ValueError(f"{prefix or 'source'!r} is {type(module).__name__}; write the name of a BatchNorm")
        m = module.momentum
        options |= {"momentum": None if m is None else 1 - m, "epsilon": module.eps}
        found = module.state_dict()
    else:
        start = f"{prefix}." if prefix else ""
        found = {key[len(start) :]: value for key, value in source.items() if key.startswith(start)}
    names = ("weight", "bias", "running_mean", "running_var")
    if isinstance(source, Mapping) and not any(name in found for name in names):
        norms = [key[: -len(".running_mean")] for key in source if key.endswith(".running_mean")]
        raise ValueError(
            f"the state dict has no batch norm {prefix!r}; write one of the names "
            f"{', '.join(norms[:10])}{', ...' if len(norms) > 10 else ''}"
        )
    count = found.get("num_batches_tracked")
    layer = layer_of(f"torch's {prefix or 'batch norm'}", [found.get(name) for name in names], **options)
    return layer if count is None else layer._replace(count=array(count))


def to_torch(layer: Layer) -> dict[str, np.ndarray]:
    """State dict of a torch BatchNorm, for `bn.load_state_dict({k: torch.as_tensor(v) for k, v in ....items()})`.

    Args:
      layer: a layer, over one feature axis. Of scale and bias, a missing scale is 1 if there is a bias.

    Returns:
      weight, bias, running_mean, running_var, num_batches_tracked; bfloat16 as float32, since NumPy has none for torch.

    Raises:
      ValueError: a momentum of None with features that have seen different numbers of batches; several feature axes.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> list(interop.to_torch(interop.Layer(None, None, np.zeros(2), np.ones(2))))
      ['running_mean', 'running_var', 'num_batches_tracked']
    """
    scale, bias, mean, var = vectors(layer, "torch", statistics=False)
    scale = np.ones_like(bias) if scale is None and bias is not None else scale
    entries = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var}
    found = {name: for_torch(value) for name, value in entries.items() if value is not None}
    if mean is not None:
        known = 0 if layer.count is None else min(np.max(layer.count), SETTLED)
        count = batches(layer, "torch") if layer.momentum is None else round(known)
        found["num_batches_tracked"] = np.array(count, np.int64)
    return found


def from_keras(source: Any) -> Layer:
    """The layer of a Keras 3 BatchNormalization.

    Args:
      source: layer that has been built; or its weights, as a mapping by name or as all four of `get_weights()`, whose
        options are then Keras' defaults.

    Returns:
      Layer.

    Raises:
      ValueError: a layer that has not been built, one of batch renormalization, or a list of another length.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> interop.from_keras({"moving_mean": np.zeros(2), "moving_variance": np.ones(2)}).epsilon
      0.001
    """
    options = preset("keras")
    if isinstance(source, Mapping):
        found = source
    elif isinstance(source, Sequence):
        if len(source) != 4:
            raise ValueError(
                f"{len(source)} weights do not say which of {', '.join(_KERAS)} they are; write a mapping of these "
                "names, or the layer itself"
            )
        found = dict(zip(_KERAS, source, strict=True))
    else:
        if getattr(source, "renorm", False):
            raise ValueError("the layer has renorm=True, which is another function; write one with renorm=False")
        if source.moving_mean is None:
            raise ValueError("the layer has no weights yet; write layer.build(input_shape) first")
        options |= {"momentum": source.momentum, "epsilon": source.epsilon}
        found = {name: getattr(source, name) for name in _KERAS}
    # A Keras variable converts to NumPy by way of a deprecated protocol; what it holds does not.
    values = [getattr(value, "value", value) for value in map(found.get, _KERAS)]
    return layer_of("Keras' batch norm", values, **options)


def to_keras(layer: Layer) -> dict[str, np.ndarray]:
    """Weights of a Keras 3 BatchNormalization, for `keras_layer.set_weights(list(....values()))`.

    Args:
      layer: a layer, over one feature axis.

    Returns:
      gamma, beta, moving_mean, moving_variance in this order, without what the layer has not (`scale=False`,
      `center=False`).

    Raises:
      ValueError: no running statistics, or several feature axes.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> list(interop.to_keras(interop.Layer(np.ones(2), None, np.zeros(2), np.ones(2))))
      ['gamma', 'moving_mean', 'moving_variance']
    """
    values = vectors(layer, "Keras")
    return {name: value for name, value in zip(_KERAS, values, strict=True) if value is not None}


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
      params: of the whole network.
      state: of the whole network.
      name: of the batch norm, such as "resnet/~/batch_norm_1".
      decay_rate: as given to the module: the state does not say it.
      eps: as given to the module.

    Returns:
      Layer, debiased.

    Raises:
      ValueError: no batch norm of that name.

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
        raise ValueError(f"the state has no batch norm {name!r}; write one of the names {', '.join(norms)}")
    own, (mean, var) = params.get(name, {}), (state[f"{name}/~/{moment}_ema"] for moment in ("mean", "var"))
    values = own.get("scale"), own.get("offset"), mean["average"], var["average"]
    flat = [None if v is None else array(v).reshape(-1) for v in values]
    options: dict[str, Any] = {"momentum": decay_rate, "epsilon": eps, "debias": True}
    return layer_of(f"Haiku's {name}", flat, **options)._replace(count=array(mean["counter"]))


def to_haiku(layer: Layer, name: str = "batch_norm", *, ndim: int = 2, axis: int = -1) -> tuple[dict, dict]:
    """Params and state of `hk.BatchNorm(..., decay_rate=layer.momentum, eps=layer.epsilon)`.

    Args:
      layer: a layer, over one feature axis.
      name: of the batch norm.
      ndim: of the input: Haiku's variables have as many axes, of size 1 but for the features.
      axis: the feature axis.

    Returns:
      `({name: {scale, offset}}, {name/~/mean_ema: {counter, hidden, average}, name/~/var_ema: ...})`.

    Raises:
      ValueError: no running statistics, features that have seen different numbers of batches, or several feature axes.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> params, state = interop.to_haiku(interop.Layer(np.ones(2), None, np.zeros(2), np.ones(2)), ndim=4)
      >>> params["batch_norm"]["scale"].shape, sorted(state)
      ((1, 1, 1, 2), ['batch_norm/~/mean_ema', 'batch_norm/~/var_ema'])
    """
    shape = [1] * ndim
    shape[axis] = -1
    rows: list[Any] = [None if v is None else jnp.asarray(v.reshape(shape)) for v in vectors(layer, "Haiku")]
    params = {key: row for key, row in zip(("scale", "offset"), rows, strict=False) if row is not None}
    count, weight = debiased(layer, "Haiku")
    state = {
        f"{name}/~/{moment}_ema": {"counter": jnp.asarray(count, jnp.int32), "hidden": row * weight, "average": row}
        for moment, row in zip(("mean", "var"), rows[2:], strict=True)
    }
    return {name: params} if params else {}, state


def from_equinox(module: Any, state: Any) -> Layer:
    """The layer of an Equinox BatchNorm.

    Args:
      module: `eqx.nn.BatchNorm`, of either mode.
      state: the `eqx.nn.State` of the model.

    Returns:
      Layer; debiased for the mode "batch". Before its first step Equinox' mode "ema" holds no numbers: mean 0, var 1.

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
    layer = layer_of("Equinox' batch norm", (module.weight, module.bias, mean, var), **options)
    return layer if count is None else layer._replace(count=array(count))


def to_equinox(layer: Layer, module: Any, state: Any) -> tuple[Any, Any]:
    """An Equinox BatchNorm and state like the given ones, with the values of the layer.

    Args:
      layer: a layer, over one feature axis.
      module: `eqx.nn.BatchNorm(n, ..., eps=layer.epsilon, momentum=layer.momentum)`, of either mode. With
        `channelwise_affine`, a missing scale is 1 and a missing bias 0.
      state: the `eqx.nn.State` of the model; stays usable.

    Returns:
      Module and state.

    Raises:
      ValueError: another epsilon, another number of features, scale or bias where the module has none, no running
        statistics, features that have seen different numbers of batches, or several feature axes.

    Example: `norm, state = interop.to_equinox(layer, model.norm, state)`.
    """
    scale, bias, mean, var = vectors(layer, "Equinox")
    if module.eps != layer.epsilon:
        raise ValueError(
            f"the Equinox layer has eps={module.eps}, the layer {layer.epsilon}; write eqx.nn.BatchNorm(..., "
            f"eps={layer.epsilon})"
        )
    if mean.size != module.input_size:
        raise ValueError(
            f"the layer has {mean.size} features, the Equinox layer {module.input_size}; write "
            f"eqx.nn.BatchNorm({mean.size}, ...)"
        )
    if module.weight is None and (scale is not None or bias is not None):
        raise ValueError(
            "the layer has scale or bias, the Equinox layer neither; write eqx.nn.BatchNorm(..., "
            "channelwise_affine=True)"
        )
    new = {
        "weight": np.ones_like(mean) if scale is None else scale,
        "bias": np.zeros_like(mean) if bias is None else bias,
    }

    def put(path: Any, leaf: Any) -> Any:
        name = getattr(path[0], "name", None) if len(path) == 1 else None
        return jnp.asarray(new[name], leaf.dtype) if name in new else leaf

    module = jax.tree_util.tree_map_with_path(put, module)
    state = jax.tree.map(lambda leaf: leaf, state)  # a set() spends its state
    index = module.ema_state_index if module.mode == "ema" else module.batch_state_index
    values = [jnp.asarray(v, old.dtype) for v, old in zip((mean, var), state.get(index), strict=True)]
    if module.mode == "ema":
        return module, state.set(module.ema_first_time_index, jnp.array(False)).set(index, tuple(values))
    count = jnp.asarray(debiased(layer, "Equinox")[0])
    hidden = tuple(v * _total(module, count) for v in values)
    return module, state.set(module.batch_counter, count).set(index, hidden)


def _total(module: Any, count: Any) -> jax.Array:
    """What Equinox divides by at inference: before the first step nothing, after it the same roundings as its own."""
    return jnp.where(count == 0, 1, 1 - module.momentum**count)
