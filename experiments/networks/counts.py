"""Counts a network's parameters and operations from abstract traces; nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def parameter_count(model: Any, input_shape: Sequence[int]) -> int:
    """The number of trainable values: the collection `params`, without statistics and other constants.

    Args:
      model: a linen module of one argument, or what `build` returns.
      input_shape: of one example, such as `(32, 32, 3)`.

    Example:
      >>> import flax.linen as nn
      >>> from experiments.networks import parameter_count
      >>> parameter_count(nn.Dense(10), (784,))
      7850
    """
    params = _variables(model, _examples(input_shape)).get("params", {})
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def multiply_adds(model: Any, input_shape: Sequence[int]) -> int:
    """The number of multiply-adds in the convolutions and matrix products of one example's forward pass.

    The jaxpr yields it as outputs times terms per output, so products with padding count, as is usual. Biases, norms,
    activations and pooling do not count.

    Args:
      model: a linen module of one argument, or what `build` returns.
      input_shape: of one example, such as `(32, 32, 3)`.

    Example:
      >>> import flax.linen as nn
      >>> from experiments.networks import multiply_adds
      >>> multiply_adds(nn.Dense(10), (784,))
      7840
    """
    x = _examples(input_shape)
    variables = _variables(model, x)
    forward = jax.make_jaxpr(lambda variables, x: model.apply(variables, x, mutable=["batch_stats"])[0])
    return sum(_products(forward(variables, x).jaxpr)) // len(x)


def flops(model: Any, input_shape: Sequence[int]) -> int:
    """Floating-point operations of one example's forward pass: two for each of `multiply_adds`.

    Papers on small networks often call the number of multiply-adds "FLOPs". A training step is about three times as
    much as its forward pass.
    """
    return 2 * multiply_adds(model, input_shape)


def _examples(input_shape: Sequence[int]) -> jax.Array:
    return jnp.zeros((2, *input_shape))  # batch norm refuses to train on a single example


def _variables(model: Any, x: jax.Array) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0), x)


def _products(jaxpr: Any) -> Iterator[int]:
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
            yield equation.outvars[0].aval.size * math.prod(kernel) // outputs
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            yield equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        repeats = params["length"] if name == "scan" else 1
        for inner in jax.tree.leaves(list(params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(inner, "eqns"):
                yield from (repeats * n for n in _products(getattr(inner, "jaxpr", inner)))
