"""Statistics of a whole data set for every batch norm of a model, instead of the running ones ("precise BN").

Running statistics are a moving average over batches that older weights have seen. After training, or after weights were
averaged, the exact ones of the data set are better::

    n = Σ n_b,    mean = Σ n_b·mean_b / n,    var = Σ n_b·(var_b + |mean_b - mean|²) / n

They are merged batch by batch (`jbn.merge`): batches may have any sizes and masks, and the memory does not grow with
the data. The mode says how the layers below normalize while a layer is measured::

    together        each batch by its own statistics, as in training; all layers in one pass over the data
    layer by layer  by the final statistics of the layers below, as at inference

The second is a fixed point: on the data as one batch, training and inference give the same. It takes one pass for each
layer on the longest path.
"""

import importlib
import typing

from jbn._models._layer import Mode as Mode
from jbn.population._algorithm import Batches as Batches

if typing.TYPE_CHECKING:
    from jbn.population._equinox import estimate_equinox as estimate_equinox
    from jbn.population._linen import estimate_linen as estimate_linen
    from jbn.population._nnx import estimate_nnx as estimate_nnx

__all__ = ["Batches", "Mode", "estimate_equinox", "estimate_linen", "estimate_nnx"]


def __getattr__(name: str) -> typing.Any:
    """Imports the library of a function only where it is used: each of them is optional."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    library = name.removeprefix("estimate_")
    importlib.import_module("jbn._needs_equinox" if library == "equinox" else "jbn._needs_flax")
    return getattr(importlib.import_module(f"{__name__}._{library}"), name)
