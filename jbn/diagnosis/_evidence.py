"""`Finding`, and the evidence that the rules make findings of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jbn._models._layer import Facts
from jbn._paths import Path
from jbn._typed import finfo
from jbn.diagnosis._layers import LayerReport
from jbn.diagnosis._measure import Pass, root_mean_square

ESTIMATE = "estimate them anew with jbn.population"
_LOST = 0.01  # relative error of the variance by cancellation
_NOISY = 0.5  # standard deviations: the median over features of how far a batch's statistics scatter
_FEW = 2  # examples that share statistics: noisy in any case


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a model's batch norms, or that cannot be said.

    Attributes:
      kind: what it is: "not_finite", "never_updated", "start_value", "momentum_convention", "stale", "half_precision",
        "cancellation", "input_precision", "small_batches", "evaluation_scale", "evaluation_shift", "called_twice",
        "mask", "epsilon", "dead_features", "below_epsilon", "bad_batch", "metric_not_finite" or "one_batch".
      layers: names of the layers, the one that the sentence is about first; empty for the whole model.
      number: how much, in the unit that the sentence gives.
      sentence: what was found, with its number and a remedy.

    Example:
      >>> import jax, jbn, flax.linen as nn
      >>> model, x = nn.BatchNorm(True), 3 + jax.random.normal(jax.random.key(0), (64, 3))
      >>> report = jbn.diagnose(model, model.init(jax.random.key(1), x), [x[:32], x[32:]])
      >>> report.findings[0].kind, report.findings[0].layers
      ('never_updated', ('the model itself',))
    """

    kind: str
    layers: tuple[str, ...]
    number: float
    sentence: str


@dataclass(frozen=True)
class Evidence:
    """All that the rules read.

    Attributes:
      layers: reports, in the order of calls.
      dtypes: of the running statistics of each layer.
      train: the training pass.
      evaluation: the evaluation pass.
      steps: training steps so far, if known.
      size: examples of a batch in training.
      has_evaluation: whether evaluation data were given.
    """

    layers: list[LayerReport]
    dtypes: list[jnp.dtype]
    train: Pass
    evaluation: Pass
    steps: int | None
    size: int
    has_evaluation: bool

    @property
    def facts(self) -> list[Facts]:
        return list(self.train.facts.values())

    def path(self, layer: LayerReport) -> Path:
        return list(self.train.facts)[self.layers.index(layer)]

    def share(self, data: Pass) -> float:
        """One batch of training over all examples of these data, to which noise is averaged down."""
        return self.size / (data.size * data.batches)


def found(kind: str, layers: list[LayerReport], number: float, sentence: str, alike: bool = True) -> Finding:
    """A finding about the first of these layers; the others share it, or (if not alike) only its consequences."""
    name, more = layers[0].name, len(layers) - 1
    if more and alike:
        sentence = sentence.replace(name, f"{name} (and {more} more layer{'s' * (more > 1)})", 1)
    return Finding(kind, tuple(layer.name for layer in layers), number, sentence)


def batch_noise(e: Evidence, layer: LayerReport) -> float:
    """How far outputs by a single batch's statistics lie from those by the data's.

    With one batch it is unknown, and taken for that of independent examples: the mean of n has a standard deviation of
    1/√n, a normal variance one of √(2/n).
    """
    noise = root_mean_square(layer.noise)
    return math.sqrt(1.5 / e.size) if math.isnan(noise) else noise


def lost(layer: LayerReport, facts: Facts) -> float:
    """The relative error of a variance that is computed as E[x²] - E[x]² in float32 or wider."""
    wide = jnp.promote_types(facts.dtype, jnp.float32)
    return float(np.max(layer.cancellation, initial=0) * float(finfo(wide).eps))


def cancels(layer: LayerReport, facts: Facts) -> bool:
    """Whether the layer itself loses its variance in training."""
    return facts.options.fast_variance and not facts.options.frozen and lost(layer, facts) > _LOST


def noisy(e: Evidence) -> list[LayerReport]:
    """Layers whose training is another function than their inference, by the noise of small batches."""
    result: list[LayerReport] = []
    for layer, facts in zip(e.layers, e.facts, strict=True):
        size = min(e.size, facts.options.groups.get("virtual_batch_size") or e.size)
        noise = layer.noise[np.isfinite(layer.noise)]
        is_noisy = size <= _FEW or (noise.size > 0 and float(np.median(noise)) > _NOISY)
        if is_noisy and not facts.options.frozen:
            result.append(layer)
    return result


def repeated(e: Evidence) -> list[tuple[LayerReport, int]]:
    """Layers that a forward pass calls more than once, and how often."""
    return [(layer, e.train.calls[e.path(layer)]) for layer in e.layers if e.train.calls[e.path(layer)] > 1]


def explained_from(e: Evidence) -> int:
    """The first layer (its index) from which on noise or cancellation explains statistics that are off."""
    firsts = [e.layers.index(layer) for layer in noisy(e)[:1]]
    firsts += [i + 1 for i, (layer, f) in enumerate(zip(e.layers, e.facts, strict=True)) if cancels(layer, f)]
    return min(firsts, default=len(e.layers))
