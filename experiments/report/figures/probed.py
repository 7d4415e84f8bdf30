"""Records and probes by arm, and which layers of many are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.config import Config
from experiments.report.plotting import Floats, array
from experiments.vocabulary import LAST_MODULES

Record = dict[str, Any]
Probes = list[dict[str, Any]]
"""Those of one arm, one per probed seed, seeds in order."""
Seen = dict[str, dict[str, Probes]]
"""Probes by context and treatment."""

MOST_LAYERS = 6
MOST_MARKS = 7
"""Marks on a line."""


def select(records: Sequence[Record], phase: str, treatment: str, context: str) -> list[Record]:
    """The records of one arm, seeds in order."""
    found = [r for r in records if (r["phase"], r["treatment"], r["context"]) == (phase, treatment, context)]
    return sorted(found, key=lambda record: record["seed"])


class FirstSeen(NamedTuple):
    """After how many steps each treatment is first seen at an accuracy, in percent."""

    accuracy: int
    steps: dict[str, int]


def first_seen(config: Config, records: Sequence[Record], data: dict[str, Any]) -> dict[str, FirstSeen]:
    """By context: when the mean of the evaluation seeds is seen at the highest full percent that all treatments reach.

    Treatments that never get well above chance do not learn, and would make a threshold that all pass at once: they
    are left out, as are contexts in which fewer than two learn, and runs that were evaluated once only.
    """
    chance = 100 / data["classes"] if data else 0.0
    learnt = min(2 * chance, (100 + chance) / 2)  # of two classes, twice chance would be 100%
    found = {}
    for context in dict.fromkeys(arm.context for arm in config.arms):
        curves: dict[str, tuple[list[int], Floats]] = {}
        for treatment in (arm.treatment for arm in config.arms if arm.context == context):
            runs = select(records, "evaluate", treatment, context)
            mean = 100 * array([run["val_accuracy"] for run in runs]).mean(axis=0)
            if mean.size > 1 and mean.max() > learnt:
                curves[treatment] = (runs[0]["steps"], mean)
        if len(curves) < 2:
            continue
        # A mean of 0.9 thrice may be a hair below 0.9.
        threshold = math.floor(min(float(mean.max()) for _, mean in curves.values()) + 1e-9)
        first = {t: int(steps[int(np.argmax(mean + 1e-9 >= threshold))]) for t, (steps, mean) in curves.items()}
        found[context] = FirstSeen(threshold, first)
    return found


def only_ends(steps: Sequence[int]) -> str:
    """A sentence for the caption, where a network was looked at no more than twice."""
    if len(steps) > 2:
        return ""
    return " Seen before the first and after the last step alone: what lies between is not known, the lines only lead."


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
    """At most that many of so many layers, or points of a line, evenly chosen, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def has(probe: dict[str, Any], key: str) -> bool:
    """Whether the probe holds the key, and anything in it: a network may have no activation, or no norm, to look at."""
    value = probe.get(key)
    return bool(value) and not (isinstance(value, list) and value[0] == [])


def forward_order(names: Iterable[str]) -> list[str]:
    """Names of modules sorted as the forward pass meets them, where they were sorted by name: the head comes last."""

    def place(name: str) -> int:
        first = name.split("/")[0]
        return LAST_MODULES.index(first) if first in LAST_MODULES else -1

    return sorted(names, key=place)


def names_of(probes: Probes, count: int, key: str = "layers") -> list[str]:
    """The layers' (or norms') names; numbers where a run has none."""
    names = probes[0].get(key)
    return names if names and len(names) == count else [f"{k + 1}" for k in range(count)]


def leaving_out(counts: set[int], most: int = MOST_LAYERS, what: str = "hidden layers") -> str:
    """A sentence for the caption, where not all layers are drawn."""
    return f" {most} of {max(counts)} {what} are drawn, evenly chosen." if counts and max(counts) > most else ""
