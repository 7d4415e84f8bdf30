"""What a network in Equinox is made of: a block with a placement, and the norm that a config names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import equinox as eqx
import jax

import jbn.equinox
from experiments.config import ModelConfig
from experiments.config.errors import require
from experiments.networks.norms import KINDS, norm_options
from experiments.vocabulary import Placement
from jbn.placement import order

AXIS = "batch"
"""The mapped axis of examples, over which batch norms take their statistics."""
_EQUINOX = {
    "batch_norm": jbn.equinox.BatchNorm,
    "batch_renorm": jbn.equinox.BatchRenorm,
    "frozen_batch_norm": jbn.equinox.FrozenBatchNorm,
}
_seen: ContextVar[dict[int, dict[str, Any]] | None] = ContextVar("seen", default=None)


class Block(eqx.Module):
    """`jbn.placement.Block` for Equinox: a layer, an activation, and a norm where `placement` puts it.

    Args:
      layer: a layer with `in_features` and `out_features`, or `in_channels` and `out_channels`, such as
        `eqx.nn.Linear(64, 32, key=key)` or an `eqx.nn.Conv2d`.
      norm: makes a norm, called as `norm(features)`; the norm is called as `norm(x, state)` and returns both.
      activation: a function of arrays, such as `jax.nn.relu`.
      placement: where the norm is, see `jbn.placement`.

    It takes one example and the state, and returns both. The norms are `norm`, and ``norm_1`` for the second of both.
    The probes of the laboratory measure inside of blocks.

    Example:
      >>> from functools import partial
      >>> import equinox as eqx, jax, jbn.equinox
      >>> from experiments.networks.equinox import Block
      >>> norm = partial(jbn.equinox.BatchNorm, axis_name="batch")
      >>> layer = eqx.nn.Linear(3, 4, key=jax.random.key(0))
      >>> block, state = eqx.nn.make_with_state(Block)(layer, norm, jax.nn.relu, "pre_linear")
      >>> mapped = jax.vmap(block, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
      >>> mapped(jax.numpy.ones((8, 3)), state)[0].shape, block.norm.input_size
      ((8, 4), 3)
    """

    layer: Any
    norm: Any
    norm_1: Any
    activation: Callable[[jax.Array], jax.Array]
    steps: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        layer: Any,
        norm: Callable[..., Any],
        activation: Callable[[jax.Array], jax.Array],
        placement: Placement = "before",
    ):
        self.layer, self.activation, self.steps = layer, activation, order(placement)
        norms: list[Any] = []
        features = _features(layer, "in")
        for step in self.steps:
            if step == "layer":
                features = _features(layer, "out")
            elif step == "norm":
                require(
                    isinstance(features, int),
                    f"the layer of a block is a {type(layer).__name__}, which does not tell its features; give it the "
                    "attributes in_features and out_features, as eqx.nn.Linear has",
                )
                norms.append(norm(features))
        self.norm, self.norm_1, *_ = [*norms, None, None]

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        found, norms = {}, [self.norm, self.norm_1]
        for step in self.steps:
            if step == "layer":
                x = self.layer(x)
            elif step == "norm":
                x, state = norms.pop(0)(x, state)
            else:
                found["activation_input"] = (x,)
                x = self.activation(x)
        if (seen := _seen.get()) is not None:
            seen[id(self)] = found | {"__call__": (x,)}
        return x, state


def _features(layer: Any, side: str) -> Any:
    return getattr(layer, f"{side}_features", getattr(layer, f"{side}_channels", None))


@contextmanager
def seeing() -> Iterator[dict[int, dict[str, Any]]]:
    """A context that collects what blocks see, by the blocks' ids; it must be of one trace with their calls."""
    token = _seen.set(seen := {})
    try:
        yield seen
    finally:
        _seen.reset(token)


class LayerNorm(eqx.nn.LayerNorm):
    """Layer norm over the features, the first axis, at each position of an image, as Flax's."""

    def __call__(self, x: jax.Array, *state: Any, key: Any = None) -> Any:
        y = jax.vmap(super().__call__, 1, 1)(x.reshape(len(x), -1)).reshape(x.shape)
        return (y, *state) if state else y


class NoNorm(eqx.Module):
    """The identity, called as a norm, with a state or without."""

    def __call__(self, x: jax.Array, *state: Any, key: Any = None) -> Any:
        return (x, *state) if state else x


def norm_factory(config: ModelConfig) -> Callable[..., Any]:
    """The norm of a config, called as `norm(features)`; it draws nothing, so that placements share initial weights.

    Raises:
      ConfigError: scale without bias, or the reverse, or a scale that is drawn: Equinox' norms have neither.
    """
    options = norm_options(config)
    scale, bias = options.pop("use_scale", True), options.pop("use_bias", True)
    require(
        scale == bias,
        f"model.norm_scale is {config.norm_scale} and model.norm_bias {config.norm_bias}, but norms of Equinox have "
        "both or neither; set both alike",
    )
    require(
        "scale_init" not in options,
        f"model.scale_init is {config.scale_init!r}, but scales of Equinox begin at 1; leave it out",
    )
    eps: dict[str, Any] = {"eps": options.pop("epsilon")} if "epsilon" in options else {}
    if config.norm in KINDS:
        # Averages as in the other libraries, not debiased.
        made = partial(_EQUINOX[config.norm], axis_name=AXIS, channelwise_affine=scale, debias=False)
        return partial(made, **options, **eps)
    eps = {"eps": 1e-6} | eps  # Flax's
    if config.norm == "layer_norm":
        return partial(LayerNorm, use_weight=scale, use_bias=scale, **eps)
    if config.norm == "group_norm":
        return partial(eqx.nn.GroupNorm, config.groups, channelwise_affine=scale, **eps)
    return lambda features: NoNorm()
