"""What batch norm costs at inference, by placement, before and after folding: `python -m benchmarks folding`.

A norm before the activation folds into its layer and costs nothing. A norm after the activation folds into the next
layer; where that layer pads with zeros, its bias becomes an array over positions. The networks of one shape are timed
interleaved, and their times are given as ratios to the same network without batch norm.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from rich.console import Console
from rich.table import Table

import jbn
import jbn.linen
from benchmarks.output import RESULTS, write_json
from jbn.fold import fold_linen
from jbn.placement import Block, Placement


class Stack(nn.Module):
    """Blocks of one placement, and a linear layer at the end."""

    layer: Callable[..., Any]
    placement: Placement
    depth: int = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = partial(jbn.linen.BatchNorm, use_running_average=True)
        for _ in range(self.depth):
            x = Block(self.layer, norm, nn.relu, placement=self.placement)(x)
        return nn.Dense(10)(x.mean(tuple(range(1, x.ndim - 1))) if x.ndim > 2 else x)


NETWORKS: dict[str, tuple[tuple[int, ...], Callable[..., Any]]] = {
    "MLP, 3 x Dense(512), batch 256": ((256, 512), partial(nn.Dense, 512)),
    "CNN, 3 x Conv(64, 3x3), 16 images of 32 x 32": ((16, 32, 32, 64), partial(nn.Conv, 64, (3, 3))),
    "CNN, 3 x Conv(64, 1x1), 16 images of 32 x 32": ((16, 32, 32, 64), partial(nn.Conv, 64, (1, 1))),
}


def variables_of(model: nn.Module, x: jax.Array) -> Any:
    """Initial weights, with running statistics that are not 0 and 1, as after training."""
    rng = np.random.default_rng(0)
    variables = dict(model.init(jax.random.key(0), x))
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(
            lambda a: a + jnp.asarray(rng.uniform(0.1, 0.9, a.shape), a.dtype), variables["batch_stats"]
        )
    return variables


def measure(shape: tuple[int, ...], layer: Callable[..., Any], repeats: int) -> list[dict[str, Any]]:
    """One row for each placement, with and without folding."""
    x = jnp.asarray(np.random.default_rng(1).normal(1, 1, shape), jnp.float32)
    rows, calls = [], []
    placements: tuple[Placement, ...] = ("none", "before", "after")
    for placement in placements:
        model = Stack(layer, placement)
        variables = variables_of(model, x)
        exact: Any = model.apply(variables, x)
        runs: list[tuple[bool, Any, Any]] = [(False, model, variables)]
        if placement != "none":
            folded, new = fold_linen(model, variables, x)
            runs.append((True, folded, new))
        for is_folded, network, tree in runs:
            call = jax.jit(network.apply).lower(tree, x).compile()
            error = float(jnp.max(jnp.abs(call(tree, x) - exact)) / jnp.maximum(jnp.max(jnp.abs(exact)), 1e-6))
            size = sum(a.nbytes for a in jax.tree.leaves(tree))
            rows.append({"placement": placement, "folded": is_folded, "error": error, "parameter_bytes": size})
            calls.append(partial(call, tree, x))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - start)
    base = times[0]
    for row, seconds in zip(rows, times, strict=True):
        ratios = sorted(s / b for s, b in zip(seconds, base, strict=True))
        row["milliseconds"] = statistics.median(seconds) * 1e3
        row["ratio"] = statistics.median(ratios)
        row["ratio_quartiles"] = [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]]
    return rows


HEAD = ("network", "norm is", "with batch norm", "folded", "parameters, folded", "largest error")


def table_rows(networks: dict[str, Any]) -> list[tuple[str, ...]]:
    """Times and sizes as ratios to the network without batch norm; the error relative to the largest output."""
    lines = []
    for name, rows in networks.items():
        for placement in ("before", "after"):
            plain, folded = (
                next(r for r in rows if (r["placement"], r["folded"]) == (placement, f)) for f in (False, True)
            )
            texts = ["{:.2f} [{:.2f}, {:.2f}]".format(r["ratio"], *r["ratio_quartiles"]) for r in (plain, folded)]
            size = f"{folded['parameter_bytes'] / rows[0]['parameter_bytes']:.2f}"
            lines.append((name, placement, *texts, size, f"{folded['error']:.0e}"))
    return lines


def as_markdown(networks: dict[str, Any]) -> str:
    lines = [HEAD, (":--", ":--", "--:", "--:", "--:", "--:"), *table_rows(networks)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def run(options: argparse.Namespace) -> int:
    console = Console()
    networks = {}
    for name, (shape, layer) in NETWORKS.items():
        with console.status(name):
            networks[name] = measure(shape, layer, options.repeats)
    device = jax.devices()[0]
    results = {
        "device": device.device_kind,
        "platform": device.platform,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "versions": {"jbn": jbn.__version__, "jax": jax.__version__, "flax": flax.__version__},
        "repeats": options.repeats,
        "unit": "time of the same network without batch norm; median and quartiles over interleaved repeats",
        "networks": networks,
    }
    out = options.out or RESULTS / "folding.json"
    write_json(results, out)
    out.with_suffix(".md").write_text(as_markdown(networks), encoding="utf-8")
    table = Table(*HEAD, title=f"{device.device_kind}: times as ratios to no batch norm, median [quartiles]")
    for line in table_rows(networks):
        table.add_row(*line)
    Console(width=max(console.width, 140)).print(table)
    return 0
