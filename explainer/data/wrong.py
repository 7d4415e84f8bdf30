"""Data of the scene "wrong": wines, the exact results at each offset, and how far jax's results are from them."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from sklearn.datasets import load_wine

from explainer.data import ROOT, Value
from explainer.programs.wrong import large_mean, large_mean_flax

OFFSETS = (0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
BATCHES, SIZE = 50, 64
SHOWN = 6  # a batch whose variance comes out as 0 at an offset of 10,000, as that of most batches does


def exact(x: np.ndarray) -> np.ndarray:
    """Each column normalized in float64."""
    x = x.astype(np.float64)
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def standardized(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / x.std()


def large_means(alcohol: np.ndarray) -> dict[str, Any]:
    """Batches of wines with an offset, a column each: how far the outputs that jax computes here are off."""
    rng = np.random.default_rng(0)
    batches = np.stack([rng.choice(standardized(alcohol), SIZE, replace=False) for _ in range(BATCHES)], 1).astype(
        np.float32
    )
    programs = jax.jit(lambda x, offset: (large_mean(x, offset), large_mean_flax(x, offset)))
    rights, zeros = [], []
    errors: dict[str, list[np.ndarray]] = {"jbn": [], "flax": [], "two_pass": []}
    for offset in OFFSETS:
        jbn, flax = jax.tree.map(np.asarray, programs(batches, np.float32(offset)))
        right = exact(jbn["x"])
        rights.append(right)
        for name, y in (("jbn", jbn["y"]), ("flax", flax["y"]), ("two_pass", flax["two_pass_y"])):
            errors[name].append(np.abs(y - right).max(0))
        zeros.append((flax["var"] == 0).mean())
    at = {offset: place for place, offset in enumerate(OFFSETS)}

    def measured(value: float, what: str, unit: str = "std") -> Value:
        return Value(value, unit, n=BATCHES, seed="0", config=f"{what}; batches of {SIZE} wines, jax on a CPU")

    def median(name: str, offset: int) -> Value:
        what = f"median of the largest error in a batch at an offset of {offset:,}"
        return measured(float(np.median(errors[name][at[offset]])), what)

    return {
        "x": batches[:, SHOWN],
        "offsets": OFFSETS,
        "batches": BATCHES,
        "truth": np.stack(rights)[..., SHOWN].astype(np.float32),
        "bands": {
            name: {end: np.quantile(e, q, 1).astype(np.float32) for end, q in (("low", 0.1), ("high", 0.9))}
            for name, e in ((name, np.array(e)) for name, e in errors.items())
        },
        "flax_1e3": median("flax", 1_000),
        "flax_1e4": median("flax", 10_000),
        "two_pass_1e6": median("two_pass", 1_000_000),
        "jbn_worst": measured(float(np.max(errors["jbn"])), "the largest error at any offset"),
        "flax_zero_1e4": measured(
            float(zeros[at[10_000]]), "share of batches of variance 0 at an offset of 10,000", ""
        ),
    }


def table() -> dict[str, Value]:
    """How many rows of the table of correctness libraries get right, where there is a right and a wrong."""
    rows = json.loads((ROOT / "benchmarks/results/correctness.json").read_text())["rows"]
    rows = [row for row in rows if row["cells"]["jbn"]["status"] != "cost"]
    count = {name: sum(row["cells"][name]["status"] == "right" for row in rows) for name in rows[0]["cells"]}
    made = {"rows": len(rows), "jbn_right": count.pop("jbn"), "flax_right": count["flax linen"]}
    made["best_other"] = max(count.values())
    return {key: Value(value, config="benchmarks/results/correctness.md") for key, value in made.items()}


def data() -> dict[str, Any]:
    wine, kind = load_wine(return_X_y=True)
    alcohol, kind = np.asarray(wine)[:, 0], np.asarray(kind)
    flavanoids = np.asarray(wine)[:, 6]
    rows = slice(None, None, 30)
    return {
        "source": f"Alcohol of 178 wines (scikit-learn); {BATCHES} batches of {SIZE} of them, drawn with seed 0.",
        "padded": standardized(alcohol)[rows].astype(np.float32),
        "target": standardized(flavanoids)[rows].astype(np.float32),
        "devices": np.stack([alcohol[kind == k][:4] for k in (0, 1)]).astype(np.float32),
        **large_means(alcohol),
        **table(),
    }
