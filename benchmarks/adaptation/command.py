"""What adapting to test batches and averaging weights gain on corrupted images: `python -m benchmarks adaptation`.

Networks of different seeds are trained on Fashion-MNIST and judged on test images with noise, blur or less contrast,
which training never saw. Every difference is paired by seed. The shifts, their strengths, the weights of the blend and
the bounds of the drift were fixed before the first training, so that no result chose them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import jbn
from benchmarks.adaptation import report
from benchmarks.adaptation.corruptions import SHIFTS
from benchmarks.adaptation.scores import SOURCE_EXAMPLES, Examples, adaptation, averaging
from benchmarks.adaptation.summary import summarized
from benchmarks.adaptation.trainings import EMA, Size, train
from benchmarks.machine import provenance
from benchmarks.output import RESULTS, write_json
from experiments.config import ConfigError
from experiments.data import cache

SIZE = Size()
DATA = "fashion_mnist"
Scores = dict[str, dict[str, list[float]]]


def one_seed(images: cache.Images, seed: int, size: Size) -> dict[str, dict[str, float]]:
    """Trains one network on images that the seed draws, and judges it."""
    rows = np.random.default_rng(seed).permutation(len(images.train_y))[: size.train]
    x, y = np.asarray(images.train_x[rows], np.float32) / 255, np.asarray(images.train_y[rows])
    mean, deviation = x.mean(), x.std()
    x = (x - mean) / deviation
    trained = train(x, y, seed, size)
    classes = range(len(images.classes))
    rows = np.concatenate([np.flatnonzero(images.test_y == c)[: size.per_class] for c in classes])
    raw, labels = jnp.asarray(images.test_x[rows], jnp.float32) / 255, jnp.asarray(images.test_y[rows])
    tests = {name: Examples((jax.jit(shift)(raw) - mean) / deviation, labels) for name, shift in SHIFTS.items()}
    return {
        "adaptation": adaptation(trained.raw, tests, size),
        "averaging": averaging(trained, tests, np.array_split(x, max(1, len(x) // 1000))),
    }


def measure(images: cache.Images, seeds: int, size: Size, each: Callable[[int, Scores], None]) -> Scores:
    """Accuracies by table and by key, one for each seed; `each` is called after every seed."""
    scores: Scores = {"adaptation": {}, "averaging": {}}
    for seed in range(seeds):
        for table, found in one_seed(images, seed, size).items():
            for key, value in found.items():
                scores[table].setdefault(key, []).append(round(value, 4))
        each(seed, scores)
    return scores


def run(options: argparse.Namespace) -> int:
    if options.seeds < 2:
        print(f"error: --seeds {options.seeds}; an interval needs at least 2, and a claim 10 or more", file=sys.stderr)
        return 2
    out = options.out or RESULTS / "adaptation.json"
    try:
        images = cache.load(DATA)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console, about = Console(), provenance()

    def written(seed: int, scores: Scores) -> dict[str, Any]:
        result: dict[str, Any] = {
            **about,
            "jbn": jbn.__version__,
            "data": {"name": images.source["name"], "sha256": images.source["sha256"]},
            "seeds": list(range(seed + 1)),
            "size": SIZE._asdict(),
            "settings": {"source_examples": SOURCE_EXAMPLES, "ema": EMA, "swa": "ends of the later half of the epochs"},
            "unit": "percent of the test images, one number for each seed",
            **scores,
        }
        if seed:
            result["summary"] = summarized(scores, SIZE.test_batches)
        write_json(result, out)
        console.print(f"seed {seed + 1} of {options.seeds}", highlight=False)
        return result

    last: dict[str, Any] = {}
    measure(images, options.seeds, SIZE, lambda seed, scores: last.update(written(seed, scores)))
    report.write(last, out)
    for table in report.tables(last):
        Console(width=max(console.width, 150)).print(table)
    console.print(f"written: {out}, with tables and a figure beside it", soft_wrap=True)
    return 0
