"""Selects what figures draw: records and probes of each arm, and some of many layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report.plotting import Floats, array
from experiments.vocabulary import LAST_MODULES

Record = dict[str, Any]
Probes = list[dict[str, Any]]
"""The probes of one arm, one entry per probed seed, in the order of the seeds."""
Seen = dict[str, dict[str, Probes]]
"""Probes by context and treatment."""

SETTING = ("learning_rate", "weight_decay", "decay_scale_bias")
MAX_LAYERS = 6
MAX_MARKS = 7
"""The most marks on one line."""


def select(records: Sequence[Record], phase: str, treatment: str, context: str) -> list[Record]:
    """The records of one arm in one phase, in the order of the seeds."""
    found = [r for r in records if (r["phase"], r["treatment"], r["context"]) == (phase, treatment, context)]
    return sorted(found, key=lambda record: record["seed"])


def as_chosen(records: Sequence[Record], row: Mapping[str, Any], phase: str = "train") -> list[Record]:
    """The trainings of an arm at the setting that most bags choose, one per seed; `row` is its ArmRow."""
    found = select(records, phase, row["treatment"], row["context"])
    return [r for r in found if all(r[key] == row[key] for key in SETTING)]


class FirstSeen(NamedTuple):
    """An accuracy in percent, and the number of steps after which each treatment first reaches it."""

    accuracy: int
    steps: dict[str, int]


def first_seen(result: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, FirstSeen]:
    """For each context, when the mean over seeds first reaches the highest whole percent that all treatments reach.

    Left out are treatments that never get well above chance (with them, the threshold would be so low that all pass at
    once), runs that were evaluated only once, and then contexts with fewer than two treatments left.
    """
    chance = 100 / data["classes"] if data else 0.0
    learnt = min(2 * chance, (100 + chance) / 2)  # with two classes, twice chance would be 100%
    found = {}
    for context in dict.fromkeys(row["context"] for row in result["arms"]):
        curves: dict[str, tuple[list[int], Floats]] = {}
        for row in result["arms"]:
            curve = row["validation_curve"]
            mean = array(curve["mean"])
            if row["context"] == context and mean.size > 1 and mean.max() > learnt:
                curves[row["treatment"]] = (curve["steps"], mean)
        if len(curves) < 2:
            continue
        threshold = math.floor(min(float(mean.max()) for _, mean in curves.values()))
        first = {t: int(steps[int(np.argmax(mean >= threshold))]) for t, (steps, mean) in curves.items()}
        found[context] = FirstSeen(threshold, first)
    return found


def ends_only_note(steps: Sequence[int]) -> str:
    """A sentence for the caption if a network was probed at most twice; otherwise empty."""
    if len(steps) > 2:
        return ""
    return " Seen before the first and after the last step alone: what lies between is not known, the lines only lead."


def probed_arms(result: Mapping[str, Any], records: Sequence[Record]) -> Seen:
    """The probes of every arm that has any, at its most chosen setting.

    A run that was given more seeds may have probes of the setting that fewer seeds chose.
    """
    seen: Seen = {}
    for row in result["arms"]:
        probes = [r["probes"] for r in as_chosen(records, row, "probe") if r.get("probes")]
        if probes:
            seen.setdefault(row["context"], {})[row["treatment"]] = probes
    return seen


def stacked(probes: Probes, key: str) -> Floats:
    """The values under `key` as an array [seed, time, ...]."""
    return array([probe[key] for probe in probes])


def evenly_spaced(count: int, most: int = MAX_LAYERS) -> list[int]:
    """At most `most` indices of `count` layers (or points), evenly spaced, including the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def has_values(probe: dict[str, Any], key: str) -> bool:
    """Whether the probe has values under the key; a network without activations, or without norms, may have none."""
    value = probe.get(key)
    return bool(value) and not (isinstance(value, list) and value[0] == [])


def forward_order(names: Iterable[str]) -> list[str]:
    """Module names in the order of the forward pass; sorted names have that order already, but for the head."""

    def place(name: str) -> int:
        first = name.split("/")[0]
        return LAST_MODULES.index(first) if first in LAST_MODULES else -1

    return sorted(names, key=place)


def names_of(probes: Probes, count: int, key: str = "layers") -> list[str]:
    """The names of the layers (or norms); their numbers if the run did not store names."""
    names = probes[0].get(key)
    return names if names and len(names) == count else [f"{k + 1}" for k in range(count)]


def omission_note(counts: set[int], most: int = MAX_LAYERS, what: str = "hidden layers") -> str:
    """A sentence for the caption if not all layers are drawn; otherwise empty."""
    return f" {most} of {max(counts)} {what} are drawn, evenly chosen." if counts and max(counts) > most else ""
