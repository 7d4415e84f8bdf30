"""Population statistics of linen models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.core import meta

import jbn.linen
from jbn._activation import Activation, Side
from jbn._moments import Moments
from jbn._paths import Path, path_name
from jbn._running_stats import BatchStats, Variance
from jbn._traces import own_traces
from jbn._typed_flax import InterceptorContext, canonicalize_dtype, flatten_dict, unflatten_dict
from jbn.population._algorithm import Batches, as_keys, estimate
from jbn.population._layer import MEASURED, LayerVariables, Measurement, Mode, is_measured, measure

_NORMS = (nn.BatchNorm, jbn.linen.BatchNorm)
# The functions that Flax wraps in methods; the super().__call__ of a subclass calls one of them.
_CALLS: set[Any] = {vars(kind)["__call__"].__wrapped__ for kind in _NORMS}


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
    variables = dict(variables) if params is None else {**variables, "params": params}
    if "batch_stats" not in variables:
        raise ValueError(
            f"variables have the collections {sorted(variables)}; pass all that model.init returned, also batch_stats"
        )
    stats = flatten_dict(variables["batch_stats"], keep_empty_nodes=True)
    layers = [
        path[:-1]
        for path, leaf in stats.items()
        if path[-1] == "mean" and (*path[:-1], "var") in stats and np.ndim(leaf)
    ]
    running = {path: BatchStats(stats[*path, "mean"], stats[*path, "var"]) for path in layers}
    measurement = Measurement(mode)
    add_batch = functools.partial(_add_batch, model, call or (lambda model, batch: model(batch)), measurement, layers)
    new = estimate(add_batch, measurement, (variables, as_keys(rngs)), running, batches, variance, passes, progress)
    for path, (mean, var, *_) in new.items():
        stats |= {(*path, "mean"): mean, (*path, "var"): var}
    return {**variables, "batch_stats": unflatten_dict(stats)}


def _add_batch(
    model: Any,
    call: Callable[[Any, Any], Any],
    measurement: Measurement,
    layers: list[Path],
    state: tuple[dict[str, Any], Any],
    running: list[BatchStats],
    total: list[Moments],
    batch: Any,
    number: jax.Array,
) -> list[Moments]:
    variables, rngs = state
    stats = flatten_dict(variables["batch_stats"], keep_empty_nodes=True)
    for path, (mean, var, *_), moments in zip(layers, running, total, strict=True):
        named = zip(("mean", "var", *MEASURED), (mean, var, *moments), strict=True)
        stats |= {(*path, name): value for name, value in named}

    def in_this_batch(key: jax.Array) -> jax.Array:
        return jax.random.fold_in(key, number)

    with own_traces(), nn.intercept_methods(functools.partial(_intercept, measurement)):
        _, updates = model.apply(
            {**variables, "batch_stats": unflatten_dict(stats)},
            batch,
            method=call,
            rngs=jax.tree.map(in_this_batch, rngs),
            mutable=[collection for collection in variables if collection != "params"],
        )
    new = flatten_dict(updates["batch_stats"])
    return [Moments(*(new[*path, name] for name in MEASURED)) for path in layers]


def _intercept(
    measurement: Measurement,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: InterceptorContext,
) -> Any:
    """Replaces the calls of batch norms by measurements."""
    layer: Any = context.module
    if context.method_name != "__call__" or not is_measured(layer, _NORMS, layer.path):
        return call(*args, **kwargs)
    method: Any = context.orig_method
    if method.func in _CALLS:
        return _measured_call(measurement, layer, *args, **kwargs)
    y = call(*args, **kwargs)
    measurement.check_called(layer.path, layer.__class__)
    return y


def _measured_call(
    measurement: Measurement,
    layer: Any,
    x: jax.Array,
    use_running_average: bool | None = None,
    *,
    mask: jax.Array | None = None,
    update_running_average: bool | None = None,
    activation: Activation | None = None,
    placement: Side = "before",
) -> jax.Array:
    """Takes the arguments of the layers' `__call__`; which statistics normalize is not theirs to decide here."""
    kind: type[Any] = layer.__class__
    if any(getattr(kind, name) is not getattr(nn.Module, name) for name in ("param", "variable")):
        raise ValueError(
            f"{path_name(layer.path)} is a {kind.__name__}, which changes what param or variable return, and so "
            "cannot be measured; change them in __call__, around super().__call__(x, ...)"
        )
    if not layer.has_variable("batch_stats", MEASURED[0]):
        raise ValueError(
            f"batch_stats have no mean and var for {path_name(layer.path)}; pass the variables that model.init returned"
        )
    scale, bias = (meta.unbox(layer.get_variable("params", name)) for name in ("scale", "bias"))
    stats = BatchStats(*(layer.get_variable("batch_stats", name) for name in ("mean", "var")))
    total = Moments(*(layer.get_variable("batch_stats", name) for name in MEASURED))
    dtype = canonicalize_dtype(*(a for a in (x, scale, bias) if a is not None), dtype=layer.dtype)
    variables = LayerVariables(scale, bias, stats, total)
    y, new_total = measure(measurement, layer.path, layer, variables, dtype, x, mask, activation, placement)
    for name, value in zip(MEASURED, new_total, strict=True):
        layer.put_variable("batch_stats", name, value)
    return y
