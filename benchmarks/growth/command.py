"""How the cost of batch norm grows: `python -m benchmarks growth [--quick]`.

Time of the forward and backward pass against the batch, the channels, the (simulated) devices that share one batch,
the seeds (vmap of an MLP's gradient) and the layers (unrolled and as a scan; also the time to compile them). A curve's
slope is that of log time against log size over its upper half: 1 is proportional, above 1.15 superlinear. A copy of an
array of that size is timed beside batch and channels: where its curve bends, the arrays outgrow a cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.growth import devices, figure
from benchmarks.growth.curves import SUPERLINEAR, Curve, judged, measured
from benchmarks.growth.work import STACKS, norm_call, normal, seeds_call, stack_call
from benchmarks.machine import provenance
from benchmarks.output import RESULTS, write_json

REPEATS, QUICK_REPEATS = 15, 5

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
        calls |= {("copy", n): partial(jax.jit(lambda x: 1.5 * x), normal(shape(n))) for n in sizes[name]}
        found += measured(name, calls, repeats)
    tell("devices")
    found += devices.measure_in_process(sizes["devices"], repeats)
    tell("seeds")
    found += measured("seeds", {("jbn", n): seeds_call(n) for n in sizes["seeds"]}, repeats)
    tell("layers")
    stacks = {(how, n): stack_call(n, how) for how in STACKS for n in sizes["layers"]}
    found += measured("layers", {key: call for key, (call, _) in stacks.items()}, repeats)
    for how in ("unrolled", "scan"):
        points = [{"size": n, "milliseconds": round(1e3 * stacks[how, n][1], 2)} for n in sizes["layers"]]
        found.append(judged({"panel": "compile", "line": how, "points": points}))
    return found


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


def run(options: argparse.Namespace) -> int:
    console, about, out = Console(), provenance(), options.out or RESULTS / "growth.json"
    sizes, repeats = (QUICK, QUICK_REPEATS) if options.quick else (SIZES, REPEATS)
    with console.status("") as status:
        found = curves(sizes, repeats, status.update)
    result = {**about, "quick": options.quick, "repeats": repeats, "superlinear_above": SUPERLINEAR, "curves": found}
    write_json(result, out)
    figure.write(found, about["device"], out)
    Console(width=max(console.width, 132)).print(tabled(found, about["device"]))
    console.print(f"written: {out}, and the figure beside it", soft_wrap=True)
    return 0
