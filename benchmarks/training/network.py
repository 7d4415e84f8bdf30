"""What batch norm costs in a network: `python -m benchmarks network [--device cpu|gpu] [--dtype float32|bfloat16]`.

Times a training step (SGD with momentum, cross-entropy, images of CIFAR's shape; jitted, with its state donated) of
ResNet-20 and of ResNet-18, with the batch norms of Flax and of jbn and without any, in turns. The difference to the
network without a norm is what the norm costs. On a GPU also the peak of the allocated memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from rich.console import Console
from rich.table import Table

import jbn.linen
from benchmarks.machine import provenance
from benchmarks.output import RESULTS, write_json
from benchmarks.processes import json_of
from benchmarks.timing import Timed, interleaved
from experiments.networks import ResNet, no_norm, resnet

Row = dict[str, Any]
REPEATS, QUICK_REPEATS = 11, 3
NORMS = ("flax", "jbn", "jbn, ReLU within", "none")

# Name, network, and examples in a batch on a CPU and on a GPU.
NETWORKS: dict[str, tuple[Callable[..., ResNet], int, int]] = {
    "ResNet-20": (partial(resnet, depth=20), 128, 128),
    "ResNet-18": (partial(ResNet, units=2, stages=(64, 64, 128, 256, 512), shortcut="projection"), 32, 128),
}
SIZE = 32  # pixels a side


class Fused:
    """jbn's batch norm with the ReLU inside, for a unit that calls first the norm and then the activation.

    Where no ReLU follows (before the addition and on the shortcut), it is batch norm alone.
    """

    def __init__(self, make: Callable[..., Any]):
        self.make, self.done = make, None

    def norm(self, name: str) -> Callable[[jax.Array], jax.Array]:
        layer = self.make(name=name)
        return self._with_relu(layer) if name == "norm_0" else layer

    def _with_relu(self, layer: Any) -> Callable[[jax.Array], jax.Array]:
        def call(x: jax.Array) -> jax.Array:
            self.done = layer(x, activation=nn.relu)
            return self.done

        return call

    def activation(self, x: jax.Array) -> jax.Array:
        return x if x is self.done else nn.relu(x)


def build(make: Callable[..., ResNet], norm: str, dtype: str) -> ResNet:
    """The network with one of `NORMS`; its initial weights are the same with each."""
    options: dict[str, Any] = dict(use_running_average=False, dtype=None if dtype == "float32" else jnp.dtype(dtype))
    flax, ours = partial(nn.BatchNorm, **options), partial(jbn.linen.BatchNorm, **options)
    fused = Fused(ours)
    norms = {"flax": flax, "jbn": ours, "jbn, ReLU within": fused.norm, "none": no_norm}
    activation = fused.activation if norm == "jbn, ReLU within" else nn.relu
    return make(unit="original", classes=10, activation=activation, norm=norms[norm], dtype=options["dtype"])


# With this rate the loss stays finite without a norm, too.
OPTIMIZER = optax.sgd(1e-3, momentum=0.9)


def begin(model: nn.Module, x: jax.Array) -> tuple[Any, Any, Any]:
    """Parameters, running statistics and the optimizer's state before the first step."""
    # The default generator takes three times as long to compile.
    variables = model.init(jax.random.key(0, impl="rbg"), x)
    return variables["params"], variables.get("batch_stats", {}), OPTIMIZER.init(variables["params"])


def step(model: nn.Module, state: tuple[Any, Any, Any], x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
    """The state after one step, and the loss before it."""
    params, stats, opt_state = state

    def loss_of(params):
        logits, new = model.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new.get("batch_stats", {})

    (loss, stats_), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, opt_state = OPTIMIZER.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), stats_, opt_state), loss


class Training:
    """A network in training: each call is a step on the same batch, and returns the loss before it."""

    def __init__(self, model: nn.Module, batch: int):
        rng = np.random.default_rng(0)
        self.x = jnp.asarray(rng.standard_normal((batch, SIZE, SIZE, 3), np.float32))
        self.y = jnp.asarray(rng.integers(0, 10, batch))
        self.state = jax.jit(partial(begin, model))(self.x[:2])
        began = time.perf_counter()
        self.step = jax.jit(partial(step, model), donate_argnums=0).lower(self.state, self.x, self.y).compile()
        self.compile_seconds = time.perf_counter() - began

    def __call__(self) -> jax.Array:
        self.state, loss = self.step(self.state, self.x, self.y)
        return loss

    @property
    def temporary_bytes(self) -> int | None:
        memory = self.step.memory_analysis()
        return None if memory is None else memory.temp_size_in_bytes


def measure(name: str, dtype: str, repeats: int, *, gpu: bool, peak: Callable[[str, str], int | None]) -> list[Row]:
    """One row for each norm of one network."""
    make, *batches = NETWORKS[name]
    trainings = {norm: Training(build(make, norm, dtype), batches[gpu]) for norm in NORMS}
    times = interleaved(trainings, repeats)
    about = {"network": name, "batch": batches[gpu], "dtype": dtype}
    return [
        {
            **about,
            **row,
            "temporary_bytes": trainings[row["norm"]].temporary_bytes,
            "peak_bytes": peak(name, row["norm"]),
            "compile_seconds": round(trainings[row["norm"]].compile_seconds, 2),
        }
        for row in compared(times)
    ]


def compared(times: Mapping[str, Timed]) -> list[Row]:
    """Milliseconds of a step, the part that the norm takes, and both relative to Flax's batch norm."""
    flax, none = times["flax"].median, times["none"].median
    return [
        {
            "norm": norm,
            "milliseconds": round(1e3 * t.median, 4),
            "quartiles": [round(1e3 * t.low, 4), round(1e3 * t.high, 4)],
            "vs_flax": t.median / flax,
            "norm_milliseconds": round(1e3 * (t.median - none), 4),
            "norm_share": (t.median - none) / t.median,
            "norm_vs_flax": (t.median - none) / (flax - none) if flax > none else None,
        }
        for norm, t in times.items()
    ]


def peak_bytes(name: str, norm: str, dtype: str) -> int | None:
    """The device's peak memory after a few steps; None on a CPU, which has no such counter."""
    make, _, batch = NETWORKS[name]
    training = Training(build(make, norm, dtype), batch)
    for _ in range(3):
        jax.block_until_ready(training())
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def peak_in_process(cache: str, dtype: str, name: str, norm: str) -> int | None:
    """`peak_bytes` of a process of its own, since the counter covers all that a process has done.

    That process finds the compiled step in the cache: compiling it would run kernels to tune them, and their memory
    would be counted.
    """
    always = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    environment = always | {"JAX_COMPILATION_CACHE_DIR": cache}
    return json_of("benchmarks.training.network", name, norm, dtype, environment=environment)


def tabled(rows: list[Row], title: str) -> Table:
    head = (
        "network",
        "norm",
        "ms a step",
        "quartiles",
        "/ flax",
        "norm, ms",
        "norm / flax's",
        "temporary, MB",
        "peak, MB",
    )
    table = Table(*head, title=title)
    for row in rows:
        quartiles = "{:.1f} to {:.1f}".format(*row["quartiles"])
        sizes = ("–" if row[k] is None else f"{row[k] / 1e6:.0f}" for k in ("temporary_bytes", "peak_bytes"))
        ratio = "–" if row["norm_vs_flax"] is None else f"{row['norm_vs_flax']:.2f}"
        own = ("–", "–") if row["norm"] == "none" else (f"{row['norm_milliseconds']:.1f}", ratio)
        times = (f"{row['milliseconds']:.1f}", quartiles, f"{row['vs_flax']:.2f}")
        table.add_row(f"{row['network']}, batch {row['batch']}", row["norm"], *times, *own, *sizes)
    return table


def print_peak(name: str, norm: str, dtype: str) -> None:
    print(json.dumps(peak_bytes(name, norm, dtype)))


def run(options: argparse.Namespace) -> int:
    gpu = options.platform == "gpu"
    console, rows = Console(), []
    repeats = QUICK_REPEATS if options.quick else REPEATS
    with tempfile.TemporaryDirectory() as cache:
        if gpu:
            jax.config.update("jax_compilation_cache_dir", cache)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

        def peak(name: str, norm: str) -> int | None:
            return peak_in_process(cache, options.dtype, name, norm) if gpu else None

        for name in NETWORKS:
            with console.status(name):
                rows += measure(name, options.dtype, repeats, gpu=gpu, peak=peak)
    about = provenance()
    out = options.out or RESULTS / f"network_{about['platform']}_{options.dtype}.json"
    result = {**about, "dtype": options.dtype, "quick": options.quick, "repeats": repeats, "rows": rows}
    write_json(result, out)
    title = f"{about['device']}: a training step in {options.dtype}"
    Console(width=max(console.width, 132)).print(tabled(rows, title))
    console.print(f"written: {out}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    print_peak(*sys.argv[1:])
