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
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.extend.core import ClosedJaxpr

from jbn._traces import own_traces
from jbn.fold._arithmetic import Border, Plan, folded_layers
from jbn.fold._layers import LINEARS, NAMES, NORMS, add_bias, known, marked, remainder, strange
from jbn.fold._neighbours import Path, name
from jbn.fold._proof import Rest, Seen, fold, see, shaken

Variables = Mapping[str, Any]


@dataclass(frozen=True)
class Folded:
    """A linen model without the batch norms that were folded.

    Attributes:
      model: the model that it was made of.
      norms: paths of the batch norms that are left out.
      affine: the dtype that the scale and bias of each had, None where it had neither: with those of the input and the
        layer, it makes that of the result.
    """

    model: nn.Module
    norms: frozenset[Path]
    affine: frozenset[tuple[Path, Any]] = frozenset()

    def apply(self, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """As `model.apply`, with the variables that `fold_linen` returned."""
        affine = dict(self.affine)

        def intercept(next_fun, args, kwargs, context):
            layer = context.module
            table = known(type(layer)) if context.method_name == "__call__" else None
            if table is NORMS and layer.path in self.norms:
                return remainder(*args, dtype=layer.dtype, affine=affine[layer.path], **kwargs)
            y = next_fun(*args, **kwargs)
            if table is LINEARS and layer.has_variable("params", "folded_bias"):
                y = add_bias(y, layer.get_variable("params", "folded_bias"), name(layer.path))
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
      model: any linen module with batch norms (jbn's or Flax's) beside `nn.Dense`, `nn.Conv` (strided, dilated,
        grouped, depthwise) or `nn.ConvTranspose`. A subclass counts as its base where it overrides no method.
      variables: its variables, with `params` and `batch_stats`; they stay as they are.
      x: an example of the input (an array, a pytree, or `jax.ShapeDtypeStruct`s), to see what stands next to what, and
        to make the random inputs of the proof: of the given elements, or of normal numbers where there are none.
      call: `call(model, x)`, the model at inference; by default `model(x)`. Write `lambda m, x: m(x, train=False)`
        where the model takes more.
      border: where a norm goes into a convolution after it that pads with zeros: "exact" adds an array over the
        output's positions, so that the model then takes inputs of this spatial size only; "refuse" raises.
      rest: what to do with batch norms that cannot be folded: those that stand next to no such layer, or without which
        the outputs are others: "refuse" raises, with path and reason, "keep" leaves them in.

    Returns:
      The model without the folded batch norms (`Folded`, which has `apply`), and its variables: kernels and biases
      changed, a `folded_bias` where a layer had no bias or needs one over positions, the folded norms' variables gone.

    Raises:
      ValueError: a model without batch norm, a batch norm that cannot be folded (with its path and the reason; one in
        training is among them), or a border, with "refuse".

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
    face = _Linen(model, call or (lambda model, x: model(x)), x)
    return fold(face, variables, x, border, rest)


class _Linen:
    """The face of a linen model; its source are the variables, and a folded model is what `fold_linen` returns."""

    def __init__(self, model: nn.Module, call: Callable[[Any, Any], Any], x: Any):
        self.model, self.call, self.x = model, call, x
        self.layers: dict[Path, Any] = {}

    def trace(self, source: Variables) -> ClosedJaxpr:
        flat = flatten_dict(source)

        def intercept(next_fun, args, kwargs, context):
            layer = context.module
            if context.method_name != "__call__" or known(type(layer)) is None:
                return next_fun(*args, **kwargs)
            self.layers[layer.path] = layer
            mine = [(c, n) for c in ("params", "batch_stats") for n in NAMES if layer.has_variable(c, n)]
            own = all(layer.get_variable(c, n) is flat.get((c, *layer.path, n)) for c, n in mine)
            return marked(layer, layer.path, strange(type(layer), own), next_fun, args, kwargs)

        def traced(x):
            with own_traces(), nn.intercept_methods(intercept):
                return self.model.apply(source, x, method=self.call)

        return jax.make_jaxpr(traced)(self.x)

    def fold(self, source: Variables, plan: Plan, border: Border) -> tuple[Folded, dict[str, Any]]:
        flat: dict[Path, Any] = dict(flatten_dict(source))

        def values(path: Path) -> dict[str, Any]:
            found = {(c, n): flat.get((c, *path, n)) for c in ("params", "batch_stats") for n in NAMES}
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

    def run(self, folded: tuple[Folded, dict[str, Any]], x: Any) -> tuple[Any, Seen]:
        seen: Seen = {}

        def intercept(next_fun, args, kwargs, context):
            y = next_fun(*args, **kwargs)
            if context.method_name == "__call__" and known(type(context.module)) is not None:
                see(seen, context.module.path, y)
            return y

        with nn.intercept_methods(intercept):
            return folded[0].apply(folded[1], x, method=self.call), seen

    def shaken(self, source: Variables) -> dict[str, Any]:
        return {c: shaken(tree) if c in ("params", "batch_stats") else tree for c, tree in source.items()}
