"""What all comparisons share: units, resolution, and Holm's correction.

Accuracies are in percent, their differences in percentage points (pp).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from statsmodels.stats.multitest import multipletests

Interval = tuple[float, float]

# Accuracies closer than this count as equal: float32 rounding is smaller, one example in a million is larger.
DIGITS = 4
RESOLUTION_PP = 10.0**-DIGITS


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted to control the family-wise error rate (Holm 1979), in the order given."""
    return np.asarray(multipletests(p_values, method="holm")[1]).tolist()
