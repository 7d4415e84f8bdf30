"""Population statistics of nnx models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flax import nnx

from jbn._models._layer import Mode, as_keys
from jbn._models._nnx import nnx_model
from jbn._running_stats import Variance
from jbn.population._algorithm import Batches, estimate

Model = TypeVar("Model", bound=nnx.Module)


def estimate_nnx(
    model: Model,
    batches: Batches,
    *,
    mode: Mode = "together",
    call: Callable[[Any, Any], Any] | None = None,
    params: Any = None,
    rngs: Mapping[str, Any] | None = None,
    variance: Variance = "biased",
    passes: int | None = None,
    progress: bool = True,
) -> Model:
    """A copy of an nnx model, in which mean and var of each batch norm are those of the whole data set.

    ::

        n = Σ n_b,    mean = Σ n_b·mean_b / n,    var = Σ n_b·(var_b + |mean_b - mean|²) / n

    Args:
      model: any nnx module with `jbn.nnx.BatchNorm` or Flax's own in it, or subclasses as in `estimate_linen`. It is
        not changed, and what it writes is dropped after each batch.
      batches: see `estimate_linen`.
      mode: see `estimate_linen`.
      call: `call(model, batch)`; by default `model(batch)`.
      params: an `nnx.State` of parameters to use instead of the model's, such as averaged weights.
      rngs: random keys, such as `{"dropout": key}`, for the model's own streams of these names, set as by `nnx.reseed`.
        With or without them, the key of each stream is `jax.random.fold_in(key, i)` in batch number i of each pass,
        from 0 on. For a model that takes keys as arguments, put them into the batches.
      variance: see `estimate_linen`.
      passes: see `estimate_linen`.
      progress: see `estimate_linen`.

    Returns:
      A new model; its statistics as in `estimate_linen`.

    Raises:
      ValueError: see `estimate_linen`.

    Example:
      >>> import jax, jbn.nnx
      >>> from flax import nnx
      >>> from jbn import population
      >>> x = 3 + jax.random.normal(jax.random.key(0), (100, 2))
      >>> model = nnx.Sequential(jbn.nnx.BatchNorm(2, rngs=nnx.Rngs(0)), nnx.relu)
      >>> print(population.estimate_nnx(model, [x[:70], x[70:]], progress=False).layers[0].mean[...].round())
      [3. 3.]

    Reference: Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3 (https://arxiv.org/abs/2105.07576).
    """
    measured = nnx_model(model, params, as_keys(rngs or {}))
    return estimate(measured, mode, call, batches, variance, passes, progress)
