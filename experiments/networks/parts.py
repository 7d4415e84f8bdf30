"""The base classes of all networks: options, convolutions with a choice of padding, pooling, and the classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from experiments.config.errors import near
from experiments.vocabulary import Padding

Map = Callable[[jax.Array], jax.Array]
Factory = Callable[..., Map]
Initializer = Callable[..., Any]

HE = nn.initializers.he_normal()
# torch.nn.Conv2d and Linear draw weights uniformly from ±1/√fan_in: a variance of 1/(3 fan_in).
TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def no_norm(name: str | None = None) -> Map:
    """The identity in place of a norm: gives the arm without normalization, in any network and placement."""
    return lambda x: x


class Network(nn.Module, kw_only=True):
    """A classifier made of blocks: `[batch, height, width, channels]` to logits `[batch, classes]`.

    Attributes:
      classes: number of classes.
      activation: a function of arrays, such as `jax.nn.relu`.
      norm: makes a norm, given its name: `partial(jbn.linen.BatchNorm, use_running_average=False)`, `nn.LayerNorm`,
        `partial(nn.GroupNorm, num_groups=8)`, `no_norm`. It also decides whether norms have scale and bias.
      width: factor on the features of every hidden layer; the result is rounded, and at least 1.
      final_norm: whether to add a norm in front of the global pooling and the classifier, where `after` has its last.
      use_bias: whether the hidden layers add a bias; the classifier follows its publication.
      dtype: dtype of activations and products, such as `jnp.bfloat16`; parameters and logits are float32. By default
        images and parameters are promoted to a common dtype.
      kernel_init: initializer of the hidden layers.
      head_init: initializer of the classifier.

    A seed determines the initial weights of every layer; norm, placement, padding and pooling do not change them. The
    names of blocks sort in the order of the forward pass.
    """

    classes: int
    activation: Map
    norm: Factory
    width: float = 1.0
    final_norm: bool = False
    use_bias: bool = False
    dtype: DTypeLike | None = None
    kernel_init: Initializer = HE
    head_init: Initializer = nn.initializers.lecun_normal()

    def scaled(self, features: int) -> int:
        """The number of features of a hidden layer, after `width`."""
        return max(1, round(features * self.width))

    def hidden_options(self) -> dict[str, Any]:
        """Keyword arguments of the hidden layers."""
        return dict(use_bias=self.use_bias, dtype=self.dtype, kernel_init=self.kernel_init)

    def cast_norm(self) -> Factory:
        """The norm with its result cast to `dtype`; by themselves norms promote to the dtype of their parameters."""
        norm, dtype = self.norm, self.dtype
        if dtype is None:
            return norm

        def make(name: str) -> Map:
            layer = norm(name=name)
            return lambda x: layer(x).astype(dtype)

        return make

    def classify(self, x: jax.Array, use_bias: bool = True) -> jax.Array:
        """Logits of features `[batch, features]`, computed by the layer `head`."""
        head = nn.Dense(self.classes, use_bias=use_bias, dtype=self.dtype, kernel_init=self.head_init, name="head")
        return self.finish(head(x))

    def finish(self, logits: jax.Array) -> jax.Array:
        """Casts logits to float32 if `dtype` is narrower, for the loss."""
        return logits if self.dtype is None else logits.astype(jnp.promote_types(self.dtype, jnp.float32))


class ConvNetwork(Network, kw_only=True):
    """A network of convolutions.

    Attributes (beyond those of `Network`):
      padding: "zero", as published; "reflect", which mirrors the image at its edge; or "valid", without padding. Zero
        is the channel mean after a norm, but the minimum after a ReLU.

    Padding is half the kernel on both sides, as in torch: XLA's "SAME" pads a strided layer on one side only.
    """

    padding: Padding = "zero"

    def conv(self, features: int, kernel: int = 3, stride: int = 1, pool: int = 1) -> Factory:
        """Returns a function that makes a convolution, given its name; `pool` adds max-pooling right after it."""
        edges: dict[str, Any] = {"zero": kernel // 2, "reflect": "REFLECT", "valid": "VALID"}
        edge, options = edges[chosen("padding", self.padding, edges)], self.hidden_options()

        def make(name: str) -> Map:
            layer = nn.Conv(features, (kernel, kernel), stride, padding=edge, name=name, **options)

            def convolve(x: jax.Array) -> jax.Array:
                if edge == "VALID":
                    check_size(x, kernel, "a layer without padding has no output")
                return max_pool(layer(x), pool)

            return convolve

        return make


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """Max-pooling over tiles of `size` x `size`; incomplete tiles at the far edges are dropped."""
    if size == 1:
        return x
    check_size(x, size, "nothing is left to pool")
    return nn.max_pool(x, (size, size), (size, size))


def check_size(x: jax.Array, size: int, trouble: str) -> None:
    """Raises ValueError where `x` is smaller than the window."""
    if min(x.shape[1:3]) < size:
        raise ValueError(
            f"{trouble}: its input is {x.shape[1]} x {x.shape[2]}, its window {size} x {size}; use larger images, or "
            'padding="zero" or "reflect"'
        )


def numbered(name: str, index: int, of: int) -> str:
    """Numbers a name, with leading zeros so that names sort by number: block_0 ... block_7, block_00 ... block_12."""
    return f"{name}_{index:0{len(str(of - 1))}d}"


def chosen(field: str, value: str, known: Iterable[str]) -> str:
    """Returns `value` if it is one of the known values.

    Raises:
      ValueError: `value` is not known.
    """
    names = list(known)
    if value not in names:
        raise ValueError(f"{field} is {value!r}; choose one of {', '.join(names)}{near(str(value), names)}")
    return value
