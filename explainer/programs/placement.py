"""Scene "placement": the norm before or after the activation, in two networks that start with the same weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jbn
from explainer.programs import Program
from explainer.programs._digits import ACTIVATIONS, BATCH, Digits, State, applied, init, train_step
from jbn.placement import order

TESTED = 450


def kernels(params: Any) -> Any:
    """The weights of the dense layers, which both placements have, without biases and the norms' scales."""
    return {"head": params["head"]["kernel"]} | {
        name: block["layer"]["kernel"] for name, block in params.items() if name != "head"
    }


def begin(network: Digits, weights: jax.Array) -> State:
    """The state before the first step: the layers' weights as given, in one row; biases 0, scales 1."""
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(partial(init, network), 0))
    given = ravel_pytree(kernels(state.params))[1](weights)
    params = {"head": state.params["head"] | {"kernel": given["head"]}}
    stats = {}
    for name in sorted(given.keys() - {"head"}):
        block, running = state.params[name], state.batch_stats[name]["norm"]
        norm = block["norm"] | {"scale": block["norm"]["scale"] + 1}
        params[name] = {"layer": block["layer"] | {"kernel": given[name]}, "norm": norm}
        stats[name] = {"norm": running | {"var": running["var"] + 1}}
    return State(params, stats)


def boxes(network: Digits, state: State, images: jax.Array) -> dict[str, Any]:
    """What leaves each step of the first block, for a batch in training mode; of all features together mean and std."""
    collections = ["intermediates", "batch_stats"]
    _, found = applied(network, state._asdict(), images, train=True, capture_intermediates=True, mutable=collections)
    block = found["intermediates"]["block_0"]
    left = {
        "layer": block["layer"]["__call__"][0],
        "norm": block["norm"]["__call__"][0],
        "activation": ACTIVATIONS[network.activation](block["activation_input"][0]),
    }
    return {step: {"values": values, "mean_and_std": mean_and_std(values)} for step, values in left.items()}


def mean_and_std(values: jax.Array) -> jax.Array:
    m = jbn.moments(values.reshape(-1, 1))
    return jnp.concatenate([m.mean, jnp.sqrt(m.var)])


def wrong(network: Digits, state: State, images: jax.Array, labels: jax.Array) -> jax.Array:
    """How many digits the network reads wrongly, in inference mode."""
    logits = applied(network, state._asdict(), images, train=False)
    return (logits.argmax(-1) != labels).sum()


def _programs() -> dict[str, Program]:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 17, (TESTED, 64)).astype(np.float32)
    labels = draw.integers(0, 10, TESTED).astype(np.int32)
    batch = {"images": images[:BATCH], "labels": labels[:BATCH], "learning_rate": np.float32(0.1)}
    found = {}
    for placement in ("before", "after"):
        network = Digits(placement)
        assert set(order(placement)) == {"layer", "norm", "activation"}
        state = init(network, 0)
        weights = ravel_pytree(kernels(state.params))[0]
        found |= {
            f"begin_{placement}": Program(partial(begin, network), {"weights": weights}),
            f"train_{placement}": Program(partial(train_step, network), {"state": state} | batch),
            f"boxes_{placement}": Program(partial(boxes, network), {"state": state, "images": images[:BATCH]}),
            f"wrong_{placement}": Program(
                partial(wrong, network), {"state": state, "images": images, "labels": labels}
            ),
        }
    return found


PROGRAMS = _programs()
