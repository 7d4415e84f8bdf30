"""Folding in nnx models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr

from jbn.fold._arithmetic import Border, Plan, folded_layers
from jbn.fold._layers import LINEARS, NAMES, NORMS, TRANSPOSED, add_bias, known, marked, remainder, strange
from jbn.fold._neighbours import Path, name
from jbn.fold._proof import Rest, Seen, fold, see, shaken


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
      model: any nnx module with batch norms (jbn's or Flax's) beside `nnx.Linear`, `nnx.Conv` or
        `nnx.ConvTranspose`, at inference (`model.eval()`); it stays as it is. A subclass counts as its base where it
        overrides no method but `__init__`.
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
    return fold(_Nnx(call or (lambda model, x: model(x)), x), model, x, border, rest)


class Identity(nnx.Module):
    """What a folded batch norm has become: nothing, or the activation that was called within it."""

    def __call__(self, x, *args: Any, **kwargs: Any):
        # Its attributes are those of the norm, and the dtype that its variables had.
        return remainder(x, *args, dtype=self.dtype, affine=self.affine, **kwargs)  # type: ignore[attr-defined]

    def set_view(self, **_: Any) -> None:
        """There is nothing left to switch."""


class _Border(nnx.Conv):
    def __call__(self, inputs, *args, **kwargs):
        bias: Any = self.folded_bias  # type: ignore[attr-defined]
        return add_bias(super().__call__(inputs, *args, **kwargs), bias[...], "a convolution")


class _BorderTransposed(nnx.ConvTranspose):
    def __call__(self, inputs, *args, **kwargs):
        bias: Any = self.folded_bias  # type: ignore[attr-defined]
        return add_bias(super().__call__(inputs, *args, **kwargs), bias[...], "a transposed convolution")


class _Nnx:
    """The face of an nnx model, which is its own source."""

    def __init__(self, call: Callable[[Any, Any], Any], x: Any):
        self.call, self.x = call, x

    def trace(self, source: Any) -> ClosedJaxpr:
        given = {path: _values(layer) for path, layer in _layers(source).items()}
        shared = _shared(source)

        def watch(path: Path, kind: type):
            def around(layer, call, args, kwargs):
                own = all(value is given[path].get(name) for name, value in _values(layer).items())
                return marked(layer, path, strange(kind, own) or shared.get(path, ""), call, args, kwargs)

            return around

        def traced(x):
            model = nnx.clone(source)  # here, so that its variables are those of this trace
            for path, layer in _layers(model).items():
                _around_calls(layer, watch(path, type(layer)))
            return self.call(model, x)

        return jax.make_jaxpr(traced)(self.x)

    def fold(self, source: Any, plan: Plan, border: Border) -> Any:
        result = nnx.clone(source)
        layers = _layers(result)

        def respond(path: Path, constant: np.ndarray) -> jax.Array:
            return layers[path](jnp.asarray(constant))

        for layer in folded_layers(plan, layers, lambda path: _values(layers[path]), respond, border).values():
            module: Any = layer.layer
            dtype = module.kernel[...].dtype
            module.kernel[...] = jnp.asarray(layer.kernel, dtype)
            if layer.bias is None:
                continue
            if layer.bias.ndim > 1:
                module.folded_bias = nnx.Param(jnp.asarray(layer.bias, dtype))
                module.__class__ = _BorderTransposed if issubclass(type(module), TRANSPOSED) else _Border
            if module.bias is not None:
                bias = layer.bias if layer.bias.ndim == 1 else np.zeros(layer.bias.shape[-1])
                module.bias[...] = jnp.asarray(bias, module.bias[...].dtype)
            elif layer.bias.ndim == 1:
                module.bias, module.use_bias = nnx.Param(jnp.asarray(layer.bias, dtype)), True
        for path in plan:
            module = layers[path]
            variables = list(_values(module).values())
            for attribute in [n for n, v in vars(module).items() if isinstance(v, nnx.Variable)]:
                delattr(module, attribute)
            module.__class__ = Identity
            module.affine = jnp.result_type(*variables)
        return result

    def run(self, folded: Any, x: Any) -> tuple[Any, Seen]:
        seen: Seen = {}
        model = nnx.clone(folded)

        def watch(path: Path):
            def around(layer, call, args, kwargs):
                y = call(*args, **kwargs)
                see(seen, path, y)
                return y

            return around

        for path, layer in _layers(model, (*NORMS, *LINEARS, Identity)).items():
            _around_calls(layer, watch(path))
        return self.call(model, x), seen

    def shaken(self, source: Any) -> Any:
        result = nnx.clone(source)
        nnx.update(result, shaken(nnx.state(result, nnx.Any(nnx.Param, nnx.BatchStat))))
        return result


def _layers(model: Any, kinds: Iterable[type] = (*NORMS, *LINEARS)) -> dict[Path, Any]:
    return {path: layer for path, layer in nnx.iter_graph(model) if isinstance(layer, tuple(kinds))}


def _values(layer: Any) -> dict[str, jax.Array]:
    found = {name: getattr(layer, name, None) for name in NAMES}
    return {name: value.get_value() for name, value in found.items() if value is not None}


def _shared(model: Any) -> dict[Path, str]:
    """Of linear layers that hold a variable which another module holds, too: what to say of them."""
    holders: dict[int, list[Path]] = {}
    modules = [(path, module) for path, module in nnx.iter_graph(model) if isinstance(module, nnx.Module)]
    for path, module in modules:
        for value in vars(module).values():
            if isinstance(value, nnx.Variable):
                holders.setdefault(id(value), []).append(path)
    said: dict[Path, str] = {}
    for path, module in modules:
        for attribute in ("kernel", "bias"):
            others = [name(p) for p in holders.get(id(getattr(module, attribute, None)), []) if p != path]
            if others and known(type(module)) is LINEARS:
                said[path] = f"shares its {attribute} with {', '.join(others)}"
    return said


def _around_calls(layer: Any, around: Callable[..., Any]) -> None:
    """Turns an nnx layer into one whose calls are those of `around(layer, call, args, kwargs)`."""
    base = type(layer)

    def call(self, *args, **kwargs):
        return around(self, partial(base.__call__, self), args, kwargs)

    layer.__class__ = type(base.__name__, (base,), {"__call__": call})
