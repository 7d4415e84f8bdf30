"""The array functions that the mathematics calls, and the only room that knows a platform.

    upcast            x in the dtype of the arithmetic
    rough_mean        an inaccurate mean, to shift by
    power_sums        Σ d and Σ |d|² of d = x - shift: the first pass over the large array
    affine            (x - shift) · factor + offset: the second pass
    fusion_barrier    x, computed once and not again for each pass that reads it

`reference` defines them in plain jax.numpy; `tuned` is what measures faster. The environment variable JBN_KERNELS
chooses between the two. If the installed jax lacks an internal that the tuned kernels need, jbn warns once and uses the
reference: for all kernels if an import fails, for a single kernel if its lowering fails.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from jbn._kernels import reference
from jbn._kernels.fallback import say_once


def choose() -> ModuleType:
    """The kernels to use.

    Raises:
      ValueError: JBN_KERNELS is neither of the two names.
    """
    name = os.environ.get("JBN_KERNELS", "tuned")
    if name not in ("tuned", "reference"):
        raise ValueError(f"JBN_KERNELS is {name!r}; set it to 'tuned' (the default) or 'reference'")
    if name == "reference":
        return reference
    try:
        return importlib.import_module("jbn._kernels.tuned")
    except (ImportError, AttributeError) as error:
        say_once(error)
        return reference


_chosen = choose()
upcast = _chosen.upcast
rough_mean = _chosen.rough_mean
power_sums = _chosen.power_sums
affine = _chosen.affine
fusion_barrier = _chosen.fusion_barrier
