"""Describes each arm by its jaxprs before anything is trained: size, hash of the computation, whether it can run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Arm, Config, ConfigError, Setup
from experiments.config.errors import raised, require
from experiments.data.arrays import Data, Source, Split, batch_order, batches
from experiments.networks import multiply_adds, parameter_count
from experiments.networks.build import build, without_virtual_batches
from experiments.store.environment import version
from experiments.training.devices import memory
from experiments.training.observe import LANCZOS_STEPS, layer_names
from experiments.training.optimizers import Tuned
from experiments.training.scope import scoped
from experiments.training.step import evaluate, init, train_step

TRACERS = ("jbn", "jax", "flax", "optax")
NOT_COMPUTED = re.compile(r"0x[0-9a-f]+|\x1b\[[0-9;]*m")
"""What a printed jaxpr says besides the computation."""


def describe(config: Config, data: Source, spread: bool = False) -> dict[str, Any]:
    """The content of arms.json: parameters, multiply-adds and a hash of the computation for every arm.

    Args:
      spread: whether each training is spread over all devices of all processes.

    Raises:
      ConfigError: a batch is larger than the data, or a network cannot be built, gives no logits or does not fit into
        memory.
    """
    traced_by = {package: version(package) for package in TRACERS}
    found = {}
    for arm in config.arms:
        model = config.setup(arm).model
        dimensions = data.of(config.seeds(arm)[0]).train.x.ndim
        require(
            model.network == "mlp" or model.own or dimensions == 4,
            f"arm {arm}: {model.network} takes images, but {config.data.name} has vectors; set model.network='mlp', "
            "or a set of images as data.name, such as 'mnist'",
        )
        require(
            not config.setup(arm).augmentation.on or dimensions == 4,
            f"arm {arm}: augmentation changes images, but {config.data.name} has vectors; leave it out, or set a set "
            "of images as data.name, such as 'mnist'",
        )
        _refuse_missing_norms(config, arm)
        try:
            found[str(arm)] = _describe(config, arm, data, spread) | {"traced_by": traced_by}
        except ConfigError as error:
            raise ConfigError(f"arm {arm} on {config.data.name}: {error}") from None
        except Exception as error:  # the user's network may raise anything
            own = model.own or not isinstance(error, ValueError | TypeError)
            reason = raised(error) if own else next(filter(str.strip, str(error).splitlines()), type(error).__name__)
            raise ConfigError(f"arm {arm} on {config.data.name}: {reason}") from None
    return found


def _refuse_missing_norms(config: Config, arm: Arm) -> None:
    """Refuses settings of the optimizer for norms, if the arm has none; of a user's network nobody knows beforehand."""
    setup = config.setup(arm)
    model, optimizer = setup.model, setup.optimizer
    placed = model.placement != "none" or model.unit is not None or model.final_norm
    for field, off in (("trains", "all"), ("norm_bias_rate", 1.0)):
        value = getattr(optimizer, field)
        require(
            model.own or (placed and model.norm != "none") or value == off,
            f"arm {arm}: optimizer.{field} is {value!r}, but this arm has no norm; leave the arm out, or "
            f"optimizer.{field}",
        )


def _describe(config: Config, arm: Arm, data: Source, spread: bool) -> dict[str, Any]:
    setup, seeds = scoped(config.setup(arm), spread), config.seeds(arm)
    first = data.of(seeds[0])
    shape = first.train.x.shape[1:]
    steps = setup.steps_per_epoch(len(first.train.y)) * setup.training.epochs
    require(
        steps < 2**31,
        f"training.epochs is {setup.training.epochs}, which are {steps:,} steps; use fewer, for at most "
        f"{2**31 - 1:,} steps",
    )
    # Raises if a part of the data, or a batch of few classes, is impossible.
    few = setup.training.classes_per_batch is not None or config.data.train_examples is not None
    for seed in seeds if data.each_seed and few else seeds[:1]:
        batch_order(setup.training, np.asarray(data.of(seed).train.y), seed, 0)
    for field in ("pad_crop", "translate", "cutout"):
        pixels = getattr(setup.augmentation, field)
        require(pixels <= max(shape), f"augmentation.{field} is {pixels} pixels, but images have {shape}; use fewer")
    network = build(without_virtual_batches(setup.model), data.classes, train=True)
    if setup.model.own:
        _refuse_other_logits(setup, network, shape, data.classes)
    parameters = parameter_count(network, shape)
    require(
        setup.probes.eigenvalues <= parameters,
        f"probes.eigenvalues is {setup.probes.eigenvalues}, but the network has {parameters:,} parameters, and its "
        "Hessian no more eigenvalues; use fewer",
    )
    _refuse_large(setup, parameters)
    return {
        "parameters": parameters,
        "multiply_adds": multiply_adds(network, shape),
        "program": _fingerprint(setup, first, data.classes),
    }


def _refuse_other_logits(setup: Setup, network: Any, shape: tuple[int, ...], classes: int) -> None:
    """Refuses a user's network that does not return one logit per example and class."""
    batch, name = setup.training.batch_size, setup.model.network
    x = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    logits = jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x)[0], x)
    found = getattr(logits, "shape", None)
    what = f"a {type(logits).__name__}" if found is None else f"an array of shape {found}"
    flatten = "; flatten images [batch, height, width, channels] before a Dense layer, with x.reshape(len(x), -1)"
    require(
        found == (batch, classes),
        f"{name} returns {what} for a batch of shape {x.shape}; expected logits of shape {(batch, classes)}, "
        f"[batch, classes]{flatten if len(shape) == 3 else ''}",
    )
    require(
        jnp.issubdtype(logits.dtype, jnp.floating),
        f"{name} returns logits of dtype {logits.dtype}; expected a floating dtype, such as float32: return them "
        "without softmax, argmax or rounding",
    )


def _refuse_large(setup: Setup, parameters: int) -> None:
    """Refuses a network if not even its parameters, gradients and optimizer state fit into memory."""
    moments = 1 if setup.optimizer.name == "sgd" else 2
    needed = 4 * parameters * (2 + moments)  # the 2 stands for parameters and gradients
    if setup.probes.eigenvalues:
        needed += 4 * parameters * max(LANCZOS_STEPS, 2 * setup.probes.eigenvalues)
    there = memory()
    require(
        there is None or needed <= there,
        f"the network has {parameters:,} parameters; to train and probe it takes {needed / 1e9:,.3g} GB at least, but "
        f"there are {(there or 0) / 1e9:,.3g} GB; choose a smaller model.hidden, model.width or probes.eigenvalues",
    )


def _fingerprint(setup: Setup, data: Data, classes: int) -> str:
    """SHA-256 of the printed jaxprs and of their constants, which are not printed.

    Addresses in memory are left out, and so are the colours in which jax prints jaxprs to a terminal: a run that began
    in a terminal can go on in a batch job.
    """
    begin = partial(init, setup, classes)
    started, state = jax.make_jaxpr(begin, return_shape=True)(jnp.int32(0), data.train.x)
    layer_names(setup, classes, state, Split(*data.train))
    indices = jax.ShapeDtypeStruct((setup.training.batch_size,), jnp.int32)
    step = partial(train_step, setup, classes, 1)
    stepped = jax.make_jaxpr(step)(state, Tuned(0.0, 0.0, False), indices, data.train)
    test = jax.eval_shape(partial(batches, size=len(data.test.y)), data.test)
    evaluated = jax.make_jaxpr(partial(evaluate, setup, classes))(state, test)
    found = hashlib.sha256()
    for traced in (started, stepped, evaluated):
        found.update(NOT_COMPUTED.sub("", str(traced)).encode())
        for constant in _walked(traced):
            found.update(np.asarray(constant).tobytes())
    return found.hexdigest()


def _walked(traced: Any) -> Iterator[Any]:
    """The constants of a jaxpr and of its sub-jaxprs; raises the error that jbn would raise at compilation."""
    yield from getattr(traced, "consts", ())
    for equation in traced.eqns:
        if equation.primitive.name == "jbn_refused":
            raise ValueError(equation.params["message"])
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(inner, "eqns"):
                yield from _walked(inner)
