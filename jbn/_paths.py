"""Paths of layers in a model, in linen as in nnx."""

from collections.abc import Hashable

Path = tuple[Hashable, ...]


def path_name(path: Path) -> str:
    """A path as error messages show it."""
    return "/".join(map(str, path)) or "the model itself"
