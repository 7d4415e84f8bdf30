"""Batch norm of torch, which is not imported: one layer, and whole models into linen variables and back.

Which entry of a state dict goes where in a linen tree, and how its axes are ordered there:

    torch                                            Flax
    Linear         weight [out, in]                  kernel [in, out]
    Conv           weight [out, in/groups, *k]       kernel [*k, in/groups, out]
    ConvTranspose  weight [in, out, *k]              kernel [*k, in, out], flipped along *k
    Embedding      weight                            embedding
    norms          weight                            scale
                   running_mean, running_var         mean, var in `batch_stats`
                   num_batches_tracked               weight in `batch_stats`, if it is there
    others         any                               the same name
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from jbn._presets import preset
from jbn.interop._arrays import array, for_torch
from jbn.interop._layer import MANY_BATCHES, Layer, batch_count, make_layer, vectors
from jbn.interop._trees import Rename, as_leaf, check_shape, leaves_by_path, match, raise_problems

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
# Where each name of torch may be in a linen tree; other names are the same in both.
_PATHS = {
    "weight": ["params/{}/kernel", "params/{}/scale", "params/{}/embedding"],
    "running_mean": ["batch_stats/{}/mean"],
    "running_var": ["batch_stats/{}/var"],
    "num_batches_tracked": ["batch_stats/{}/weight"],
}


def from_torch(source: Any, prefix: str = "") -> Layer:
    """The layer of a torch BatchNorm (1d to 3d, Sync).

    Args:
      source: module, or state dict: a mapping of names to tensors or arrays. A state dict does not hold momentum and
        epsilon, which are then torch's defaults; use `layer._replace(momentum=..., epsilon=...)` to change them.
      prefix: name of the batch norm in it, such as "layer1.0.bn1".

    Returns:
      Layer; without mean and var for `track_running_stats=False`, which always normalizes by the batch.

    Raises:
      ValueError: there is no batch norm of that name.

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
            raise ValueError(f"{prefix or 'source'!r} is {type(module).__name__}; pass the name of a BatchNorm")
        m = module.momentum
        options |= {"momentum": None if m is None else 1 - m, "epsilon": module.eps}
        found: Mapping[str, Any] = module.state_dict()
    else:
        found = _with_prefix(source, f"{prefix}." if prefix else "")
        if not any(name in found for name in _BATCH_NORM):
            norms = [key.removesuffix(".running_mean") for key in source if key.endswith(".running_mean")]
            raise ValueError(
                f"the state dict has no batch norm {prefix!r}; use one of the names "
                f"{', '.join(norms[:10])}{', ...' if len(norms) > 10 else ''}"
            )
    count = found.get("num_batches_tracked")
    layer = make_layer(f"torch's {prefix or 'batch norm'}", [found.get(name) for name in _BATCH_NORM], **options)
    return layer if count is None else layer._replace(count=array(count))


def to_torch(layer: Layer) -> dict[str, np.ndarray]:
    """State dict of a torch BatchNorm, for `bn.load_state_dict({k: torch.as_tensor(v) for k, v in ....items()})`.

    Args:
      layer: a layer with one feature axis. If it has a bias but no scale, the scale is 1.

    Returns:
      weight, bias, running_mean, running_var, num_batches_tracked; bfloat16 becomes float32.

    Raises:
      ValueError: momentum is None and the features have seen different numbers of batches, or there are several feature
        axes.

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
        known = 0 if layer.count is None else min(np.max(layer.count), MANY_BATCHES)
        count = batch_count(layer, "torch") if layer.momentum is None else round(known)
        found["num_batches_tracked"] = np.array(count, np.int64)
    return found


def linen_from_torch(source: Any, like: Any, *, rename: Rename = None, transposed: Collection[str] = ()) -> Any:
    """Linen variables with the values of a torch model.

    ::

        layer1.0.bn1.weight   ->   params/layer1/0/bn1/scale
                              ->   params/block_0/bn1/scale        with rename={"layer1.0": "block_0"}

    Args:
      source: torch model, or its state dict: a mapping of names to tensors or arrays. Only the model says which
        convolutions are transposed, and how its batch norms average.
      like: variables of the Flax model, from `model.init(...)` or `jax.eval_shape(model.init, ...)`.
      rename: from torch module names to linen paths: a mapping, whose longest key that is a prefix of the name applies,
        or a function of the name. By default, and where no key applies, "." becomes "/".
      transposed: names of the torch modules that are transposed convolutions, if `source` is a state dict. Their Flax
        layers have `transpose_kernel=False`.

    Returns:
      A tree like `like`, with new leaves in its dtypes. Collections other than `params` and `batch_stats`, and state
      that torch does not have (`step`, `skipped`, `pending_...`), are taken from `like`.

    Raises:
      ValueError: entries and leaves do not match one to one, or their shapes differ. The error names all of them.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> like = {"params": {"Dense_0": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}}}
      >>> source = {"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(2)}
      >>> interop.linen_from_torch(source, like, rename={"fc": "Dense_0"})["params"]["Dense_0"]["kernel"].shape
      (3, 2)

    A Linear after a flattened image has its inputs in the order channels first in torch, and channels last in Flax:
    transpose to channels first before flattening.
    """
    modules, entries = _modules_and_entries(source)
    leaves, structure = leaves_by_path(like)
    flipped = _transposed(modules, transposed)
    problems: list[str] = []
    values: dict[str, np.ndarray] = {}
    for key, path in match(entries, leaves, rename, ".", problems, _PATHS):
        module, _, name = key.rpartition(".")
        value, shape = array(entries[key]), tuple(leaves[path].shape)
        hint = ""
        if name == "num_batches_tracked":
            if module not in modules:
                problems.append(
                    f"{key}: {path} is this number if momentum is None, and 1 if not, which a state dict does not "
                    "say; pass the torch model"
                )
            elif modules[module].momentum is not None:
                value = np.ones_like(value)
            value = np.broadcast_to(value, shape)
        if path.endswith("/kernel"):
            if module not in flipped and value.ndim > 2 and _kernel(value, True).shape == shape:
                hint = f"; if it is a transposed convolution, pass transposed=[{module!r}]"
            value = _kernel(value, module in flipped)
        check_shape(key, entries[key].shape, path, value.shape, shape, problems, hint)
        values[path] = value
    raise_problems(problems)
    return jax.tree.unflatten(structure, [as_leaf(values.get(path), leaf) for path, leaf in leaves.items()])


def torch_from_linen(
    variables: Any, like: Any, *, rename: Rename = None, transposed: Collection[str] = ()
) -> dict[str, Any]:
    """A torch state dict with the values of linen variables: the inverse of `linen_from_torch`.

    Args:
      variables: linen variables.
      like: torch model, or its state dict.
      rename: from torch module names to linen paths, as in `linen_from_torch`.
      transposed: as in `linen_from_torch`.

    Returns:
      A state dict with the keys, dtypes and devices of `like`; new tensors where it has tensors, else NumPy arrays.
      ``num_batches_tracked`` is taken from `like`, unless the linen variables have it, as for a momentum of None.

    Raises:
      ValueError: as `linen_from_torch`.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> variables = {"params": {"fc": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}}}
      >>> like = {"fc.weight": np.zeros((2, 3)), "fc.bias": np.zeros(2)}
      >>> interop.torch_from_linen(variables, like)["fc.weight"].shape
      (2, 3)
    """
    modules, entries = _modules_and_entries(like)
    leaves, _ = leaves_by_path(variables)
    flipped = _transposed(modules, transposed)
    problems: list[str] = []
    values: dict[str, Any] = {k: array(entry) for k, entry in entries.items() if k.endswith("num_batches_tracked")}
    for key, path in match(entries, leaves, rename, ".", problems, _PATHS):
        module, _, name = key.rpartition(".")
        value, shape = array(leaves[path]), tuple(entries[key].shape)
        if name == "num_batches_tracked":
            if np.max(value) > 1 and np.ptp(value) > 0:
                problems.append(f"{path} differs between features, but {key} is one number for all")
            # A debiased average has a weight below 1, which is not a number of batches.
            value = value.flat[0] if np.ptp(value) == 0 and value.flat[0] % 1 == 0 else values[key]
        if path.endswith("/kernel"):
            value = _weight(value, module in flipped)
        check_shape(path, leaves[path].shape, key, np.shape(value), shape, problems)
        values[key] = value
    raise_problems(problems)
    return {key: _tensor(values[key], entry) for key, entry in entries.items()}


def _with_prefix(source: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in source.items() if key.startswith(prefix)}


def _modules_and_entries(source: Any) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The modules by name (none of a state dict), and the state dict."""
    if hasattr(source, "state_dict"):
        return dict(source.named_modules(remove_duplicate=False)), source.state_dict()
    return {}, source


def _tensor(value: Any, entry: Any) -> Any:
    """A tensor, or else an array, like `entry`."""
    if hasattr(entry, "new_tensor"):
        return entry.new_tensor(for_torch(value))
    return array(value).astype(entry.dtype)


def _transposed(modules: Mapping[str, Any], given: Collection[str]) -> set[str]:
    return {*given, *(name for name, module in modules.items() if getattr(module, "transposed", False))}


def _kernel(weight: np.ndarray, transposed: bool) -> np.ndarray:
    """torch's weight as Flax's kernel. The kernels of transposed convolutions are flipped."""
    spatial = tuple(range(2, weight.ndim))
    if transposed:
        return np.transpose(np.flip(weight, spatial), (*spatial, 0, 1))
    return np.transpose(weight, (*spatial, 1, 0))


def _weight(kernel: np.ndarray, transposed: bool) -> np.ndarray:
    """Flax's kernel as torch's weight: the inverse of `_kernel`."""
    spatial, inputs, outputs = tuple(range(kernel.ndim - 2)), kernel.ndim - 2, kernel.ndim - 1
    if transposed:
        return np.transpose(np.flip(kernel, spatial), (inputs, outputs, *spatial))
    return np.transpose(kernel, (outputs, inputs, *spatial))
