"""The options by which other libraries differ from each other."""

from __future__ import annotations

import difflib
from typing import Any

_PRESETS = {
    "flax": {"momentum": 0.99, "epsilon": 1e-5, "variance": "biased"},
    "keras": {"momentum": 0.99, "epsilon": 1e-3, "variance": "biased"},
    "torch": {"momentum": 0.9, "epsilon": 1e-5, "variance": "unbiased"},
}


def preset(library: str) -> dict[str, Any]:
    """The options that give another library's batch norm, by its own defaults.

    ::

        flax   momentum 0.99   epsilon 1e-5   biased running variance
        keras  momentum 0.99   epsilon 1e-3   biased
        torch  momentum 0.9    epsilon 1e-5   unbiased

    Args:
      library: "flax", "keras" or "torch".

    Returns:
      Keyword arguments of `batch_norm` and of the Flax modules.

    Raises:
      ValueError: another name.

    Example:
      >>> import jbn
      >>> jbn.preset("torch")
      {'momentum': 0.9, 'epsilon': 1e-05, 'variance': 'unbiased'}
    """
    if library not in _PRESETS:
        near = difflib.get_close_matches(str(library), _PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no preset {library!r}; choose one of {', '.join(_PRESETS)}{hint}")
    return dict(_PRESETS[library])
