"""Checks that records.jsonl and result.json belong to the config of their folder; `validation` has checked their types.

Errors are predicates about the file, such as "holds an arm beside/relu (line 3), which the config has not".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from experiments.config import Arm, Config
from experiments.store.checks import check, check_alike
from experiments.store.result import ArmRow, Result, SettingRow
from experiments.store.right import unpack_right
from experiments.store.schema import Training


def fit_records(config: Config, records: Sequence[Training]) -> None:
    """Checks all lines of records.jsonl, in order, against the config and against one another.

    Raises:
      ValueError: a record is of an arm, rate, decay or seed that the config does not have, a training appears twice, or
        the trainings of an arm differ in their steps or probes.
    """
    allowed = {arm: _allowed(config, arm) for arm in config.arms}
    steps: dict[Arm, list[int]] = {}
    probed: dict[Arm, list[Any]] = {}
    seen: set[tuple[Any, ...]] = set()
    for number, record in enumerate(records, start=1):
        arm = Arm(record["treatment"], record["context"])
        check(arm in allowed, f"holds an arm {arm} (line {number}), which the config has not")
        for field, values in allowed[arm].items():
            check(
                record[field] in values,
                f"holds a training of {arm} with {field} {record[field]} (line {number}), which the config has not",
            )
        check(
            record["steps"] == steps.setdefault(arm, record["steps"]),
            f"holds trainings of {arm} that differ in their steps (line {number})",
        )
        key = (record["phase"], arm, *(record[field] for field in allowed[arm]))
        check(key not in seen, f"holds the training of line {number}, of {arm}, twice")
        seen.add(key)
        if probes := record.get("probes"):
            probed.setdefault(arm, []).append(probes)
    for arm, probes in probed.items():
        check_alike(probes, f"probes of {arm}")


def fit_right(config: Config, records: Sequence[Training], examples: int) -> None:
    """Raises ValueError if the bits of a record do not say its test accuracy; data.json has the number of examples."""
    for number, record in enumerate(records, start=1):
        # A network without norms has no statistics that could differ: the test accuracy stands in for every metric.
        accuracy = record[config.analysis.metric]
        accuracy = record["test_accuracy"] if accuracy is None else accuracy
        try:
            right = int(unpack_right(record["right"], examples).sum())
        except ValueError as error:
            raise ValueError(f"holds a training (line {number}) whose right {error}") from None
        check(
            abs(right - accuracy * examples) < 0.5,
            f"holds a training (line {number}) of accuracy {accuracy:.6g} with {right} of {examples} bits of right set",
        )


def fit_result(config: Config, result: Result) -> None:
    """Raises ValueError if the result does not belong to this config, or if its parts do not belong together."""
    arms, rows, seeds = config.arms, result["arms"], result["look"]["seeds"]
    check(seeds <= config.sweep.seeds, f"is of {seeds} seeds, and the config has {config.sweep.seeds}")
    k = config.sweep.learning_rate_extension
    whole = config.sweep.extended(k, k)
    check(
        bool(result["learning_rates"]) and set(result["learning_rates"]) <= set(whole),
        "has learning rates that are not those of the config",
    )
    check(
        [Arm(row["treatment"], row["context"]) for row in rows] == list(arms),
        "has arms that are not those of the config",
    )
    for arm, row in zip(arms, rows, strict=True):
        check(row["n"] == seeds, f"has not the {seeds} trainings of {arm} that its look has")
        _check_arm(config, arm, row, result["learning_rates"])
    names, known = [question.name for question in config.contrasts], set(map(str, arms))
    check(
        [row["name"] for row in result["contrasts"]] == names, "has contrasts that are not those that the config asks"
    )
    for row in result["contrasts"]:
        strangers = sorted({*row["weights"], *(end["arm"] for end in row["at_end"])} - known)
        check(not strangers, f"has a contrast {row['name']!r} of {', '.join(strangers)}, which the config has not")
        check(len(row["values"]) in (0, seeds), f"has not a value of {row['name']!r} for each of {seeds} seeds")
        check(bool(row["intervals"]), f"has no interval of {row['name']!r}")
    for row in (*result["published"], *result["shares"]):
        check(row["contrast"] in names, f"has a contrast {row['contrast']!r}, which the config does not ask")
    for row in result["race"]:
        arm = Arm(row["treatment"], row["context"])
        check(arm in arms, f"has a race of {arm}, which the config has not")


def _allowed(config: Config, arm: Arm) -> dict[str, Collection[Any]]:
    """The values that each field of a training of this arm may have."""
    sweep, own = config.sweep, config.setup(arm).optimizer
    k = sweep.learning_rate_extension
    return {
        "learning_rate": frozenset(sweep.extended(k, k)),
        "weight_decay": sweep.weight_decays or (own.weight_decay,),
        "decay_scale_bias": sweep.decay_scale_bias or (own.decay_scale_bias,),
        "seed": frozenset(config.seeds(arm)),
    }


def _check_arm(config: Config, arm: Arm, row: ArmRow, rates: Sequence[float]) -> None:
    n = row["n"]
    check(row["seeds"] == list(config.seeds(arm)[:n]), f"has seeds of {arm} that are not those of the config")
    spreads = (row["test_accuracy"], row["test_accuracy_population"], row["test_accuracy_batch"])
    lists = [row["values"], row["diverged_at"], *(spread["values"] for spread in spreads if spread)]
    check({len(values) for values in lists} == {n}, f"has not one value of {arm} for each of its {n} seeds")
    settings = [_setting(s) for s in row["settings"]]
    check(len(set(settings)) == len(settings), f"has a setting of {arm} twice")
    allowed = _allowed(config, arm) | {"learning_rate": rates}
    for setting in row["settings"]:
        fits = all(setting[field] in allowed[field] for field in ("learning_rate", "weight_decay", "decay_scale_bias"))
        check(fits, f"has a setting of {arm} that is none of the config")
        check(len(setting["values"]) == setting["seeds"] <= n, f"has not a value of {arm} for each seed of a setting")
    check(_setting(row) in settings, f"has a choice of {arm} that is none of its settings")
    check(
        len({len(row["validation_curve"][name]) for name in ("steps", "mean", "sd")}) == 1,
        f"has a curve of {arm} of unequal lengths",
    )
    check_alike(row["end"], f"probes of {arm}")


def _setting(row: SettingRow | ArmRow) -> tuple[float, float, bool]:
    return row["learning_rate"], row["weight_decay"], row["decay_scale_bias"]
