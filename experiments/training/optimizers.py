"""Makes the optimizer of a config, with learning rate and weight decay as arrays.

Trainings that differ only in these can so be lanes of one program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from experiments.config import OptimizerConfig
from jbn.optim import decay_mask, norm_labels, norm_mask, only_norm

Number = Float[Array, ""] | float


class Tuned(NamedTuple):
    """The tuned values."""

    learning_rate: Number
    weight_decay: Number
    decay_scale_bias: Bool[Array, ""] | bool


def optimizer(config: OptimizerConfig, tuned: Tuned, steps: int, *called: Any) -> optax.GradientTransformation:
    """The optimizer of a config; `tuned` may be traced.

    Args:
      config: the optimizer's config, without learning rate and weight decay.
      tuned: learning rate before the schedule, weight decay, and whether it acts on scale and bias of the norms.
      steps: number of steps of the whole training, which the schedule spans.
      *called: the network and its input, whose modules tell which parameters belong to norms; without them, names do.
    """
    shape = schedule(config, steps)
    decay = _decay(tuned, *called)
    rate = optax.scale_by_schedule(lambda step: -tuned.learning_rate * shape(step))
    if config.name == "sgd":
        momentum = optax.trace(config.momentum, nesterov=config.nesterov) if config.momentum else optax.identity()
        parts = (decay, momentum, rate)
    elif config.name == "adam":
        parts = (decay, optax.scale_by_adam(b1=config.momentum), rate)
    else:
        parts = (optax.scale_by_adam(b1=config.momentum), decay, rate)
    if config.norm_bias_rate != 1:
        parts += (_faster_norm_biases(config.norm_bias_rate, *called),)
    tx = optax.chain(*parts)
    return only_norm(tx, lambda params: norm_mask(params, *called)) if config.trains == "norm" else tx


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate at each step, as a multiple of the tuned one."""
    peak = max(1, round(config.warmup * steps))
    match config.schedule:
        case "constant":
            return optax.constant_schedule(1.0)
        case "cosine":
            return optax.cosine_decay_schedule(1.0, steps)
        case "step":
            return optax.piecewise_constant_schedule(1.0, {round(m * steps): 0.1 for m in config.milestones})
        case "triangle":
            ramps = [optax.linear_schedule(0.0, 1.0, peak), optax.linear_schedule(1.0, 0.0, max(1, steps - peak))]
            return optax.join_schedules(ramps, [peak])
        case "onecycle":
            return optax.cosine_onecycle_schedule(steps, 1.0, config.warmup, div_factor=25.0, final_div_factor=4e3)
        case "exponential":
            return lambda step: config.growth ** (step / steps)


def _decay(tuned: Tuned, *called: Any) -> optax.GradientTransformation:
    """Adds weight decay to kernels, and to scale and bias of norms if `tuned.decay_scale_bias`."""

    def add(updates: PyTree, params: PyTree | None) -> PyTree:
        kernels, all_that_may = decay_mask(params), decay_mask(params, *called, norms=True)

        def one(update: Array, value: Array, kernel: bool, may: bool) -> Array:
            if not may:
                return update
            share = 1.0 if kernel else jnp.where(tuned.decay_scale_bias, 1.0, 0.0)
            return update + tuned.weight_decay * share * value

        return jax.tree.map(one, updates, params, kernels, all_that_may)

    return optax.stateless(add)


def _faster_norm_biases(factor: float, *called: Any) -> optax.GradientTransformation:
    def scale(updates: PyTree, params: PyTree | None) -> PyTree:
        def one(path: tuple, update: Array, label: str) -> Array:
            is_bias = label == "norm" and getattr(path[-1], "key", None) == "bias"
            return update * factor if is_bias else update

        return jax.tree_util.tree_map_with_path(one, updates, norm_labels(params, *called))

    return optax.stateless(scale)
