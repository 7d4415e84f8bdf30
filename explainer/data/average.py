"""Data of the scene "average": what real batches had, and how well inference does with what follows them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from explainer.data import Value
from explainer.data._steps import CONFIG, NETWORK, SEEDS, STEPS, WIDTH, joined, parted, population, right, steps
from explainer.data._training import SOURCE, digits
from explainer.programs.average import Averages, follow, start
from jbn import Moments
from jbn.population import estimate_linen

MOMENTA = (0.0, 0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
AT = (1, 2, 3, 5, 7, 10, 14, 20, 30, 50, 70, 100, 140, 200, 300, 400)
UNITS = (0, 26, 6)
"""One of each layer, which has a mean and a variance that training moves."""


def data() -> dict[str, Any]:
    trained, at = steps(), np.asarray(AT) - 1
    snapshots = jax.tree.map(lambda leaf: leaf[:, at], trained.params)
    shares = {rule: np.asarray(share) for rule, share in accuracies(trained.batch, snapshots).items()}

    def cited(rule: str, step: int, momentum: float = MOMENTA[0]) -> Value:
        return over_seeds(100 * shares[rule][MOMENTA.index(momentum) % len(shares[rule]), :, AT.index(step)])

    def gain(step: int, momentum: float) -> Value:
        """What the exact statistics add to debiased ones, seed by seed."""
        k = AT.index(step)
        difference = shares["population"][0, :, k] - shares["debiased"][MOMENTA.index(momentum), :, k]
        return over_seeds(100 * difference, "pp")

    units = np.asarray(UNITS) + WIDTH * np.arange(len(UNITS))
    exact = jax.jit(partial(jax.lax.map, population))(jax.tree.map(lambda leaf: leaf[0], trained.params))
    return {
        "source": f"{SOURCE} A share is the mean of {SEEDS} trainings: {CONFIG}. The upper figure shows one of them.",
        "momenta": MOMENTA,
        "steps": AT,
        "units": [f"layer {layer + 1}" for layer in range(len(UNITS))],
        "count": Moments(*(leaf[0] for leaf in trained.batch)).count[0].item(),
        "batch": {key: np.asarray(getattr(trained.batch, key))[0][:, units] for key in ("mean", "var")},
        "exact": {key: np.asarray(getattr(exact, key), np.float16)[:, units] for key in ("mean", "var")},
        "share": {rule: share.mean(1).astype(np.float32) for rule, share in shares.items()},
        "sd": {rule: share.std(1, ddof=1).astype(np.float32) for rule, share in shares.items()},
        "seeds": SEEDS,
        "after": {
            str(step): {
                **{name: cited("moving", step, m) for name, m in (("m9", 0.9), ("m99", 0.99), ("m999", 0.999))},
                **{f"debiased_{name}": cited("debiased", step, m) for name, m in (("m99", 0.99), ("m999", 0.999))},
                **{"cumulative": cited("cumulative", step), "population": cited("population", step)},
                **{"last_batch": cited("moving", step, 0.0), "torch_in_flax": cited("moving", step, 0.1)},
            }
            for step in (10, 50, STEPS)
        },
        "gain_m999": gain(STEPS, 0.999),
        "gain_m99": gain(STEPS, 0.99),
        "left_m99": Value(100 * 0.99**50, "%", config="0.99^50"),
        "batches_m99": Value(np.ceil(np.log(0.01) / np.log(0.99)), "batches", config="log 0.01 / log 0.99"),
        "merged": merged(jax.tree.map(lambda leaf: leaf[0, -1], trained.params), Moments(*(e[-1] for e in exact))),
    }


@jax.jit
def accuracies(batch: Moments, snapshots: Any) -> dict[str, jax.Array]:
    """The share of right answers by each rule, `[momenta or 1, seeds, AT]`."""
    at = np.asarray(AT) - 1

    def averages(momentum: jax.Array, batch: Moments) -> Averages:
        def one(state: Averages, batch: Moments) -> tuple[Averages, Averages]:
            state = follow(state, batch, momentum)
            return state, state

        return jax.tree.map(lambda leaf: leaf[at], jax.lax.scan(one, start(batch.mean[0]), batch)[1])

    followed = jax.vmap(jax.vmap(averages, (None, 0)), (0, None))(jnp.asarray(MOMENTA, jnp.float32), batch)
    exact = jax.vmap(jax.vmap(population))(snapshots)
    stats = {
        "moving": followed["moving"],
        "debiased": followed["debiased"],
        "cumulative": jax.tree.map(lambda leaf: leaf[:1], followed["cumulative"]),
        "population": jax.tree.map(lambda leaf: leaf[None], exact),
    }
    means, variances = (jnp.concatenate([getattr(s, key) for s in stats.values()]) for key in ("mean", "var"))
    over_all = jax.vmap(jax.vmap(right))
    found = jax.lax.map(lambda pair: over_all(snapshots, *pair), (means, variances))
    return dict(zip(stats, jnp.split(found, np.cumsum([len(s.mean) for s in stats.values()])[:-1]), strict=True))


def merged(params: Any, exact: Moments) -> Value:
    """How far jbn.population, which merges batches of 64, ends from the statistics of all digits as one batch."""
    images = np.asarray(digits()[0].images, np.float32)
    parts = [images[k : k + 64] for k in range(0, len(images), 64)]
    variables = {"params": params, "batch_stats": parted(exact.mean * 0, exact.var * 0 + 1)}
    found = estimate_linen(
        NETWORK, variables, parts, mode="layer by layer", call=lambda net, x: net(x, train=False), progress=False
    )
    mean, var, _ = joined(found["batch_stats"])
    off = max(
        float(jnp.max(jnp.abs(mean - exact.mean) / jnp.sqrt(exact.var))), float(jnp.max(jnp.abs(var / exact.var - 1)))
    )
    largest = "largest difference of a mean in standard deviations, or of a variance in its own size"
    return Value(1e6 * off, "millionths", config=largest)


def over_seeds(values: np.ndarray, unit: str = "%") -> Value:
    seeds = f"0 to {SEEDS - 1}"
    return Value(float(values.mean()), unit, n=len(values), sd=float(values.std(ddof=1)), seed=seeds, config=CONFIG)
