"""Statistics of a whole data set for every batch norm of a Flax model, in place of the running ones ("precise BN").

Running statistics are a moving average over batches that saw older weights. After training, or after weights were
averaged, the exact ones of the data set are better:

    n = Σ n_b,    mean = Σ n_b·mean_b / n,    var = Σ n_b·(var_b + |mean_b - mean|²) / n

merged batch by batch (`jbn.merge`), so that batches of any size, masks, and data of any length cost the memory of one
set of statistics. How the layers below normalize while a layer is measured is the `mode`:

    together        each batch by its own statistics, as in training; all layers in one pass over the data
    layer by layer  by the final statistics of the layers below, so that what inference does is what was measured

The second is a fixed point: on the data as one batch, training and inference give the same. It takes a pass for each
layer on the longest path.
"""

from __future__ import annotations

from jbn import _needs_flax as _needs_flax  # first

# isort: split
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from flax.linen.dtypes import canonicalize_dtype
from flax.traverse_util import flatten_dict, unflatten_dict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import jbn.linen
import jbn.nnx
from jbn._batch_norm import batch_norm
from jbn._moments import Moments, merge
from jbn._stats import BatchStats, Variance
from jbn._traces import own_traces

Mode = Literal["together", "layer by layer"]
Batches = Iterable[Any] | Callable[[], Iterable[Any]]
Tree = Mapping[str, Any]
Flat = dict[tuple, Any]

LINEN = (nn.BatchNorm, jbn.linen.BatchNorm)
NNX = (nnx.BatchNorm, jbn.nnx.BatchNorm)
FROZEN = (jbn.linen.FrozenBatchNorm, jbn.nnx.FrozenBatchNorm)  # their statistics are constants
DOMAINS = (jbn.linen.DomainBatchNorm, jbn.nnx.DomainBatchNorm)
_MEASURED = ("population_mean", "population_var", "population_count")


def estimate_linen(
    model: nn.Module,
    variables: Tree,
    batches: Batches,
    *,
    mode: Mode = "together",
    call: Callable[[Any, Any], Any] | None = None,
    params: Any = None,
    variance: Variance = "biased",
    passes: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """The variables of a linen model, with each batch norm's mean and var those of the whole data set.

    ::

        n = Σ n_b,    mean = Σ n_b·mean_b / n,    var = Σ n_b·(var_b + |mean_b - mean|²) / n

    Args:
      model: any linen module with `jbn.linen.BatchNorm` or Flax's own in it, at any depth, also under scan and remat.
      variables: its variables, with `params` and `batch_stats`; they stay as they are.
      batches: what `call` takes, one batch after another: arrays or pytrees, of any sizes (each new shape is compiled).
        An iterable, of unknown length if need be, or a function that returns one. Arrays sharded over devices are
        fine: under jit their batch is global.
      mode: "together", each batch normalized by its own statistics, in one pass (as fvcore's `update_bn_stats`, with
        batches weighted by their count); or "layer by layer", each layer measured under the final statistics of those
        below.
      call: `call(model, batch)`; by default `model(batch)`. Write `lambda m, b: m(b["image"], train=False)` where the
        model takes more. Whichever way the model calls its batch norms, this function decides how they normalize.
      params: parameters to use in place of `variables["params"]`, such as averaged weights. See below.
      variance: "biased", or "unbiased", which is n/(n-1) of it.
      passes: upper limit of passes over the data for "layer by layer"; by default the number of layers plus one.
      progress: show a progress bar, where the terminal can.

    Returns:
      New variables: `params` (the given ones, if any) and `batch_stats` in the old dtypes.

    Raises:
      ValueError: a model without batch norm, no batches, variables without `batch_stats`, an iterator that can be
        passed over once where more passes are needed, or statistics that find no fixed point (a layer that is called
        twice in a forward pass, and so depends on itself).

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
    found: set[tuple] = set()
    forward = functools.partial(_apply_linen, model, call or (lambda model, batch: model(batch)), mode)

    def discover(batch: Any) -> set[tuple]:
        jax.eval_shape(functools.partial(forward, found.add), variables, variables["batch_stats"], batch)
        return found

    @functools.partial(jax.jit, donate_argnums=1)
    def step(given: Any, stats: Any, batch: Any) -> Any:
        return forward(None, given, stats, batch)

    rest = {name: tree for name, tree in variables.items() if name != "batch_stats"}
    stats = _estimate(
        functools.partial(step, rest), discover, variables["batch_stats"], batches, mode, variance, passes, progress
    )
    return {**variables, "batch_stats": stats}


def estimate_nnx(
    model: nnx.Module,
    batches: Batches,
    *,
    mode: Mode = "together",
    call: Callable[[Any, Any], Any] | None = None,
    params: Any = None,
    variance: Variance = "biased",
    passes: int | None = None,
    progress: bool = True,
) -> Any:
    """A copy of an nnx model, with each batch norm's mean and var those of the whole data set.

    ::

        n = Σ n_b,    mean = Σ n_b·mean_b / n,    var = Σ n_b·(var_b + |mean_b - mean|²) / n

    Args:
      model: any nnx module with `jbn.nnx.BatchNorm` or Flax's own in it; it stays as it is.
      batches: see `estimate_linen`.
      mode: see `estimate_linen`.
      call: `call(model, batch)`; by default `model(batch)`.
      params: an `nnx.State` of parameters to use in place of the model's, such as averaged weights.
      variance: "biased", or "unbiased", which is n/(n-1) of it.
      passes: see `estimate_linen`.
      progress: show a progress bar, where the terminal can.

    Returns:
      A new model.

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
    watched = nnx.clone(result)
    layers: dict[tuple, Any] = {p: module for p, module in nnx.iter_graph(watched) if _watchable(module, NNX, p)}
    paths = set(layers)
    for layer in layers.values():
        layer.__class__ = _Watched
        layer.population_mode = mode
        for name in _MEASURED:
            setattr(layer, name, nnx.BatchStat(jnp.zeros(())))
    graph, stats, rest = nnx.split(watched, nnx.BatchStat, ...)
    call = call or (lambda model, batch: model(batch))

    @functools.partial(jax.jit, donate_argnums=1)
    def step(rest: Any, stats: Any, batch: Any) -> Any:
        empty = jax.tree.map(lambda leaf: leaf, template)
        nnx.replace_by_pure_dict(empty, stats)
        merged = nnx.merge(graph, empty, rest)
        call(merged, batch)
        return nnx.to_pure_dict(nnx.split(merged, nnx.BatchStat, ...)[1])

    template = stats
    old = {path: leaf for path, leaf in flatten_dict(nnx.to_pure_dict(stats)).items() if path[-1] not in _MEASURED}
    new = _estimate(
        functools.partial(step, rest),
        lambda batch: paths,
        unflatten_dict(old),
        batches,
        mode,
        variance,
        passes,
        progress,
    )
    state = nnx.state(result, nnx.BatchStat)
    nnx.replace_by_pure_dict(state, new)
    nnx.update(result, state)
    return result


# A layer that is watched


def _watchable(module: Any, kinds: tuple[Any, ...], path: tuple) -> bool:
    if isinstance(module, DOMAINS):
        raise ValueError(
            f"{'/'.join(map(str, path))} is a DomainBatchNorm, whose statistics are those of several data sets; write "
            "for each domain a model with BatchNorm in its place, and the results along the leading axis"
        )
    return isinstance(module, kinds) and not isinstance(module, FROZEN)


def _measure(
    layer: Any, mode: Mode, stats: BatchStats, scale, bias, dtype, sofar: Moments | None, x, mask, activation, placement
) -> tuple[jax.Array, Moments | None]:
    """y, and the moments of all batches so far with this one's."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):  # as the layers take it
        x = x.astype(dtype)
    y, _, info = batch_norm(
        x,
        scale,
        bias,
        stats,
        train=mode == "together",
        update=True,
        momentum=0.0,
        epsilon=layer.epsilon,
        axis=layer.axis,
        where=mask,
        virtual_batch_size=getattr(layer, "virtual_batch_size", None),
        ragged_groups=getattr(layer, "ragged_groups", "refuse"),
        activation=activation,
        placement=placement,
        dtype=dtype,
    )
    if sofar is None or info.moments is None:
        return y, None
    both = merge(sofar, info.moments)
    return y, both._replace(count=jnp.broadcast_to(both.count, sofar.count.shape))


def _apply_linen(model, call, mode, found, variables, stats, batch) -> Any:
    """The model's batch_stats after a batch; `found`, where given, is told each batch norm's path instead."""

    def intercept(next_fun, args, kwargs, context):
        if context.method_name != "__call__" or not _watchable(context.module, LINEN, context.module.path):
            return next_fun(*args, **kwargs)
        return watch(context.module, *args, **kwargs)

    def watch(
        layer,
        x,
        use_running_average=None,
        *,
        mask=None,
        update_running_average=None,
        activation=None,
        placement="before",
    ):
        if found is not None:
            found(layer.path)
        scale, bias = (layer.get_variable("params", name) for name in ("scale", "bias"))
        given = [a for a in (x, scale, bias) if a is not None]
        dtype = canonicalize_dtype(*given, dtype=layer.dtype)
        running = BatchStats(*(layer.get_variable("batch_stats", name) for name in ("mean", "var")))
        sofar = None if found is not None else Moments(*(layer.get_variable("batch_stats", n) for n in _MEASURED))
        y, now = _measure(layer, mode, running, scale, bias, dtype, sofar, x, mask, activation, placement)
        for name, value in zip(_MEASURED, now or (), strict=False):
            layer.put_variable("batch_stats", name, value)
        return y

    with own_traces(), nn.intercept_methods(intercept):
        _, updates = model.apply({**variables, "batch_stats": stats}, batch, method=call, mutable=["batch_stats"])
    return updates["batch_stats"]


class _Watched(nnx.Module):
    """What a batch norm of the copy is turned into: it keeps all attributes, and measures when it is called."""

    def __call__(
        self: Any,
        x,
        use_running_average=None,
        *,
        mask=None,
        update_running_average=None,
        activation=None,
        placement="before",
    ):
        scale, bias = (None if v is None else v[...] for v in (self.scale, self.bias))
        sofar = Moments(*(getattr(self, name)[...] for name in _MEASURED))
        running = BatchStats(self.mean[...], self.var[...])
        dtype = jbn.nnx.result_dtype(self, x, running, scale, bias)
        y, now = _measure(
            self, self.population_mode, running, scale, bias, dtype, sofar, x, mask, activation, placement
        )
        for name, value in zip(_MEASURED, now or (), strict=True):
            getattr(self, name)[...] = value
        return y

    def set_view(self, **_: Any) -> None:
        """Whatever a view asks for, this function decides how the layer normalizes."""


# The passes over the data


def _estimate(
    step: Callable[[Any, Any], Any],
    discover: Callable[[Any], set[tuple]],
    stats: Any,
    batches: Batches,
    mode: Mode,
    variance: Variance,
    passes: int | None,
    progress: bool,
) -> Any:
    """New statistics: `step` merges a batch's moments into the tree, beside mean and var of each layer."""
    if mode not in ("together", "layer by layer"):
        raise ValueError(f"mode is {mode!r}; write 'together' or 'layer by layer'")
    if variance not in ("biased", "unbiased"):
        raise ValueError(f"variance is {variance!r}; write 'biased' or 'unbiased'")
    once = not callable(batches) and iter(batches) is batches
    if mode == "layer by layer" and once:
        raise ValueError(
            "mode='layer by layer' passes over the data once for each layer, but batches is an iterator that can be "
            "used up once; write a list, or a function that returns a new iterator"
        )
    flat: Flat = {path: jnp.asarray(leaf) for path, leaf in flatten_dict(stats).items()}
    layers: set[tuple] = set()
    number, limit, change = 0, 1, np.inf
    while number < limit and change > 1e-5:
        number += 1
        count = 0
        for batch in _shown(batches() if callable(batches) else batches, number, progress):
            if not layers:
                layers = discover(batch)
                _check_layers(layers, flat)
                if mode == "layer by layer":
                    slots = sum(flat[*path, "mean"].size // flat[*path, "mean"].shape[-1] for path in layers)
                    limit = slots + 1 if passes is None else passes
            if not count:
                tree = unflatten_dict(_with_room(flat, layers))
            tree, count = step(tree, batch), count + 1
        if not count:
            raise ValueError(
                f"batches is empty{' in pass ' + str(number) if number > 1 else ''}; write at least one batch"
            )
        flat, change = _moved(flat, flatten_dict(tree), layers, variance)
    if mode == "layer by layer" and passes is None and change > 1e-5:
        raise ValueError(
            f"after {number} passes over {len(layers)} layers the statistics still change, by up to {change:.2g} "
            "standard deviations: a layer that is called twice in a forward pass depends on itself, or the batches "
            "differ from pass to pass; write mode='together', the same batches in every pass, or passes=<limit>"
        )
    return unflatten_dict(flat)


def _check_layers(layers: set[tuple], flat: Flat) -> None:
    if not layers:
        raise ValueError(
            "the model calls no batch norm (jbn.linen, jbn.nnx or Flax's own), so there is nothing to estimate; write "
            "a model that has one"
        )
    if lacking := sorted("/".join(map(str, path)) for path in layers if (*path, "mean") not in flat):
        raise ValueError(
            f"batch_stats have no mean for {', '.join(lacking)}; write the variables that model.init returned"
        )


def _with_room(flat: Flat, layers: set[tuple]) -> Flat:
    """The statistics (copied, for they are donated), and moments of nothing beside them."""
    room: Flat = {path: jnp.array(leaf) for path, leaf in flat.items()}
    for path in layers:
        mean, var = flat[*path, "mean"], flat[*path, "var"]
        start = (jnp.promote_types(mean.dtype, jnp.float32), jnp.promote_types(var.dtype, jnp.float32), jnp.float32)
        for name, dtype in zip(_MEASURED, start, strict=True):
            room[*path, name] = jnp.zeros(mean.shape, dtype)
    return room


def _moved(flat: Flat, measured: Flat, layers: set[tuple], variance: Variance) -> tuple[Flat, float]:
    """The statistics with mean and var of what was measured, and the largest change in standard deviations."""
    flat, change = dict(flat), 0.0
    for path in layers:
        mean, var, count = (measured[*path, name] for name in _MEASURED)
        if variance == "unbiased":
            var = var * (count / jnp.maximum(count - 1, 1))
        for name, new in (("mean", mean), ("var", var)):
            old = flat[*path, name]
            flat[*path, name] = jnp.where(count > 0, new, old).astype(old.dtype)
            unit = jnp.maximum(jnp.sqrt(var) if name == "mean" else var, 1e-12)
            moved = jnp.abs(flat[*path, name] - old) / unit
            # A dead feature has no spread to measure by.
            change = max(change, float(jnp.max(jnp.where((var > 0) & jnp.isfinite(moved), moved, 0), initial=0)))
    return flat, change


def _shown(batches: Iterable[Any], number: int, progress: bool) -> Iterator[Any]:
    """The batches, with a bar on the terminal."""
    total = len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if total else TextColumn("{task.completed} batches"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        yield from bar.track(batches, total=total, description=f"population statistics, pass {number}")
