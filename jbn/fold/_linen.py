"""Folding in linen models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import meta
from jax.extend.core import ClosedJaxpr

from jbn._paths import Path, path_name
from jbn._traces import own_traces
from jbn._typed import make_jaxpr
from jbn._typed_flax import InterceptorContext, flatten_dict, unflatten_dict
from jbn.fold._arithmetic import Border, Plan, folded_layers
from jbn.fold._layers import LINEARS, NORMS, VARIABLES, add_bias, folded_norm, table_of, tagged_call, why_unknown
from jbn.fold._verify import Outputs, Rest, fold, perturbed, record

Variables = Mapping[str, Any]
_COLLECTIONS = ("params", "batch_stats")


@dataclass(frozen=True)
class Folded:
    """A linen model without the batch norms that were folded.

    Attributes:
      model: the original model.
      norms: paths of the batch norms that were folded.
      affine: the result dtype of the scale and bias of each, None where it had neither. The norm's output has a dtype
        that depends on it.

    Example:
      >>> import jax, jax.numpy as jnp, flax.linen as nn, jbn.linen
      >>> from jbn.fold import fold_linen
      >>> model = nn.Sequential([nn.Dense(4), jbn.linen.BatchNorm(use_running_average=True)])
      >>> variables = model.init(jax.random.key(0), jnp.ones((2, 3)))
      >>> folded, variables = fold_linen(model, variables, jnp.ones((2, 3)))
      >>> folded.norms, folded.apply(variables, jnp.ones((5, 3))).shape
      (frozenset({('layers_1',)}), (5, 4))
    """

    model: nn.Module
    norms: frozenset[Path]
    affine: frozenset[tuple[Path, Any]] = frozenset[tuple[Path, Any]]()

    def apply(self, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """As the `apply()` of the model, with the variables that `fold_linen` returned.

        Args:
          variables: those that `fold_linen` returned, also after they were trained on.
          *args: inputs of the model.
          **kwargs: keyword arguments of its `apply()`, such as ``rngs`` or ``mutable``.

        Returns:
          What the model's own `apply()` returns.
        """
        affine = dict(self.affine)

        def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: InterceptorContext) -> Any:
            layer: Any = context.module
            table = table_of(layer.__class__) if context.method_name == "__call__" else None
            if table is NORMS and layer.path in self.norms:
                return folded_norm(*args, dtype=layer.dtype, affine=affine[layer.path], **kwargs)
            y = call(*args, **kwargs)
            if table is LINEARS and layer.has_variable("params", "folded_bias"):
                y = add_bias(y, layer.get_variable("params", "folded_bias"), path_name(layer.path))
            return y

        model: Any = self.model  # whose apply is annotated in part
        with nn.intercept_methods(intercept):
            return model.apply(variables, *args, **kwargs)


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
      model: any linen module with batch norms (jbn's or Flax's) next to `nn.Dense`, `nn.Conv` (strided, dilated,
        grouped, depthwise) or `nn.ConvTranspose`, or to subclasses of these that override no method.
      variables: its variables, with `params` and `batch_stats`; they are not changed.
      x: an example of the input: an array, a pytree of arrays, or `jax.ShapeDtypeStruct`. The model is traced with it,
        and verified with random inputs of the same shapes: samples of its elements, or normal numbers if all are equal.
      call: `call(model, x)`, the model at inference; by default `model(x)`. Pass `lambda m, x: m(x, train=False)` if
        the model takes more arguments.
      border: for a norm before a convolution that pads with zeros. "exact" adds an array over the output's positions,
        and the folded model takes inputs of this spatial size only; "refuse" raises.
      rest: for batch norms that cannot be folded, because no such layer is next to them, or because the outputs would
        differ. "refuse" raises with path and reason; "keep" leaves them in the model.

    Returns:
      The model without the folded batch norms (`Folded`, which has `apply()`), and its variables. In these, kernels
      and biases are changed, a layer that had no bias or needs one over positions has a ``folded_bias``, and the
      folded norms have none.

    Raises:
      ValueError: the model has no batch norm; one cannot be folded (with its path and the reason, such as a norm in
        training), with rest="refuse"; or a convolution pads with zeros, with border="refuse".

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
    return fold(_Linen(model, call or _call, x), variables, x, border, rest)


def _call(model: Any, x: Any) -> Any:
    return model(x)


class _Linen:
    """The adapter of a linen model: a source is its variables, a result is what `fold_linen` returns."""

    def __init__(self, model: Any, call: Callable[[Any, Any], Any], x: Any):
        self.model, self.call, self.x = model, call, x
        self.layers: dict[Path, Any] = {}

    def trace(self, source: Variables) -> ClosedJaxpr:
        flat = flatten_dict(source)

        def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: InterceptorContext) -> Any:
            layer: Any = context.module
            if context.method_name != "__call__" or table_of(layer.__class__) is None:
                return call(*args, **kwargs)
            self.layers[layer.path] = layer
            has = [(c, n) for c in _COLLECTIONS for n in VARIABLES if layer.has_variable(c, n)]
            own = all(layer.get_variable(c, n) is flat.get((c, *layer.path, n)) for c, n in has)
            return tagged_call(layer, layer.path, why_unknown(layer.__class__, own), call, args, kwargs)

        def apply(x: Any) -> Any:
            with own_traces(), nn.intercept_methods(intercept):
                return self.model.apply(source, x, method=self.call)

        return make_jaxpr(apply)(self.x)

    def fold(self, source: Variables, plan: Plan, border: Border) -> tuple[Folded, dict[str, Any]]:
        flat = flatten_dict(source)

        def values(path: Path) -> dict[str, Any]:
            found = {(c, n): flat.get((c, *path, n)) for c in _COLLECTIONS for n in VARIABLES}
            return {name: meta.unbox(value) for (_, name), value in found.items() if value is not None}

        def respond(path: Path, constant: np.ndarray) -> jax.Array:
            params = {name: value for name, value in values(path).items() if name in ("kernel", "bias")}
            return self.layers[path].clone(parent=None, name=None).apply({"params": params}, jnp.asarray(constant))

        def affine(path: Path) -> Any:
            given = [value for name, value in values(path).items() if name in ("scale", "bias")]
            return jnp.result_type(*given) if given else None

        def put(path: Path, value: Any) -> None:
            flat[path] = meta.replace_boxed(flat[path], jnp.asarray(value, jnp.result_type(meta.unbox(flat[path]))))

        for path, layer in folded_layers(plan, self.layers, values, respond, border).items():
            dtype = jnp.result_type(values(path)["kernel"])
            put(("params", *path, "kernel"), layer.kernel)
            if layer.bias is None:
                continue
            own = ("params", *path, "bias")
            if own in flat:
                put(own, layer.bias if layer.bias.ndim == 1 else np.zeros(layer.bias.shape[-1]))
            if own not in flat or layer.bias.ndim > 1:
                flat["params", *path, "folded_bias"] = jnp.asarray(layer.bias, dtype)
        left = {key: leaf for key, leaf in flat.items() if key[1:-1] not in plan}
        new = Folded(self.model, frozenset(plan), frozenset((path, affine(path)) for path in plan))
        return new, unflatten_dict(left)

    def run(self, folded: tuple[Folded, dict[str, Any]], x: Any) -> tuple[Any, Outputs]:
        outputs: Outputs = {}

        def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: InterceptorContext) -> Any:
            y = call(*args, **kwargs)
            if context.method_name == "__call__" and table_of(type(context.module)) is not None:
                record(outputs, context.module.path, y)
            return y

        with nn.intercept_methods(intercept):
            return folded[0].apply(folded[1], x, method=self.call), outputs

    def perturbed(self, source: Variables) -> Variables:
        return {c: perturbed(tree) if c in _COLLECTIONS else tree for c, tree in source.items()}
