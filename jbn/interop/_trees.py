"""Matches the entries of two trees of variables, one of them linen's, by name and shape."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbn._running_stats import BatchStats
from jbn._typed import flatten_with_path

Rename = Mapping[str, str] | Callable[[str], str] | None

# State that torch's batch norm does not have.
_OURS = tuple(f"/{name}" for name in BatchStats._fields if name not in ("mean", "var", "weight"))


def leaves_by_path(tree: Any) -> tuple[dict[str, Any], jax.tree_util.PyTreeDef]:
    """Leaves by path, and the structure. Boxes around arrays, such as `nn.Partitioned`, are not part of a path."""
    leaves, structure = flatten_with_path(tree)
    return {
        "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)): leaf for path, leaf in leaves
    }, structure


def as_leaf(value: np.ndarray | None, leaf: Any) -> Any:
    """The value in the dtype of a leaf, as an array of NumPy or JAX like it; the leaf itself if there is no value."""
    if value is None:
        return leaf
    value = value.astype(leaf.dtype)
    return value if isinstance(leaf, np.ndarray) else jnp.asarray(value)


def match(
    entries: Mapping[str, Any],
    leaves: Mapping[str, Any],
    rename: Rename,
    separator: str,
    problems: list[str],
    paths: Mapping[str, Sequence[str]] | None = None,
) -> list[tuple[str, str]]:
    """Pairs of (key of the other library, path in the linen tree).

    Args:
      entries: the arrays of the other library, by key.
      leaves: the arrays of the linen tree, by path.
      rename: from module names to linen paths.
      separator: of the names in a key.
      problems: is extended by all that has no partner.
      paths: where a name of torch may be in the linen tree, with {} for the module's path; None for nnx.
    """
    pairs: dict[str, str] = {}
    for key, entry in entries.items():
        module, _, name = key.rpartition(separator)
        module_path = _renamed(module, rename, separator)
        same = [f"{collection}/{{}}/{name}" for collection in ("params", "batch_stats")]
        candidates = [p.format(module_path).replace("//", "/") for p in (paths or {}).get(name, same)]
        path = next((p for p in candidates if p in leaves), None)
        if path in pairs:
            problems.append(f"{key} and {pairs[path]} both belong to {path}")
        elif path is not None:
            pairs[path] = key
        elif name != "num_batches_tracked":
            problems.append(
                f"{key} {list(np.shape(entry))} belongs to {' or '.join(candidates)}, {_instead(module_path, leaves)}"
            )
    for path, leaf in leaves.items():
        ours = paths is not None and path.startswith("batch_stats/") and path.endswith(_OURS)
        if path.startswith(("params/", "batch_stats/")) and path not in pairs and not ours:
            problems.append(f"{path} {list(leaf.shape)} has no partner")
    return [(key, path) for path, key in pairs.items()]


def check_shape(
    source: str, given: Any, target: str, shape: Any, expected: Any, problems: list[str], hint: str = ""
) -> None:
    """Adds a problem if the source, `given` in its library and `shape` in the other, is not of the expected shape."""
    if tuple(shape) != tuple(expected):
        there = "" if tuple(given) == tuple(shape) else f", which is {list(shape)} there"
        problems.append(f"{source} is {list(given)}{there}, but {target} is {list(expected)}{hint}")


def raise_problems(problems: list[str], most: int = 10) -> None:
    """Raises an error with the first problems, if there are any."""
    if problems:
        rest = [f"and {len(problems) - most} more"] if len(problems) > most else []
        raise ValueError(
            f"the two models differ in {len(problems)} entr{'y' if len(problems) == 1 else 'ies'}:\n  "
            + "\n  ".join([*problems[:most], *rest])
            + "\npass rename={their module: linen path} if only the names differ, and remove from both what the other "
            "does not have"
        )


def _renamed(module: str, rename: Rename, separator: str) -> str:
    """The linen path of a module."""
    if callable(rename):
        return rename(module)
    parts = module.split(separator)
    for n in range(len(parts), 0, -1):
        start = separator.join(parts[:n])
        if rename and start in rename:
            return "/".join(filter(None, [rename[start], *parts[n:]]))
    return "/".join(parts)


def _instead(module_path: str, leaves: Iterable[str]) -> str:
    """What the linen tree has at that path, or near it."""
    names = [path.partition("/")[2].rpartition("/") for path in leaves]
    there = [name for module, _, name in names if module == module_path]
    if there:
        return f"but {module_path} has {', '.join(there)}"
    near = difflib.get_close_matches(module_path, {module for module, _, _ in names}, n=1)
    return f"but there is no {module_path}" + (f" (the nearest is {near[0]})" if near else "")
