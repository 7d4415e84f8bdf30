"""Data of the scene "standardize": scikit-learn's wines."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_wine

NAMES = {"malic_acid": "malic acid", "od280/od315_of_diluted_wines": "OD280/OD315"}


def data() -> dict[str, Any]:
    wine: Any = load_wine()
    return {
        "source": "178 Italian wines with 13 measurements each (Aeberhard & Forina 1992, in scikit-learn).",
        "names": [NAMES.get(name, name.replace("_", " ")) for name in wine.feature_names],
        "x": wine.data.astype(np.float32),
        "cultivar": wine.target.astype(np.uint8),
    }
