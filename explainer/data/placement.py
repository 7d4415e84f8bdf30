"""Data of the scene "placement": twenty seeds, each trained with the norm before and after, at four learning rates."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.flatten_util import ravel_pytree

from explainer.data import Value
from explainer.data._training import SOURCE, batches, digits
from explainer.programs._digits import Digits, init, train_step
from explainer.programs.placement import begin, kernels, wrong
from jbn.placement import ORDER

PLACEMENTS = ("before", "after")
RATES = (0.05, 0.1, 0.2, 0.4)
SEEDS = 20
EVERY, POINTS = 7, 24
"""Steps between two looks at the test digits, and how often: 8 epochs of 21 steps."""
DEFAULT, NUDGE = 1, 1e-7
"""The rate at which the initial weights are also moved by about so much of themselves."""


def data() -> dict[str, Any]:
    train, test = digits()
    weights = np.stack([initial("before", seed) for seed in range(SEEDS)])
    assert all((weights[seed] == initial("after", seed)).all() for seed in range(SEEDS))
    nudges = np.random.default_rng(0).standard_normal(weights.shape)
    nudged = (weights * (1 + NUDGE * nudges)).astype(np.float32)
    rows = np.asarray(batches(0, EVERY * POINTS))
    rates = np.repeat([*RATES, RATES[DEFAULT]], SEEDS).astype(np.float32)
    starts = np.concatenate([*[weights] * len(RATES), nudged])
    found = np.stack([trained(placement, rates, starts, rows) for placement in PLACEMENTS])
    found = found.reshape(len(PLACEMENTS), -1, SEEDS, 1 + POINTS)
    ends = found[..., -1].astype(float).swapaxes(0, 1)  # [rates, placements, seeds]; the last row is that of the nudge
    return {
        "source": f"{SOURCE} {SEEDS} seeds, which give the initial weights; the batches are the same for all.",
        "order": {placement: list(ORDER[placement]) for placement in PLACEMENTS},
        "rates": RATES,
        "every": EVERY,
        "train": {"images": train.images, "labels": train.labels},
        "test": {"images": test.images, "labels": test.labels},
        "weights": weights.astype(np.float16),
        "rows": rows.astype(np.uint16),
        "wrong": found[:, :-1].astype(np.uint16),
        "tally": [tally(before, after, rate) for (before, after), rate in zip(ends, RATES, strict=False)],
        "nudged": moved(*(ends[[DEFAULT, -1], k] for k in range(len(PLACEMENTS)))),
        "parameters": Value(weights.shape[1], "weights"),
    }


def initial(placement: Any, seed: int) -> np.ndarray:
    return np.asarray(ravel_pytree(kernels(init(Digits(placement), seed).params))[0])


def trained(placement: Any, rates: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How many test digits are wrong, at the start and after each few steps, `[runs, 1 + POINTS]`."""
    network = Digits(placement)
    (images, labels), test = (
        (jnp.asarray(part.images, jnp.float32), jnp.asarray(part.labels, jnp.int32)) for part in digits()
    )

    def run(of: tuple[jax.Array, jax.Array]) -> jax.Array:
        rate, weights = of

        def one(state: Any, row: jax.Array) -> tuple[Any, None]:
            return train_step(network, state, images[row], labels[row], rate)["state"], None

        def some(state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
            state, _ = jax.lax.scan(one, state, rows)
            return state, wrong(network, state, *test)

        start = begin(network, weights)
        _, later = jax.lax.scan(some, start, jnp.asarray(rows.reshape(POINTS, EVERY, -1)))
        return jnp.concatenate([wrong(network, start, *test)[None], later])

    return np.asarray(jax.jit(lambda of: jax.lax.map(run, of))((jnp.asarray(rates), jnp.asarray(starts))))


def moved(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """How far a nudge of the initial weights moves the wrong digits; `[as they were or nudged, seeds]` each."""
    seeds = before.shape[1]
    said = partial(
        Value, n=seeds, seed=f"0 to {seeds - 1}", config=f"learning rate {RATES[DEFAULT]}, weights x (1 ± {NUDGE})"
    )
    (first, second) = np.sign(before - after)
    return {
        "before": said(float(np.abs(np.diff(before, axis=0)).max()), "digits"),
        "after": said(float(np.abs(np.diff(after, axis=0)).mean()), "digits"),
        "after_most": said(float(np.abs(np.diff(after, axis=0)).max()), "digits"),
        "winners": said(int((first != second).sum()), "seeds"),
    }


def tally(before: np.ndarray, after: np.ndarray, rate: float) -> dict[str, Any]:
    """Who wins how often, and the mean difference before - after of wrong digits, with its paired t interval."""
    gain = before - after
    low, high = scipy.stats.ttest_1samp(gain, 0).confidence_interval()
    said = partial(Value, seed=f"0 to {len(gain) - 1}", config=f"learning rate {rate}")
    return {
        "after": said(int((gain > 0).sum()), n=len(gain)),
        "before": said(int((gain < 0).sum()), n=len(gain)),
        "ties": said(int((gain == 0).sum()), n=len(gain)),
        "gain": said(float(gain.mean()), "digits", n=len(gain), sd=float(gain.std(ddof=1))),
        "low": said(float(low), "digits", n=len(gain)),
        "high": said(float(high), "digits", n=len(gain)),
        "most": said(float(gain.max()), "digits"),
        "least": said(float(-gain.min()), "digits"),
        "wrong_before": said(float(before.mean()), "digits", n=len(gain), sd=float(before.std(ddof=1))),
        "wrong_after": said(float(after.mean()), "digits", n=len(gain), sd=float(after.std(ddof=1))),
    }
