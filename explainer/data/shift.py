"""Data of the scene "shift": one pair of networks step by step, and how far the inputs of many move."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from explainer.data import Value
from explainer.data._training import SOURCE, batches, digits, each, runs, tested
from explainer.programs._digits import Digits, State, init
from explainer.programs.shift import BLOCKS, NETWORKS, PERCENTILES, PROBED, activation_inputs, percentiles, train_step

SEEDS, STEPS, EVERY, RATE = range(20), 200, 5, 0.1
FROZEN = (0, 1, 2)
"""How many of the first blocks keep their initial weights."""


def data() -> dict[str, Any]:
    train, test = digits()
    probe = jnp.asarray(test.images[:PROBED], jnp.float32)
    order = np.asarray(batches(0, STEPS))
    used = np.unique(order)
    recorded = {name: _recorded(network, order, probe) for name, network in NETWORKS.items()}
    first = recorded["none"][0]
    moved = np.abs(first[-1, :, 1] - first[0, :, 1]) / (first[0, :, 2] - first[0, :, 0])
    return {
        "source": SOURCE,
        **{"steps": STEPS, "every": EVERY, "rate": RATE, "frozen": list(FROZEN), "percentiles": list(PERCENTILES)},
        # A unit that is typical of the network without norm: its largest distance from the layers' medians is smallest.
        "unit": int(np.abs(np.log(moved / np.median(moved, 1, keepdims=True))).max(0).argmin()),
        "images": train.images[used],
        "labels": train.labels[used],
        "order": np.searchsorted(used, order).astype(np.uint16),
        "probe": test.images[:PROBED],
        "start": {name: jax.tree.map(np.float16, init(network, 0)._asdict()) for name, network in NETWORKS.items()},
        "recorded": {name: of.astype(np.float16) for name, of in recorded.items()},
        "moves": {name: _moves(network, probe) for name, network in NETWORKS.items()},
    }


def _recorded(network: Digits, order: np.ndarray, probe: jax.Array) -> np.ndarray:
    """The percentiles before every few steps and after the last, as the page computes them, `[frozen, times, ...]`."""
    train = digits()[0]
    step, see = jax.jit(partial(train_step, network)), jax.jit(partial(percentiles, network))

    def run(frozen: int) -> np.ndarray:
        state, seen = init(network, 0), []
        for k, rows in enumerate(order):
            if k % EVERY == 0:
                seen.append(see(state, probe))
            images, labels = np.float32(train.images[rows]), np.int32(train.labels[rows])
            state = step(state, images, labels, np.float32(RATE), np.arange(BLOCKS) >= frozen)["state"]
        return np.stack([*seen, see(state, probe)])

    return np.stack([run(frozen) for frozen in FROZEN])


def _moves(network: Digits, probe: jax.Array) -> dict[str, Any]:
    """How far what goes into each ReLU moves: the median unit, averaged over the seeds; and test accuracy."""

    def shape(state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
        z = activation_inputs(network, state, probe)
        mean, std = z.mean(1), jnp.maximum(z.std(1), 1e-3)
        return mean, std, (((z - mean[:, None]) / std[:, None]) ** 3).mean(1)

    def step(network: Digits, state: State, images: jax.Array, labels: jax.Array, trains: jax.Array) -> dict[str, Any]:
        return train_step(network, state, images, labels, jnp.float32(RATE), trains > 0)

    trains = np.stack([np.arange(BLOCKS) >= frozen for frozen in (0, BLOCKS - 1)])  # all, and the last alone
    run = runs(network, SEEDS, trains.astype(np.float32), STEPS, step=step)
    mean, std, skewness = (np.asarray(part) for part in each(shape, run.start))  # [trains, seeds, blocks, units]
    end_mean, end_std, end_skewness = (np.asarray(part) for part in each(shape, run.state))
    away = np.median(np.abs(end_mean - mean) / std, -1)
    wider = np.median(end_std / std, -1)
    lopsided = np.median(np.abs(end_skewness - skewness), -1)
    last = BLOCKS - 1
    return {
        "away": [_value(away[0, :, k], "std") for k in range(BLOCKS)],
        "wider": [_value(wider[0, :, k]) for k in range(BLOCKS)],
        "lopsided": [_value(lopsided[0, :, k]) for k in range(BLOCKS)],
        "away_alone": _value(away[1, :, last], "std"),
        "wider_alone": _value(wider[1, :, last]),
        "accuracy": _value(100 * np.asarray(tested(network, run.state)["accuracy"][0]), "%"),
    }


def _value(of: np.ndarray, unit: str = "") -> Value:
    config = f"{STEPS} steps of gradient descent at {RATE}" + ("" if unit == "%" else ", the median unit")
    return Value(float(of.mean()), unit, len(of), float(of.std(ddof=1)), f"0 to {SEEDS[-1]}", config)
