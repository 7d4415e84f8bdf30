"""The passes over the data, for any model: linen and nnx provide a function that adds a batch to all moments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jbn._moments import Moments
from jbn._paths import Path
from jbn._running_stats import BatchStats, Variance
from jbn._typed import jit
from jbn.population._checks import (
    Skipped,
    check_batch,
    check_finite,
    check_has_norms,
    check_not_empty,
    check_options,
    raise_unsettled,
    report_skipped,
)
from jbn.population._layer import Measurement, finite_or_initial

Batches = Iterable[Any] | Callable[[], Iterable[Any]]
Running = dict[Path, BatchStats]  # mean and var of each layer
State = TypeVar("State", contravariant=True)

# Relative to the standard deviation; statistics that change by less are taken for those of the fixed point.
_SETTLED = 1e-5


class AddBatch(Protocol[State]):
    """Runs the model on a batch, and adds that batch to the moments of each layer.

    Args:
      state: the arrays of the model.
      running: mean and var of each layer.
      total: moments of all batches before this one, of each layer.
      batch: the batch.
      number: its number in this pass, from 0.

    Returns:
      The moments with this batch, of each layer.
    """

    def __call__(
        self, state: State, running: list[BatchStats], total: list[Moments], batch: Any, number: jax.Array, /
    ) -> list[Moments]: ...


def estimate(
    add_batch: AddBatch[State],
    measurement: Measurement,
    state: State,
    running: Running,
    batches: Batches,
    variance: Variance,
    passes: int | None,
    progress: bool,
) -> Running:
    """Mean and var of the whole data set, for each layer that was measured, starting from `running`."""
    layer_by_layer = measurement.mode == "layer by layer"
    check_options(measurement.mode, variance, batches)
    step = jit(functools.partial(_step, add_batch))
    running = dict(running)
    number, limit, change = 0, 1, np.inf
    count, skipped = 0, list[Skipped]()
    while number < limit and change > _SETTLED:
        number += 1
        count, total = 0, [_no_moments(stats) for stats in running.values()]
        skipped = [Skipped(jnp.int32(0), jnp.int32(0))] * len(running)
        for batch in _with_progress(batches() if callable(batches) else batches, number, progress):
            check_batch(batch, count)
            total, skipped = step(state, list(running.values()), total, skipped, batch, np.int32(count))
            check_has_norms(measurement)
            count += 1
        check_not_empty(count, number)
        if layer_by_layer:
            norms = sum(running[path].mean.size // running[path].mean.shape[-1] for path in measurement.skips)
            limit = norms + 1 if passes is None else passes
        found = dict(zip(running, total, strict=True))
        updated = {path: _updated(running[path], found[path], variance) for path in measurement.skips}
        running |= {path: stats for path, (stats, _) in updated.items()}
        change = max(by for _, by in updated.values())
    report_skipped(measurement, dict(zip(running, jax.device_get(skipped), strict=True)), count)
    if layer_by_layer and passes is None and change > _SETTLED:
        raise_unsettled(number, len(measurement.skips), change)
    result = {path: running[path] for path in measurement.skips}
    check_finite(result)
    return result


def as_keys(rngs: Any) -> Any:
    """Random keys, made from seeds where there are integers."""

    def as_key(key: Any) -> Any:
        return jax.random.key(key) if isinstance(key, int) else key

    return jax.tree.map(as_key, rngs)


def _step(
    add_batch: AddBatch[State],
    state: State,
    running: list[BatchStats],
    total: list[Moments],
    skipped: list[Skipped],
    batch: Any,
    number: jax.Array,
) -> tuple[list[Moments], list[Skipped]]:
    """Adds a batch; a layer skips it where its own moments would not be finite."""
    new_total: list[Moments] = []
    new_skipped: list[Skipped] = []
    added = add_batch(state, running, total, batch, number)
    for old, new, skips in zip(total, added, skipped, strict=True):
        # Separately for each layer of a scanned stack: a lower one may be finite while a higher one is not yet.
        finite = jnp.all(jnp.isfinite(new.mean) & jnp.isfinite(new.var), axis=-1, keepdims=True)
        new_total.append(jax.tree.map(functools.partial(jnp.where, finite), new, old))
        skip = ~jnp.all(finite)
        first = jnp.where(skip & (skips.batches == 0), number, skips.first)
        new_skipped.append(Skipped(skips.batches + skip, first))
    return new_total, new_skipped


def _no_moments(stats: BatchStats) -> Moments:
    """Moments with a count of 0, in float32 or wider."""
    mean, var = (jnp.zeros(a.shape, jnp.promote_types(a.dtype, jnp.zeros(()).dtype)) for a in (stats.mean, stats.var))
    return Moments(mean, var, jnp.zeros(mean.shape, jnp.float32))


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
    total = len(batches) if isinstance(batches, Sized) else None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if total else TextColumn("{task.completed} batches"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        yield from bar.track(batches, total=total, description=f"population statistics, pass {number}")
