"""Turns observations of a network into the JSON values of a record."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from experiments.config import Setup
from experiments.training.observe import STEP_SIZES, Observation

PERCENTILES = (15, 50, 85)


def as_json(seen: Observation) -> dict[str, Any]:
    """One observation of one lane as JSON values. NumPy computes percentiles, because it need not sort all values."""
    values = {name: value for name, value in seen._asdict().items() if name != "inputs"}
    values = jax.tree.map(float, {k: v for k, v in values.items() if k != "predictiveness"})
    if seen.predictiveness:
        values["predictiveness"] = jax.tree.map(lambda a: np.asarray(a).tolist(), seen.predictiveness._asdict())
    return values | {"percentiles": [_percentiles(np.asarray(a)) for a in seen.inputs]}


def series(steps: int, layers: list[str], norms: list[str], seen: list[dict[str, Any]], setup: Setup) -> dict[str, Any]:
    """The observations of one lane over time, as "probes" of its record."""
    times = ("percentiles", "saturation", "sparsity", "skewness", "dead", "zero_share")
    series: dict[str, Any] = {"steps": [steps * epoch for epoch in range(len(seen))], "layers": layers, "norms": norms}
    series |= {field: [s[field] for s in seen] for field in times}
    series |= {field: [s[field] for s in seen] if norms else None for field in ("mean_gap", "var_ratio", "scale")}
    names = list(seen[0]["gradient_norms"])
    series["gradient_norms"] = {name: [s["gradient_norms"][name] for s in seen] for name in names} or None
    series["predictiveness"] = None
    if setup.probes.predictiveness:
        names = {"losses": "loss", "gradient_distances": "gradient_change", "smoothness": "smoothness"}
        along = {name: [s["predictiveness"][field] for s in seen] for name, field in names.items()}
        series["predictiveness"] = {"steps": series["steps"], "step_sizes": list(STEP_SIZES), **along}
    return series


def at_end(found: Any) -> dict[str, Any]:
    """Curvature of one lane after the last step, as part of "probes"."""
    if found is None:
        return {"eigenvalues": None, "eigenvalue_residuals": None, "mean_logit": None}
    values, residuals = (
        {name: np.asarray(a).tolist() for name, a in part.items()} or None
        for part in (found.eigenvalues, found.residuals)
    )
    logit = jax.tree.map(float, found.mean_logit) or None
    return {"eigenvalues": values, "eigenvalue_residuals": residuals, "mean_logit": logit}


def _percentiles(values: np.ndarray) -> list[float]:
    return np.percentile(values, PERCENTILES).tolist() if np.isfinite(values).all() else [math.nan] * len(PERCENTILES)
