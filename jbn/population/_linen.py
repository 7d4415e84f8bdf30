"""Population statistics of linen models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.core import meta
from flax.linen.dtypes import canonicalize_dtype
from flax.traverse_util import flatten_dict, unflatten_dict

import jbn.linen
from jbn._moments import Moments
from jbn._running_stats import BatchStats, Variance
from jbn._traces import own_traces
from jbn.population._algorithm import Batches, estimate, keys
from jbn.population._layer import MEASURED, Mode, Path, Watch, measure, shown, watchable

_NORMS = (nn.BatchNorm, jbn.linen.BatchNorm)
# The functions that Flax wraps in methods; a subclass comes to one of them by super().__call__.
_KNOWN = {kind.__call__.__wrapped__ for kind in (*_NORMS, jbn.linen.BatchRenorm, jbn.linen.AdaptiveBatchNorm)}


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
    """The variables of a linen model, with each batch norm's mean and var those of the whole data set.

    ::

        n = Σ n_b,    mean = Σ n_b·mean_b / n,    var = Σ n_b·(var_b + |mean_b - mean|²) / n

    Args:
      model: any linen module with `jbn.linen.BatchNorm` or Flax's own in it, at any depth, also under jit, scan, vmap
        and remat, or subclasses of them whose `__call__` comes to `super().__call__`: what it does around that is done.
      variables: its variables, with `params` and `batch_stats`; they stay as they are. What the model writes to them
        (a counter, a cache) is dropped after each batch.
      batches: what `call` takes, one batch after another: arrays or pytrees of arrays, of any sizes (each new shape is
        compiled). An iterable, of unknown length if need be, or a function that returns one. Arrays sharded over
        devices are fine: under jit their batch is global. A layer's `axis_name` holds where the model itself maps that
        axis, as by `nn.vmap`; elsewhere a batch is whole as it is given.
      mode: "together", each batch normalized by its own statistics, in one pass (as fvcore's `update_bn_stats`, with
        batches weighted by their count); or "layer by layer", each layer measured under the final statistics of those
        below.
      call: `call(model, batch)`; by default `model(batch)`. Write `lambda m, b: m(b["image"], train=False)` where the
        model takes more. Whichever way the model calls its batch norms, this function decides how they normalize.
      params: parameters to use in place of `variables["params"]`, such as averaged weights. See below.
      rngs: random keys as `model.apply` takes them, such as `{"dropout": key}`, for a model that draws. Batch number i
        of each pass, from 0 on, has `jax.random.fold_in(key, i)`.
      variance: "biased", or "unbiased", which is n/(n-1) of it.
      passes: upper limit of passes over the data for "layer by layer"; by default the number of layers plus one.
      progress: show a progress bar, where the terminal can.

    Returns:
      New variables: `params` (the given ones, if any) and `batch_stats` in the old dtypes, finite. A layer with
        `skip_nonfinite=True` leaves out the batches with NaN or infinity, and a warning says how many. A feature that
        no batch shows keeps its statistics, or has mean 0 and var 1 where they were not finite.

    Raises:
      ValueError: a model without batch norm, or with one that cannot be measured (`DomainBatchNorm`, a subclass with
        its own arithmetic), no batches, batches of what is no array (strings, tensors of torch), variables without
        `batch_stats`, a batch with NaN or infinity, by its number, where a layer does not say skip_nonfinite=True, an
        iterator that can be passed over once where more passes are needed, or statistics that find no fixed point (a
        layer that is called twice in a forward pass, and so depends on itself).

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

    After weight averaging, one call does it, with `params` from optax:

      - exponential average: the tree that you keep by `optax.incremental_update(params, average, 0.001)`
      - stochastic weight averaging: the same with step size 1/(k + 1) at snapshot k
      - schedule-free: `optax.contrib.schedule_free_eval_params(opt_state, params)`

    Reference: Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3 (https://arxiv.org/abs/2105.07576).
    """
    variables = dict(variables) if params is None else {**variables, "params": params}
    if "batch_stats" not in variables:
        raise ValueError(
            f"variables have the collections {sorted(variables)}; write all that model.init returned, with batch_stats"
        )
    stats: dict[Path, Any] = flatten_dict(variables["batch_stats"], keep_empty_nodes=True)
    layers = [
        path[:-1]
        for path, leaf in stats.items()
        if path[-1] == "mean" and (*path[:-1], "var") in stats and np.ndim(leaf)
    ]
    running = {path: BatchStats(stats[*path, "mean"], stats[*path, "var"]) for path in layers}
    watch = Watch(mode)
    forward = functools.partial(_forward, model, call or (lambda model, batch: model(batch)), watch, layers)
    new = estimate(forward, watch, (variables, keys(rngs)), running, batches, variance, passes, progress)
    for path, (mean, var, *_) in new.items():
        stats |= {(*path, "mean"): mean, (*path, "var"): var}
    return {**variables, "batch_stats": unflatten_dict(stats)}


def _forward(model, call, watch, layers, given, running, sofar, batch, number) -> list[Moments]:
    variables, rngs = given
    stats = flatten_dict(variables["batch_stats"], keep_empty_nodes=True)
    for path, (mean, var, *_), moments in zip(layers, running, sofar, strict=True):
        named = zip(("mean", "var", *MEASURED), (mean, var, *moments), strict=True)
        stats |= {(*path, name): value for name, value in named}
    with own_traces(), nn.intercept_methods(functools.partial(_intercept, watch)):
        _, updates = model.apply(
            {**variables, "batch_stats": unflatten_dict(stats)},
            batch,
            method=call,
            rngs=jax.tree.map(lambda key: jax.random.fold_in(key, number), rngs),
            mutable=[collection for collection in variables if collection != "params"],
        )
    new: dict[Path, Any] = flatten_dict(updates["batch_stats"])
    return [Moments(*(new[*path, name] for name in MEASURED)) for path in layers]


def _intercept(watch: Watch, next_fun, args, kwargs, context):
    """What a call of a method of the model does."""
    layer: Any = context.module
    if context.method_name != "__call__" or not watchable(layer, _NORMS, layer.path):
        return next_fun(*args, **kwargs)
    if context.orig_method.func in _KNOWN:
        return _watched(watch, layer, *args, **kwargs)
    y = next_fun(*args, **kwargs)
    watch.called(layer.path, type(layer))
    return y


def _watched(
    watch: Watch,
    layer: Any,
    x: Any,
    use_running_average=None,
    *,
    mask=None,
    update_running_average=None,
    activation=None,
    placement: Any = "before",
):
    if any(getattr(type(layer), name) is not getattr(nn.Module, name) for name in ("param", "variable")):
        raise ValueError(
            f"{shown(layer.path)} is a {type(layer).__name__}, which changes what param or variable return, and so "
            "cannot be measured; change them in __call__, around super().__call__(x, ...)"
        )
    if not layer.has_variable("batch_stats", MEASURED[0]):
        raise ValueError(
            f"batch_stats have no mean and var for {shown(layer.path)}; write the variables that model.init returned"
        )
    scale, bias = (meta.unbox(layer.get_variable("params", name)) for name in ("scale", "bias"))
    stats = BatchStats(*(layer.get_variable("batch_stats", name) for name in ("mean", "var")))
    sofar = Moments(*(layer.get_variable("batch_stats", name) for name in MEASURED))
    dtype = canonicalize_dtype(*(a for a in (x, scale, bias) if a is not None), dtype=layer.dtype)
    y, now = measure(watch, layer.path, layer, stats, scale, bias, dtype, sofar, x, mask, activation, placement)
    for name, value in zip(MEASURED, now, strict=True):
        layer.put_variable("batch_stats", name, value)
    return y
