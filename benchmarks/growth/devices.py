"""One batch split over several devices.

`python -m benchmarks.growth.devices REPEATS SIZE...` prints the curve as JSON. The benchmark starts it as a process of
its own, since a process with eight devices on the same cores would time everything else more slowly.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.growth.curves import Curve, measured
from benchmarks.growth.work import both_passes, normal
from benchmarks.processes import json_of, simulated_devices


def measure_in_process(sizes: Sequence[int], repeats: int) -> list[Curve]:
    """`measure`, by a process with simulated devices."""
    return json_of("benchmarks.growth.devices", repeats, *sizes, environment=simulated_devices(max(sizes)))


def measure(sizes: Sequence[int], repeats: int, shape: tuple[int, ...] = (64, 32, 32, 64)) -> list[Curve]:
    """One batch on `n` devices, normalized as one, for each size `n`: time, and collectives in the compiled program."""
    calls, collectives = {}, []
    for n in sizes:
        mesh = Mesh(np.array(jax.devices()[:n]), ("batch",))
        specs = (P("batch"), P("batch"), P(), P())
        out = (P("batch"), P(), (P("batch"), P(), P()))
        step = jax.jit(jax.shard_map(partial(both_passes, axis_name="batch"), mesh=mesh, in_specs=specs, out_specs=out))
        arrays = (normal(shape), normal(shape, 1), jnp.ones(shape[-1]), jnp.zeros(shape[-1]))
        placed = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(arrays, specs, strict=True)]
        compiled = step.lower(*placed).compile()
        collectives.append(len(re.findall(r" all-(?:reduce|gather)(?:-start)?\(", compiled.as_text() or "")))
        calls["jbn", n] = partial(compiled, *placed)
    (curve,) = measured("devices", calls, repeats)
    for point, count in zip(curve["points"], collectives, strict=True):
        point["collectives"] = count
    return [curve]


if __name__ == "__main__":
    print(json.dumps(measure([int(size) for size in sys.argv[2:]], int(sys.argv[1]))))
