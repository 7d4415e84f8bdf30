"""The two passes over the data: what each layer sees in training and at inference, and the scores of the model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jbn._models._batches import Batches, check_batch
from jbn._models._layer import Facts, MeasuredModel, Measurement, Mode, finite_or_initial, zero_moments
from jbn._moments import Moments, merge
from jbn._paths import Path, path_name
from jbn._running_stats import BatchStats
from jbn._typed import jit

Metric = Callable[[Any, Any], Any]
Progress = Callable[[str, int], None]

# Statistics that change a layer's output by less, in standard deviations, cannot explain a gap that one would see.
_NEGLIGIBLE = 0.01


class Values(NamedTuple):
    """Mean and var of a layer in NumPy, `[features]`."""

    mean: np.ndarray
    var: np.ndarray


class Sums(NamedTuple):
    """What one pass gathers of a layer.

    Attributes:
      population: moments of all elements.
      means: moments of the batches' means, over batches.
      variances: moments of the batches' variances, over batches.
      skipped: `[]`, int32, batches with moments that are not finite.
      first: `[]`, int32, the number of the first of these.
    """

    population: Moments
    means: Moments
    variances: Moments
    skipped: jax.Array
    first: jax.Array


@dataclass
class Pass:
    """One pass over some batches, in NumPy and float64.

    Attributes:
      facts: what the traces say about each layer, in the order of calls.
      calls: how often a forward pass calls each layer.
      sums: of each layer.
      scores: the mean metric of each kind of statistics, if there is a metric.
      batches: number of batches.
      size: examples in the largest batch.
    """

    facts: dict[Path, Facts]
    sums: dict[Path, Sums]
    scores: dict[str, float] = field(default_factory=dict[str, float])
    calls: dict[Path, int] = field(default_factory=dict[Path, int])
    batches: int = 0
    size: int = 0


Variant = tuple[Mode, dict[Path, BatchStats]]


def passed(
    model: MeasuredModel,
    call: Callable[[Any, Any], Any] | None,
    batches: Batches,
    variants: dict[str, Variant],
    measured: str,
    metric: Metric | None,
    name: str,
    progress: Progress | None,
) -> Pass:
    """Runs the model on each batch with each variant of its statistics.

    Args:
      model: the model.
      call: how it is called.
      batches: an iterable of batches, or a function that returns one.
      variants: how the layers normalize, and the statistics of each.
      measured: the variant under which the layers are measured.
      metric: of outputs and batch.
      name: of the pass, for `progress`.
      progress: called with the name and the number of batches done.
    """
    measurements = {mode: Measurement(mode, as_it_is=True) for mode in ("together", "layer by layer")}
    runs = {mode: jit(functools.partial(model.run, m, call)) for mode, m in measurements.items()}
    adds = jit(_add)
    sums = [_nothing(stats) for stats in model.running.values()]
    totals, weights, count, size = dict.fromkeys(variants, 0.0), 0.0, 0, 0
    facts: dict[Path, Facts] = {}
    calls: dict[Path, int] = {}
    for batch in batches() if callable(batches) else batches:
        check_batch(batch, count)
        examples = _examples(batch, count)
        for variant, (mode, stats) in variants.items():
            if metric is None and variant != measured:
                continue
            outputs, moments = runs[mode](model.state, list(stats.values()), batch, np.int32(count))
            facts = measurements[mode].layers
            if metric is not None:
                totals[variant] += examples * _number(metric(outputs, batch))
            if variant == measured:
                calls = calls or _calls(dict(zip(model.running, moments, strict=True)), facts)
                sums = adds(sums, moments, np.int32(count))
        weights, count, size = weights + examples, count + 1, max(size, examples)
        if progress is not None:
            progress(name, count)
    if not count:
        raise ValueError(
            f"{name}: there are no batches; pass at least one, and no iterator that was used up before (a list, or a "
            "function that makes a new iterator, can be passed over again)"
        )
    if not facts:
        raise ValueError(
            "the model calls no batch norm (jbn's, Flax's or Equinox's), so there is nothing to diagnose; pass a model "
            "that has one"
        )
    wide = {path: jax.tree.map(_wide, s) for path, s in zip(model.running, jax.device_get(sums), strict=True)}
    scores = {} if metric is None else {variant: total / weights for variant, total in totals.items()}
    return Pass(dict(facts), {path: wide[path] for path in facts}, scores, calls, count, size)


def difference(used: Any, true: Any, epsilon: float) -> np.ndarray:
    """How far the output by statistics in use lies from that by the true ones, in standard deviations, per feature.

    Both have `mean` and `var`::

        x̂ = (x - mean) / sqrt(var + epsilon),    E[(x̂_used - x̂_true)²]^½,    x of the true mean and var
    """
    spread, true_spread = (np.sqrt(np.maximum(s.var, 0) + epsilon) for s in (used, true))
    scale = np.sqrt(np.maximum(true.var, 0)) * (1 / spread - 1 / true_spread)
    return np.hypot(scale, np.abs(np.asarray(true.mean) - np.asarray(used.mean)) / spread)


def as_stats(sums: Sums, like: BatchStats) -> BatchStats:
    """The population's mean and var, as running statistics; those of before where nothing was measured."""
    population, start = sums.population, finite_or_initial(like)
    return BatchStats(
        *(
            jnp.where(population.count > 0, new, old).astype(jnp.promote_types(old.dtype, jnp.float32))
            for new, old in ((population.mean, start.mean), (population.var, start.var))
        )
    )


def corrections(
    running: dict[Path, BatchStats], population: dict[Path, BatchStats], facts: dict[Path, Facts]
) -> dict[str, Variant]:
    """The model with its running statistics, corrected in each layer alone, and in all layers up to each."""
    if not all(np.isfinite(a).all() for path in facts for a in real(running[path])):
        return {}  # one layer that is not finite decides, whatever the others are
    variants: dict[str, Variant] = {}
    up_to = dict(running)
    for path, fact in facts.items():
        new = population[path]
        if fact.options.frozen:
            continue
        worst = difference(real(running[path]), real(new), fact.options.epsilon).max(initial=0)
        if worst <= _NEGLIGIBLE:
            continue
        up_to = {**up_to, path: new}
        variants[f"alone {path_name(path)}"] = ("layer by layer", {**running, path: new})
        variants[f"up to {path_name(path)}"] = ("layer by layer", up_to)
    return variants


def _calls(moments: dict[Path, Moments], facts: dict[Path, Facts]) -> dict[Path, int]:
    """How often one forward pass calls each layer: from what it counts, because a loop may be traced twice."""
    return {path: math.ceil(float(moments[path].count.max()) / f.elements - 0.01) for path, f in facts.items()}


def _nothing(stats: BatchStats) -> Sums:
    zero = zero_moments(stats)
    real = zero._replace(mean=zero.var)
    return Sums(zero, zero, real, jnp.int32(0), jnp.int32(-1))


def _add(sums: list[Sums], moments: list[Moments], number: jax.Array) -> list[Sums]:
    """The sums with another batch, which each layer leaves out if its moments are not finite."""
    result: list[Sums] = []
    for old, batch in zip(sums, moments, strict=True):
        finite = jnp.all(jnp.isfinite(batch.mean) & jnp.isfinite(batch.var))
        seen = (batch.count > 0).astype(jnp.float32)
        zero = jnp.zeros_like(batch.var)
        new = old._replace(
            population=merge(old.population, batch),
            means=merge(old.means, Moments(batch.mean, zero, seen)),
            variances=merge(old.variances, Moments(batch.var, zero, seen)),
        )
        kept = jax.tree.map(functools.partial(jnp.where, finite), new, old)
        first = jnp.where(~finite & (old.first < 0), number, old.first)
        result.append(kept._replace(skipped=old.skipped + ~finite, first=first))
    return result


def _examples(batch: Any, number: int) -> int:
    """The size of the first axis of the largest array."""
    arrays = [leaf for leaf in jax.tree.leaves(batch) if np.ndim(leaf)]
    examples = int(np.shape(max(arrays, key=np.size))[0]) if arrays else 0
    if not examples:
        what = "an empty array" if arrays else "no array"
        raise ValueError(
            f"batch {number} holds {what}; pass batches of arrays with examples, such as x, or "
            "{'image': x, 'label': y}"
        )
    return examples


def _number(score: Any) -> float:
    value = np.asarray(score)
    if value.size != 1 or not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise ValueError(
            f"the metric returned a {type(score).__name__} of shape {value.shape}; return one real number for a batch, "
            "such as the mean of the losses"
        )
    return float(value.astype(np.float64).reshape(()))


def _wide(a: Any) -> np.ndarray:
    a = np.asarray(a)
    return a if a.dtype.kind in "ib" else a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)


def real(stats: BatchStats) -> Values:
    """Mean and var in NumPy and float64."""
    return Values(_wide(stats.mean), _wide(stats.var))


def root_mean_square(values: np.ndarray) -> float:
    """Of all finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return math.sqrt(float(np.mean(np.abs(finite) ** 2))) if finite.size else math.nan
