"""Networks without shortcuts: each is a table of layers, and one module applies them, each in a placement block."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from experiments.networks.parts import (
    TORCH,
    ConvNetwork,
    Factory,
    Initializer,
    Network,
    chosen,
    max_pool,
    numbered,
)
from experiments.networks.whitening import Whitening
from experiments.vocabulary import Pooling
from jbn.placement import Block, Placement

Readout = Literal["mean", "max", "conv"]


class Layer(NamedTuple):
    """One convolution in the table of a `PlainCNN`.

    Attributes:
      features: output features, before the network's `width` scales them.
      kernel: height and width.
      stride: step in both directions.
      pool: size of its max-pooling; 1 means none.
      bare: whether the layer stands alone, without norm and activation.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    pool: int = 1
    bare: bool = False


class MLP(Network, kw_only=True):
    """A multilayer perceptron: dense blocks and a linear classifier; images are flattened.

    Attributes (beyond those of `Network`):
      placement: where the norm sits in each block.
      hidden: units of each hidden layer.

    Published: 100-100-100 with sigmoid, Ioffe & Szegedy 2015, section 4.1 (https://arxiv.org/abs/1502.03167).
    """

    placement: Placement
    hidden: tuple[int, ...] = (100, 100, 100)
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, norm = x.reshape(len(x), -1), self.cast_norm()
        for i, units in enumerate(self.hidden):
            dense = partial(nn.Dense, self.scaled(units), **self.hidden_options())
            x = Block(dense, norm, self.activation, self.placement, name=numbered("block", i, len(self.hidden)))(x)
        return self.classify(norm(name="final_norm")(x) if self.final_norm else x)


class PlainCNN(ConvNetwork, kw_only=True):
    """A chain of convolutions, each in a placement block, and a classifier.

    Attributes (beyond those of `ConvNetwork`):
      placement: where the norm sits in each block.
      layers: the table of convolutions, first to last.
      pooling: "after_block" pools the output of a block; "before_norm" pools the output of its convolution, so that
        norm and activation see a quarter of the positions.
      whitening: patch size of a first, whitening layer (see `Whitening`), which an activation follows; 0 means none.
      readout: "mean" or "max" pools over positions in front of the linear classifier; "conv" replaces both by a
        convolution to the classes, 3 x 3 with stride 2, in a block without activation, and averages over positions.
      head_bias: whether the linear classifier adds a bias.
      head_scale: multiplies the logits.
      input_scale: multiplies the images.
    """

    placement: Placement
    layers: tuple[Layer, ...]
    pooling: Pooling = "after_block"
    whitening: int = 0
    readout: Readout = "mean"
    head_bias: bool = True
    head_scale: float = 1.0
    input_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        early = self._pools_early()
        norm = self.cast_norm()
        x = x if self.input_scale == 1 else x * self.input_scale
        first = int(self.whitening > 0)
        names = [numbered("block", i, first + len(self.layers)) for i in range(first + len(self.layers))]
        if self.whitening:
            whiten = partial(Whitening, self.whitening, self.dtype)
            x = Block(whiten, norm, self.activation, "none", name=names[0])(x)
        for name, (features, kernel, stride, pool, bare) in zip(names[first:], self.layers, strict=True):
            layer = self.conv(self.scaled(features), kernel, stride, pool if early else 1)
            x = layer(name=name)(x) if bare else Block(layer, norm, self.activation, self.placement, name=name)(x)
            x = x if early else max_pool(x, pool)
        x = norm(name="final_norm")(x) if self.final_norm else x
        if chosen("readout", self.readout, ("mean", "max", "conv")) == "conv":
            logits = self.finish(self._conv_head(norm, x).mean((1, 2)))
        else:
            logits = self.classify(x.max((1, 2)) if self.readout == "max" else x.mean((1, 2)), self.head_bias)
        return logits if self.head_scale == 1 else logits * self.head_scale

    def _pools_early(self) -> bool:
        early = chosen("pooling", self.pooling, ("after_block", "before_norm")) == "before_norm"
        if early and all(layer.pool == 1 for layer in self.layers):
            raise ValueError('pooling is "before_norm", but no layer of this network pools; leave it out')
        return early

    def _conv_head(self, norm: Factory, x: jax.Array) -> jax.Array:
        # Without an activation, `both` would put two norms in a row after the layer.
        placement = "before" if self.placement == "both" else self.placement
        return Block(self.conv(self.classes, 3, 2), norm, lambda x: x, placement, name="head")(x)


def strided_cnn(**options: Any) -> PlainCNN:
    """The small strided CNN: convolutions of 8, 16, 32 and 64 features, then one to the classes, normed as well.

    For images of 28 x 28 or 32 x 32. Published for MNIST with ReLU, before and after: Bakshi 2024
    (https://github.com/vishalbakshi/blog, posts/2024-07-02-bn-placement), after "fastbook", chapter 13.
    """
    layers = (Layer(8, 5, 2), Layer(16, 3, 2), Layer(32, 3, 2), Layer(64, 3, 2))
    published: dict[str, Any] = dict(layers=layers, readout="conv", use_bias=True, kernel_init=TORCH)
    return PlainCNN(**(published | options))


def cnn9(**options: Any) -> PlainCNN:
    """The 9-layer CNN: a bare convolution and 8 blocks of 64 features at full resolution, mean over positions, linear.

    Published for CIFAR-10 with ReLU and leaky ReLU, before and after, five runs each
    (https://github.com/gdd72582/AI-Lectures-and-Tutorials, assignment1). Initialized as in torch, except
    that biases start at 0 here and are random in torch.
    """
    layers = (Layer(64, bare=True), *8 * (Layer(64),))
    published: dict[str, Any] = dict(layers=layers, use_bias=True, kernel_init=TORCH, head_init=TORCH)
    return PlainCNN(**(published | options))


def vgg16(**options: Any) -> PlainCNN:
    """VGG-16 for CIFAR: 13 convolutions, five poolings, and one linear classifier in place of three layers.

    For images of at least 32 x 32. Published for CIFAR with tanh and ReLU, before and after: Kim et al. 2023, "Tanh
    Works Better With Asymmetry" (NeurIPS).

    Reference: Simonyan & Zisserman 2015, configuration D (https://arxiv.org/abs/1409.1556); norms and one classifier as
    in https://github.com/kuangliu/pytorch-cifar.
    """
    groups = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    layers = tuple(Layer(f, pool=2 if i == depth - 1 else 1) for f, depth in groups for i in range(depth))
    return PlainCNN(**({"layers": layers, "use_bias": True} | options))


def simple8(**options: Any) -> PlainCNN:
    """The 8-layer network that its author calls "simple" (`before`) and "post" (`after`), with frozen scale and bias.

    To freeze scale and bias, pass `partial(jbn.linen.BatchNorm, trainable=False, ...)` as the norm.

    Reference: Page 2019 (https://github.com/davidcpage/cifar10-fast, batch_norm_post.ipynb).
    """
    layers = (Layer(64), *(Layer(f, pool=p) for f in (128, 256, 512) for p in (2, 1)))
    init = nn.initializers.he_uniform()
    published: dict[str, Any] = dict(
        layers=layers,
        readout="max",
        head_bias=False,
        head_scale=0.125 / 6**0.5,
        input_scale=2**-0.5,
        kernel_init=init,
        head_init=init,
    )
    return PlainCNN(**(published | options))


def airbench94(**options: Any) -> PlainCNN:
    """The network of airbench94: whitening, then three groups of two blocks; the first block of each group pools.

    Published with exact GELU (`partial(jax.nn.gelu, approximate=False)`), with the norm before it, and without scale:
    `partial(jbn.linen.BatchNorm, use_scale=False, ...)`. After init, call `whiten(variables, images)` to set the first
    layer. For images of at least 9 x 9.

    Reference: Jordan 2024 (https://arxiv.org/abs/2404.00498), https://github.com/KellerJordan/cifar10-airbench,
    legacy/airbench94.py.
    """
    layers = tuple(Layer(features, pool=pool) for features in (64, 256, 256) for pool in (2, 1))
    published: dict[str, Any] = dict(
        layers=layers,
        pooling="before_norm",
        whitening=2,
        readout="max",
        head_bias=False,
        head_scale=1 / 9,
        kernel_init=dirac,
        head_init=TORCH,
    )
    return PlainCNN(**(published | options))


def dirac(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Kernel `[height, width, in, out]` whose first outputs equal its inputs; torch's initialization fills the rest."""
    height, width, inputs, outputs = shape
    n = min(inputs, outputs)
    kernel = TORCH(key, shape, dtype).at[..., :n].set(0)
    return kernel.at[height // 2, width // 2, jnp.arange(n), jnp.arange(n)].set(1)
