"""jbn: batch normalization for JAX, done right.

Pure functions, in the order in which `batch_norm` calls them: `moments` (and `merge`), `normalize`, and the running
statistics (`init_stats`, `update_stats`). `batch_norm` composes them. Beside it are its variants.

Modules of Flax are in `jbn.linen` and `jbn.nnx`, those of Equinox in `jbn.equinox`. Whole models: `jbn.placement`
(before or after the activation), `jbn.population` (statistics of a data set), `jbn.fold` (inference without batch
norm), `jbn.interop` (other libraries), `jbn.optim` (masks for optax) and `diagnose` (why evaluation is worse than
training).
"""

import importlib
import typing

from jbn import _export as _export
from jbn import _traces as _traces
from jbn._batch_norm import Info as Info
from jbn._batch_norm import batch_norm as batch_norm
from jbn._moments import Moments as Moments
from jbn._moments import merge as merge
from jbn._moments import moments as moments
from jbn._normalize import normalize as normalize
from jbn._presets import preset as preset
from jbn._running_stats import BatchStats as BatchStats
from jbn._running_stats import init_stats as init_stats
from jbn._running_stats import update_stats as update_stats
from jbn._variants.adapt import adaptive_batch_norm as adaptive_batch_norm
from jbn._variants.domains import domain_batch_norm as domain_batch_norm
from jbn._variants.domains import init_domain_stats as init_domain_stats
from jbn._variants.frozen import frozen_batch_norm as frozen_batch_norm
from jbn._variants.renorm import batch_renorm as batch_renorm
from jbn._variants.renorm import renorm_ramp as renorm_ramp

__version__ = "0.2.0"
__all__ = [
    "BatchStats", "Info", "Moments", "adaptive_batch_norm", "batch_norm", "batch_renorm", "diagnose",
    "domain_batch_norm", "frozen_batch_norm", "init_domain_stats", "init_stats", "merge", "moments", "normalize",
    "preset", "renorm_ramp", "update_stats",
]  # fmt: skip

if typing.TYPE_CHECKING:
    from jbn.diagnosis._diagnose import diagnose as diagnose


def __getattr__(name: str) -> typing.Any:
    """Imports what is about whole models only where it is used."""
    if name != "diagnose":
        raise AttributeError(f"module 'jbn' has no attribute {name!r}")
    globals()[name] = importlib.import_module("jbn.diagnosis._diagnose").diagnose
    return globals()[name]
