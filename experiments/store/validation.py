"""Checks everything that is read from a run folder, against its type; `fitting` checks it against the config.

A file that was edited, truncated or damaged raises an error of one sentence that says where, before it is used.
"""

from __future__ import annotations

import math
import re
from functools import cache
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter, ValidationError

from experiments.config.errors import UNPRINTABLE, shortened
from experiments.store.checks import check, check_alike
from experiments.store.fitting import fit_records as fit_records
from experiments.store.fitting import fit_result as fit_result
from experiments.store.fitting import fit_right as fit_right
from experiments.store.result import Result
from experiments.store.schema import Description, Engine, Environment, Network, Past, Probes, Training


def _check_description(data: Description) -> Description:
    check(math.prod(data["shape"]) == data["features"], "has a shape that does not multiply to its features")
    if (classes := data.get("test_classes")) is not None:
        whole = len(classes) == data["classes"] and sum(classes) == data["test"]
        check(whole, "has test_classes that do not add up to its test examples")
    for part in (data["raw"], data["standardized"], data["standardized_test"]):
        check(len(part["mean"]) == len(part["std"]) == data["features"], "has not one mean and std a feature")
    for part in (data["raw"], data["standardized"]):
        edges, counts = part["edges"], part["counts"]
        check(len(edges) == len(counts) + 1 and sum(counts) > 0, "has counts that do not fit their edges")
        check(all(a < b for a, b in pairwise(edges)), "has edges that do not grow")
    return data


def _check_metrics(line: dict[str, Any]) -> dict[str, Any]:
    check(isinstance(line.get("run"), str), "does not say the run, by name")
    check(type(line.get("step")) is int and line["step"] >= 0, "does not say the step, from 0 up")
    check(not any(isinstance(line[name], str) for name in line.keys() - {"run"}), "holds a metric that is no number")
    return line


def _check_training(record: Training) -> Training:
    epochs = len(record["steps"])
    for curve in (record["train_loss"], record["val_loss"], record["val_accuracy"]):
        check(len(curve) == epochs, f"has a curve without the {epochs} values that steps has")
    if probes := record.get("probes"):
        _check_probes(probes)
    return record


def _check_probes(probes: Probes) -> None:
    times, layers, norms = len(probes["steps"]), len(probes["layers"]), len(probes["norms"])
    wanted: dict[str, int] = dict.fromkeys(("percentiles", "saturation", "sparsity", "skewness", "dead"), layers)
    wanted |= {"zero_share": layers} | dict.fromkeys(("mean_gap", "var_ratio", "scale"), norms)
    found: dict[str, Any] = dict(probes)
    for name, width in wanted.items():
        if (rows := found[name]) is not None:
            right = len(rows) == times and all(len(row) == width for row in rows)
            check(right, f"has {name} that are not {times} lists of {width}")
    for name, values in (probes["gradient_norms"] or {}).items():
        check(len(values) == times, f"has gradient_norms of {name} that are not {times}")
    if along := probes["predictiveness"]:
        times, sizes = len(along["steps"]), len(along["step_sizes"])
        for rows in (along["losses"], along["gradient_distances"]):
            check(
                len(rows) == times and all(len(row) == sizes for row in rows), "has a predictiveness of unequal lengths"
            )
        check(len(along["smoothness"]) == times, "has a predictiveness of unequal lengths")
    for name in ("eigenvalues", "mean_logit"):
        check(
            not found[name] or found[name].keys() == {"batch", "frozen"}, f"has {name} that are not of batch and frozen"
        )


KINDS = {
    "config.json": dict[str, Any],  # and see `experiments.config.from_json`
    "env.json": Environment,
    "data.json": Annotated[Description, AfterValidator(_check_description)],
    "arms.json": dict[str, Network],
    "engine.json": dict[str, Engine],
    "records.jsonl": Annotated[Training, AfterValidator(_check_training)],
    "metrics.jsonl": Annotated[dict[str, str | int | float | None], AfterValidator(_check_metrics)],
    "result.json": Result,
    "past": Past,
}
"""The type of each file, or of each of its lines; "past" is the file next to a checkpoint."""

SUSPECT = re.compile(rb"\\[bfnrtu]|[\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")
"""What text in JSON has if one of its strings is not printable; it may have it otherwise, too."""

adapter = cache(TypeAdapter)
"""Cached, because building a TypeAdapter takes milliseconds."""


def parse(text: bytes, name: str) -> Any:
    """Parses and checks `text`, the content (or a line) of the file `name`.

    Raises:
      ValueError: the content is invalid. The message is a predicate about the text, such as "lacks seed".
    """
    try:
        value = adapter(KINDS[name]).validate_json(text)
        if SUSPECT.search(text):
            _refuse_unprintable(value)
        return value
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    where, message = ".".join(str(part) for part in first["loc"]), " ".join(first["msg"].split())
    match first["type"]:
        case "json_invalid":
            raise ValueError("is no JSON")
        case "missing":
            raise ValueError(f"lacks {where}")
        case "value_error":
            raise ValueError(message.removeprefix("Value error, "))
        case _:
            given = f"{where} = {shortened(first['input'])}" if where else shortened(first["input"])
            raise ValueError(f"holds {given}: {message[0].lower()}{message[1:]}")


def _refuse_unprintable(value: Any, place: str = "") -> None:
    """Raises ValueError for text that is no line, or that a terminal would obey: reports and listings show it."""
    if isinstance(value, str):
        check(not UNPRINTABLE.search(value), f"holds {place} = {shortened(value)}: input should be a line of text")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_unprintable(key, f"a name in {place}" if place else "a name")
            _refuse_unprintable(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _refuse_unprintable(item, f"{place}.{number}" if place else str(number))


def fit_past(past: Past, epochs: int, lanes: int, observed: int) -> None:
    """Raises ValueError if the number of lanes differs, or if there are fewer epochs."""
    check(len(past["curves"]) == lanes and len(past["looks"]) == observed, "is of other trainings")
    short = [
        c for c in past["curves"] if min(len(c["train_loss"]), len(c["val_loss"]), len(c["val_accuracy"])) < epochs
    ]
    check(not short, f"has not all of the {epochs} epochs")
    check(all(len(seen) > epochs for seen in past["looks"]), f"has not all looks of the {epochs} epochs")
    for seen in past["looks"]:
        check_alike(seen, "looks")
