"""`Finding`, and the evidence that the rules make findings of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jbn._models._layer import Facts
from jbn.diagnosis._layers import LayerReport
from jbn.diagnosis._measure import Pass

ESTIMATE = "estimate them anew with jbn.population"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a model's batch norms, or that cannot be said.

    Attributes:
      kind: what it is: "not_finite", "never_updated", "start_value", "momentum_convention", "stale", "half_precision",
        "cancellation", "input_precision", "small_batches", "evaluation_scale", "evaluation_shift", "mask", "epsilon",
        "dead_features", "below_epsilon", "bad_batch", "metric_not_finite" or "one_batch".
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


def found(kind: str, layers: list[LayerReport], number: float, sentence: str) -> Finding:
    """A finding about the first of these layers, which the others share."""
    name, more = layers[0].name, len(layers) - 1
    if more:
        sentence = sentence.replace(name, f"{name} (and {more} more layer{'s' * (more > 1)})", 1)
    return Finding(kind, tuple(layer.name for layer in layers), number, sentence)


def batch_noise(layer: LayerReport) -> float:
    """How far outputs by a single batch's statistics lie from those by the data's."""
    return math.hypot(np.nan_to_num(layer.mean_noise), np.nan_to_num(layer.variance_noise) / 2)
