"""How the cost of batch norm grows: `python -m benchmarks.growth [--quick]`.

Time of forward and backward pass against the batch, channels, simulated devices that share one batch, seeds (vmap of an
MLP's gradient) and layers (unrolled and as a scan; also what it takes to compile them). Of each curve
the slope of log time against log size over its upper half: 1 is proportional, above 1.15 superlinear. Beside batch and
channels, a copy of an array of that size: where the copy bends, a cache was full. Table, JSON, and a figure beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from rich.table import Table

import jbn
import jbn.linen
from benchmarks.growth_figure import write
from benchmarks.timing import interleaved, keep_memory, provenance
from experiments.networks import MLP

Curve = dict[str, Any]
OUT = Path(__file__).parent / "results" / "growth.json"
REPEATS, QUICK_REPEATS = 15, 5
STACKS = ("unrolled", "scan", "residual", "norms alone", "norms alone, flax")
COMPILES = 3  # of which the fastest counts
SUPERLINEAR = 1.15

SIZES: dict[str, tuple[int, ...]] = {
    "batch": (1, 2, 4, 8, 16, 32, 64, 128),
    "channels": (2, 4, 8, 16, 32, 64, 128, 256),
    "devices": (1, 2, 4, 8),
    "seeds": (1, 2, 4, 8, 16),
    "layers": (1, 2, 4, 8, 16, 32),
}
QUICK: dict[str, tuple[int, ...]] = {
    **SIZES,
    "batch": (1, 4, 16, 32),
    "channels": (4, 16, 64, 128),
    "layers": (1, 4, 8, 16),
}


def curves(sizes: Mapping[str, Sequence[int]], repeats: int, tell: Callable[[str], None]) -> list[Curve]:
    """All of them, panel by panel."""
    found = []
    for name in ("batch", "channels"):
        tell(name)
        shape = (lambda n: (n, 32, 32, 64)) if name == "batch" else (lambda n: (32, 32, 32, n))
        calls = {("jbn", n): norm_call(shape(n)) for n in sizes[name]}
        calls |= {("copy", n): partial(jax.jit(lambda x: 1.5 * x), _normal(shape(n))) for n in sizes[name]}
        found += measured(name, calls, repeats)
    tell("devices")
    found += devices_elsewhere(sizes["devices"], repeats)
    tell("seeds")
    found += measured("seeds", {("jbn", n): seeds_call(n) for n in sizes["seeds"]}, repeats)
    tell("layers")
    stacks = {(how, n): stack_call(n, how) for how in STACKS for n in sizes["layers"]}
    found += measured("layers", {key: call for key, (call, _) in stacks.items()}, repeats)
    for how in ("unrolled", "scan"):
        points = [{"size": n, "milliseconds": round(1e3 * stacks[how, n][1], 2)} for n in sizes["layers"]]
        found.append(judged({"panel": "compile", "line": how, "points": points}))
    return found


def measured(panel: str, calls: Mapping[tuple[str, int], Callable[[], Any]], repeats: int) -> list[Curve]:
    """The curves of one panel, all points by turns; keys are line and size."""
    times = interleaved({f"{line} {n}": call for (line, n), call in calls.items()}, repeats)
    found: dict[str, Curve] = {}
    for line, n in calls:
        t = times[f"{line} {n}"]
        quartiles = [round(1e3 * t.low, 5), round(1e3 * t.high, 5)]
        point = {"size": n, "milliseconds": round(1e3 * t.median, 5), "quartiles": quartiles}
        found.setdefault(line, {"panel": panel, "line": line, "points": []})["points"].append(point)
    return [judged(curve) for curve in found.values()]


def judged(curve: Curve) -> Curve:
    slope = slope_of([p["size"] for p in curve["points"]], [p["milliseconds"] for p in curve["points"]])
    return curve | {"slope": round(slope, 3), "superlinear": slope > SUPERLINEAR}


def slope_of(sizes: Sequence[int], times: Sequence[float]) -> float:
    """Of log time against log size by least squares, over the upper half: below, the price of a call hides it."""
    half = min(len(sizes) // 2, len(sizes) - 2)
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


def _normal(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def both_passes(x: jax.Array, dy: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None = None) -> Any:
    """y, new running statistics, and the gradients of Σ dy·y."""

    def forward(x, scale, bias):
        stats = jbn.init_stats(x.shape[-1])
        y, stats, _ = jbn.batch_norm(x, scale, bias, stats, train=True, axis_name=axis_name)
        return y, stats

    y, vjp, stats = jax.vjp(forward, x, scale, bias, has_aux=True)
    return y, stats, vjp(dy)


def norm_call(shape: tuple[int, ...]) -> Callable[[], Any]:
    return partial(jax.jit(both_passes), _normal(shape), _normal(shape, 1), jnp.ones(shape[-1]), jnp.zeros(shape[-1]))


def seeds_call(seeds: int) -> Callable[[], Any]:
    """Gradients of the MLP 784-100-100-100-10 on batches of 60, for so many seeds at once."""
    norm = partial(jbn.linen.BatchNorm, use_running_average=False)
    model = MLP(classes=10, activation=jax.nn.sigmoid, norm=norm, placement="before")
    x, y = _normal((seeds, 60, 784)), jnp.zeros((seeds, 60), jnp.int32)
    variables = jax.jit(jax.vmap(lambda key: model.init(key, x[0])))(jax.random.split(jax.random.key(0), seeds))

    def gradient(variables, x, y):
        def loss(params):
            logits, new = model.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean(), new

        return jax.grad(loss, has_aux=True)(variables["params"])

    return partial(jax.jit(jax.vmap(gradient)), variables, x, y)


def stack_call(layers: int, how: str) -> tuple[Callable[[], Any], float]:
    """So many layers, one after another, forward and backward; and the seconds that it took to compile.

    A layer is a product with a small matrix, batch norm and ReLU; in "residual" these two first, and the input added
    last. In "norms alone" it has no product: XLA then computes the norms before it anew for each sum over its input,
    whosever norms they are, which is work for layers².
    """
    x, weight, affine = _normal((4096, 32)), _normal((32, 32)) / 6, (jnp.ones((layers, 32)), jnp.zeros((layers, 32)))
    norm = flax_norm if how.endswith("flax") else jbn_norm

    def layer(x, affine):
        if how == "residual":
            return x + norm(x, *affine) @ weight, None
        return norm(x if how.startswith("norms alone") else x @ weight, *affine), None

    def loss(x, affine):
        if how == "scan":
            return jnp.sum(jax.lax.scan(layer, x, affine)[0] ** 2)
        for i in range(layers):
            x, _ = layer(x, jax.tree.map(lambda a: a[i], affine))  # noqa: B023
        return jnp.sum(x**2)

    calls = {}
    for _ in range(COMPILES):
        # A new function each time: jax remembers what it has compiled.
        step = jax.jit(jax.grad(lambda *arrays: loss(*arrays), (0, 1))).lower(x, affine)
        began = time.perf_counter()
        compiled = step.compile()
        calls[time.perf_counter() - began] = partial(compiled, x, affine)
    return calls[min(calls)], min(calls)


def jbn_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return jbn.batch_norm(x, scale, bias, None, train=True, activation=jax.nn.relu)[0]


def flax_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> Any:
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": bias, "var": scale}}
    layer = nn.BatchNorm(use_running_average=False)
    return nn.relu(layer.apply(variables, x, mutable=["batch_stats"])[0])  # type: ignore[arg-type]


def devices_elsewhere(sizes: Sequence[int], repeats: int) -> list[Curve]:
    """`devices`, measured by a process with so many simulated CPU devices, which would slow all else here."""
    command = [sys.executable, "-m", "benchmarks.growth", "--devices", json.dumps([repeats, *sizes])]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(max(sizes))}
    done = subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def devices(sizes: Sequence[int], repeats: int, shape: tuple[int, ...] = (64, 32, 32, 64)) -> list[Curve]:
    """One batch spread over 1 to 8 devices, normalized as one: time, and collectives in the compiled program."""
    calls, collectives = {}, []
    for n in sizes:
        mesh = Mesh(np.array(jax.devices()[:n]), ("batch",))
        specs = (P("batch"), P("batch"), P(), P())
        out = (P("batch"), P(), (P("batch"), P(), P()))
        step = jax.jit(jax.shard_map(partial(both_passes, axis_name="batch"), mesh=mesh, in_specs=specs, out_specs=out))
        arrays = (_normal(shape), _normal(shape, 1), jnp.ones(shape[-1]), jnp.zeros(shape[-1]))
        placed = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(arrays, specs, strict=True)]
        compiled = step.lower(*placed).compile()
        collectives.append(len(re.findall(r" all-(?:reduce|gather)(?:-start)?\(", compiled.as_text() or "")))
        calls["jbn", n] = partial(compiled, *placed)
    (curve,) = measured("devices", calls, repeats)
    for point, count in zip(curve["points"], collectives, strict=True):
        point["collectives"] = count
    return [curve]


def tabled(found: Sequence[Curve], device: str) -> Table:
    table = Table("curve", "sizes", "milliseconds", "slope", "collectives", title=f"{device}: how cost grows")
    for curve in found:
        points = curve["points"]
        times = [f"{p['milliseconds']:.3g}" for p in points]
        counts = " ".join(str(p["collectives"]) for p in points) if "collectives" in points[0] else ""
        slope = f"{curve['slope']:.2f}" + (" superlinear" if curve["superlinear"] else "")
        sizes = " ".join(str(p["size"]) for p in points)
        table.add_row(f"{curve['panel']}, {curve['line']}", sizes, " ".join(times), slope, counts)
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=str(__doc__).split(":")[0])
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE.json", help="the figure goes beside it")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    parser.add_argument("--devices", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.devices:
        repeats, *sizes = options.devices
        print(json.dumps(devices(sizes, repeats)))
        return 0
    console, about = Console(), provenance()
    sizes, repeats = (QUICK, QUICK_REPEATS) if options.quick else (SIZES, REPEATS)
    with console.status("") as status:
        found = curves(sizes, repeats, status.update)
    result = {**about, "quick": options.quick, "repeats": repeats, "superlinear_above": SUPERLINEAR, "curves": found}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write(found, about["device"], options.out)
    Console(width=max(console.width, 132)).print(tabled(found, about["device"]))
    console.print(f"written: {options.out}, and the figure beside it", soft_wrap=True)
    return 0


if __name__ == "__main__":
    keep_memory("benchmarks.growth")
    sys.exit(main())
