"""The passes over the data, of any model: a face (linen, nnx) says what a batch adds to the moments of each layer."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jbn._moments import Moments
from jbn._running_stats import BatchStats, Variance
from jbn.population._layer import Path, Watch, shown, started

Batches = Iterable[Any] | Callable[[], Iterable[Any]]
Running = dict[Path, BatchStats]  # mean and var of each layer
# Called with what the face gave, mean and var of each layer and its moments so far, a batch and its number; returns the
# moments with those of the batch.
Forward = Callable[[Any, list[BatchStats], list[Moments], Any, jax.Array], list[Moments]]


class LeftOut(NamedTuple):
    """Of one layer: how many batches had moments that are not finite, and the number of the first."""

    count: jax.Array
    first: jax.Array


def estimate(
    forward: Forward,
    watch: Watch,
    given: Any,
    running: Running,
    batches: Batches,
    variance: Variance,
    passes: int | None,
    progress: bool,
) -> Running:
    """Mean and var of the whole data set, of each layer that was measured; `running` are those to start from."""
    if watch.mode not in ("together", "layer by layer"):
        raise ValueError(f"mode is {watch.mode!r}; write 'together' or 'layer by layer'")
    if variance not in ("biased", "unbiased"):
        raise ValueError(f"variance is {variance!r}; write 'biased' or 'unbiased'")
    once = not callable(batches) and iter(batches) is batches
    if watch.mode == "layer by layer" and once:
        raise ValueError(
            "mode='layer by layer' passes over the data once for each layer, but batches is an iterator that can be "
            "used up once; write a list, or a function that returns a new iterator"
        )
    step = jax.jit(functools.partial(_step, forward))
    running = dict(running)
    number, limit, change = 0, 1, np.inf
    count, left = 0, []
    while number < limit and change > 1e-5:
        number += 1
        count, sofar = 0, list(map(_nothing, running.values()))
        left = [LeftOut(jnp.int32(0), jnp.int32(0))] * len(running)
        for batch in _shown(batches() if callable(batches) else batches, number, progress):
            _check_batch(batch, count)
            sofar, left = step(given, list(running.values()), sofar, left, batch, np.int32(count))
            count += 1
            if not watch.measured:
                raise ValueError(
                    "the model calls no batch norm (jbn.linen, jbn.nnx or Flax's own), so there is nothing to "
                    "estimate; write a model that has one"
                )
        if not count:
            raise ValueError(
                f"batches is empty{' in pass ' + str(number) if number > 1 else ''}; write at least one batch"
            )
        if watch.mode == "layer by layer":
            slots = sum(running[path].mean.size // running[path].mean.shape[-1] for path in watch.measured)
            limit = slots + 1 if passes is None else passes
        found = dict(zip(running, sofar, strict=True))
        moved = {path: _moved(running[path], found[path], variance) for path in watch.measured}
        running |= {path: stats for path, (stats, _) in moved.items()}
        change = max(by for _, by in moved.values())
    _tell(watch, dict(zip(running, jax.device_get(left), strict=True)), count)
    if watch.mode == "layer by layer" and passes is None and change > 1e-5:
        raise ValueError(
            f"after {number} passes over {len(watch.measured)} layers the statistics still change, by up to "
            f"{change:.2g} standard deviations: a layer that is called twice in a forward pass depends on itself, or "
            "the batches differ from pass to pass; write mode='together', the same batches in every pass, or "
            "passes=<limit>"
        )
    result = {path: running[path] for path in watch.measured}
    _check_finite(result)
    return result


def keys(rngs: Any) -> Any:
    """Random keys, of numbers as well."""
    return jax.tree.map(lambda key: jax.random.key(key) if isinstance(key, int) else key, rngs)


def _step(forward, given, running, sofar, left, batch, number) -> tuple[list[Moments], list[LeftOut]]:
    """A batch more; a layer leaves it out where its own moments would not be finite."""
    kept, told = [], []
    for old, new, out in zip(sofar, forward(given, running, sofar, batch, number), left, strict=True):
        # Of each layer where several are stacked, as under scan: one below may be settled before one above.
        finite = jnp.all(jnp.isfinite(new.mean) & jnp.isfinite(new.var), axis=-1, keepdims=True)
        kept.append(jax.tree.map(functools.partial(jnp.where, finite), new, old))
        odd = ~jnp.all(finite)
        told.append(LeftOut(out.count + odd, jnp.where(odd & (out.count == 0), number, out.first)))
    return kept, told


def _nothing(stats: BatchStats) -> Moments:
    """The moments of nothing, in float32 or wider."""
    mean, var = (jnp.zeros(a.shape, jnp.promote_types(a.dtype, jnp.zeros(()).dtype)) for a in (stats.mean, stats.var))
    return Moments(mean, var, jnp.zeros(mean.shape, jnp.float32))


def _moved(old: BatchStats, measured: Moments, variance: Variance) -> tuple[BatchStats, float]:
    """Mean and var of what was measured, in the old dtypes, and the largest change in standard deviations.

    A feature of which nothing was measured keeps its own.
    """
    mean, var, count = measured
    if variance == "unbiased":
        var = var * (count / jnp.maximum(count - 1, 1))
    if jnp.iscomplexobj(mean):
        old = old._replace(mean=old.mean.astype(mean.dtype))
    start = started(old)
    new = BatchStats(*(jnp.where(count > 0, a, b).astype(b.dtype) for a, b in ((mean, start.mean), (var, start.var))))
    change = 0.0
    for before, after, unit in ((old.mean, new.mean, jnp.sqrt(var)), (old.var, new.var, var)):
        moved = jnp.abs(after - before) / jnp.maximum(unit, 1e-12)
        # A dead feature has no spread to measure by.
        change = max(change, float(jnp.max(jnp.where((var > 0) & jnp.isfinite(moved), moved, 0), initial=0)))
    return new, change


# What is refused, and what is said


def _check_batch(batch: Any, number: int) -> None:
    for path, leaf in jax.tree.leaves_with_path(batch):
        try:
            jax.typeof(leaf)
        except TypeError:
            kind = f"{type(leaf).__module__}.{type(leaf).__qualname__}".removeprefix("builtins.")
            of = f" of {leaf.dtype}" if isinstance(leaf, np.ndarray) else ""
            raise ValueError(
                f"batch {number}{jax.tree_util.keystr(path)} is a {kind}{of}, which jax.jit does not take; give "
                "arrays of numbers alone, such as batches=[{'x': np.asarray(b['x'])} for b in batches]"
            ) from None


def _tell(watch: Watch, left: dict[Path, LeftOut], count: int) -> None:
    """Batches that are not finite: an error, or a warning where all the layers leave them out."""
    odd = {path: left[path] for path in watch.measured if left[path].count}
    blamed = {path: int(out.first) for path, out in odd.items() if not watch.measured[path]}
    if blamed:
        path = min(blamed, key=blamed.__getitem__)
        raise ValueError(
            f"batch {blamed[path]} (counted from 0) has moments that are not finite at {shown(path)}: there is NaN or "
            "infinity in the data, or it arises in the model; leave that batch out, or let the layers do it: "
            "skip_nonfinite=True where jbn's BatchNorm is made"
        )
    for path, out in odd.items():
        if out.count == count:
            raise ValueError(
                f"none of the {count} batches has finite moments at {shown(path)}, so that skip_nonfinite=True leaves "
                "nothing; look for NaN or infinity in the data and in the variables"
            )
    if odd:
        alike: dict[tuple[int, int], list[str]] = {}
        for path, out in odd.items():
            alike.setdefault((int(out.count), int(out.first)), []).append(shown(path))
        parts = "; ".join(f"{n} (the first is {first}) at {', '.join(at)}" for (n, first), at in alike.items())
        warnings.warn(
            f"of {count} batches, counted from 0, those are left out whose moments are not finite: {parts}",
            stacklevel=4,
        )


def _check_finite(running: Running) -> None:
    for path, stats in running.items():
        for name, value in (("mean", stats.mean), ("var", stats.var)):
            if not bool(jnp.all(jnp.isfinite(value))):
                raise ValueError(
                    f"{shown(path)} keeps its {name} in {value.dtype}, which cannot hold it; keep it in float32, such "
                    "as by force_float32_reductions=True"
                )


def _shown(batches: Iterable[Any], number: int, progress: bool) -> Iterator[Any]:
    """The batches, with a bar on the terminal."""
    total = len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if total else TextColumn("{task.completed} batches"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        yield from bar.track(batches, total=total, description=f"population statistics, pass {number}")
