"""Data of the scene "axes": what the first convolution of a trained network makes of four digits."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from explainer.data import Value
from explainer.programs.axes import CHANNELS, GROUPS, IMAGES, norms

STEPS, BATCH, TRAINING = 300, 64, 1400


class Network(nn.Module):
    """Two convolutions and a classifier. Returns the logits, and the first convolution's output."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        first = nn.Conv(CHANNELS, (3, 3))(x)
        x = nn.relu(nn.Conv(16, (3, 3), strides=2)(nn.relu(first)))
        return nn.Dense(10)(x.reshape(len(x), -1)), first


def train(x: jax.Array, y: jax.Array) -> Any:
    """The variables after some steps of Adam."""
    network, adam = Network(), optax.adam(5e-3)
    order = jax.random.permutation(jax.random.key(1), STEPS * BATCH).reshape(STEPS, BATCH) % len(x)

    def loss(variables: Any, chosen: jax.Array) -> jax.Array:
        logits, _ = network.apply(variables, x[chosen])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[chosen]).mean()

    def step(state: Any, chosen: jax.Array) -> tuple[Any, None]:
        variables, moments = state
        updates, moments = adam.update(jax.grad(loss)(variables, chosen), moments)
        return (optax.apply_updates(variables, updates), moments), None

    @jax.jit
    def run(key: jax.Array) -> Any:
        variables = network.init(key, x[:1])
        return jax.lax.scan(step, (variables, adam.init(variables)), order)[0][0]

    return run(jax.random.key(0))


def company(x: jax.Array) -> dict[str, Value]:
    """How far the first image's outputs move when it is alone; and which norms are one."""
    everyone, alone = (jax.jit(norms)(x, jnp.arange(IMAGES)[:, None, None, None] < n) for n in (IMAGES, 1))
    everyone, alone = ({name: normed.y for name, normed in found.items()} for found in (everyone, alone))
    flax = {
        "last_axis": nn.LayerNorm(),
        "all_axes": nn.LayerNorm(reduction_axes=(1, 2, 3), feature_axes=-1, epsilon=1e-5),
    }
    made = {name: layer.apply(layer.init(jax.random.key(0), x), x) for name, layer in flax.items()}

    def apart(a: Any, b: Any) -> float:
        return float(jnp.abs(a - b).max())

    config = f"a convolution's {CHANNELS} channels of {IMAGES} digits"
    moved = {
        "moved_batch": apart(everyone["batch"][0], alone["batch"][0]),
        "moved_others": max(apart(everyone[name][0], alone[name][0]) for name in everyone if name != "batch"),
        "alone_is_instance": apart(alone["batch"][0], alone["instance"][0]),
        "flax_layer": apart(made["all_axes"], everyone["layer"]),
        "flax_default": apart(made["last_axis"], everyone["layer"]),
        "one_group": apart(everyone["group_1"], everyone["layer"]),
        "most_groups": apart(everyone[f"group_{CHANNELS}"], everyone["instance"]),
    }
    return {key: Value(value, "std" if value else "", config=config) for key, value in moved.items()}


def data() -> dict[str, Any]:
    pixels, labels = load_digits(return_X_y=True)
    x = jnp.asarray(np.asarray(pixels).reshape(-1, 8, 8, 1) / 16, jnp.float32)
    y = jnp.asarray(np.asarray(labels))
    variables = train(x[:TRAINING], y[:TRAINING])
    logits, first = jax.jit(Network().apply)(variables, x[TRAINING:])
    right = np.asarray(logits.argmax(-1) == y[TRAINING:])
    wanted = [int(np.flatnonzero(np.asarray(y[TRAINING:]) == digit)[0]) for digit in (0, 3, 5, 7)]
    shown = np.asarray(first)[np.array(wanted)].astype(np.float16)
    return {
        "source": f"Four test digits (scikit-learn) in the first layer of a network, after {STEPS} steps of Adam.",
        "digits": [int(y[TRAINING + place]) for place in wanted],
        "x": shown,
        "groups": GROUPS,
        "accuracy": Value(float(right.mean()), n=1, seed="0", config=f"{len(right)} test digits"),
        **company(jnp.asarray(shown, jnp.float32)),
    }
