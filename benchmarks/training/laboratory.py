"""How fast the laboratory trains, against plain loops: `python -m benchmarks laboratory [--device cpu|gpu]`.

Trains the MLP of configs/mnist_sigmoid.py (batch norm before the sigmoid, batches of 60, SGD) on random images of
MNIST's shape: in plain PyTorch, in plain Flax and optax with `lax.scan`, and in the laboratory with one seed and with
many. All do the same work, without evaluation; tests check that they end with the same weights. Then it times that MLP
and the small CNNs of other configs in each way in which the laboratory can run steps and seeds.

Each library has a process of its own, since the laboratory makes a jax device of every core and plain loops do not.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.machine import provenance
from benchmarks.output import RESULTS, write_json
from benchmarks.timing import Timed, interleaved
from benchmarks.training.trainings import CLASSES, EXAMPLES, RATE, Process, images, setup_of
from experiments.data.arrays import Source
from experiments.training import autotune
from experiments.training.compiled import Lane

Row = dict[str, Any]
STEPS, QUICK_STEPS = 450, 150  # of one sample
REPEATS, QUICK_REPEATS = 9, 3
SINGLE, SINGLE_DEVICE = "laboratory, 1 seed", "laboratory, 1 seed, 1 device"
STRATEGIES = {"MLP": "mnist_sigmoid", "strided_cnn": "strided_mnist", "cnn9 of 8 features, 16 x 16": "cnn9_small"}
STRATEGY_LANES = 4
MOST_SINGLES = {"cpu": 12.0, "gpu": 4.0}  # target: the time of many seeds over that of one


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def measure(platform: str, steps: int, repeats: int, tell: Callable[[str], None] = lambda text: None) -> list[Row]:
    """One row for each contestant; torch's only where it is installed."""
    cpu = platform == "cpu"
    many = 16 if cpu else 64
    # Contestant, process, kind, seeds.
    contestants = [("flax, scan", "plain", "flax", 1), (SINGLE, "laboratory", "laboratory", 1)]
    contestants += [(f"laboratory, {many} seeds", "laboratory", "laboratory", many)]
    if cpu:  # elsewhere there is one device anyway
        contestants += [(SINGLE_DEVICE, "plain", "laboratory", 1)]
    if has_torch():
        contestants += [("torch, eager", "torch", "torch", 1)]
    processes = {
        name: Process("cpu" if cpu else None, as_laboratory=name == "laboratory") for _, name, *_ in contestants
    }
    try:
        devices = {}
        for name, process, kind, seeds in contestants:
            tell(f"preparing: {name}")
            devices[name] = processes[process].hold(name, kind, seeds, steps, EXAMPLES)
        tell("training by turns")
        times = interleaved({name: processes[process].call(name) for name, process, *_ in contestants}, repeats)
    finally:
        for process in processes.values():
            process.close()
    return [_row(name, seeds, devices[name], times[name], steps) for name, _, _, seeds in contestants]


def _row(name: str, seeds: int, devices: str, t: Timed, steps: int) -> Row:
    return {
        "contestant": name,
        "seeds": seeds,
        "devices": devices,
        "milliseconds_per_step": round(1e3 * t.median / steps, 5),
        "quartiles": [round(1e3 * t.low / steps, 5), round(1e3 * t.high / steps, 5)],
        "milliseconds_per_step_and_seed": round(1e3 * t.median / steps / seeds, 5),
    }


def summary(rows: list[Row], platform: str) -> dict[str, Row]:
    """Ratios of times, with their targets."""
    times = {row["contestant"]: row["milliseconds_per_step"] for row in rows}
    seeds = max(row["seeds"] for row in rows)
    single = times[SINGLE]
    found: dict[str, Row] = {}
    for key, other, least in (("torch", "torch, eager", 3.0), ("flax", "flax, scan", 1.4)):
        value = times[other] / single if other in times else None
        found[f"{key}_vs_laboratory"] = {"value": value, "at_least": least if platform == "cpu" else None}
    many = times[f"laboratory, {seeds} seeds"]
    found[f"{seeds}_seeds_vs_single"] = {"value": many / single, "at_most": MOST_SINGLES[platform]}
    if SINGLE_DEVICE in times:
        found["single_vs_single_on_1_device"] = {"value": single / times[SINGLE_DEVICE]}
        found[f"{seeds}_seeds_vs_single_on_1_device"] = {"value": many / times[SINGLE_DEVICE]}
    return found


def strategies(rounds: int, examples: int | None = None) -> list[Row]:
    """Milliseconds per step and lane, for each way of running them; None where it does not fit into memory."""
    rows = []
    for name, config in STRATEGIES.items():
        setup = setup_of(config)
        data = images(setup, examples or setup.data.train_examples or EXAMPLES)
        source = Source(lambda seed, data=data: data, CLASSES, False, {})
        lanes = [Lane(RATE, 0.0, False, seed) for seed in range(STRATEGY_LANES)]
        # `choose` measures all ways. Only its first round compiles.
        found = [autotune.choose(setup, source, lanes) for _ in range(rounds)]
        ways = {way: _median([f.milliseconds[way] for f in found]) for way in found[0].milliseconds}
        fitting = {way: value for way, value in ways.items() if value is not None}
        best = min(fitting, key=lambda way: fitting[way])
        rows.append({
            "network": name,
            "config": config,
            "batch": setup.training.batch_size,
            "lanes": STRATEGY_LANES,
            "devices": jax.device_count(),
            "milliseconds_per_step_and_lane": ways,
            "best": best,
            "chosen": [f"{f.engine.steps}, {f.engine.lanes}" for f in found],
        })  # fmt: skip
    return rows


def _median(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def show(result: Mapping[str, Any], console: Console) -> None:
    wide = Console(width=max(console.width, 118))
    head = ("training", "ms a step", "quartiles", "ms a step and seed", "devices")
    table = Table(*head, title=f"{result['device']}: the MLP of configs/mnist_sigmoid.py, batches of 60")
    for row in result["rows"]:
        numbers = (f"{row['milliseconds_per_step']:.3f}", "{:.3f} to {:.3f}".format(*row["quartiles"]))
        each = f"{row['milliseconds_per_step_and_seed']:.3f}"
        table.add_row(row["contestant"], *numbers, each, row["devices"])
    wide.print(table)
    for key, row in result["summary"].items():
        wanted = ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in row.items() if k != "value" and v is not None)
        value = "–" if row["value"] is None else f"{row['value']:.2f}"
        wide.print(f"{key.replace('_', ' ')}: {value}" + (f" ({wanted})" if wanted else ""))
    ways = list(result["strategies"][0]["milliseconds_per_step_and_lane"]) if result["strategies"] else []
    table = Table("network", "batch", *ways, title=f"ms a step and lane, {STRATEGY_LANES} lanes; * the fastest")
    for row in result["strategies"]:
        found = row["milliseconds_per_step_and_lane"]
        texts = ("–" if found[w] is None else f"{found[w]:.3f}" + " *" * (w == row["best"]) for w in ways)
        table.add_row(row["network"], str(row["batch"]), *texts)
    wide.print(table)


def run(options: argparse.Namespace) -> int:
    platform = options.platform
    console, about = Console(), provenance()
    steps, repeats = (QUICK_STEPS, QUICK_REPEATS) if options.quick else (STEPS, REPEATS)
    with console.status("") as status:
        rows = measure(platform, steps, repeats, status.update)
        status.update("ways of running steps and seeds")
        apart = Process("cpu" if platform == "cpu" else None, as_laboratory=True)
        try:
            ways = apart.run(strategies, 1 if options.quick else 3)
        finally:
            apart.close()
    result = {
        **about,
        "quick": options.quick,
        "steps": steps,
        "repeats": repeats,
        "summary": summary(rows, platform),
        "rows": rows,
        "strategies": ways,
    }
    out = options.out or RESULTS / f"laboratory_{platform}.json"
    write_json(result, out)
    show(result, console)
    console.print(f"written: {out}", soft_wrap=True)
    return 0
