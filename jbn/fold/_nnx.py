"""Folding in nnx models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Generic, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr

from jbn._paths import Path, path_name
from jbn._typed import make_jaxpr
from jbn._typed_flax import nnx_state, nnx_update
from jbn.fold._arithmetic import Border, Plan, folded_layers
from jbn.fold._layers import (
    LINEARS,
    NORMS,
    TRANSPOSED,
    VARIABLES,
    add_bias,
    folded_norm,
    table_of,
    tagged_call,
    why_unknown,
)
from jbn.fold._verify import Outputs, Rest, fold, perturbed, record

Model = TypeVar("Model", bound=nnx.Module)
Around = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def fold_nnx(
    model: Model,
    x: Any,
    *,
    call: Callable[[Any, Any], Any] | None = None,
    border: Border = "exact",
    rest: Rest = "refuse",
) -> Model:
    """A copy of an nnx model without its batch norms that gives the same outputs at inference.

    ::

        s = scale / sqrt(var + epsilon),    t = bias - mean·s
        into the layer before:  W ← s·W,  b ← s·b + t          into the layers after:  b ← b + W·t,  W ← W·s

    Args:
      model: any nnx module at inference (`model.eval()`) with batch norms (jbn's or Flax's) next to `nnx.Linear`,
        `nnx.Conv` or `nnx.ConvTranspose`, or to subclasses of these that override no method but `__init__`. It is not
        changed.
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
    return fold(_Nnx(call or _call, x), model, x, border, rest)


def _call(model: Any, x: Any) -> Any:
    return model(x)


class Identity(nnx.Module):
    """Takes the place of a folded batch norm: it applies the activation that the norm was called with, if any.

    Example:
      >>> import jax.numpy as jnp, jbn.nnx
      >>> from flax import nnx
      >>> from jbn.fold import fold_nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), jbn.nnx.BatchNorm(4, rngs=rngs))
      >>> model.eval()
      >>> type(fold_nnx(model, jnp.ones((2, 3))).layers[1]).__name__
      'Identity'
    """

    # Attributes of the norm, which becomes an instance of this class.
    dtype: Any
    affine: Any

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> jax.Array:
        """The input, through the activation if there is one.

        Args:
          x: the input of the norm that was folded.
          *args: its other arguments.
          **kwargs: its keyword arguments, of which `activation` counts.

        Returns:
          The array, in the dtype of the norm's result.
        """
        return folded_norm(x, *args, dtype=self.dtype, affine=self.affine, **kwargs)

    def set_view(self, **_: Any) -> None:
        """Does nothing, since there are no modes.

        Args:
          **_: what `nnx.view` sets.
        """


class _Border(nnx.Conv):
    folded_bias: nnx.Param[jax.Array]

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        y = super().__call__(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType]  # annotated in part
        return add_bias(y, self.folded_bias[...], "a convolution")


class _BorderTransposed(nnx.ConvTranspose):
    folded_bias: nnx.Param[jax.Array]

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        y = super().__call__(*args, **kwargs)
        return add_bias(y, self.folded_bias[...], "a transposed convolution")


class _Nnx(Generic[Model]):
    """The adapter of an nnx model: a source and a result are such models."""

    def __init__(self, call: Callable[[Any, Any], Any], x: Any):
        self.call, self.x = call, x

    def trace(self, source: Model) -> ClosedJaxpr:
        given = {path: _values(layer) for path, layer in _layers(source).items()}
        shared = _shared(source)

        def tag(path: Path, kind: type, layer: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            own = all(value is given[path].get(name) for name, value in _values(layer).items())
            return tagged_call(layer, path, why_unknown(kind, own) or shared.get(path, ""), call, args, kwargs)

        def apply(x: Any) -> Any:
            model = nnx.clone(source)  # here, so that its variables belong to this trace
            for path, layer in _layers(model).items():
                _around_calls(layer, partial(tag, path, type(layer)))
            return self.call(model, x)

        return make_jaxpr(apply)(self.x)

    def fold(self, source: Model, plan: Plan, border: Border) -> Model:
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
            norm: Any = layers[path]
            values = list(_values(norm).values())
            for name in [name for name, value in norm.__dict__.items() if isinstance(value, nnx.Variable)]:
                delattr(norm, name)
            norm.__class__ = Identity
            norm.affine = jnp.result_type(*values)
        return result

    def run(self, folded: Model, x: Any) -> tuple[Any, Outputs]:
        outputs: Outputs = {}
        model = nnx.clone(folded)

        def watch(path: Path, layer: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            y = call(*args, **kwargs)
            record(outputs, path, y)
            return y

        for path, layer in _layers(model, (*NORMS, *LINEARS, Identity)).items():
            _around_calls(layer, partial(watch, path))
        return self.call(model, x), outputs

    def perturbed(self, source: Model) -> Model:
        result = nnx.clone(source)
        nnx_update(result, perturbed(nnx_state(result, nnx.Any(nnx.Param, nnx.BatchStat))))
        return result


def _layers(model: nnx.Module, kinds: Iterable[type] = (*NORMS, *LINEARS)) -> dict[Path, Any]:
    return {path: layer for path, layer in nnx.iter_graph(model) if isinstance(layer, tuple(kinds))}


def _values(layer: Any) -> dict[str, jax.Array]:
    found = {name: getattr(layer, name, None) for name in VARIABLES}
    return {name: value.get_value() for name, value in found.items() if value is not None}


def _shared(model: nnx.Module) -> dict[Path, str]:
    """For each linear layer that shares a variable with another module: a message that says so."""
    holders: dict[int, list[Path]] = {}
    modules = [(path, module) for path, module in nnx.iter_graph(model) if isinstance(module, nnx.Module)]
    for path, module in modules:
        attributes: dict[str, object] = vars(module)
        for value in attributes.values():
            if isinstance(value, nnx.Variable):
                holders.setdefault(id(cast(object, value)), []).append(path)
    messages: dict[Path, str] = {}
    for path, module in modules:
        for attribute in ("kernel", "bias"):
            others = [path_name(p) for p in holders.get(id(getattr(module, attribute, None)), []) if p != path]
            if others and table_of(type(module)) is LINEARS:
                messages[path] = f"shares its {attribute} with {', '.join(others)}"
    return messages


def _around_calls(layer: Any, around: Around) -> None:
    """Makes every call of an nnx layer return `around(layer, call, args, kwargs)`."""
    base: Any = layer.__class__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(self, partial(base.__call__, self), args, kwargs)

    layer.__class__ = type(base.__name__, (base,), {"__call__": call})
