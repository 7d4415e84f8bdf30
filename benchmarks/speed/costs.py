"""Costs other than speed: time to compile, memory of the compiled step and of what is saved for backward, collectives.

`python -m benchmarks.speed.costs REPEATS` prints what needs several devices as JSON. The benchmark starts it as a
process of its own, since a process with four devices on the same cores would time everything else more slowly.
"""

from __future__ import annotations

import json
import re
import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.adapters import PEERS
from benchmarks.peers import Layer
from benchmarks.processes import json_of, simulated_devices
from benchmarks.timing import interleaved

SHAPE = (128, 32, 32, 16)
DEVICES = 4


def measure() -> list[dict[str, Any]]:
    """One row for each installed library: batch norm and ReLU, forward and backward, on one input."""
    layer = Layer(features=SHAPE[-1])
    x = np.random.default_rng(0).standard_normal((int(np.prod(SHAPE[:-1])), SHAPE[-1]), np.float32)
    rows = []
    for peer in PEERS:
        if not peer.installed():
            continue
        row: dict[str, Any] = {"library": peer.name, "kept_over_input": peer.residual_bytes(layer, x) / x.nbytes}
        rows.append(row)
        if peer.name == "torch":
            continue

        def loss(stats, x, scale, bias, peer=peer):
            return jnp.sum(peer.with_relu(layer, stats, x, scale, bias) ** 2)

        arguments = peer.start(layer), jnp.asarray(x), *peer.affine(layer)
        began = time.perf_counter()
        compiled = jax.jit(jax.grad(loss, (1, 2, 3))).lower(*arguments).compile()
        row["compile_seconds"] = round(time.perf_counter() - began, 3)
        memory = compiled.memory_analysis()
        row["temporary_over_input"] = None if memory is None else memory.temp_size_in_bytes / x.nbytes
    return rows


def synchronized_in_process(repeats: int) -> list[dict[str, Any]]:
    """`synchronized`, by a process with simulated devices."""
    return json_of("benchmarks.speed.costs", repeats, environment=simulated_devices(DEVICES))


def synchronized(repeats: int) -> list[dict[str, Any]]:
    """Forward and backward with statistics over all devices (shard_map): milliseconds, and collectives."""
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("batch",))
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.standard_normal(SHAPE, np.float32)) for _ in range(2))
    x, dy = jax.device_put((x, dy), NamedSharding(mesh, P("batch")))
    layer, calls, collectives = Layer(features=SHAPE[-1], axis_name="batch"), {}, {}
    for peer in PEERS:
        if not peer.installed() or peer.name not in ("jbn", "flax linen", "flax linen two-pass", "flax nnx"):
            continue

        def step(stats, x, dy, scale, bias, peer=peer):
            def forward(x, scale, bias):
                return peer.train(layer, stats, x, scale, bias)

            y, vjp, _ = jax.vjp(forward, x, scale, bias, has_aux=True)
            return y, *vjp(dy)

        specs = (P(), P("batch"), P("batch"), P(), P())
        out = (P("batch"), P("batch"), P(), P())
        mapped = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=out))
        arguments = peer.start(layer), x, dy, *peer.affine(layer)
        text = mapped.lower(*arguments).compile().as_text() or ""
        collectives[peer.name] = len(re.findall(r" all-(?:reduce|gather)(?:-start)?\(", text))
        calls[peer.name] = partial(mapped, *arguments)
    return [
        {
            "library": name,
            "devices": f"{DEVICES} devices, simulated on the CPU",
            "collectives": collectives[name],
            "milliseconds": round(1e3 * t.median, 4),
            "quartiles": [round(1e3 * t.low, 4), round(1e3 * t.high, 4)],
        }
        for name, t in interleaved(calls, repeats).items()
    ]


if __name__ == "__main__":
    print(json.dumps(synchronized(int(sys.argv[1]))))
