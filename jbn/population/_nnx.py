"""Population statistics of nnx models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx

import jbn.nnx
from jbn._activation import Activation, Side
from jbn._moments import Moments
from jbn._paths import Path
from jbn._running_stats import BatchStats, Variance
from jbn._traces import own_traces
from jbn._typed_flax import nnx_merge, nnx_reseed, nnx_split, nnx_update
from jbn.population._algorithm import Batches, as_keys, estimate
from jbn.population._layer import MEASURED, LayerVariables, Measurement, Mode, is_measured, measure

Model = TypeVar("Model", bound=nnx.Module)

_CLASSES = (nnx.BatchNorm, jbn.nnx.BatchNorm, jbn.nnx.BatchRenorm, jbn.nnx.AdaptiveBatchNorm)


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
    result = nnx.clone(model)
    if params is not None:
        nnx_update(result, params)
    norms, measured, measurement = _norms(result), nnx.clone(result), Measurement(mode)
    for path, layer in _norms(measured).items():
        layer.__class__ = _measured_class(layer.__class__)
        layer.measurement = (measurement, path)
        for name in MEASURED:
            setattr(layer, name, nnx.BatchStat(jnp.zeros_like(layer.mean[...])))
    running = {path: BatchStats(layer.mean[...], layer.var[...]) for path, layer in norms.items()}
    graph, state = nnx_split(measured)
    add_batch = functools.partial(_add_batch, graph, call or (lambda model, batch: model(batch)), list(norms))
    new = estimate(add_batch, measurement, (state, as_keys(rngs or {})), running, batches, variance, passes, progress)
    for path, (mean, var, *_) in new.items():
        norms[path].mean.set_value(mean)
        norms[path].var.set_value(var)
    return result


def _norms(model: nnx.Module) -> dict[Path, Any]:
    return {path: layer for path, layer in nnx.iter_graph(model) if is_measured(layer, _CLASSES, path)}


def _add_batch(
    graph: Any,
    call: Callable[[Any, Any], Any],
    paths: list[Path],
    state: tuple[Any, Any],
    running: list[BatchStats],
    total: list[Moments],
    batch: Any,
    number: jax.Array,
) -> list[Moments]:
    values, rngs = state
    model = nnx_merge(graph, values)
    nodes: dict[Path, Any] = dict(nnx.iter_graph(model))
    layers = [nodes[path] for path in paths]
    for layer, (mean, var, *_), moments in zip(layers, running, total, strict=True):
        for name, value in zip(("mean", "var", *MEASURED), (mean, var, *moments), strict=True):
            getattr(layer, name).set_value(value)
    nnx_reseed(model, policy="match_shape", **rngs)
    for stream in (node for node in nodes.values() if isinstance(node, nnx.RngStream)):
        fold: Callable[..., jax.Array] = jax.random.fold_in
        for _ in range(stream.key.ndim):
            fold = jax.vmap(fold, (0, None))
        stream.key.set_value(fold(stream.key[...], number))
    with own_traces():
        call(model, batch)
    return [Moments(*(getattr(layer, name)[...] for name in MEASURED)) for layer in layers]


@functools.cache
def _measured_class(kind: Any) -> Any:
    """A class that measures where `kind` normalizes; a layer of class `kind` can become one of that class."""
    known: Any = next(base for base in kind.__mro__ if base in _CLASSES)
    inner = type(known.__name__, (known,), {"__call__": _measured_call, "set_view": _set_view})
    if kind is known:
        return inner

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        parent = cast(Any, super(outer, self))
        y = parent.__call__(*args, **kwargs)
        measurement, path = self.measurement
        measurement.check_called(path, kind)
        return y

    # In the method resolution order, `super()` in `kind` now finds `inner`.
    outer: Any = type(kind.__name__, (kind, inner), {"__call__": __call__})
    return outer


def _measured_call(
    self: Any,
    x: jax.Array,
    use_running_average: bool | None = None,
    *,
    mask: jax.Array | None = None,
    update_running_average: bool | None = None,
    activation: Activation | None = None,
    placement: Side = "before",
) -> jax.Array:
    """Takes the arguments of the layers' `__call__`; which statistics normalize is not theirs to decide here."""
    measurement, path = self.measurement
    scale, bias = (None if v is None else v[...] for v in (self.scale, self.bias))
    stats = BatchStats(self.mean[...], self.var[...])
    total = Moments(*(getattr(self, name)[...] for name in MEASURED))
    dtype = jbn.nnx.result_dtype(self, x, stats, scale, bias)
    variables = LayerVariables(scale, bias, stats, total)
    y, new_total = measure(measurement, path, self, variables, dtype, x, mask, activation, placement)
    for name, value in zip(MEASURED, new_total, strict=True):
        getattr(self, name).set_value(value)
    return y


def _set_view(self: Any, **_: Any) -> None:
    """Does nothing: `mode` decides how the layer normalizes."""
