"""Imported before Equinox: where Equinox is not installed, the error says what to install."""

from importlib.util import find_spec

if find_spec("equinox") is None:
    raise ModuleNotFoundError(
        "this part of jbn needs Equinox, which is not installed: pip install 'jbn[equinox]'", name="equinox"
    )
