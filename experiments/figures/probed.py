"""Records and probes by arm, and which layers of many are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments.config import Config
from experiments.plotting import Floats, array

Record = dict[str, Any]
Probes = list[dict[str, Any]]
"""Those of one arm, one per probed seed, seeds in order."""
Seen = dict[str, dict[str, Probes]]
"""Probes by context and treatment."""

MOST_LAYERS = 6
LAST = ("final_norm", "head")


def select(records: Sequence[Record], phase: str, treatment: str, context: str) -> list[Record]:
    """The records of one arm, seeds in order."""
    found = [r for r in records if (r["phase"], r["treatment"], r["context"]) == (phase, treatment, context)]
    return sorted(found, key=lambda record: record["seed"])


def probed_arms(config: Config, records: Sequence[Record]) -> Seen:
    """The probes of every arm that has some."""
    seen: Seen = {}
    for arm in config.arms:
        probes = [r["probes"] for r in select(records, "evaluate", *arm) if r.get("probes")]
        if probes:
            seen.setdefault(arm.context, {})[arm.treatment] = probes
    return seen


def stacked(probes: Probes, key: str) -> Floats:
    """[seed, time, ...]"""
    return array([probe[key] for probe in probes])


def some_layers(count: int, most: int = MOST_LAYERS) -> list[int]:
    """At most that many of so many layers, evenly chosen, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def has(probe: dict[str, Any], key: str) -> bool:
    """Whether the probe holds the key, and anything in it: a network may have no activation, or no norm, to look at."""
    value = probe.get(key)
    return bool(value) and not (isinstance(value, list) and value[0] == [])


def forward_order(names: Iterable[str]) -> list[str]:
    """Names of modules sorted as the forward pass meets them, where they were sorted by name: the head comes last."""
    return sorted(names, key=lambda name: LAST.index(name.split("/")[0]) if name.split("/")[0] in LAST else -1)


def names_of(probes: Probes, count: int, key: str = "layers") -> list[str]:
    """The layers' (or norms') names; numbers where a run has none."""
    names = probes[0].get(key)
    return names if names and len(names) == count else [f"{k + 1}" for k in range(count)]


def leaving_out(counts: set[int], most: int = MOST_LAYERS, what: str = "hidden layers") -> str:
    """A sentence for the caption, where not all layers are drawn."""
    return f" {most} of {max(counts)} {what} are drawn, evenly chosen." if counts and max(counts) > most else ""
