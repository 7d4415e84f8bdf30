"""`diagnose`: which of a model's batch norms make evaluation worse than training, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jbn._models._layer import MeasuredModel, as_keys
from jbn._paths import path_name
from jbn.diagnosis._evidence import Evidence
from jbn.diagnosis._findings import findings
from jbn.diagnosis._layers import layer_report
from jbn.diagnosis._measure import Batches, Metric, Progress, Variant, as_stats, corrections, passed
from jbn.diagnosis._report import Diagnosis


def diagnose(
    model: Any,
    variables: Any,
    batches: Batches,
    *,
    evaluation: Batches | None = None,
    metric: Metric | None = None,
    call: Callable[..., Any] | None = None,
    train_call: Callable[..., Any] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    params: Any = None,
    rngs: Any = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Finds out why a model with batch norm is worse in evaluation than in training.

    It runs the model over the training batches once, and over the evaluation batches once, and compares for each batch
    norm the running statistics with those of the data. With a metric it says how much of the gap each layer causes. The
    model is not changed. Distances between outputs by statistics in use and by true ones are in standard deviations::

        x̂ = (x - mean) / sqrt(var + epsilon),    E[(x̂_used - x̂_true)²]^½

    Args:
      model: a linen, nnx or Equinox model with batch norms of jbn, Flax or Equinox at any depth.
      variables: of a linen model, all that its init returned; the `eqx.nn.State` of an Equinox model; None for nnx.
      batches: training batches as training gets them, in its batch size, with its augmentation: an iterable, or a
        function that returns one. A batch is an array or a pytree of arrays.
      evaluation: evaluation batches; by default `batches`, which then cannot be an iterator that is used up.
      metric: `metric(outputs, batch)`, the mean over a batch of anything, such as the loss or the accuracy, in JAX,
        NumPy or Python: it is called outside jit.
      call: `call(model, batch)` as at inference; by default `model(batch)`. In Equinox `call(model, state, batch)`,
        which returns outputs and state; by default the model mapped over the batch. Which statistics normalize is
        decided here, whatever the call says.
      train_call: the same as in training (dropout, masks); by default `call`.
      steps: training steps so far: tells how much of the start value is left in the running statistics.
      batch_size: examples of a batch in training, if `batches` have another size.
      params: parameters to use instead of the model's, such as averaged weights.
      rngs: random keys, such as `{"dropout": key}`, if the model is random.
      progress: called with the name of the pass ("training" or "evaluation") and the number of batches done.

    Returns:
      A `jbn.diagnosis.Diagnosis`, which prints itself as a table with findings, sentences with a number and a remedy.

    Raises:
      ValueError: no batch norm, no batches, a batch norm that cannot be measured (a DomainBatchNorm, a subclass that
        computes by itself), an iterator where two passes are needed, or a metric that is not one number.

    Example:
      >>> import jax, jbn, jbn.linen, flax.linen as nn
      >>> model = nn.Sequential([nn.Dense(4), jbn.linen.BatchNorm(use_running_average=False, momentum=0.999)])
      >>> x = jax.random.normal(jax.random.key(0), (6, 128, 3))
      >>> variables = model.init(jax.random.key(1), x[0])
      >>> for batch in x:
      ...     variables |= model.apply(variables, batch, mutable=["batch_stats"])[1]
      >>> print(jbn.diagnose(model, variables, list(x), steps=6).findings[0].kind)
      start_value

    Reference: Ioffe & Szegedy 2015 (https://arxiv.org/abs/1502.03167) for both kinds of statistics; Wu & Johnson 2021,
    "Rethinking 'Batch' in BatchNorm" (https://arxiv.org/abs/2105.07576), for how they come apart.
    """
    if evaluation is None and not callable(batches) and iter(batches) is batches:
        raise ValueError(
            "batches is an iterator that can be consumed only once, but there are two passes; pass a list, or a "
            "function that returns a new iterator"
        )
    for name, value, least in (("steps", steps, 0), ("batch_size", batch_size, 1)):
        if value is not None and not (np.issubdtype(type(value), np.integer) and value >= least):
            raise ValueError(f"{name} is {value!r}; pass a whole number, at least {least}")
    for name, data in (("batches", batches), ("evaluation", evaluation)):
        if isinstance(data, Mapping) or hasattr(data, "shape"):
            raise ValueError(f"{name} is one batch; pass an iterable of batches, such as [batch]")
    measured = _measured(model, variables, params, rngs)
    as_it_is: Variant = ("together", measured.running)
    train = passed(measured, train_call or call, batches, {"batch": as_it_is}, "batch", None, "training", progress)
    facts = train.facts
    population = {  # layers whose statistics are constants keep them
        path: as_stats(train.sums[path], stats) if path in facts and not facts[path].options.frozen else stats
        for path, stats in measured.running.items()
    }
    variants: dict[str, Variant] = {
        "running": ("layer by layer", measured.running),
        "population": ("layer by layer", population),
        "batch": as_it_is,
    }
    if metric is not None:
        variants |= corrections(measured.running, population, train.facts)
    data = batches if evaluation is None else evaluation
    tested = passed(measured, call, data, variants, "population", metric, "evaluation", progress)
    missing = [path_name(path) for path in train.facts if path not in tested.facts]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} is called in training and not at inference; pass calls that run the same layers"
        )
    size = train.size if batch_size is None else batch_size
    layers = [
        layer_report(
            path_name(path),
            facts,
            measured.running[path],
            train.sums[path],
            tested.sums[path],
            steps,
            train.size / size,
            tested.scores,
        )
        for path, facts in train.facts.items()
    ]
    dtypes = [measured.running[path].mean.dtype for path in train.facts]
    evidence = Evidence(layers, dtypes, train, tested, steps, size, evaluation is not None)
    scores = {name: tested.scores[name] for name in ("running", "population", "batch") if tested.scores}
    return Diagnosis(tuple(findings(evidence)), tuple(layers), scores, train.batches, tested.batches, steps)


def _measured(model: Any, variables: Any, params: Any, rngs: Any) -> MeasuredModel:
    """The model behind the face of its library; what is not installed is not imported."""
    modules = {c.__module__ for c in type(model).__mro__}
    if "flax.linen.module" in modules:
        from jbn._models._linen import linen_model

        if variables is None:
            raise ValueError(
                "variables is None; pass those of the linen model: jbn.diagnose(model, variables, batches)"
            )
        return linen_model(model, variables, params, as_keys(rngs))
    if any(m.startswith("flax.nnx") for m in modules):
        from jbn._models._nnx import nnx_model

        if variables is not None:
            raise ValueError("an nnx model holds its variables; use jbn.diagnose(model, None, batches)")
        return nnx_model(model, params, as_keys(rngs or {}), as_it_is=True)
    if any(m.startswith("equinox.") for m in modules):
        from jbn._models._equinox import equinox_model

        if variables is None:
            raise ValueError("variables is None; pass the model's state: jbn.diagnose(model, state, batches)")
        return equinox_model(model, variables, params, as_it_is=True)
    raise ValueError(
        f"model is a {type(model).__name__}; pass a linen module with its variables, an nnx module, or an Equinox "
        "module with its state"
    )
