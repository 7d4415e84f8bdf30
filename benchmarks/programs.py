"""Memory traffic of batch norm compiled for a GPU, without a GPU: `python -m benchmarks programs`.

With jax's CUDA plugin (`pip install 'jax[cuda12]'`), XLA compiles for an H100 from a description of it. For each
library's program this counts the kernels and the passes over the input, which are the bytes that kernels read and
write over the bytes of the input; and for `training/network.py`, the bytes of a training step. Nothing is timed: a
kernel may be slower than the memory, never faster. The least passes are 3 forward, 2 at inference, and 7 forward and
backward, since dy is an input and so one kernel can write both y and dx.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from rich.console import Console
from rich.table import Table

from benchmarks.machine import provenance
from benchmarks.output import RESULTS, write_json
from benchmarks.speed.cases import MODES, Case, Mode, cases
from benchmarks.speed.contestants import JAX_PEERS, inputs, installed, step
from benchmarks.speed.measure import geometric_mean
from benchmarks.training import network

Row = dict[str, Any]
LEAST: dict[Mode, int] = {"forward": 3, "forward+backward": 7, "inference": 2, "forward+backward, ReLU": 7}

# An H100 SXM as the driver describes it; the numbers are in NVIDIA's data sheet and the CUDA programming guide.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "c64": 8}
NO_KERNEL = ("parameter", "get-tuple-element", "tuple", "constant", "bitcast")


class Instruction(NamedTuple):
    """A line of XLA's text: its shape or shapes, operation, operands, and the whole line."""

    shape: str
    operation: str
    operands: list[str]
    line: str


class Traffic(NamedTuple):
    """Kernels of a program, and the bytes that they read and write."""

    kernels: int
    bytes: int


def traffic(text: str) -> Traffic:
    """Kernels and bytes, from a compiled program's text. Of an operand that a kernel slices, the slice is counted."""
    entry = computation(text, r"\nENTRY ")
    kernels = [i for i in entry.values() if i.operation not in NO_KERNEL]
    moved = 0
    for kernel in kernels:
        called = re.search(r"calls=(%[\w.-]+)", kernel.line)
        inside = computation(text, rf"\n{re.escape(called[1])} \(") if called else None
        for index, name in enumerate(kernel.operands):
            moved += size(entry[name].shape) if inside is None else read(inside, index)
        moved += size(kernel.shape)
    return Traffic(len(kernels), moved)


def computation(text: str, head: str) -> dict[str, Instruction]:
    """The instructions of the computation whose head matches, by name."""
    found = re.search(head, text)
    if found is None:
        raise ValueError(f"the program has no computation {head!r}")
    instructions = {}
    for line in text[found.end() : text.index("\n}", found.end())].splitlines():
        if m := re.match(r"\s*(?:ROOT )?(%\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(?:,|$)", line):
            name, shape, operation, operands = m.groups()
            operands = [operands] if operation == "parameter" else re.findall(r"%[\w.-]+", operands)
            instructions[name] = Instruction(shape, operation, operands, line)
    return instructions


def read(inside: dict[str, Instruction], index: int) -> int:
    """The bytes of an operand that a kernel reads."""

    def used(name: str) -> float:
        """The fraction of an array that is read."""
        users = [(user, i) for user, i in inside.items() if i.operation != "parameter" and name in i.operands]
        fractions = []
        for user, i in users:
            whole = size(inside[name].shape)
            if i.operation == "slice":
                fractions.append(size(i.shape) / whole)
            else:
                fractions.append(used(user) if i.operation in ("bitcast", "convert") else 1.0)
        return min(1.0, sum(fractions))

    parameter = next(n for n, i in inside.items() if i.operation == "parameter" and i.operands == [str(index)])
    return round(used(parameter) * size(inside[parameter].shape))


def size(shape: str) -> int:
    """Bytes of one array or of a tuple of them, as XLA writes their shapes."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return sum(BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n) for dtype, dims in arrays)


def compiler() -> Callable[..., Any]:
    """A function that compiles another function for an H100, from its arguments' shapes.

    Raises:
      NotImplementedError: jax's CUDA plugin is not installed.
    """
    device = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1").devices[0]
    on_device = SingleDeviceSharding(device)

    def compiled(f: Callable[..., Any], *arguments: Any) -> Any:
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=on_device), arguments)
        return jax.jit(f).trace(*shapes).lower(lowering_platforms=("cuda",)).compile()

    return compiled


def measure(todo: list[Case], tell: Callable[[str], None]) -> list[Row]:
    """One row for each input and mode."""
    compiled, rows = compiler(), []
    for case in todo:
        tell(str(case))
        for mode in MODES if case.option == "plain" else ("forward+backward",):
            row: Row = {"network": case.network, "shape": list(case.shape), "dtype": case.dtype, "option": case.option}
            row |= {"mode": mode, "least": LEAST[mode], "passes": {}, "kernels": {}, "temporary": {}}
            for name in ("jbn", *JAX_PEERS):
                if (peer := installed(name, case)) is None:
                    continue
                program = compiled(step(peer, case, mode), *inputs(peer, case, mode))
                kernels, moved = traffic(program.as_text())
                row["passes"][name] = round(moved / case.bytes, 3)
                row["kernels"][name] = kernels
                row["temporary"][name] = round(program.memory_analysis().temp_size_in_bytes / case.bytes, 3)
            rows.append(row)
    return rows


def networks(tell: Callable[[str], None]) -> list[Row]:
    """One row for each network, dtype and norm: memory traffic of a training step at the batch size for a GPU."""
    compiled, rows = compiler(), []
    for name, (make, _, batch) in network.NETWORKS.items():
        x = jax.ShapeDtypeStruct((batch, network.SIZE, network.SIZE, 3), jnp.float32)
        y = jax.ShapeDtypeStruct((batch,), jnp.int32)
        for dtype in ("float32", "bfloat16"):
            tell(f"{name}, {dtype}")
            for norm in network.NORMS:
                model = network.build(make, norm, dtype)
                state = jax.eval_shape(partial(network.begin, model), x)
                program = compiled(partial(network.step, model), state, x, y)
                kernels, moved = traffic(program.as_text())
                about = {"network": name, "batch": batch, "dtype": dtype, "norm": norm}
                rows.append({**about, "kernels": kernels, "megabytes": round(moved / 1e6, 1)})
    return rows


def summary(rows: list[Row]) -> dict[str, dict[str, float | None]]:
    """Geometric means of jbn's passes over the least and over each library's, on inputs of at least 2^20 numbers."""
    found = {}
    for mode in MODES:
        for dtype in ("float32", "bfloat16"):
            some = [r for r in rows if (r["mode"], r["dtype"], r["option"]) == (mode, dtype, "plain")]
            some = [r for r in some if math.prod(r["shape"]) >= 2**20]
            names = sorted({name for r in some for name in r["passes"]} - {"jbn"})
            found[f"{mode}, {dtype}"] = {
                "least": geometric_mean(r["passes"]["jbn"] / r["least"] for r in some),
                **{n: geometric_mean(r["passes"]["jbn"] / r["passes"][n] for r in some) for n in names},
            }
    return found


def show(result: Row, console: Console) -> None:
    wide = Console(width=max(console.width, 130))
    names = list(dict.fromkeys(name for row in result["rows"] for name in row["passes"]))
    table = Table(
        "input", "mode", "least", *names, title="passes over the input (kernels), compiled for an NVIDIA H100"
    )
    for row in result["rows"]:
        case = Case(row["network"], tuple(row["shape"]), row["dtype"], row["option"])
        cells = (f"{row['passes'][n]:.2f} ({row['kernels'][n]})" if n in row["passes"] else "–" for n in names)
        table.add_row(str(case), row["mode"], str(row["least"]), *cells)
    wide.print(table)
    table = Table("jbn's passes over", "least", *(n for n in names if n != "jbn"))
    for mode, ratios in result["summary"].items():
        table.add_row(mode, *(f"{v:.2f}" if (v := ratios.get(n)) else "–" for n in ("least", *names) if n != "jbn"))
    wide.print(table)
    table = Table("network", "norm", "kernels", "MB moved in a step", title="training steps")
    for row in result["networks"]:
        name = f"{row['network']}, batch {row['batch']}, {row['dtype']}"
        table.add_row(name, row["norm"], str(row["kernels"]), f"{row['megabytes']:.0f}")
    wide.print(table)


def run(options: argparse.Namespace) -> int:
    # There is no GPU for the plugin to check when it is loaded, nor for XLA to tune kernels on.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    jax.config.update("jax_platforms", "cpu")
    console = Console()
    try:
        with console.status("") as status:
            rows, steps = measure(cases(quick=True, gpu=True), status.update), networks(status.update)
    except NotImplementedError:
        print("error: jax has no CUDA plugin here; install it: pip install 'jax[cuda12]'", file=sys.stderr)
        return 2
    about = {**provenance(), "device": "NVIDIA H100, compiled for and not run", "platform": "gpu"}
    result = {**about, "summary": summary(rows), "rows": rows, "networks": steps}
    out = options.out or RESULTS / "programs_nvidia_h100.json"
    write_json(result, out)
    show(result, console)
    console.print(f"written: {out}", soft_wrap=True)
    return 0
