"""What is said of each layer: from the sums of the two passes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from jbn._models._layer import Facts
from jbn._running_stats import BatchStats
from jbn.diagnosis._measure import Sums, difference, real, root_mean_square

# Its mode "batch" debiases, but as if the variance began at 0, not at 1; jbn.equinox begins at 0.
EQUINOX = "equinox.nn.BatchNorm"


@dataclasses.dataclass(frozen=True, eq=False)
class LayerReport:
    """One batch norm. Distances are in standard deviations of the data at this layer.

    Attributes:
      name: its path in the model.
      kind: its class, such as "flax.linen.BatchNorm".
      momentum: weight kept on the old statistics, as the layer has it.
      epsilon: added to the variance.
      mean: `[features]`, of the data, where the layer normalizes them by each batch's statistics.
      var: `[features]`, of the data, likewise.
      running_mean: `[features]`, that the layer keeps.
      running_var: `[features]`, that the layer keeps.
      drift: `[features]`, distance of the running mean from the data's mean.
      variance_ratio: `[features]`, running variance over the data's.
      difference: `[features]`, how far outputs at inference lie from those by the data's statistics.
      mean_noise: how far the means of single batches scatter, at the batch size in use; NaN if there is one batch.
      variance_noise: the same of their variances, relative to the data's.
      noise: `[features]`, how far outputs by a single batch's statistics lie from those by the data's; NaN if there is
        one batch.
      start: share of the running statistics that is still their start value, momentum^steps; NaN if unknown. In
        `eqx.nn.BatchNorm` of mode "batch" only the variance has one.
      dead: `[features]`, bool, True where the data have a single value.
      below_epsilon: `[features]`, bool, True where the variance is below epsilon.
      cancellation: `[features]`, mean²/(var + epsilon), by which E[x²] - E[x]² loses precision.
      shift: `[features]`, how far outputs of evaluation data lie from those of training data.
      alone: what correcting this layer's statistics alone adds to the metric (a loss goes down); None without a metric,
        or where they need no correction.
      up_to: the same for this layer and all before it.

    Example:
      >>> import jax, jbn, flax.linen as nn
      >>> model, x = nn.BatchNorm(True), jax.random.normal(jax.random.key(0), (8192, 3))
      >>> report = jbn.diagnose(model, model.init(jax.random.key(1), x), [x[:4096], x[4096:]])
      >>> report.layers[0].variance_ratio.round(0)
      array([1., 1., 1.])
    """

    name: str
    kind: str
    momentum: Any
    epsilon: float
    mean: np.ndarray
    var: np.ndarray
    running_mean: np.ndarray
    running_var: np.ndarray
    drift: np.ndarray
    variance_ratio: np.ndarray
    difference: np.ndarray
    mean_noise: float
    variance_noise: float
    noise: np.ndarray
    start: float
    dead: np.ndarray
    below_epsilon: np.ndarray
    cancellation: np.ndarray
    shift: np.ndarray
    alone: float | None = None
    up_to: float | None = None

    @property
    def finite(self) -> bool:
        """Whether all running statistics are finite."""
        return bool(np.all(np.isfinite(self.running_mean)) and np.all(np.isfinite(self.running_var)))

    def worst(self, number: int = 3) -> list[int]:
        """The features whose outputs at inference lie farthest from those by the data's statistics, worst first.

        Args:
          number: how many.

        Returns:
          Indices of features, flat where there are several feature axes.
        """
        flat = np.nan_to_num(self.difference, nan=np.inf).ravel()
        return [int(i) for i in np.argsort(-flat, kind="stable")[:number]]


def layer_report(
    name: str,
    facts: Facts,
    running: BatchStats,
    train: Sums,
    evaluation: Sums,
    steps: int | None,
    smaller: float,
    scores: dict[str, float],
) -> LayerReport:
    """The report on one layer.

    Args:
      name: its name.
      facts: what the trace said.
      running: its running statistics.
      train: sums of the training pass.
      evaluation: sums of the evaluation pass.
      steps: training steps so far.
      smaller: size of the given batches over that of the batches in training.
      scores: of the evaluation pass.
    """
    data: Any = train.population  # in NumPy
    kept = real(running)
    spread = np.sqrt(np.maximum(data.var, 0))
    dead = (data.count > 0) & (data.var <= 1e-12 * np.abs(data.mean) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        drift = np.where(dead, 0.0, np.abs(kept.mean - data.mean) / spread)
        ratio = np.where(dead, 1.0, kept.var / data.var)
        cancellation = np.abs(data.mean) ** 2 / (data.var + facts.options.epsilon)
    base = scores.get("running", math.nan)
    means = _noise(train.means, spread, dead) * math.sqrt(smaller)
    variances = _noise(train.variances, data.var, dead) * math.sqrt(smaller)
    alone, up_to = (scores[f"{how} {name}"] - base if f"{how} {name}" in scores else None for how in ("alone", "up to"))
    return LayerReport(
        name=name,
        kind=facts.options.kind,
        momentum=facts.options.momentum,
        epsilon=facts.options.epsilon,
        mean=data.mean,
        var=data.var,
        running_mean=kept.mean,
        running_var=kept.var,
        drift=drift,
        variance_ratio=ratio,
        difference=difference(kept, data, facts.options.epsilon),
        mean_noise=root_mean_square(means),
        variance_noise=root_mean_square(variances),
        noise=np.hypot(means, variances / 2),
        start=_start(facts, steps),
        dead=dead,
        below_epsilon=(data.count > 0) & ~dead & (data.var < facts.options.epsilon),
        cancellation=cancellation,
        shift=difference(data, evaluation.population, facts.options.epsilon),
        alone=alone,
        up_to=up_to,
    )


def _noise(batches: Any, unit: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """The standard deviation over batches, relative to `unit`."""
    n = batches.count
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(batches.var * n / (n - 1)) / unit
    return np.where(dead | (n < 2), np.nan, spread)


def _start(facts: Facts, steps: int | None) -> float:
    if facts.options.frozen or (facts.options.debias and facts.options.kind != EQUINOX):
        return 0.0
    if steps is None or not isinstance(facts.options.momentum, int | float):
        return math.nan
    return float(facts.options.momentum) ** steps
