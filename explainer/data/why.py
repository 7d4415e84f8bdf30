"""Data of the scene "why": losses at each learning rate, networks at three times, and the experiment with noise."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from explainer.data import Value, _noise
from explainer.data._training import SOURCE, batches, digits, each, runs, tested
from explainer.programs._digits import Digits
from explainer.programs.why import NETWORKS, along

SEEDS, STEPS, WINDOW = range(20), 200, 5
RATES = tuple(2.0**k for k in range(-6, 4))
TIMES, RATE = (0, 20, 200), 0.1
FACTORS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STEP = 0.5
"""The size of step at which prose cites loss and gradient."""


def data() -> dict[str, Any]:
    train = digits()[0]
    rows = np.asarray(batches(0, STEPS + 1))[-1]  # a batch that no network has seen
    return {
        "source": f"{SOURCE} Seeds 0 to {SEEDS[-1]}; the networks of the page are those of seed 0.",
        **{"rates": RATES, "times": TIMES, "factors": FACTORS, "steps": STEPS, "window": WINDOW},
        "images": train.images[rows],
        "labels": train.labels[rows],
        "swept": {name: _swept(network) for name, network in NETWORKS.items()},
        "trained": {name: _trained(network, rows) for name, network in NETWORKS.items()},
        "noise": _with_noise(),
    }


def _swept(network: Digits) -> dict[str, Any]:
    """Loss curves and test accuracy at each learning rate: 15th percentile, median and 85th over the seeds."""
    run = runs(network, SEEDS, RATES, STEPS)
    losses = np.asarray(run.loss).reshape(len(RATES), len(SEEDS), -1, WINDOW).mean(-1)
    losses = np.where(np.isfinite(losses), np.minimum(losses, 1e3), 1e3)  # diverged
    accuracy = 100 * np.asarray(tested(network, run.state)["accuracy"])
    good = [rate for rate, of in zip(RATES, accuracy.mean(1), strict=True) if of > 90]
    return {
        "loss": np.moveaxis(np.percentile(losses, (15, 50, 85), axis=1), 0, 1).astype(np.float16),
        "accuracy": np.percentile(accuracy, (15, 50, 85), axis=1).T.astype(np.float16),
        "largest": Value(max(good), n=len(SEEDS), seed=_seeds(SEEDS), config="mean test accuracy above 90%"),
    }


def _trained(network: Digits, rows: np.ndarray) -> dict[str, Any]:
    """The networks that the page probes, and what a step does to those of all seeds after 20 steps."""
    states = [runs(network, SEEDS, [RATE], time).state for time in TIMES[1:]]
    states = [runs(network, SEEDS, [RATE], 1).start, *states]
    train = digits()[0]
    batch = {"images": jnp.float32(train.images[rows]), "labels": jnp.int32(train.labels[rows])}
    found = each(partial(along, network, **batch, step=jnp.float32(STEP)), states[1])
    value = partial(Value, n=len(SEEDS), seed=_seeds(SEEDS), config=f"median after {TIMES[1]} steps at {RATE}")
    return {
        "states": [jax.tree.map(lambda leaf: np.float16(leaf[0, 0]), state._asdict()) for state in states],
        **{key: value(float(np.median(of))) for key, of in found.items()},
    }


def _with_noise() -> dict[str, Any]:
    """The experiment of `_noise`, by its rule."""
    found = _noise.measured()
    value = partial(Value, n=len(_noise.SEEDS), seed=_seeds(_noise.SEEDS))
    names = ["none", *(str(size) for size in (0.0, *_noise.SIZES))]
    arms = {
        name: {
            "rate": rate,
            "accuracy": value(float(accuracy.mean()), "%", sd=float(accuracy.std(ddof=1))),
            "accuracy_interval": _noise.interval(accuracy),
            "moved_interval": _noise.interval(moved),
        }
        for name, rate, accuracy, moved in zip(names, found["rate"], found["accuracy"], found["moved"], strict=True)
    }
    at = {str(size).replace(".", "_"): k for k, size in enumerate(_noise.SIZES)}
    more = {size: value(float(np.exp(found["moves_more"][k].mean))) for size, k in at.items()}
    helps = {
        size: {end: value(getattr(found["still_helps"][k], end), "pp") for end in ("low", "mean", "high")}
        for size, k in at.items()
    }
    said = {"rule": _noise.RULE, "verdict": found["verdict"], "sizes": [0.0, *_noise.SIZES]}
    return {**said, "arms": list(arms.values()), "more": more, "helps": helps}


def _seeds(seeds: range) -> str:
    return f"{seeds[0]} to {seeds[-1]}"
