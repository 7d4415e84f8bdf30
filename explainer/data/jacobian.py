"""Data of the scene "jacobian": one measurement of eight wines, those of the scene "five_steps"."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from sklearn.datasets import load_wine

from explainer.data import Value, five_steps
from explainer.programs.jacobian import company


def data() -> dict[str, Any]:
    wine: Any = load_wine()
    chosen = np.array(five_steps.data()["examples"]) - 1
    x = wine.data[chosen, wine.feature_names.index("alcohol")].astype(np.float32)
    target = (wine.target[chosen] == 1).astype(np.float32)

    def study(batch: int) -> Any:
        return jax.jit(company)(x, np.zeros(8, np.float32), target, np.arange(8) < batch)

    full, pair = study(8), study(2)
    own = np.diag(full["training"]["jacobian"])
    where = "8 wines, alcohol, in standard deviations"
    return {
        "source": "The eight wines of the scene with five steps: alcohol. The loss for the gradient of the bias is "
        "half the mean squared error against 1 for the second cultivar and 0 for the others.",
        "x": x,
        "target": target,
        "own_least": Value(float(own.min()), config=f"smallest derivative of an output by its own input, {where}"),
        "own_most": Value(float(own.max()), config=f"largest derivative of an output by its own input, {where}"),
        "pair": Value(
            float(np.abs(pair["training"]["jacobian"][:2, :2]).max()),
            config="largest derivative in a batch of 2 wines, in standard deviations",
        ),
        "bias": Value(float(abs(full["training"]["bias_gradient"])), config="gradient of a bias in front, training"),
        "bias_constants": Value(
            float(full["constants"]["bias_gradient"]), config="gradient of a bias in front, statistics as constants"
        ),
    }
