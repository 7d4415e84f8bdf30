"""Imported before Flax: where Flax is not installed, the error says what to install."""

from importlib.util import find_spec

if find_spec("flax") is None:
    raise ModuleNotFoundError(
        "this part of jbn needs Flax, which is not installed: pip install 'jbn[flax]'", name="flax"
    )
