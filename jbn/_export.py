"""Registers jbn's NamedTuples with `jax.export`, so that functions that take or return them can be serialized.

JAX takes each name once, so this is a module of its own: `importlib.reload(jbn)` does not run it again.
"""

from jax import export

from jbn._batch_norm import Info
from jbn._moments import Moments
from jbn._running_stats import BatchStats

for record in (BatchStats, Info, Moments):
    export.register_namedtuple_serialization(record, serialized_name=f"jbn.{record.__name__}")
