"""Data of the scene "ravine": minima, planes, the best learning rates, and how many steps other rates take."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_wine

from explainer.data import Value
from explainer.programs import ravine

SETS = {
    "hue": ("hue",),
    "total phenols": ("total_phenols",),
    "colour intensity": ("color_intensity",),
    "malic acid and magnesium": ("malic_acid", "magnesium"),
    "flavanoids and phenols": ("flavanoids", "total_phenols"),
}
INPUTS = ("raw", "std", "mean", "both")
STARTS = 20
"""Random starts besides the one that is drawn, which is all zeros."""
CAP = 3000
"""A search gives up here."""
NEAR = 0.01
"""A run has arrived where this part of what the loss can fall is left."""
SLOWER, FASTER = 20, 7
"""How many rates the slider has below and above the best; rates are 10^(k/20) for whole k."""


def variants(x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each of INPUTS: what is subtracted from each feature, and what it is divided by."""
    mean, std = x.mean(0), x.std(0)
    zero, one = np.zeros_like(mean), np.ones_like(std)
    return [(zero, one), (zero, std), (mean, one), (mean, std)]


class Bowl:
    """The loss of a linear model with a bias, exactly: in float64, with curvatures in ascending order."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        a = np.column_stack([x, np.ones(len(x))])
        self.minimum = np.linalg.lstsq(a, y, rcond=None)[0]
        self.hessian = a.T @ a / len(a)
        self.curvatures, directions = np.linalg.eigh(self.hessian)
        self.directions = directions.T
        self.condition = float(self.curvatures[-1] / self.curvatures[0])

    def above(self, way: np.ndarray) -> np.ndarray:
        """How far the loss is above its minimum, this way from there."""
        return np.einsum("...i,ij,...j", way, self.hessian, way) / 2

    def plane(self) -> np.ndarray:
        """Of two parameters, both; of more, the flattest and the steepest direction: rows over weight, weight, bias."""
        if len(self.minimum) == 2:
            return np.array([[1, 0, 0], [0, 0, 1]])
        return self.directions[[0, -1]]


def steps(hessian: jax.Array, way: jax.Array, rate: jax.Array, *, method: str) -> tuple[jax.Array, jax.Array]:
    """Steps until 1% of the loss is left (or CAP), and the part that is left then, from `way` beside the minimum.

    The loss is ½ wayᵀ H way: no pass over the data, so that many starts and rates can be tried. A test compares with
    the programs, which compute the loss from the data.
    """
    optimizer = ravine.METHODS[method](rate)

    def part(now: jax.Array) -> jax.Array:
        return (now @ hessian @ now) / (way @ hessian @ way)

    def going(carry: Any) -> jax.Array:
        now, _, k = carry
        return (k < CAP) & (part(now) > NEAR) & jnp.isfinite(part(now))

    def step(carry: Any) -> Any:
        now, state, k = carry
        updates, state = optimizer.update(hessian @ now, state, now)
        return optax.apply_updates(now, updates), state, k + 1

    end, _, k = jax.lax.while_loop(going, step, (way, optimizer.init(way), 0))
    left = part(end)
    return jnp.where(left <= NEAR, k, CAP), jnp.where(jnp.isfinite(left), left, jnp.inf)


@partial(jax.jit, static_argnames="method")
def search(hessian: jax.Array, ways: jax.Array, rates: jax.Array, *, method: str) -> tuple[jax.Array, jax.Array]:
    """`steps` for each way and each rate."""
    one_way = jax.vmap(partial(steps, method=method), (None, None, 0))
    return jax.vmap(one_way, (None, 0, None))(hessian, ways, rates)


def rate(rung: np.ndarray) -> np.ndarray:
    return (10.0 ** (rung / 20)).astype(np.float32)


def ways(bowl: Bowl, subtracted: np.ndarray, divisor: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """From the minimum to the start that is drawn, all zeros; then to STARTS others, the same functions for each input.

    They are drawn evenly from all directions in the coordinates of standardized features, and have the loss of zeros.
    A weight there is divisor / std weights here, and moves the bias by (subtracted - mean) / std.
    """
    round_ = np.random.default_rng(0).normal(size=(STARTS, len(mean) + 1))
    weights = round_[:, :-1] * divisor / std
    bias = round_[:, -1] - (round_[:, :-1] * (mean - subtracted) / std).sum(1)
    others = np.column_stack([weights, bias])
    others *= np.sqrt(bowl.above(-bowl.minimum) / bowl.above(others))[:, None]
    return np.vstack([-bowl.minimum, others]).astype(np.float32)


def tried(bowl: Bowl, ways: np.ndarray, method: str) -> dict[str, Any]:
    """The rate that is best on average over the starts, and the steps that rates around it take."""
    hessian = bowl.hessian.astype(np.float32)
    top = 12 if method == "adam" else int(np.ceil(20 * np.log10(4 / bowl.curvatures[-1])))
    rungs = np.arange(top - 48, top + 1)
    taken, left = map(np.asarray, search(hessian, ways[1:], rate(rungs), method=method))
    best = int(rungs[np.lexsort((left.mean(0), taken.mean(0)))[0]])
    around = np.arange(best - SLOWER, best + FASTER + 1)
    drawn, *each = np.asarray(search(hessian, ways, rate(around), method=method)[0])
    at_best = Value(
        float(np.mean(each, axis=0)[SLOWER]),
        n=STARTS,
        sd=float(np.std(each, axis=0, ddof=1)[SLOWER]),
        seed="0",
        config=f"steps to 1% at the rate that is best on average, {STARTS} random starts",
    )
    median = np.median(each, axis=0).astype(np.float16)
    return {"best": best, "drawn": drawn.astype(np.uint16), "median": median, "at_best": at_best}


def studied(x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """For each of INPUTS: the loss, its plane, and what each method takes."""
    found = []
    for subtracted, divisor in variants(x):
        bowl = Bowl((x - subtracted) / divisor, y)
        places = ways(bowl, subtracted, divisor, x.mean(0), x.std(0))
        minimum = np.zeros(3, np.float32)
        minimum[[*range(x.shape[1]), 2]] = bowl.minimum
        found.append(
            {
                "condition": bowl.condition,
                "steepest": float(bowl.curvatures[-1]),
                "minimum": minimum,
                "plane": bowl.plane().astype(np.float32),
                "methods": {method: tried(bowl, places, method) for method in ravine.METHODS},
            }
        )
    return found


def conditions(x: np.ndarray, what: str) -> dict[str, Value]:
    """The condition number for each of INPUTS."""
    numbers = [Bowl((x - subtracted) / divisor, np.zeros(len(x))).condition for subtracted, divisor in variants(x)]
    return {key: Value(n, config=f"condition number, {what}") for key, n in zip(INPUTS, numbers, strict=True)}


def data() -> dict[str, Any]:
    wine: Any = load_wine()
    y = np.where(wine.target == 2, 1.0, -1.0)
    columns = {name: wine.data[:, [k]] for k, name in enumerate(wine.feature_names)}
    sets = {}
    for name, features in SETS.items():
        x = np.hstack([columns[feature] for feature in features])
        padded = np.zeros((len(x), 2), np.float32)
        padded[:, : x.shape[1]] = x
        sets[name] = {"x": padded, "features": len(features), "inputs": studied(x, y)}
    single = {name: conditions(column, name) for name, column in columns.items()}
    worse = [name for name, found in single.items() if found["std"].value > found["raw"].value]
    hue = list(zip(INPUTS, sets["hue"]["inputs"], strict=True))
    pair = np.hstack([columns["flavanoids"], columns["total_phenols"]])
    return {
        "source": "178 Italian wines (Aeberhard & Forina 1992, in scikit-learn); the target is 1 for the third "
        "cultivar and −1 for the others. Start: all parameters 0. Learning rates: powers of 10^(1/20).",
        "sets": sets,
        "y": y.astype(np.float32),
        **{"cap": CAP, "near": NEAR, "slower": SLOWER, "faster": FASTER, "starts": STARTS, "rings": len(ravine.RADII)},
        "hue": single["hue"],
        "all": conditions(wine.data, "all 13 features"),
        "pair": conditions(pair, "flavanoids and total phenols"),
        "worse": Value(len(worse), config="features for which dividing by std alone makes the condition number larger"),
        "features": Value(len(single)),
        "steps": {
            method: {key: found["methods"][method]["at_best"] for key, found in hue} for method in ravine.METHODS
        },
    }
