"""Residual networks: the order of layers, norms, activations and the addition within a unit.

    original                      layer, norm, activation, layer, norm, add, activation
    bn_after_addition             layer, norm, activation, layer, add, norm, activation
    relu_before_addition          layer, norm, activation, layer, norm, activation, add
    relu_only_preactivation       activation, layer, norm, activation, layer, norm, add
    full_preactivation            norm, activation, layer, norm, activation, layer, add
    no_relu_bn_before_addition    layer, norm, activation, layer, norm, add
    no_relu_bn_after_addition     layer, norm, activation, layer, add, norm

The first five come from He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 4
(https://arxiv.org/abs/1603.05027), the last two from https://github.com/gcr/torch-residual-networks. One module applies
the steps of the table `experiments.vocabulary.UNITS`. The names say "bn" and "relu"; any norm and activation will do.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.networks.parts import ConvNetwork, Factory, Map, chosen, numbered
from experiments.vocabulary import UNITS, Step, Unit

Shortcut = Literal["zeros", "projection"]


class ResidualUnit(nn.Module):
    """Applies the steps of a unit, or of a stem or a tail, which have no addition.

    Attributes:
      steps: the steps in order, as in `UNITS`.
      layers: functions that make the layers, given their names, first to last.
      norm: makes a norm, given its name.
      activation: a function of arrays.
      common: whether the steps in front of the first layer act on the shortcut, too.
      stride: stride of the first layer, and of the shortcut.
      offset: first row and column that the shortcut takes; layers without padding shift their outputs by as much.
      project: makes the layer of a shortcut that must gain features; None pads the shortcut with zeros instead.

    Layers are named `layer_0` and `layer_1`, norms `norm_0`, `norm_1`, ..., in any order of steps. The input of each
    activation is sown as `activation_input` into the collection `intermediates`.
    """

    steps: tuple[Step, ...]
    layers: tuple[Factory, ...]
    norm: Factory
    activation: Map
    common: bool = False
    stride: int = 1
    offset: int = 0
    project: Factory | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        skip, layers, norms = x, 0, 0
        for step in self.steps:
            if step == "layer":
                skip = x if self.common and layers == 0 else skip
                x = self.layers[layers](name=f"layer_{layers}")(x)
                layers += 1
            elif step == "norm":
                x = self.norm(name=f"norm_{norms}")(x)
                norms += 1
            elif step == "activation":
                self.sow("intermediates", "activation_input", x)
                x = self.activation(x)
            else:
                x = x + self._shortcut(skip, x.shape)
        return x

    def _shortcut(self, skip: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        _, height, width, features = shape
        skip = skip[:, self.offset :: self.stride, self.offset :: self.stride][:, :height, :width]
        missing = features - skip.shape[-1]
        if missing and self.project is not None:
            skip = self.project(name="shortcut")(skip)
            added = self.steps[: self.steps.index("add")]
            last_layer = max(i for i, step in enumerate(added) if step == "layer")
            return self.norm(name="shortcut_norm")(skip) if "norm" in added[last_layer:] else skip
        if missing < 0:
            raise ValueError(
                f"a shortcut of zeros cannot turn {skip.shape[-1]} features into {features}; use "
                'shortcut="projection", or a width at which no stage is narrower than the one before'
            )
        return jnp.pad(skip, [(0, 0), (0, 0), (0, 0), (0, missing)])


class ResNet(ConvNetwork, kw_only=True):
    """A stem, stages of residual units, and a classifier of the mean; every stage but the first halves the resolution.

    Attributes (beyond those of `ConvNetwork`):
      unit: the order of steps within a unit, see `UNITS`.
      units: number of residual units per stage; each has two layers.
      stages: features of the stem and of each stage.
      shortcut: how shortcuts gain features: "zeros" pads, without parameters (He et al. 2015, option A); "projection"
        is a 1 x 1 layer (option B), with a norm if the unit has one between its last layer and the addition.
      scale_stem: whether `width` acts on the stem, too.

    The stem consists of layer, norm and activation. Steps that the unit has in front of its first layer are left out of
    the stem and applied once more after the last unit. In the first unit, and in units that change the shape, these
    steps act on the shortcut as well: He et al. 2016, implementation details, and
    https://github.com/KaimingHe/resnet-1k-layers. So, with shortcuts of zeros, all orders have the same number of
    parameters.
    """

    unit: Unit
    units: int
    stages: tuple[int, ...] = (16, 16, 32, 64)
    shortcut: Shortcut = "zeros"
    scale_stem: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        chosen("unit", self.unit, UNITS)
        chosen("shortcut", self.shortcut, ("zeros", "projection"))
        steps = UNITS[self.unit]
        lead = steps[: steps.index("layer")]
        whole: tuple[Step, ...] = ("layer", "norm", "activation")
        norm, stem, *stages = self.cast_norm(), *self.stages
        features = self.scaled(stem) if self.scale_stem else stem
        parts = (norm, self.activation)
        x = ResidualUnit(whole[: 3 - len(lead)], (self.conv(features),), *parts, name="stage_0_stem")(x)
        for stage, base in enumerate(stages, 1):
            before, features = features, self.scaled(base)
            for i in range(self.units):
                stride = 2 if stage > 1 and i == 0 else 1
                x = ResidualUnit(
                    steps,
                    (self.conv(features, 3, stride), self.conv(features)),
                    *parts,
                    common=i == 0 and (stage == 1 or stride > 1 or before != features),
                    stride=stride,
                    offset=1 + stride if self.padding == "valid" else 0,
                    project=self.conv(features, 1) if self.shortcut == "projection" else None,
                    name=f"stage_{stage}_{numbered('unit', i, self.units)}",
                )(x)
        x = ResidualUnit(lead, (), *parts, name=f"stage_{len(stages) + 1}_tail")(x) if lead else x
        x = norm(name="final_norm")(x) if self.final_norm else x
        return self.classify(x.mean((1, 2)))


def resnet(depth: int = 20, **options: Any) -> ResNet:
    """ResNet-(6n+2) for CIFAR: 16, 32 and 64 features, shortcuts without parameters.

    Raises:
      ValueError: `depth` is not 6n + 2.

    Reference: He et al. 2015, "Deep Residual Learning", section 4.2 (https://arxiv.org/abs/1512.03385).
    """
    return ResNet(units=_units("resnet", depth, 2), **options)


def wrn(depth: int = 28, width: float = 10, **options: Any) -> ResNet:
    """WRN-depth-width for CIFAR: pre-activation, stages `width` times as wide, projections as shortcuts.

    Raises:
      ValueError: `depth` is not 6n + 4.

    Reference: Zagoruyko & Komodakis 2016, "Wide Residual Networks" (https://arxiv.org/abs/1605.07146).
    """
    published: dict[str, Any] = dict(unit="full_preactivation", shortcut="projection", scale_stem=False)
    return ResNet(units=_units("wrn", depth, 4), width=width, **(published | options))


def _units(name: str, depth: int, rest: int) -> int:
    units, left = divmod(depth - rest, 6)
    if left or units < 1:
        near = 6 * max(1, round((depth - rest) / 6)) + rest
        raise ValueError(f"depth of a {name} is {depth}; use 6n + {rest}, such as {near}")
    return units
