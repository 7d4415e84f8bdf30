"""Batch norm folded into the neighbouring linear layer, for inference: the same numbers, one layer less.

At inference batch norm is the affine map y = s·x + t, with s = scale / sqrt(var + epsilon) and t = bias - mean·s, which
a linear layer beside it can take over:

    before the activation    norm(W·x + b)  =  (s·W)·x + (s·b + t)             into the layer before, always exact
    after the activation     W·norm(x) + b  =  (W·s)·x + (b + W·t)             into the layer after

Where a layer after pads with zeros, its border sees 0 and not t: then W·t is an array over the output's positions,
which is added in place of a vector. That, and the norms that stand next to no linear layer (after the sum of a residual
branch, before an activation), is what the placement costs at inference.

Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks", section 3.2
(https://arxiv.org/abs/1712.05877), for the fold into the layer before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

import jbn.linen
import jbn.nnx
from jbn._neighbours import Following, Path, Preceding, Reason, mark, neighbours, pass_through
from jbn._traces import own_traces

Border = Literal["exact", "refuse"]
Rest = Literal["refuse", "keep"]

NORMS: tuple[Any, ...] = (nn.BatchNorm, jbn.linen.BatchNorm, nnx.BatchNorm, jbn.nnx.BatchNorm)
LINEARS: tuple[Any, ...] = (nn.Dense, nn.Conv, nn.ConvTranspose, nnx.Linear, nnx.Conv, nnx.ConvTranspose)
TRANSPOSED: tuple[Any, ...] = (nn.ConvTranspose, nnx.ConvTranspose)
_NAMES = ("mean", "var", "scale", "bias", "kernel")


class _Norm(NamedTuple):
    """y = scale·x + shift, `[features]` in float64; `layer` has the attributes."""

    layer: Any
    scale: np.ndarray
    shift: np.ndarray


class _Linear(NamedTuple):
    """A linear layer: its module, its kernel in float64, and its bias: None, a vector or an array over positions."""

    layer: Any
    kernel: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class Folded:
    """A linen model without the batch norms that were folded.

    Attributes:
      model: the model that it was made of.
      norms: paths of the batch norms that are left out.
    """

    model: nn.Module
    norms: frozenset[Path]

    def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As `model.apply`, with the variables that `fold_linen` returned."""

        def intercept(next_fun, args, kwargs, context):
            layer = context.module
            if context.method_name != "__call__":
                return next_fun(*args, **kwargs)
            if isinstance(layer, NORMS) and layer.path in self.norms:
                return _activation_alone(*args, **kwargs)
            y = next_fun(*args, **kwargs)
            if isinstance(layer, LINEARS) and layer.has_variable("params", "folded_bias"):
                y = _add(y, layer.get_variable("params", "folded_bias"), "/".join(layer.path))
            return y

        with nn.intercept_methods(intercept):
            return self.model.apply(variables, *args, **kwargs)


def fold_linen(
    model: nn.Module,
    variables: Mapping[str, Any],
    x: Any,
    *,
    call: Callable[[Any, Any], Any] | None = None,
    border: Border = "exact",
    rest: Rest = "refuse",
) -> tuple[Folded, dict[str, Any]]:
    """A linen model without its batch norms, and the variables that give the same outputs.

    ::

        s = scale / sqrt(var + epsilon),    t = bias - mean·s
        into the layer before:  W ← s·W,  b ← s·b + t          into the layers after:  b ← b + W·t,  W ← W·s

    Args:
      model: any linen module with batch norms beside `nn.Dense`, `nn.Conv` (strided, dilated, grouped, depthwise) or
        `nn.ConvTranspose`.
      variables: its variables, with `params` and `batch_stats`; they stay as they are.
      x: an example of the input (an array, a pytree, or `jax.ShapeDtypeStruct`s), to see what stands next to what.
      call: `call(model, x)`, the model at inference; by default `model(x)`. Write `lambda m, x: m(x, train=False)`
        where the model takes more.
      border: where a norm goes into a convolution after it that pads with zeros: "exact" adds an array over the
        output's positions, so that the model then takes inputs of this spatial size only; "refuse" raises.
      rest: what to do with batch norms that stand next to no linear layer: "refuse" raises, "keep" leaves them in.

    Returns:
      The model without the folded batch norms (`Folded`, which has `apply`), and its variables: kernels and biases
      changed, a `folded_bias` where a layer had no bias or needs one over positions, the folded norms' variables gone.

    Raises:
      ValueError: a model without batch norm, a batch norm that cannot be folded (with its path and the reason), or a
        border, with "refuse".

    Example:
      >>> import jax, jax.numpy as jnp, flax.linen as nn, jbn.linen
      >>> from jbn.fold import fold_linen
      >>> model = nn.Sequential([nn.Dense(4), jbn.linen.BatchNorm(use_running_average=True), nn.relu])
      >>> x = jax.random.normal(jax.random.key(0), (8, 3))
      >>> variables = model.init(jax.random.key(1), x)
      >>> folded, new = fold_linen(model, variables, x)
      >>> bool(jnp.allclose(folded.apply(new, x), model.apply(variables, x), atol=1e-6)), sorted(new["params"])
      (True, ['layers_0'])

    Reference: Jacob et al. 2018 (https://arxiv.org/abs/1712.05877), section 3.2.
    """
    call = call or (lambda model, x: model(x))
    layers: dict[Path, Any] = {}

    def intercept(next_fun, args, kwargs, context):
        layer = context.module
        if context.method_name != "__call__" or not isinstance(layer, NORMS + LINEARS):
            return next_fun(*args, **kwargs)
        layers[layer.path] = layer
        if isinstance(layer, NORMS):
            return _marked_norm(layer.path, *args, **kwargs)
        return mark(next_fun(mark(args[0], "linear", "in", layer.path)), "linear", "out", layer.path)

    def traced(x):
        with own_traces(), nn.intercept_methods(intercept):
            return model.apply(variables, x, method=call)

    plan = _plan(jax.make_jaxpr(traced)(x), rest)
    flat: dict[Path, Any] = dict(flatten_dict(variables))

    def values(path: Path) -> dict[str, Any]:
        found = {(c, n): flat.get((c, *path, n)) for c in ("params", "batch_stats") for n in _NAMES}
        return {name: value for (_, name), value in found.items() if value is not None}

    def respond(path: Path, constant: np.ndarray) -> jax.Array:
        params = {name: value for name, value in values(path).items() if name in ("kernel", "bias")}
        return layers[path].clone(parent=None, name=None).apply({"params": params}, jnp.asarray(constant))

    norms, linears = _read(plan, layers, values)
    for path, layer in _fold(plan, norms, linears, respond, border).items():
        kernel = flat["params", *path, "kernel"]
        flat["params", *path, "kernel"] = jnp.asarray(layer.kernel, kernel.dtype)
        if layer.bias is None:
            continue
        own = ("params", *path, "bias")
        if own in flat and layer.bias.ndim == 1:
            flat[own] = jnp.asarray(layer.bias, flat[own].dtype)
            continue
        if own in flat:
            flat[own] = jnp.zeros_like(flat[own])
        flat["params", *path, "folded_bias"] = jnp.asarray(layer.bias, kernel.dtype)
    kept = {key: leaf for key, leaf in flat.items() if key[1:-1] not in plan}
    return Folded(model, frozenset(plan)), unflatten_dict(kept)


def fold_nnx(
    model: Any,
    x: Any,
    *,
    call: Callable[[Any, Any], Any] | None = None,
    border: Border = "exact",
    rest: Rest = "refuse",
) -> Any:
    """A copy of an nnx model without its batch norms that gives the same outputs at inference.

    ::

        s = scale / sqrt(var + epsilon),    t = bias - mean·s
        into the layer before:  W ← s·W,  b ← s·b + t          into the layers after:  b ← b + W·t,  W ← W·s

    Args:
      model: any nnx module with batch norms beside `nnx.Linear`, `nnx.Conv` or `nnx.ConvTranspose`; it stays as it is.
      x: an example of the input, see `fold_linen`.
      call: `call(model, x)`, by default `model(x)`.
      border: see `fold_linen`.
      rest: see `fold_linen`.

    Returns:
      A new model, in which each folded batch norm has become an `Identity`.

    Raises:
      ValueError: see `fold_linen`.

    Example:
      >>> import jax, jax.numpy as jnp, jbn.nnx
      >>> from flax import nnx
      >>> from jbn.fold import fold_nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), jbn.nnx.BatchNorm(4, rngs=rngs), nnx.relu)
      >>> model.eval()
      >>> x = jax.random.normal(jax.random.key(0), (8, 3))
      >>> bool(jnp.allclose(fold_nnx(model, x)(x), model(x), atol=1e-6))
      True

    Reference: Jacob et al. 2018 (https://arxiv.org/abs/1712.05877), section 3.2.
    """
    call = call or (lambda model, x: model(x))
    marked, result = nnx.clone(model), nnx.clone(model)
    own: dict[Path, Any] = {path: layer for path, layer in nnx.iter_graph(result) if isinstance(layer, nnx.Module)}
    watched: list[tuple[Path, Any]] = [
        (path, layer) for path, layer in nnx.iter_graph(marked) if isinstance(layer, NORMS + LINEARS)
    ]
    for path, layer in watched:
        _mark_calls(layer, path)

    graph, state = nnx.split(marked)
    plan = _plan(jax.make_jaxpr(lambda x: call(nnx.merge(graph, state), x))(x), rest)

    def values(path: Path) -> dict[str, Any]:
        found = {name: getattr(own[path], name, None) for name in _NAMES}
        return {name: value[...] for name, value in found.items() if value is not None}

    def respond(path: Path, constant: np.ndarray) -> jax.Array:
        return own[path](jnp.asarray(constant))

    norms, linears = _read(plan, own, values)
    for layer in _fold(plan, norms, linears, respond, border).values():
        module, dtype = layer.layer, layer.layer.kernel[...].dtype
        module.kernel[...] = jnp.asarray(layer.kernel, dtype)
        if layer.bias is None:
            continue
        if layer.bias.ndim == 1:
            if module.bias is None:
                module.bias, module.use_bias = nnx.Param(jnp.asarray(layer.bias, dtype)), True
            else:
                module.bias[...] = jnp.asarray(layer.bias, module.bias[...].dtype)
        else:
            if module.bias is not None:
                module.bias[...] = jnp.zeros_like(module.bias[...])
            module.folded_bias = nnx.Param(jnp.asarray(layer.bias, dtype))
            module.__class__ = _BorderTransposed if isinstance(module, TRANSPOSED) else _Border
    for path in plan:
        module = own[path]
        for name in [n for n, v in vars(module).items() if isinstance(v, nnx.Variable)]:
            delattr(module, name)
        module.__class__ = Identity
    return result


class Identity(nnx.Module):
    """What a folded batch norm has become: nothing, or the activation that was called within it."""

    def __call__(self, x, *args: Any, **kwargs: Any):
        return _activation_alone(x, *args, **kwargs)

    def set_view(self, **_: Any) -> None:
        """There is nothing left to switch."""


class _Border(nnx.Conv):
    def __call__(self, inputs, *args, **kwargs):
        bias: Any = self.folded_bias  # type: ignore[attr-defined]
        return _add(super().__call__(inputs, *args, **kwargs), bias[...], "a convolution")


class _BorderTransposed(nnx.ConvTranspose):
    def __call__(self, inputs, *args, **kwargs):
        bias: Any = self.folded_bias  # type: ignore[attr-defined]
        return _add(super().__call__(inputs, *args, **kwargs), bias[...], "a transposed convolution")


def _add(y: jax.Array, bias: jax.Array, name: str) -> jax.Array:
    if bias.ndim > 1 and y.shape[-bias.ndim :][1:] != bias.shape[1:]:
        raise ValueError(
            f"{name} has an output of shape {y.shape}, but its batch norm was folded for outputs {bias.shape[1:]} "
            "(the border of a zero-padded convolution depends on the size); fold again with an x of this size"
        )
    return y + bias.astype(y.dtype)


def _activation_alone(x, use_running_average=None, *, activation=None, **_: Any):
    return x if activation is None else activation(x)


def _marked_norm(path: Path, x, use_running_average=None, *, activation=None, placement="before", **_: Any):
    """A norm that does nothing but to be seen, and the activation that it was called with."""
    if activation is not None and placement == "after":
        x = activation(x)
    x = mark(mark(x, "norm", "in", path), "norm", "out", path)
    return activation(x) if activation is not None and placement == "before" else x


def _mark_calls(layer: Any, path: Path) -> None:
    """Turns an nnx layer into one whose calls are marked."""
    base = type(layer)

    def norm(self, *args, **kwargs):
        return _marked_norm(path, *args, **kwargs)

    def linear(self, x, *args, **kwargs):
        return mark(base.__call__(self, mark(x, "linear", "in", path), *args, **kwargs), "linear", "out", path)

    layer.__class__ = type(base.__name__, (base,), {"__call__": norm if isinstance(layer, NORMS) else linear})


def _wide(value: Any) -> Any:
    return None if value is None else np.asarray(value, np.float64)


def _affine(layer: Any, path: Path, mean: Any = None, var: Any = None, scale: Any = None, bias: Any = None) -> _Norm:
    if mean is None or var is None:
        raise ValueError(
            f"the batch norm {'/'.join(map(str, path))} has no running statistics; write all variables that "
            "model.init returned, with batch_stats"
        )
    factor = 1 / np.sqrt(_wide(var) + layer.epsilon) * (1 if scale is None else _wide(scale))
    return _Norm(layer, factor, (0 if bias is None else _wide(bias)) - _wide(mean) * factor)


def _read(
    plan: Mapping[Path, Preceding | Following], layers: Mapping[Path, Any], values: Callable[[Path], dict[str, Any]]
) -> tuple[dict[Path, _Norm], dict[Path, _Linear]]:
    """The norms of the plan and the layers that they go into, with their numbers."""
    norms = {path: _affine(layers[path], path, **values(path)) for path in plan}
    targets = [p for w in plan.values() for p in ([w.layer] if isinstance(w, Preceding) else [q for q, _ in w.layers])]
    linears = {
        path: _Linear(layers[path], _wide((v := values(path))["kernel"]), _wide(v.get("bias"))) for path in targets
    }
    return norms, linears


def _plan(program: Any, rest: Rest) -> dict[Path, Preceding | Following]:
    if rest not in ("refuse", "keep"):
        raise ValueError(f"rest is {rest!r}; write 'refuse' or 'keep'")
    found = neighbours(program)
    if not found:
        raise ValueError(
            "the model calls no batch norm (jbn.linen, jbn.nnx or Flax's own), so there is nothing to fold; write a "
            "model that has one"
        )
    bad = {path: reason for path, reason in found.items() if isinstance(reason, Reason)}
    if bad and rest == "refuse":
        lines = "; ".join(f"{'/'.join(map(str, path))}: {reason}" for path, reason in bad.items())
        raise ValueError(f"cannot fold {lines}; write rest='keep' to leave such batch norms in the model")
    return {path: where for path, where in found.items() if not isinstance(where, Reason)}


def _fold(plan, norms: dict[Path, _Norm], linears: dict[Path, _Linear], respond, border: Border) -> dict[Path, _Linear]:
    """The linear layers with every norm of the plan in them; those that change.

    `respond(path, constant)` is what a layer, as it was, makes of a constant input: W·t + b by the layer's own code.
    """
    if border not in ("exact", "refuse"):
        raise ValueError(f"border is {border!r}; write 'exact' or 'refuse'")
    for path in plan:
        layer = norms[path].layer
        if layer.axis not in (-1, (-1,)):
            raise ValueError(
                f"cannot fold {'/'.join(map(str, path))}: axis={layer.axis}, while Flax's linear layers have their "
                "features last; write axis=-1"
            )
    done: dict[Path, _Linear] = {}

    # First what goes into a layer after: its kernel and bias are then still those that `respond` computes with.
    scales, inputs = {}, {}
    for path, where in plan.items():
        if not isinstance(where, Following):
            continue
        for target, way in where.layers:
            passed = pass_through(way, norms[path].scale, norms[path].shift, where.shape)
            factor = None if passed is None else passed[0].reshape(-1, passed[0].shape[-1])
            if passed is None or factor is None or not np.allclose(factor, factor[:1], rtol=1e-5, atol=0):
                raise ValueError(
                    f"cannot fold {'/'.join(map(str, path))} into {'/'.join(map(str, target))}: what lies between "
                    "them mixes features, or gives positions different scales; write rest='keep'"
                )
            scales[target] = factor[0]
            inputs[target] = passed[1][:1].astype(np.float32)
    for target, scale in scales.items():
        old, bias = linears[target], _wide(respond(target, inputs[target]))
        positions = bias.reshape(-1, bias.shape[-1])
        if np.ptp(positions, 0).max(initial=0) <= 1e-6 * np.abs(positions).max(initial=0):
            bias = positions[0]
        elif border == "refuse":
            raise ValueError(
                f"cannot fold the batch norm before {'/'.join(map(str, target))} into it by a vector: the layer pads "
                "with zeros, and its border sees 0 in place of the norm's shift; write border='exact', padding='VALID' "
                "in the layer, or the norm before the activation"
            )
        done[target] = _Linear(old.layer, _scale_inputs(old, scale), bias)
    for path, where in plan.items():
        if isinstance(where, Preceding):
            old = done[where.layer] if where.layer in done else linears[where.layer]
            _, scale, shift = norms[path]
            bias = shift if old.bias is None else old.bias * scale + shift
            done[where.layer] = _Linear(old.layer, _scale_outputs(old, scale), bias)
    return done


def _scale_outputs(linear: _Linear, scale: np.ndarray) -> np.ndarray:
    if isinstance(linear.layer, TRANSPOSED) and linear.layer.transpose_kernel:
        return linear.kernel * scale[:, None]
    return linear.kernel * scale


def _scale_inputs(linear: _Linear, scale: np.ndarray) -> np.ndarray:
    if isinstance(linear.layer, TRANSPOSED) and linear.layer.transpose_kernel:
        return linear.kernel * scale
    groups = getattr(linear.layer, "feature_group_count", 1)
    inputs, outputs = linear.kernel.shape[-2:]
    # Output o belongs to group o // (outputs / groups), and reads that group's inputs alone.
    return linear.kernel * np.repeat(scale.reshape(groups, inputs).T, outputs // groups, axis=1)
