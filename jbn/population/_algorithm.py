"""The passes over the data, for any model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sized
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jbn._models._batches import Batches, check_batch
from jbn._models._layer import MeasuredModel, Measurement, Mode, finite_or_initial, zero_moments
from jbn._moments import Moments, merge
from jbn._running_stats import BatchStats, Variance
from jbn._typed import jit
from jbn.population._checks import (
    Skipped,
    check_finite,
    check_has_norms,
    check_not_empty,
    check_options,
    raise_unsettled,
    report_skipped,
)

# Relative to the standard deviation; statistics that change by less are taken for those of the fixed point.
_SETTLED = 1e-5


def estimate(
    model: MeasuredModel,
    mode: Mode,
    call: Callable[..., Any] | None,
    batches: Batches,
    variance: Variance,
    passes: int | None,
    progress: bool,
) -> Any:
    """The model (or its variables) with mean and var of the whole data set in each layer that was measured."""
    layer_by_layer = mode == "layer by layer"
    check_options(mode, variance, batches)
    measurement = Measurement(mode)
    step = jit(functools.partial(_step, functools.partial(model.run, measurement, call)))
    running = dict(model.running)
    number, limit, change = 0, 1, np.inf
    count, skipped = 0, list[Skipped]()
    while number < limit and change > _SETTLED:
        number += 1
        count, total = 0, [zero_moments(stats) for stats in running.values()]
        skipped = [Skipped(jnp.int32(0), jnp.int32(0))] * len(running)
        for batch in _with_progress(batches() if callable(batches) else batches, number, progress):
            check_batch(batch, count)
            total, skipped = step(model.state, list(running.values()), total, skipped, batch, np.int32(count))
            check_has_norms(measurement)
            count += 1
        check_not_empty(count, number)
        layers = measurement.layers
        if layer_by_layer:
            norms = sum(running[path].mean.size // running[path].mean.shape[-1] for path in layers)
            limit = norms + 1 if passes is None else passes
        found = dict(zip(running, total, strict=True))
        updated = {path: _updated(running[path], found[path], variance) for path in layers}
        running |= {path: stats for path, (stats, _) in updated.items()}
        change = max(by for _, by in updated.values())
    report_skipped(measurement, dict(zip(running, jax.device_get(skipped), strict=True)), count)
    if layer_by_layer and passes is None and change > _SETTLED:
        raise_unsettled(number, len(measurement.layers), change)
    result = {path: running[path] for path in measurement.layers}
    check_finite(result)
    return model.written(result)


def _step(
    run: Callable[..., tuple[Any, list[Moments]]],
    state: Any,
    running: list[BatchStats],
    total: list[Moments],
    skipped: list[Skipped],
    batch: Any,
    number: jax.Array,
) -> tuple[list[Moments], list[Skipped]]:
    """Adds a batch; a layer skips it where its own moments would not be finite."""
    new_total: list[Moments] = []
    new_skipped: list[Skipped] = []
    _, measured = run(state, running, batch, number)
    for old, moments, skips in zip(total, measured, skipped, strict=True):
        new = merge(old, moments)
        # Separately for each layer of a scanned stack: a lower one may be finite while a higher one is not yet.
        finite = jnp.all(jnp.isfinite(new.mean) & jnp.isfinite(new.var), axis=-1, keepdims=True)
        new_total.append(jax.tree.map(functools.partial(jnp.where, finite), new, old))
        skip = ~jnp.all(finite)
        first = jnp.where(skip & (skips.batches == 0), number, skips.first)
        new_skipped.append(Skipped(skips.batches + skip, first))
    return new_total, new_skipped


def _updated(old: BatchStats, measured: Moments, variance: Variance) -> tuple[BatchStats, float]:
    """The measured mean and var in the old dtypes, and the largest change in standard deviations.

    A feature with a count of 0 keeps its statistics.
    """
    mean, var, count = measured
    if variance == "unbiased":
        var = var * (count / jnp.maximum(count - 1, 1))
    if jnp.iscomplexobj(mean):
        old = old._replace(mean=old.mean.astype(mean.dtype))
    start = finite_or_initial(old)
    new = BatchStats(*(jnp.where(count > 0, a, b).astype(b.dtype) for a, b in ((mean, start.mean), (var, start.var))))
    change = 0.0
    for before, after, unit in ((old.mean, new.mean, jnp.sqrt(var)), (old.var, new.var, var)):
        relative = jnp.abs(after - before) / jnp.maximum(unit, 1e-12)
        # Not for a feature of variance 0, which has no unit.
        change = max(change, float(jnp.max(jnp.where((var > 0) & jnp.isfinite(relative), relative, 0), initial=0)))
    return new, change


def _with_progress(batches: Iterable[Any], number: int, progress: bool) -> Iterator[Any]:
    """The batches, with a progress bar in the terminal."""
    if not progress or find_spec("rich") is None:  # Flax brings it, Equinox does not
        yield from batches
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    total = len(batches) if isinstance(batches, Sized) else None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if total else TextColumn("{task.completed} batches"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(batches, total=total, description=f"population statistics, pass {number}")
