"""Rules about the data: what reaches the layers in training and at inference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jbn._paths import path_name
from jbn._typed import finfo
from jbn.diagnosis._evidence import Evidence, Finding, batch_noise, explained_from, found, noisy, repeated
from jbn.diagnosis._layers import LayerReport
from jbn.diagnosis._measure import root_mean_square

# Limits, in standard deviations of the data unless said otherwise.
_SHIFTED = 0.2  # rms over features of how far outputs of evaluation data are off
_ROUNDED = 0.05  # rounding of the input
_SOME = 0.1  # share of the features of a layer


def bad_batches(e: Evidence) -> Iterator[Finding]:
    for data, which in ((e.train, "training"), (e.evaluation, "evaluation")):
        bad = [(path_name(path), sums) for path, sums in data.sums.items() if sums.skipped]
        if bad and (data is e.train or e.has_evaluation):
            name, sums = bad[0]
            remedy = "look for NaN or infinity in these data"
            if int(sums.skipped) == data.batches:
                remedy = "look for NaN or infinity in the parameters and in the data"
            yield Finding(
                "bad_batch",
                tuple(name for name, _ in bad),
                int(sums.skipped),
                f"{int(sums.skipped)} of {data.batches} {which} batches are not finite at {name}, the first of them "
                f"number {int(sums.first)}, counted from 0; their statistics are left out, here and behind it; "
                f"{remedy}",
            )


def input_precision(e: Evidence) -> Iterator[Finding]:
    rounded = [
        (math.sqrt(float(np.max(layer.cancellation, initial=0))) * float(finfo(facts.dtype).eps) / 2, layer, facts)
        for layer, facts in zip(e.layers, e.facts, strict=True)
        if jnp.issubdtype(facts.dtype, jnp.inexact)
    ]
    bad = [entry for entry in rounded if entry[0] > _ROUNDED]
    if bad:
        off, layer, facts = max(bad, key=lambda entry: entry[0])
        yield found(
            "input_precision",
            [layer, *(other for _, other, _ in bad if other is not layer)],
            off,
            f"{layer.name}: its input is {facts.dtype} with a mean so large that rounding it costs {off:.2g} standard "
            "deviations; compute in float32 ahead of it, or take the mean off earlier",
        )


def small_batches(e: Evidence) -> Iterator[Finding]:
    bad = [layer for layer in noisy(e) if not layer.kind.endswith("BatchRenorm")]  # which is made for them
    if bad:
        layer = max(bad, key=lambda layer: np.nan_to_num(root_mean_square(layer.noise)))
        noise = root_mean_square(layer.noise)
        yield found(
            "small_batches",
            [layer, *(other for other in bad if other is not layer)],
            noise,
            f"{layer.name}: by the statistics of single batches of {e.size} examples outputs scatter by {noise:.2g} "
            "standard deviations, so that training and inference compute different functions; use larger batches, "
            "share statistics between devices by axis_name, use jbn's BatchRenorm, or freeze the layer "
            "(FrozenBatchNorm)",
        )


def masks(e: Evidence) -> Iterator[Finding]:
    differs = [
        (layer, facts.masked)
        for layer, (path, facts) in zip(e.layers, e.train.facts.items(), strict=True)
        if path in e.evaluation.facts and facts.masked != e.evaluation.facts[path].masked
    ]
    for masked, given, lacking in ((True, "training", "inference"), (False, "inference", "training")):
        layers = [layer for layer, m in differs if m is masked]
        if layers:
            sums = [data.sums[e.path(layers[0])] for data in (e.train, e.evaluation)]
            counts = [float(np.max(s.population.count)) for s in sums]
            share = 1 - min(counts) / max(counts)
            yield found(
                "mask",
                layers,
                share,
                f"{layers[0].name} is given a mask at {given} and none at {lacking}, where {share:.0%} more elements "
                f"count (padding); pass the mask at {lacking}, too",
            )


def evaluation_data(e: Evidence) -> Iterator[Finding]:
    n = e.share(e.train) + e.share(e.evaluation)
    limit = _SHIFTED if e.has_evaluation else _SHIFTED / 2
    shifted = [
        layer
        for layer, (path, facts) in zip(e.layers, e.train.facts.items(), strict=True)
        if path in e.evaluation.facts and facts.masked == e.evaluation.facts[path].masked
        if root_mean_square(layer.shift) > math.hypot(limit, 2 * math.sqrt(n) * batch_noise(e, layer))
    ]
    if not shifted or e.layers.index(shifted[0]) >= explained_from(e):
        return  # there, training and inference differ by noise
    again = [entry for entry in repeated(e) if e.layers.index(entry[0]) <= e.layers.index(shifted[0])]
    if again:
        (first, calls), *_ = again
        yield found(
            "called_twice",
            [first, *(layer for layer in shifted if layer is not first)],
            calls,
            f"{first.name} is called {calls} times in a forward pass, each time normalized by its own batch in "
            "training, and by one pair of running statistics for all at inference; give each place a layer of its own",
            alike=False,
        )
        return
    layer, off = shifted[0], root_mean_square(shifted[0].shift)
    scale = _one_scale(e, e.path(layer))
    if layer is e.layers[0] and scale is not None:
        yield found(
            "evaluation_scale",
            shifted,
            scale,
            f"evaluation data are scaled otherwise than training data: at {layer.name}, the first layer, their "
            f"standard deviation is {scale:.2g} times as large in all features; prepare both alike (range, mean and "
            "variance of the inputs), unless augmentation scales the training data",
            alike=False,
        )
        return
    what = (
        "evaluation data are otherwise distributed than training data"
        if e.has_evaluation
        else "the same data are otherwise distributed at inference"
    )
    yield found(
        "evaluation_shift",
        shifted,
        off,
        f"{what}: first at {layer.name}, by {off:.2g} standard deviations; training has something ahead of it that "
        "inference has not, such as augmentation or dropout, or the data differ; estimate the statistics from data as "
        "inference gets them (jbn.population), or adapt to them (AdaptiveBatchNorm)",
        alike=False,
    )


def _one_scale(e: Evidence, path: Any) -> float | None:
    """The factor between the standard deviations of both data, if it is the same in all features."""
    train, evaluation = (data.sums[path].population.var for data in (e.train, e.evaluation))
    live = (train > 0) & (evaluation > 0)
    if not np.any(live):
        return None
    logs = np.log(evaluation[live] / train[live]) / 2
    scale = float(np.median(logs))
    return math.exp(scale) if abs(scale) > 0.1 and np.std(logs) < max(0.05, 0.1 * abs(scale)) else None


def features(e: Evidence) -> Iterator[Finding]:
    for kind, what, remedy in (
        ("dead", "have a single value in all data", "their output is bias: look for dead units ahead of the layer"),
        ("below_epsilon", "have a variance below epsilon", "they are not brought to variance 1: use a smaller epsilon"),
    ):
        bad: list[tuple[float, LayerReport]] = [(_share(layer, kind), layer) for layer in e.layers]
        bad = [entry for entry in bad if entry[0] >= _SOME]
        if bad:
            share, layer = max(bad, key=lambda entry: entry[0])
            count = round(share * layer.mean.size)
            yield found(
                "dead_features" if kind == "dead" else kind,
                [layer, *(other for _, other in bad if other is not layer)],
                share,
                f"{layer.name}: {count} of {layer.mean.size} features {what}; {remedy}",
            )


def _share(layer: LayerReport, kind: str) -> float:
    chosen: np.ndarray = getattr(layer, kind)
    return float(np.mean(chosen))


def whole_model(e: Evidence) -> Iterator[Finding]:
    scores = {name: e.evaluation.scores[name] for name in ("running", "population", "batch") if e.evaluation.scores}
    bad = [name for name, score in scores.items() if not math.isfinite(score)]
    if bad and any(layer.finite for layer in e.layers):
        yield Finding(
            "metric_not_finite",
            (),
            len(bad),
            f"the metric is not finite with {' and '.join(bad)} statistics; look for NaN in parameters, statistics and "
            "data, and for a metric that divides by 0",
        )
    if e.train.batches == 1:
        yield Finding(
            "one_batch",
            (),
            1,
            "there is one batch of training data, from which the noise between batches cannot be told, and population "
            "statistics are that batch's; pass more batches",
        )
