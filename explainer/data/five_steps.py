"""Data of the scene "five_steps": a mini-batch of eight wines, four measurements each."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_wine

FEATURES = {"alcohol": "alc.", "malic_acid": "acid", "magnesium": "Mg", "hue": "hue"}


def data() -> dict[str, Any]:
    wine: Any = load_wine()
    chosen = np.random.default_rng(0).permutation(len(wine.data))[:8]
    columns = [wine.feature_names.index(name) for name in FEATURES]
    return {
        "source": "Eight of scikit-learn's 178 wines, drawn at random (NumPy's generator, seed 0).",
        "features": list(FEATURES.values()),
        "kind": "wine",
        "examples": [int(k) + 1 for k in chosen],
        "x": [[round(float(value), 2) for value in row] for row in wine.data[np.ix_(chosen, columns)]],
    }
