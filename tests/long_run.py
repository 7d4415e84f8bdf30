"""Trains a tiny network for many epochs, and prints after each: memory, compilations, sizes of the run folder's files.

    PYTHONPATH=. python tests/long_run.py FOLDER EPOCHS CHECKPOINT_EPOCHS

One line of JSON per epoch: {"memory": bytes, "compiled": programs, "traced": functions, "files": {name: bytes}}.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import jax

from experiments import sweep
from experiments.config import Config, ModelConfig, ProbesConfig, SweepConfig, TrainingConfig

COMPILED, TRACED = "/jax/core/compile/backend_compile_duration", "/jax/core/compile/jaxpr_trace_duration"
LANES = 4


def config(epochs: int, checkpoint_epochs: int) -> Config:
    """One arm, two learning rates and two seeds, which are trained together."""
    return Config(
        "long",
        placements=("before",),
        activations=("tanh",),
        model=ModelConfig(hidden=(5,)),
        training=TrainingConfig(
            batch_size=10, epochs=epochs, checkpoint_epochs=checkpoint_epochs, steps="scan", lanes="vmap"
        ),
        probes=ProbesConfig(seeds=0),
        sweep=SweepConfig(learning_rate_points=2, learning_rate_extension=0, seeds=2),
    )


def memory() -> int:
    """Bytes of this process that lie in memory (on Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def files(folder: Path) -> dict[str, int]:
    """Sizes by path; all checkpoints of a training together."""
    found: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            part = path.relative_to(folder).parts
            # checkpoints/STAGE/lanes_0/STEP/...; the curves are in checkpoints/STAGE/lanes_0.json
            found["checkpoints" if len(part) > 3 else path.name] += path.stat().st_size
    return dict(found)


def main(folder: Path, epochs: int, checkpoint_epochs: int) -> None:
    seen: Counter[str] = Counter()
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: seen.update([event]))

    def advance(lanes: int) -> None:
        now = {"memory": memory(), "compiled": seen[COMPILED], "traced": seen[TRACED], "files": files(folder)}
        print(json.dumps(now), flush=True)

    sweep.run(config(epochs, checkpoint_epochs), folder, sweep.SILENT._replace(advance=advance))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
