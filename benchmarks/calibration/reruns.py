"""Do runs of the whole command agree as their intervals say? `python -m benchmarks reruns [--config FILE.py]`.

A config is run several times with disjoint seeds, from training to result.json. If its intervals hold, the estimates of
a contrast move from run to run as far as the standard errors say:

    ratio² = mean over contrasts of (variance over runs / mean over runs of se²)

is 1; above 1, the intervals are too narrow. Contrasts share arms, so that the ratio is not as sure as one of so many
independent contrasts: its standard error comes from a jackknife over the runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.machine import provenance
from benchmarks.output import RESULTS, write_json
from experiments import sweep
from experiments.config import Config
from experiments.config.reading import load
from experiments.training.devices import use_all_cores

ROOT = Path(__file__).parents[2]


def repeat(config: Config, runs: int, folder: Path, console: Console) -> list[dict[str, Any]]:
    """The results of several runs with disjoint seeds; what a run's folder holds is not trained again."""
    results = []
    for k in range(runs):
        first = config.sweep.first_seed + k * config.sweep.seeds
        console.print(
            f"run {k + 1} of {runs}: seeds {first} to {first + config.sweep.seeds - 1}", highlight=False, soft_wrap=True
        )
        again = replace(config, sweep=replace(config.sweep, first_seed=first), probes=replace(config.probes, seeds=0))
        found = sweep.run(again, folder / f"{config.name}_{first}")
        assert found is not None and found.result is not None
        results.append(found.result)
    return results


def compare(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How far primary contrasts move over runs, against their standard errors for new seeds."""
    rows = {}
    for place, contrast in enumerate(results[0]["contrasts"]):
        if contrast["primary"] and not contrast["exact"]:
            same = [result["contrasts"][place] for result in results]
            estimates = np.array([row["difference"] for row in same])
            errors = np.array([row["intervals"][0]["se"] for row in same])
            rows[contrast["name"]] = {
                "differences": estimates.tolist(),
                "standard errors": errors.tolist(),
                "sd over runs": float(estimates.std(ddof=1)),
                "root mean square of the standard errors": float(np.sqrt((errors**2).mean())),
                "ratio": float(estimates.std(ddof=1) / np.sqrt((errors**2).mean())),
            }
    differences, errors = (np.array([row[k] for row in rows.values()]) for k in ("differences", "standard errors"))
    runs = len(results)
    without = [_ratio(np.delete(differences, k, 1), np.delete(errors, k, 1)) for k in range(runs)] if runs > 2 else []
    return {
        "speaks_of": results[0]["contrasts"][0]["intervals"][0]["speaks_of"],
        "runs": runs,
        "contrasts": rows,
        "ratio": _ratio(differences, errors),
        "jackknife standard error of the ratio": (float(np.sqrt((runs - 1) * np.var(without))) if without else None),
    }


def _ratio(differences: np.ndarray, errors: np.ndarray) -> float:
    """Over contrasts, in which each one weighs as much as any other, whatever its size."""
    relative = differences.var(axis=1, ddof=1) / (errors**2).mean(axis=1)
    return float(np.sqrt(relative.mean()))


def as_markdown(found: dict[str, Any]) -> str:
    lines = [
        "| contrast | differences (pp) | sd over runs | standard error | ratio |",
        "| :-- | :-- | --: | --: | --: |",
    ]
    for name, row in found["contrasts"].items():
        lines.append(
            f"| {name} | {' '.join(f'{d:+.2f}' for d in row['differences'])} | {row['sd over runs']:.2f} | "
            f"{row['root mean square of the standard errors']:.2f} | {row['ratio']:.2f} |"
        )
    error = found["jackknife standard error of the ratio"]
    return "\n".join(
        [
            "<!-- written by python -m benchmarks reruns -->",
            "",
            f"{found['runs']} runs of {found['config']} with disjoint seeds ({found['about']['device']}, "
            f"{found['about']['date']}). Differences move {found['ratio']:.2f}"
            f"{f' ± {error:.2f}' if error is not None else ''} times as far as their intervals, which speak of "
            f"{found['speaks_of']}, say (root mean square over the contrasts; ± is a standard error, from a jackknife "
            "over the runs).",
            "",
            *lines,
            "",
        ]
    )


def run(options: argparse.Namespace) -> int:
    use_all_cores()
    console = Console()
    config = load(options.config or ROOT / "configs/digits_placement.py")
    results = repeat(config, options.runs, ROOT / "runs/reruns", console)
    found = {"config": config.name, "about": provenance(), **compare(results)}
    out = options.out or RESULTS / "reruns.json"
    write_json(found, out)
    out.with_suffix(".md").write_text(as_markdown(found), encoding="utf-8")
    console.print(as_markdown(found), markup=False, highlight=False, soft_wrap=True)
    return 0
