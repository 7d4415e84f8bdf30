"""How one number, one interval or one verdict of a result is written. Verdicts are never put in other words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from experiments import formatting
from experiments.formatting import number, signed
from experiments.quoting.runs import result_of
from experiments.store.record import Run

Row = Mapping[str, Any]
PLAIN_ALPHA = 0.05


def accuracy(arm: Row) -> str:
    """`97.12 ± 0.11`: an arm's accuracy at its bagged choice and its standard error, percent."""
    return f"{number(arm['estimate'])} ± {number(arm['se'])}"


def difference(contrast: Row) -> str:
    """`-0.12 [-0.42, 0.19]; [-0.75, 0.52]`: pp, the interval for new seeds, then that for new data, too."""
    if contrast["exact"]:
        return f"{signed(contrast['difference'])} with every seed"
    return f"{signed(contrast['difference'])} {'; '.join(interval(i, contrast) for i in contrast['intervals'])}"


def difference_in_words(contrast: Row) -> str:
    """`-0.12 [-0.42, 0.19] for new seeds, [-0.75, 0.52] for new data, too`; what the interval of a mean speaks of."""
    if contrast["exact"]:
        return f"{signed(contrast['difference'])} with every seed"
    spoken = [f"{interval(i, contrast)} for {i['speaks_of']}" for i in contrast["intervals"]]
    return f"{signed(contrast['difference'])} {', '.join(spoken)}"


def interval(of: Row, contrast: Row | None = None) -> str:
    """`[-0.42, 0.19]`, with its confidence where that is not 95%, as at an early look."""
    low, high = of["ci"]
    alpha = PLAIN_ALPHA if contrast is None else contrast["alpha"]
    level = "" if math.isclose(alpha, PLAIN_ALPHA) else f"{100 * (1 - alpha):.4g}% CI "
    return f"{level}[{number(low)}, {number(high)}]"


def verdict(contrast: Row) -> str:
    """The verdict of result.json, and whether trainings failed."""
    return contrast["verdict"] + ("; not all trainings learned" if contrast["caution"] else "")


def judged(run: Run, contrast: str) -> list[dict[str, Any]]:
    """What others published for a contrast, with the word for it."""
    return [row for row in result_of(run)["published"] if row["contrast"] == contrast]


def networks(run: Run) -> int:
    """How many networks a run trained."""
    return sum(setting["seeds"] for arm in result_of(run)["arms"] for setting in arm["settings"])


def duration(run: Run) -> str | None:
    """`71 s`, `24 min`, `2.3 h`."""
    seconds = run.env.get("wall_seconds")
    return None if seconds is None else formatting.duration(seconds)


def machine(run: Run) -> str:
    """`cpu x 2 (AMD EPYC 7763 64-Core Processor)`."""
    processor = run.env.get("processor")
    return run.env["device"] + (f" ({processor})" if processor else "")


def date(run: Run) -> str:
    """The day on which the run was last worked on, as 2026-11-26."""
    return max(env["date"] for env in (run.env, *run.env.get("resumed", ())))[:10]


def seeds(run: Run) -> int:
    return result_of(run)["look"]["seeds"]


def provenance(run: Run) -> str:
    """`12 seeds, 576 networks in 71 s, cpu x 2 (AMD EPYC), jax 0.10.2, 2026-11-30`."""
    took = f" in {duration(run)}" if duration(run) else ""
    return (
        f"{seeds(run)} seeds, {networks(run):,} networks{took}, {machine(run)}, jax {run.env['versions']['jax']}, "
        f"{date(run)}"
    )


def failures(run: Run) -> str:
    """`Not all trainings learned: none/sigmoid 11 of 12.`; empty where all did."""
    found = [
        f"{arm['treatment']}/{arm['context']} {arm['learned']['count']} of {arm['learned']['n']}"
        for arm in result_of(run)["arms"]
        if arm["learned"]["count"] < arm["learned"]["n"]
    ]
    return f"Not all trainings learned: {', '.join(found)}." if found else ""
