"""Population statistics of linen models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from jbn._models._layer import Mode, as_keys
from jbn._models._linen import linen_model
from jbn._running_stats import Variance
from jbn.population._algorithm import Batches, estimate


def estimate_linen(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Batches,
    *,
    mode: Mode = "together",
    call: Callable[[Any, Any], Any] | None = None,
    params: Any = None,
    rngs: Any = None,
    variance: Variance = "biased",
    passes: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """The variables of a linen model, in which mean and var of each batch norm are those of the whole data set.

    ::

        n = Σ n_b,    mean = Σ n_b·mean_b / n,    var = Σ n_b·(var_b + |mean_b - mean|²) / n

    Args:
      model: any linen module with `jbn.linen.BatchNorm` or Flax's own in it, at any depth, also under jit, scan, vmap
        and remat. Subclasses are measured if their `__call__()` calls `super().__call__()`; they may compute more.
      variables: its variables, with `params` and `batch_stats`; they are not changed. What the model writes to them (a
        counter, a cache) is dropped after each batch.
      batches: the inputs of `call`: an iterable of batches, of unknown length if need be, or a function that returns
        one. A batch is an array or a pytree of arrays, of any size (each new shape is compiled). It may be sharded:
        under jit the batch is global. A layer's `axis_name` counts if the model itself maps that axis, as by `nn.vmap`;
        otherwise each batch is taken as a whole.
      mode: "together" normalizes each batch by its own statistics, in one pass (as fvcore's `update_bn_stats()`,
        with batches weighted by their count). "layer by layer" measures each layer under the final statistics of the
        layers below.
      call: `call(model, batch)`; by default `model(batch)`. Pass `lambda m, b: m(b["image"], train=False)` if the model
        takes more arguments. Whatever the model passes to its batch norms, `mode` decides how they normalize.
      params: parameters to use instead of `variables["params"]`, such as averaged weights. See below.
      rngs: random keys as `model.apply` takes them, such as `{"dropout": key}`, if the model is random. Batch number i
        of each pass, from 0 on, gets `jax.random.fold_in(key, i)`.
      variance: "biased", or "unbiased", which is n/(n-1) times the biased one.
      passes: maximal number of passes over the data for "layer by layer"; by default the number of layers plus one.
      progress: whether to show a progress bar, if the terminal can.

    Returns:
      New variables, with `params` (the given ones, if any) and `batch_stats` in the old dtypes, finite. A layer with
      `skip_nonfinite=True` skips batches with NaN or infinity, and a warning says how many. A feature that is masked in
      all batches keeps its statistics, or gets mean 0 and var 1 if they are not finite.

    Raises:
      ValueError: the model has no batch norm, or one that cannot be measured (`jbn.linen.DomainBatchNorm`, a
        subclass with its own arithmetic); there are no batches, or they hold something else than arrays (strings, torch
        tensors); variables lack `batch_stats`; a batch has NaN or infinity, and a layer does not have
        skip_nonfinite=True; `batches` is an iterator where more than one pass is needed; or the statistics do not
        converge (a layer that is called twice in a forward pass depends on itself).

    Example:
      >>> import jax, jax.numpy as jnp, flax.linen as nn, jbn.linen
      >>> from jbn import population
      >>> model = nn.Sequential([nn.Dense(4), jbn.linen.BatchNorm(use_running_average=True), nn.relu])
      >>> x = 3 + jax.random.normal(jax.random.key(0), (100, 2))
      >>> variables = model.init(jax.random.key(1), x)
      >>> variables = population.estimate_linen(model, variables, [x[:70], x[70:]], progress=False)
      >>> y = nn.Dense(4).apply({"params": variables["params"]["layers_0"]}, x)
      >>> bool(jnp.allclose(variables["batch_stats"]["layers_1"]["var"], y.var(0), rtol=1e-5))
      True

    After weight averaging, pass the averaged weights of optax as `params`:

      - exponential average: the tree that `optax.incremental_update(params, average, 0.001)` returns
      - stochastic weight averaging: the same with step size 1/(k + 1) at snapshot k
      - schedule-free: `optax.contrib.schedule_free_eval_params(opt_state, params)`

    Reference: Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3 (https://arxiv.org/abs/2105.07576).
    """
    measured = linen_model(model, variables, params, as_keys(rngs))
    return estimate(measured, mode, call, batches, variance, passes, progress)
