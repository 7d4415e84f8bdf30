"""Names of jbn's records on disk, by which a step that takes or returns them is exported. JAX takes each name once."""

from jax import export

from jbn._batch_norm import Info
from jbn._moments import Moments
from jbn._running_stats import BatchStats

for record in (BatchStats, Info, Moments):
    export.register_namedtuple_serialization(record, serialized_name=f"jbn.{record.__name__}")
