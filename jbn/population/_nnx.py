"""Population statistics of nnx models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import jbn.nnx
from jbn._moments import Moments
from jbn._running_stats import BatchStats, Variance
from jbn._traces import own_traces
from jbn.population._algorithm import Batches, estimate, keys
from jbn.population._layer import MEASURED, Mode, Watch, measure, watchable

_KNOWN = (nnx.BatchNorm, jbn.nnx.BatchNorm, jbn.nnx.BatchRenorm, jbn.nnx.AdaptiveBatchNorm)


def estimate_nnx(
    model: nnx.Module,
    batches: Batches,
    *,
    mode: Mode = "together",
    call: Callable[[Any, Any], Any] | None = None,
    params: Any = None,
    rngs: Mapping[str, Any] | None = None,
    variance: Variance = "biased",
    passes: int | None = None,
    progress: bool = True,
) -> Any:
    """A copy of an nnx model, with each batch norm's mean and var those of the whole data set.

    ::

        n = Σ n_b,    mean = Σ n_b·mean_b / n,    var = Σ n_b·(var_b + |mean_b - mean|²) / n

    Args:
      model: any nnx module with `jbn.nnx.BatchNorm` or Flax's own in it, or subclasses as in `estimate_linen`; it stays
        as it is, and what it writes is dropped after each batch.
      batches: see `estimate_linen`.
      mode: see `estimate_linen`.
      call: `call(model, batch)`; by default `model(batch)`.
      params: an `nnx.State` of parameters to use in place of the model's, such as averaged weights.
      rngs: random keys, such as `{"dropout": key}`, for the model's own streams of these names, set as by `nnx.reseed`.
        With or without them, batch number i of each pass, from 0 on, has `jax.random.fold_in(key, i)` for the key of
        each stream. A model that takes keys in the call finds them in the batch.
      variance: "biased", or "unbiased", which is n/(n-1) of it.
      passes: see `estimate_linen`.
      progress: show a progress bar, where the terminal can.

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
    result = nnx.clone(model)
    if params is not None:
        nnx.update(result, params)
    own, watched, watch = _norms(result), nnx.clone(result), Watch(mode)
    for path, layer in _norms(watched).items():
        layer.__class__ = _watched(type(layer))
        layer.population = (watch, path)
        for name in MEASURED:
            setattr(layer, name, nnx.BatchStat(jnp.zeros_like(layer.mean[...])))
    running = {path: BatchStats(layer.mean[...], layer.var[...]) for path, layer in own.items()}
    graph, state = nnx.split(watched)
    forward = functools.partial(_forward, graph, call or (lambda model, batch: model(batch)), list(own))
    new = estimate(forward, watch, (state, keys(rngs or {})), running, batches, variance, passes, progress)
    for path, (mean, var, *_) in new.items():
        own[path].mean.set_value(mean)
        own[path].var.set_value(var)
    return result


def _norms(model: nnx.Module) -> dict[tuple, Any]:
    return {path: layer for path, layer in nnx.iter_graph(model) if watchable(layer, _KNOWN, path)}


def _forward(graph, call, paths, given, running, sofar, batch, number) -> list[Moments]:
    state, rngs = given
    model = nnx.merge(graph, state)
    nodes = dict(nnx.iter_graph(model))
    layers = [nodes[path] for path in paths]
    for layer, (mean, var, *_), moments in zip(layers, running, sofar, strict=True):
        for name, value in zip(("mean", "var", *MEASURED), (mean, var, *moments), strict=True):
            getattr(layer, name).set_value(value)
    nnx.reseed(model, policy="match_shape", **rngs)
    for stream in (node for node in nodes.values() if isinstance(node, nnx.RngStream)):
        fold = jax.random.fold_in
        for _ in range(stream.key.ndim):
            fold = jax.vmap(fold, (0, None))
        stream.key.set_value(fold(stream.key[...], number))
    with own_traces():
        call(model, batch)
    return [Moments(*(getattr(layer, name)[...] for name in MEASURED)) for layer in layers]


@functools.cache
def _watched(kind: Any) -> Any:
    """What a layer of that class is turned into: it keeps all attributes, and measures where it came to `__call__`."""
    known: Any = next(base for base in kind.__mro__ if base in _KNOWN)
    inner = type(known.__name__, (known,), {"__call__": _measured, "set_view": _no_view})
    if kind is known:
        return inner

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        y = super(outer, self).__call__(*args, **kwargs)
        watch, path = self.population
        watch.called(path, kind)
        return y

    # In the order of methods, what `super()` in `kind` means is now the inner one.
    outer: Any = type(kind.__name__, (kind, inner), {"__call__": __call__})
    return outer


def _measured(
    self: Any,
    x: Any,
    use_running_average=None,
    *,
    mask=None,
    update_running_average=None,
    activation=None,
    placement: Any = "before",
):
    watch, path = self.population
    scale, bias = (None if v is None else v[...] for v in (self.scale, self.bias))
    stats = BatchStats(self.mean[...], self.var[...])
    sofar = Moments(*(getattr(self, name)[...] for name in MEASURED))
    dtype = jbn.nnx.result_dtype(self, x, stats, scale, bias)
    y, now = measure(watch, path, self, stats, scale, bias, dtype, sofar, x, mask, activation, placement)
    for name, value in zip(MEASURED, now, strict=True):
        getattr(self, name).set_value(value)
    return y


def _no_view(self: Any, **_: Any) -> None:
    """Whatever a view asks for, this function decides how the layer normalizes."""
