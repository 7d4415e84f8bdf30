"""Rules about the running statistics: how they came to be what they are."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np

from jbn._models._layer import Facts
from jbn._paths import path_name
from jbn._typed import finfo
from jbn.diagnosis._evidence import ESTIMATE, Evidence, Finding, batch_noise, found
from jbn.diagnosis._layers import EQUINOX, LayerReport
from jbn.diagnosis._measure import Values, difference, root_mean_square

# Limits, in standard deviations of the data unless said otherwise.
_NEAR = 0.05  # rms over features of how far outputs at inference are off, below which statistics are right enough
_STALE = 0.2  # the same, above which they belong to other weights or data
_LOST = 0.01  # relative error of the variance by cancellation
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
        if layer.finite and (kind := _fault(layer, facts)):
            groups[kind].append(layer)
    for kind, members in groups.items():
        members.sort(key=lambda layer: -root_mean_square(layer.difference))
        sentence, number = _SENTENCES[kind](e, members[0])
        yield found(kind, members, number, sentence + _closes(e, members[0]))


def _fault(layer: LayerReport, facts: Facts) -> str | None:
    off = root_mean_square(layer.difference)
    if not facts.options.debias and np.all(layer.running_mean == 0) and np.all(layer.running_var == 1) and off > _NEAR:
        return "never_updated"
    if facts.options.fast_variance and not facts.options.frozen and lost(layer, facts) > _LOST:
        return "cancellation"
    if isinstance(facts.options.momentum, int | float) and facts.options.momentum < 0.5 and not facts.options.frozen:
        return "momentum_convention"
    if off > _NEAR and _starts(layer, off):
        return "start_value"
    if off > math.hypot(_STALE, 2 * _expected_noise(layer)):
        return "stale"
    return None


def _never_updated(e: Evidence, layer: LayerReport) -> tuple[str, float]:
    off = root_mean_square(layer.difference)
    return (
        f"{layer.name}: the running statistics were never updated (mean 0, variance 1), so that outputs at inference "
        f"are off by {off:.2g} standard deviations; train with use_running_average=False and keep the new batch_stats "
        f"(mutable=['batch_stats']), or {ESTIMATE}"
    ), off


def _cancellation(e: Evidence, layer: LayerReport) -> tuple[str, float]:
    facts = e.train.facts[next(p for p in e.train.facts if path_name(p) == layer.name)]
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
        after = f" after about {max(1, round(math.log(share) / math.log(layer.momentum)))} steps"
    remedies = [ESTIMATE]
    if layer.kind == EQUINOX:
        what, better = "their start value (variance 1, which this layer does not take out)", "jbn.equinox.convert"
    else:
        what, better = "their start value (mean 0, variance 1)", "debias=True"
    remedies.insert(0, better)
    if e.steps is not None:
        fitting = [m for m in (0.99, 0.9, 0.5) if m**e.steps < 0.01 and m < float(layer.momentum)]
        remedies[:0] = [f"momentum {fitting[0]:g}"] if fitting else []
    return (
        f"{layer.name}: running variance is {ratio:.2g} of the data's, and {share:.0%} of the running statistics is "
        f"still {what}, as left by {cause}{after}; use {', '.join(remedies[:-1])}, or {remedies[-1]}"
    ), share


def _stale(e: Evidence, layer: LayerReport) -> tuple[str, float]:
    off, ratio = root_mean_square(layer.difference), float(np.median(layer.variance_ratio))
    return (
        f"{layer.name}: the running statistics are not those of the data under these weights: running variance is "
        f"{ratio:.2g} of the data's, outputs at inference are off by {off:.2g} standard deviations; they belong to "
        "other weights (ahead of an average such as EMA or SWA, or of more training without updates) or to other data; "
        f"{ESTIMATE}"
    ), off


_SENTENCES: dict[str, Callable[[Evidence, LayerReport], tuple[str, float]]] = {
    "never_updated": _never_updated,
    "cancellation": _cancellation,
    "momentum_convention": _momentum_convention,
    "start_value": _start_value,
    "stale": _stale,
}


def lost(layer: LayerReport, facts: Facts) -> float:
    """The relative error of a variance that is computed as E[x²] - E[x]² in float32 or wider."""
    wide = jnp.promote_types(facts.dtype, jnp.float32)
    return float(np.max(layer.cancellation, initial=0) * float(finfo(wide).eps))


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


def _starts(layer: LayerReport, off: float) -> bool:
    """Whether the running statistics are off, for the most part, by what is left of their start value."""
    share, left = (layer.start, 0.0) if not math.isnan(layer.start) else start_share(layer)
    if not (0 < share < 1 and left < 0.3):
        return False
    mixed = Values((1 - share) * layer.mean, (1 - share) * layer.var + share)
    if layer.kind == EQUINOX:
        mixed = Values(layer.mean, layer.var + share / (1 - share))
    return root_mean_square(difference(mixed, Values(layer.mean, layer.var), layer.epsilon)) > off / 2


def _expected_noise(layer: LayerReport) -> float:
    """How far running statistics scatter by the noise of the batches that they are an average of."""
    m = float(layer.momentum) if isinstance(layer.momentum, int | float) else 1.0
    return math.sqrt((1 - m) / (1 + m)) * batch_noise(layer)


def _closes(e: Evidence, layer: LayerReport) -> str:
    scores = e.evaluation.scores
    if layer.alone is None or not scores or scores["population"] == scores["running"]:
        return ""
    gap = scores["population"] - scores["running"]
    if 0 < layer.alone / gap <= 1:
        return f"; correcting {layer.name} alone closes {layer.alone:.3g} of {gap:.3g} in the metric"
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
