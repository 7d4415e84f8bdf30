"""Whole trees of variables from one library into another's: which entry goes where, and how its axes lie there.

Every function takes the values, and a tree `like` the result, which says where they go, in what shape and dtype:

    torch                                            Flax
    Linear         weight [out, in]                  kernel [in, out]
    Conv           weight [out, in/groups, *k]       kernel [*k, in/groups, out]
    ConvTranspose  weight [in, out, *k]              kernel [*k, in, out], where *k run back to front
    Embedding      weight                            embedding
    norms          weight                            scale
                   running_mean, running_var         mean, var in `batch_stats`
                   num_batches_tracked               weight in `batch_stats`, if it is there
    others         any                               the same name
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbn._running_stats import BatchStats

Rename = Mapping[str, str] | Callable[[str], str] | None

_TORCH = {
    "weight": ["params/{}/kernel", "params/{}/scale", "params/{}/embedding"],
    "running_mean": ["batch_stats/{}/mean"],
    "running_var": ["batch_stats/{}/var"],
    "num_batches_tracked": ["batch_stats/{}/weight"],
}
# What torch's batch norm has no counterpart of: it stays as it is.
_OURS = tuple(f"/{name}" for name in BatchStats._fields if name not in ("mean", "var", "weight"))


def linen_from_torch(source: Any, like: Any, *, rename: Rename = None, transposed: Collection[str] = ()) -> Any:
    """Linen variables with the values of a torch model.

    ::

        layer1.0.bn1.weight   ->   params/layer1/0/bn1/scale
                              ->   params/block_0/bn1/scale        with rename={"layer1.0": "block_0"}

    Args:
      source: torch model, or its state dict: names to tensors or arrays. The model also says which convolutions are
        transposed, and how its batch norms average.
      like: variables of the Flax model, of `model.init(...)` or `jax.eval_shape(model.init, ...)`.
      rename: torch module name to linen path. A mapping, where the longest entry that the name begins with counts, or
        a function of the name. By default, and where a mapping has none, "." becomes "/".
      transposed: names of the torch modules that are transposed convolutions, if `source` is a state dict. Their Flax
        kernels are those of `transpose_kernel=False`.

    Returns:
      A tree as `like`: new leaves, in its dtypes. Collections other than `params` and `batch_stats`, and state that
      torch does not have (`step`, `skipped`, `pending_...`), are those of `like`.

    Raises:
      ValueError: an entry without a place, a place without an entry, or another shape. All of them are named.

    Example:
      >>> import numpy as np
      >>> from jbn import interop
      >>> like = {"params": {"Dense_0": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}}}
      >>> source = {"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(2)}
      >>> interop.linen_from_torch(source, like, rename={"fc": "Dense_0"})["params"]["Dense_0"]["kernel"].shape
      (3, 2)

    A Linear after a flattened image reads channels first in torch, last in Flax: transpose before flattening.
    """
    modules, entries = _torch(source)
    leaves, structure = _leaves(like)
    backwards = _transposed(modules, transposed)
    problems: list[str] = []
    values = {}
    for key, place in _pairs(entries, leaves, rename, ".", problems):
        module, _, name = key.rpartition(".")
        value, shape = array(entries[key]), tuple(leaves[place].shape)
        hint = ""
        if name == "num_batches_tracked":
            if module not in modules:
                problems.append(
                    f"{key}: {place} is this number if momentum is None, and 1 if not, which a state dict does not "
                    "say; give the torch model"
                )
            elif modules[module].momentum is not None:
                value = np.ones_like(value)
            value = np.broadcast_to(value, shape)
        if place.endswith("/kernel"):
            if module not in backwards and value.ndim > 2 and _kernel(value, True).shape == shape:
                hint = f"; if it is a transposed convolution, write transposed=[{module!r}]"
            value = _kernel(value, module in backwards)
        _fit(key, entries[key].shape, place, value.shape, shape, problems, hint)
        values[place] = value
    _refuse(problems)
    return jax.tree.unflatten(structure, [_put(values.get(place), leaf) for place, leaf in leaves.items()])


def torch_from_linen(
    variables: Any, like: Any, *, rename: Rename = None, transposed: Collection[str] = ()
) -> dict[str, Any]:
    """A torch state dict with the values of linen variables: `linen_from_torch` backwards.

    Args:
      variables: linen variables.
      like: torch model, or its state dict.
      rename: torch module name to linen path, as in `linen_from_torch`.
      transposed: as in `linen_from_torch`.

    Returns:
      State dict with the keys, dtypes and devices of `like`: new tensors where it has tensors, else NumPy arrays.
      `num_batches_tracked` is that of `like`, unless linen has the number, as with a momentum of None.

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
    modules, entries = _torch(like)
    leaves, _ = _leaves(variables)
    backwards = _transposed(modules, transposed)
    problems: list[str] = []
    values = {key: array(entry) for key, entry in entries.items() if key.endswith("num_batches_tracked")}
    for key, place in _pairs(entries, leaves, rename, ".", problems):
        module, _, name = key.rpartition(".")
        value, shape = array(leaves[place]), tuple(entries[key].shape)
        if name == "num_batches_tracked":
            if np.max(value) > 1 and np.ptp(value) > 0:
                problems.append(f"{place} differs between features, but {key} is one number for all")
            # A debiased average has a weight below 1, which is not a number of batches.
            value = value.flat[0] if np.ptp(value) == 0 and value.flat[0] % 1 == 0 else values[key]
        if place.endswith("/kernel"):
            value = _weight(value, module in backwards)
        _fit(place, leaves[place].shape, key, np.shape(value), shape, problems)
        values[key] = value
    _refuse(problems)
    return {key: _tensor(values[key], entry) for key, entry in entries.items()}


def linen_from_nnx(source: Any, like: Any, *, rename: Rename = None) -> Any:
    """Linen variables with the values of an nnx model.

    Args:
      source: nnx model, `nnx.State` or pure dictionary. Of the first two, `nnx.Param` and `nnx.BatchStat` count.
      like: linen variables, as in `linen_from_torch`.
      rename: nnx path to linen path ("layers/0" to "layers_0"), as in `linen_from_torch`; the same by default.

    Returns:
      A tree as `like`: new leaves, in its dtypes.

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
    entries, _ = _leaves(_nnx(source))
    leaves, structure = _leaves(like)
    problems: list[str] = []
    values = {}
    for key, place in _pairs(entries, leaves, rename, "/", problems):
        _fit(key, entries[key].shape, place, entries[key].shape, leaves[place].shape, problems)
        values[place] = array(entries[key])
    _refuse(problems)
    return jax.tree.unflatten(structure, [_put(values.get(place), leaf) for place, leaf in leaves.items()])


def nnx_from_linen(variables: Any, like: Any, *, rename: Rename = None) -> Any:
    """nnx state with the values of linen variables: `linen_from_nnx` backwards.

    Args:
      variables: linen variables.
      like: nnx model, `nnx.State` or pure dictionary.
      rename: nnx path to linen path, as in `linen_from_nnx`.

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
    entries, structure = _leaves(_nnx(like))
    leaves, _ = _leaves(variables)
    problems: list[str] = []
    values = {}
    for key, place in _pairs(entries, leaves, rename, "/", problems):
        _fit(place, leaves[place].shape, key, leaves[place].shape, entries[key].shape, problems)
        values[key] = array(leaves[place])
    _refuse(problems)
    return jax.tree.unflatten(structure, [_put(values[key], leaf) for key, leaf in entries.items()])


def array(value: Any) -> np.ndarray:
    """A copy in NumPy of any library's array, in its dtype."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # which NumPy does not have
            return value.float().numpy().astype(jnp.bfloat16)
    return np.array(value.numpy() if hasattr(value, "numpy") else value)


def for_torch(value: Any) -> np.ndarray:
    """A copy in NumPy that torch can read: contiguous, and float32 in place of bfloat16."""
    value = array(value)
    return np.array(value, np.float32 if value.dtype == jnp.bfloat16 else None, order="C")


def _torch(source: Any) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Modules (none if only the state dict is given) and state dict."""
    if hasattr(source, "state_dict"):
        return dict(source.named_modules(remove_duplicate=False)), source.state_dict()
    return {}, source


def _nnx(source: Any) -> Any:
    from jbn import _needs_flax as _needs_flax  # first

    # isort: split
    from flax import nnx

    if isinstance(source, Mapping) and not isinstance(source, nnx.State):
        return source
    state = source if isinstance(source, nnx.State) else nnx.state(source)
    return nnx.filter_state(state, nnx.Any(nnx.Param, nnx.BatchStat))


def _leaves(tree: Any) -> tuple[dict[str, Any], Any]:
    """Leaves by path, and the structure. Boxes around the arrays, such as `nn.Partitioned`, are no part of a path."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    keys = jax.tree_util.DictKey
    return {"/".join(str(k.key) for k in path if isinstance(k, keys)): leaf for path, leaf in leaves}, structure


def _put(value: np.ndarray | None, leaf: Any) -> Any:
    if value is None:
        return leaf
    value = value.astype(leaf.dtype)
    return value if isinstance(leaf, np.ndarray) else jnp.asarray(value)


def _tensor(value: Any, entry: Any) -> Any:
    if hasattr(entry, "new_tensor"):
        return entry.new_tensor(for_torch(value))
    return array(value).astype(entry.dtype)


def _transposed(modules: Mapping[str, Any], given: Collection[str]) -> set[str]:
    return {*given, *(name for name, module in modules.items() if getattr(module, "transposed", False))}


def _kernel(weight: np.ndarray, transposed: bool) -> np.ndarray:
    """torch's weight laid out as Flax's kernel. A transposed convolution of torch reads the kernel back to front."""
    spatial = tuple(range(2, weight.ndim))
    if transposed:
        return np.transpose(np.flip(weight, spatial), (*spatial, 0, 1))
    return np.transpose(weight, (*spatial, 1, 0))


def _weight(kernel: np.ndarray, transposed: bool) -> np.ndarray:
    """`_kernel` backwards."""
    spatial, inputs, outputs = tuple(range(kernel.ndim - 2)), kernel.ndim - 2, kernel.ndim - 1
    if transposed:
        return np.transpose(np.flip(kernel, spatial), (inputs, outputs, *spatial))
    return np.transpose(kernel, (outputs, inputs, *spatial))


def _pairs(
    entries: Mapping[str, Any], leaves: Mapping[str, Any], rename: Rename, dot: str, problems: list[str]
) -> list[tuple[str, str]]:
    """(entry of the other library, place in the linen tree); what finds no partner is added to `problems`."""
    pairs: dict[str, str] = {}
    for key, entry in entries.items():
        module, _, name = key.rpartition(dot)
        path = _renamed(module, rename, dot)
        same = [f"{collection}/{{}}/{name}" for collection in ("params", "batch_stats")]
        places = [p.format(path).replace("//", "/") for p in (_TORCH if dot == "." else {}).get(name, same)]
        place = next((p for p in places if p in leaves), None)
        if place in pairs:
            problems.append(f"{key} and {pairs[place]} both belong to {place}")
        elif place is not None:
            pairs[place] = key
        elif name != "num_batches_tracked":
            problems.append(f"{key} {list(np.shape(entry))} belongs to {' or '.join(places)}, {_instead(path, leaves)}")
    for place, leaf in leaves.items():
        ours = dot == "." and place.startswith("batch_stats/") and place.endswith(_OURS)
        if place.startswith(("params/", "batch_stats/")) and place not in pairs and not ours:
            problems.append(f"{place} {list(leaf.shape)} has no partner")
    return [(key, place) for place, key in pairs.items()]


def _renamed(module: str, rename: Rename, dot: str) -> str:
    if callable(rename):
        return rename(module)
    parts = module.split(dot)
    for n in range(len(parts), 0, -1):
        start = dot.join(parts[:n])
        if rename and start in rename:
            return "/".join(filter(None, [rename[start], *parts[n:]]))
    return "/".join(parts)


def _instead(path: str, leaves: Iterable[str]) -> str:
    """What the linen tree has there."""
    names = [place.partition("/")[2].rpartition("/") for place in leaves]
    there = [name for module, _, name in names if module == path]
    if there:
        return f"but {path} has {', '.join(there)}"
    near = difflib.get_close_matches(path, {module for module, _, _ in names}, n=1)
    return f"but there is no {path}" + (f" (the nearest is {near[0]})" if near else "")


def _fit(source: str, given: Any, target: str, shape: Any, expected: Any, problems: list[str], hint: str = "") -> None:
    if tuple(shape) != tuple(expected):
        laid = "" if tuple(given) == tuple(shape) else f", which is {list(shape)} there"
        problems.append(f"{source} is {list(given)}{laid}, but {target} is {list(expected)}{hint}")


def _refuse(problems: list[str], most: int = 10) -> None:
    if problems:
        rest = [f"and {len(problems) - most} more"] if len(problems) > most else []
        raise ValueError(
            f"the two models differ in {len(problems)} entr{'y' if len(problems) == 1 else 'ies'}:\n  "
            + "\n  ".join([*problems[:most], *rest])
            + "\nwrite rename={their module: linen path} where only the names differ, and give both without what one "
            "of them lacks"
        )
