"""Errors and warnings of the estimation."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from jbn._models._layer import Measurement
from jbn._paths import Path, path_name
from jbn._running_stats import BatchStats


class Skipped(NamedTuple):
    """The batches that a layer skipped in a pass, because their moments are not finite.

    Attributes:
      batches: `[]`, int32, how many.
      first: `[]`, int32, the number of the first.
    """

    batches: jax.Array
    first: jax.Array


def check_options(mode: Any, variance: Any, batches: Any) -> None:
    if mode not in ("together", "layer by layer"):
        raise ValueError(f"mode is {mode!r}; use 'together' or 'layer by layer'")
    if variance not in ("biased", "unbiased"):
        raise ValueError(f"variance is {variance!r}; use 'biased' or 'unbiased'")
    if mode == "layer by layer" and not callable(batches) and iter(batches) is batches:
        raise ValueError(
            "mode='layer by layer' passes over the data once for each layer, but batches is an iterator that can be "
            "consumed only once; pass a list, or a function that returns a new iterator"
        )


def check_has_norms(measurement: Measurement) -> None:
    if not measurement.layers:
        raise ValueError(
            "the model calls no batch norm (jbn.linen, jbn.nnx or Flax's own), so there is nothing to estimate; pass "
            "a model that has one"
        )


def check_not_empty(count: int, number: int) -> None:
    if not count:
        raise ValueError(f"batches is empty{f' in pass {number}' if number > 1 else ''}; pass at least one batch")


def raise_unsettled(passes: int, layers: int, change: float) -> NoReturn:
    raise ValueError(
        f"after {passes} passes over {layers} layers the statistics still change, by up to {change:.2g} standard "
        "deviations: a layer that is called twice in a forward pass depends on itself, or the batches differ from "
        "pass to pass; use mode='together', the same batches in every pass, or passes=<limit>"
    )


def report_skipped(measurement: Measurement, skipped: dict[Path, Skipped], count: int) -> None:
    """An error if a layer without skip_nonfinite=True skipped batches, or one skipped all; else a warning."""
    nonfinite = {path: skipped[path] for path in measurement.layers if skipped[path].batches}
    refusing = {path: int(s.first) for path, s in nonfinite.items() if not measurement.layers[path].options.skips}
    if refusing:
        path = min(refusing, key=refusing.__getitem__)
        raise ValueError(
            f"batch {refusing[path]} (counted from 0) has moments that are not finite at {path_name(path)}: the data "
            "or the model's activations contain NaN or infinity; leave that batch out, or let the layers skip it: "
            "skip_nonfinite=True in the constructor of jbn's BatchNorm"
        )
    for path, s in nonfinite.items():
        if s.batches == count:
            raise ValueError(
                f"none of the {count} batches has finite moments at {path_name(path)}, so that skip_nonfinite=True "
                "skips all; look for NaN or infinity in the data and in the variables"
            )
    if nonfinite:
        layers: dict[tuple[int, int], list[str]] = {}
        for path, s in nonfinite.items():
            layers.setdefault((int(s.batches), int(s.first)), []).append(path_name(path))
        parts = "; ".join(f"{n} (the first is {first}) at {', '.join(at)}" for (n, first), at in layers.items())
        warnings.warn(
            f"of {count} batches, counted from 0, those are left out whose moments are not finite: {parts}",
            stacklevel=4,
        )


def check_finite(running: dict[Path, BatchStats]) -> None:
    for path, stats in running.items():
        for name, value in (("mean", stats.mean), ("var", stats.var)):
            if not bool(jnp.all(jnp.isfinite(value))):
                raise ValueError(
                    f"{path_name(path)} keeps its {name} in {value.dtype}, which cannot hold it; keep it in float32, "
                    "such as by force_float32_reductions=True"
                )
