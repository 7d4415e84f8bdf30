"""Test accuracies of one trained network: adapted to test batches, and with averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jbn.linen
from benchmarks.adaptation.trainings import Size, Trained, Variables, network
from jbn import population

SOURCE_EXAMPLES = 16  # N in w = N / (N + n), as in Schneider et al. 2020
ORDERS = ("mixed", "one class")


class Setting(NamedTuple):
    """One way to adapt.

    Attributes:
      blend: whether w = N / (N + n), not 0.
      max_drift: the bound; None is no bound.
    """

    blend: bool
    max_drift: float | None

    @property
    def name(self) -> str:
        bound = "" if self.max_drift is None else f", drift ≤ {self.max_drift:g}"
        return ("blend" if self.blend else "test batch") + bound

    def weight(self, n: int) -> float:
        return SOURCE_EXAMPLES / (SOURCE_EXAMPLES + n) if self.blend else 0.0


SETTINGS = tuple(Setting(blend, bound) for blend in (False, True) for bound in (None, 1.0, 0.25))
SOURCE = "running statistics"


class Examples(NamedTuple):
    """Test images, `[images, height, width, channels]` with the same number of each class, and their classes."""

    x: jax.Array
    y: jax.Array


def by_order(test: Examples, order: str) -> Examples:
    """Mixed by a fixed permutation, or sorted, so that each batch that divides the classes' number holds one class."""
    y = np.asarray(test.y)
    rows = np.random.default_rng(0).permutation(len(y)) if order == "mixed" else np.argsort(y, kind="stable")
    return Examples(test.x[rows], test.y[rows])


@cache
def accuracy_of(setting: Setting | None, n: int) -> Callable[[Variables, Examples], jax.Array]:
    """The compiled accuracy, in percent, in test batches of n; None normalizes by the running statistics."""

    def logits(variables: Variables, x: jax.Array) -> Any:
        if setting is None:
            return network.apply(variables, x, train=False)
        options: dict[str, Any] = {"source_weight": setting.weight(n), "max_drift": setting.max_drift}
        with jbn.linen.converted(kind="adaptive", **options):
            return network.apply(variables, x, train=False)

    def accuracy(variables: Variables, test: Examples) -> jax.Array:
        batches = test.x.reshape(-1, n, *test.x.shape[1:])
        found = jax.vmap(logits, in_axes=(None, 0))(variables, batches)
        return 100 * jnp.mean(found.argmax(-1).ravel() == test.y)

    return jax.jit(accuracy)


def adaptation(variables: Variables, tests: dict[str, Examples], size: Size) -> dict[str, float]:
    """By "order | shift | how | n"; the running statistics know neither order nor batch."""
    found = {}
    for shift, test in tests.items():
        whole = math.gcd(len(test.y), 256)
        found[f"any | {shift} | {SOURCE} | any"] = float(accuracy_of(None, whole)(variables, test))
        for order in ORDERS:
            ordered = by_order(test, order)
            for setting in SETTINGS:
                for n in size.test_batches:
                    score = accuracy_of(setting, n)(variables, ordered)
                    found[f"{order} | {shift} | {setting.name} | {n}"] = float(score)
    return found


STATISTICS = ("of the raw weights", "averaged", "estimated")


def averaging(trained: Trained, tests: dict[str, Examples], batches: Iterable[np.ndarray]) -> dict[str, float]:
    """By "weights | statistics | shift"; `batches` are the training images, for `population.estimate_linen`."""
    batches = list(batches)
    models = {"raw | of the raw weights": trained.raw}
    for name, average in (("raw", trained.raw), ("EMA", trained.ema), ("SWA", trained.swa)):
        if average is not trained.raw:
            models[f"{name} | of the raw weights"] = trained.raw | {"params": average["params"]}
            models[f"{name} | averaged"] = average
        models[f"{name} | estimated"] = population.estimate_linen(
            network,
            trained.raw,
            batches,
            params=average["params"],
            call=lambda net, x: net(x, train=False),
            progress=False,
        )
    whole = {shift: math.gcd(len(test.y), 256) for shift, test in tests.items()}
    return {
        f"{model} | {shift}": float(accuracy_of(None, whole[shift])(variables, test))
        for model, variables in models.items()
        for shift, test in tests.items()
    }
