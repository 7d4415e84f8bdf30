"""Population statistics of Equinox models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jbn._models._equinox import equinox_model
from jbn._models._layer import Mode
from jbn._running_stats import Variance
from jbn.population._algorithm import Batches, estimate


def estimate_equinox(
    model: Any,
    state: Any,
    batches: Batches,
    *,
    mode: Mode = "together",
    call: Callable[[Any, Any, Any], Any] | None = None,
    params: Any = None,
    variance: Variance = "biased",
    passes: int | None = None,
    progress: bool = True,
) -> Any:
    """The state of an Equinox model, in which mean and var of each batch norm are those of the whole data set.

    ::

        n = Σ n_b,    mean = Σ n_b·mean_b / n,    var = Σ n_b·(var_b + |mean_b - mean|²) / n

    Args:
      model: any model with `jbn.equinox.BatchNorm` or Equinox' own in it. It is not changed.
      state: its `eqx.nn.State`, which is not changed and stays valid.
      batches: see `estimate_linen`.
      mode: see `estimate_linen`.
      call: `call(model, state, batch)`, which returns outputs and state, as models do; by default the model mapped
        over the examples of the batch, under the name that its layers give that axis.
      params: a model of arrays, such as `eqx.filter(model, eqx.is_inexact_array)` gives it, to use instead of the
        model's own, such as averaged weights.
      variance: see `estimate_linen`.
      passes: see `estimate_linen`.
      progress: see `estimate_linen`.

    Returns:
      A new state; its statistics as in `estimate_linen`.

    Raises:
      ValueError: see `estimate_linen`.

    Example:
      >>> import equinox as eqx, jax, jbn.equinox
      >>> from jbn import population
      >>> x = 3 + jax.random.normal(jax.random.key(0), (100, 2))
      >>> layer, state = eqx.nn.make_with_state(jbn.equinox.BatchNorm)(2, "batch")
      >>> state = population.estimate_equinox(layer, state, [x[:70], x[70:]], progress=False)
      >>> print(state.get(layer.state_index).mean.round())
      [3. 3.]

    Reference: Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3 (https://arxiv.org/abs/2105.07576).
    """
    return estimate(equinox_model(model, state, params), mode, call, batches, variance, passes, progress)
