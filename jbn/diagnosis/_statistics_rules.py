"""Rules about the running statistics: how they came to be what they are."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator

import numpy as np

from jbn._models._layer import Facts
from jbn._typed import finfo
from jbn.diagnosis._evidence import (
    ESTIMATE,
    Evidence,
    Finding,
    batch_noise,
    cancels,
    explained_from,
    found,
    lost,
    repeated,
)
from jbn.diagnosis._layers import EQUINOX, LayerReport
from jbn.diagnosis._measure import Values, difference, root_mean_square

# Limits, in standard deviations of the data unless said otherwise.
_NEAR = 0.05  # rms over features of how far outputs at inference are off, below which statistics are right enough
STALE = 0.2  # the same, above which they belong to other weights or data
_LAGGING = 0.3  # root of the sum of squares over layers
_OTHER_EPSILON = 0.05  # relative change of the output's scale


def not_finite(e: Evidence) -> Iterator[Finding]:
    bad = [layer for layer in e.layers if not layer.finite]
    if bad:
        values = np.stack([bad[0].running_mean, bad[0].running_var])
        count = int(np.sum(~np.all(np.isfinite(values), axis=0)))
        yield found(
            "not_finite",
            bad,
            count,
            f"the running statistics of {count} of {values[0].size} features of {bad[0].name} are NaN or infinite, as "
            f"one batch with NaN leaves them for good; {ESTIMATE}; skip_nonfinite=True leaves such batches out",
        )


def running_statistics(e: Evidence) -> Iterator[Finding]:
    """Each layer has the first fault that explains its statistics; layers with the same one share a finding."""
    groups: dict[str, list[LayerReport]] = collections.defaultdict(list)
    for layer, facts in zip(e.layers, e.facts, strict=True):
        if layer.finite and not facts.options.frozen and (kind := _fault(e, layer, facts)):
            groups[kind].append(layer)
    for kind, members in groups.items():
        members.sort(key=lambda layer: -root_mean_square(layer.difference))
        sentence, number = _SENTENCES[kind](e, members[0])
        yield found(kind, members, number, sentence + _closes(e, members[0]))
    if not groups and explained_from(e) == len(e.layers) and all(layer.finite for layer in e.layers):
        yield from _lagging(e)


def _fault(e: Evidence, layer: LayerReport, facts: Facts) -> str | None:
    off, momentum = root_mean_square(layer.difference), facts.options.momentum
    near = math.hypot(_NEAR, 2 * batch_noise(e, layer) * math.sqrt(e.share(e.train)))
    if not facts.options.debias and np.all(layer.running_mean == 0) and np.all(layer.running_var == 1) and off > near:
        return "never_updated"
    if cancels(layer, facts):
        return "cancellation"
    if isinstance(momentum, int | float) and momentum < 0.5:
        return "momentum_convention"
    first = min([explained_from(e), *(e.layers.index(other) for other, _ in repeated(e))])
    if e.layers.index(layer) >= first:
        return "start_value" if layer.start > 0 and off > near and _starts(e, layer, off) else None
    if off > near and _starts(e, layer, off):
        return "start_value"
    if off > math.hypot(STALE, 2 * expected_off(e, layer)):
        return "stale"
    return None


def _lagging(e: Evidence) -> Iterator[Finding]:
    """Small errors in many layers add up."""
    trained = [layer for layer, facts in zip(e.layers, e.facts, strict=True) if not facts.options.frozen]
    offs = [root_mean_square(layer.difference) for layer in trained]
    total, expected = (math.hypot(*values) for values in (offs, [expected_off(e, layer) for layer in trained]))
    if total > max(_LAGGING, 2 * expected):
        layer = trained[int(np.argmax(offs))]
        yield found(
            "stale",
            [layer, *(other for other in trained if other is not layer)],
            total,
            f"{layer.name}: the running statistics lag behind the weights by {min(offs):.2g} to {max(offs):.2g} "
            f"standard deviations at each layer, which adds up to {total:.2g}; for this model {ESTIMATE}; in the next "
            "training let the learning rate decay, or use a lower momentum" + _closes(e, layer),
        )


def _never_updated(e: Evidence, layer: LayerReport) -> tuple[str, float]:
    off = root_mean_square(layer.difference)
    return (
        f"{layer.name}: the running statistics were never updated (mean 0, variance 1), so that outputs at inference "
        f"are off by {off:.2g} standard deviations; train with use_running_average=False and keep the new batch_stats "
        f"(mutable=['batch_stats']), or {ESTIMATE}"
    ), off


def _cancellation(e: Evidence, layer: LayerReport) -> tuple[str, float]:
    facts = e.train.facts[e.path(layer)]
    worst = float(np.max(layer.cancellation))
    return (
        f"{layer.name}: |mean|²/var is {worst:.2g}, so that E[x²] - E[x]², which this {layer.kind} computes, loses the "
        f"variance up to a relative error of {lost(layer, facts):.2g}; set use_fast_variance=False, use jbn's layer, "
        "or take the mean off its input"
    ), worst


def _momentum_convention(e: Evidence, layer: LayerReport) -> tuple[str, float]:
    m = float(layer.momentum)
    return (
        f"{layer.name}: momentum {m:g} keeps {m:.0%} of the old statistics at each step, so that they are those of the "
        f"last batch or two; here momentum is the weight of the old value: torch's {m:g} is momentum={1 - m:g}"
    ), m


def _start_value(e: Evidence, layer: LayerReport) -> tuple[str, float]:
    known = not math.isnan(layer.start)
    share = layer.start if known else start_share(layer)[0]
    ratio = float(np.median(layer.variance_ratio))
    cause = f"momentum {layer.momentum:g}" if isinstance(layer.momentum, int | float) else "its momentum"
    after = f" after {e.steps} steps" if known else " after as few steps as there were"
    if not known and isinstance(layer.momentum, int | float) and 0 < layer.momentum < 1 and 0 < share < 1:
        after = f" after about {max(1, round(_steps(layer, share)))} steps"
    what, better = "their start value (mean 0, variance 1)", "debias=True"
    if layer.kind == EQUINOX:
        what, better = (
            "their start value (variance 1, which this layer does not take out)",
            "jbn's layer (jbn.equinox.convert)",
        )
    if e.steps is not None:
        fitting = [m for m in (0.99, 0.9) if m**e.steps < 0.01 and m < float(layer.momentum)]
        better = f"momentum {fitting[0]:g}, or {better}" if fitting else better
    affected = layer.difference > STALE
    where = f" in {affected.sum()} of {affected.size} features" if 0 < np.mean(affected) < 0.5 else ""
    return (
        f"{layer.name}: running variance is {ratio:.2g} of the data's, and {100 * share:.2g}% of the running "
        f"statistics is still {what}, as left by {cause}{after}{', which matters' if where else ''}{where}; for "
        f"this model {ESTIMATE}; in the next training use {better}"
    ), share


def _stale(e: Evidence, layer: LayerReport) -> tuple[str, float]:
    off, ratio = root_mean_square(layer.difference), float(np.median(layer.variance_ratio))
    why = "ahead of an average such as EMA or SWA, or of more training without updates"
    numbers = [other.momentum for other in e.layers if isinstance(other.momentum, int | float)]
    m = layer.momentum
    slow = isinstance(m, int | float) and m < 1 and (1 / (1 - m) > (e.steps or math.inf) / 4 or m > min(numbers))
    if slow:
        why = f"momentum {m:g} averages over about {1 / (1 - m):.0f} steps, in which the weights have moved"
    return (
        f"{layer.name}: the running statistics are not those of the data under these weights: running variance is "
        f"{ratio:.2g} of the data's, outputs at inference are off by {off:.2g} standard deviations; they belong to "
        f"other weights ({why}) or to data of another form (augmentation, dropout: pass them as training has them); "
        f"for this model {ESTIMATE}"
    ), off


_SENTENCES: dict[str, Callable[[Evidence, LayerReport], tuple[str, float]]] = {
    "never_updated": _never_updated,
    "cancellation": _cancellation,
    "momentum_convention": _momentum_convention,
    "start_value": _start_value,
    "stale": _stale,
}


def start_share(layer: LayerReport) -> tuple[float, float]:
    """The share of the start value (mean 0, variance 1) that explains the statistics best, and what it leaves.

    ::

        mean = (1 - s)·data's,   var = (1 - s)·data's + s      by least squares over features, relative to the spread
        Equinox divides both by 1 - s, so that:   mean = data's,   var = data's + s / (1 - s)
    """
    seen = (layer.var > 0) & ~layer.dead
    if not np.any(seen):
        return 0.0, 1.0
    mean, var = layer.mean[seen], layer.var[seen]
    spread = np.sqrt(var)
    off = np.concatenate([(layer.running_mean[seen] - mean) / spread, (layer.running_var[seen] - var) / var])
    debiased = layer.kind == EQUINOX
    toward = np.concatenate([0 * mean, 1 / var] if debiased else [-mean / spread, (1 - var) / var])
    share = float(np.real(np.vdot(toward, off)) / max(np.real(np.vdot(toward, toward)), 1e-30))
    left = float(np.sum(np.abs(off - share * toward) ** 2) / max(np.sum(np.abs(off) ** 2), 1e-30))
    return (share / (1 + share) if debiased and share > 0 else share), left


def _steps(layer: LayerReport, share: float) -> float:
    """After how many steps the momentum leaves so much of the start value."""
    return math.log(share) / math.log(layer.momentum)


def _starts(e: Evidence, layer: LayerReport, off: float) -> bool:
    """Whether the running statistics are off, for the most part, by what is left of their start value."""
    share, left = (layer.start, 0.0) if not math.isnan(layer.start) else start_share(layer)
    if not (0 < share < 1 and left < 0.3):
        return False
    if math.isnan(layer.start) and not _agrees(e, layer, share):
        return False
    mixed = Values((1 - share) * layer.mean, (1 - share) * layer.var + share)
    if layer.kind == EQUINOX:
        mixed = Values(layer.mean, layer.var + share / (1 - share))
    return root_mean_square(difference(mixed, Values(layer.mean, layer.var), layer.epsilon)) > off / 2


def _agrees(e: Evidence, layer: LayerReport, share: float) -> bool:
    """Whether as few steps as the share tells are possible, and what the other layers of this momentum tell, too."""
    if isinstance(layer.momentum, int | float) and 0 < layer.momentum < 1 and _steps(layer, share) < e.train.batches:
        return False
    alike = [other for other in e.layers if other is not layer and other.momentum == layer.momentum]
    return sum(start_share(other)[0] > share / 3 for other in alike) >= len(alike) / 2


def expected_off(e: Evidence, layer: LayerReport) -> float:
    """How far running statistics and those of the data scatter by the noise of the batches that they are made of."""
    m = float(layer.momentum) if isinstance(layer.momentum, int | float) else 1.0
    return batch_noise(e, layer) * math.sqrt((1 - m) / (1 + m) + e.share(e.train))


def _closes(e: Evidence, layer: LayerReport) -> str:
    scores = e.evaluation.scores
    if layer.alone is None or not scores:
        return ""
    gap = scores["population"] - scores["running"]
    if not abs(gap) > 1e-3 * abs(scores["running"]):
        return ""
    if 0 < layer.alone / gap <= 1:
        return f"; correcting {layer.name} alone changes the metric by {layer.alone:.3g} of {gap:.3g}"
    return f"; correcting {layer.name} alone changes the metric by {layer.alone:.3g}, all layers by {gap:.3g}"


def half_precision(e: Evidence) -> Iterator[Finding]:
    narrow = [(layer, d) for layer, d in zip(e.layers, e.dtypes, strict=True) if finfo(d).bits < 32]
    if narrow:
        layer, dtype = narrow[0]
        step = float(finfo(dtype).eps)
        yield found(
            "half_precision",
            [layer for layer, _ in narrow],
            step,
            f"{layer.name} keeps its running statistics in {dtype}, whose steps are {step:.1g} of the value: smaller "
            "updates are rounded away; keep them in float32 (param_dtype=float32, or force_float32_reductions=True)",
        )


def epsilons(e: Evidence) -> Iterator[Finding]:
    """A layer whose epsilon is not that of most others, where that changes its output."""
    trained = [layer.epsilon for layer, f in zip(e.layers, e.facts, strict=True) if not f.options.frozen]
    usual = collections.Counter(trained or [layer.epsilon for layer in e.layers]).most_common(1)[0][0]
    odd: list[tuple[float, LayerReport, bool]] = []
    for layer, facts in zip(e.layers, e.facts, strict=True):
        live = (layer.running_var > 0) & ~layer.dead
        if math.isclose(layer.epsilon, usual) or not layer.finite or not np.any(live):
            continue
        ratio = np.sqrt((layer.running_var[live] + usual) / (layer.running_var[live] + layer.epsilon))
        change = float(np.max(np.abs(ratio - 1)))
        if change > _OTHER_EPSILON:
            odd.append((change, layer, facts.options.frozen))
    if odd:
        change, layer, frozen = max(odd, key=lambda entry: entry[0])
        yield found(
            "epsilon",
            [layer, *(other for _, other, _ in odd if other is not layer)],
            change,
            f"{layer.name}{' is frozen and' if frozen else ''} has epsilon {layer.epsilon:g} where other layers have "
            f"{usual:g}: that changes its output by up to {change:.0%}; set the epsilon that its weights were trained "
            "with",
        )
