"""Does batch norm help because it stops inputs from moving? Noise after each norm makes them move: does it still help?

After Santurkar et al. 2018, "How Does Batch Normalization Help Optimization?" (https://arxiv.org/abs/1805.11604): the
noise has a mean that is not 0 and a standard deviation that is not 1, for each unit its own, and new in each step.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

import jbn.linen
from explainer.data._training import digits, runs, tested
from explainer.programs._digits import Digits, State, applied, init

SIZES = (0.5, 1.0, 2.0, 4.0)
STEPS, RATES = 200, tuple(2.0**k for k in range(-5, 2))
SEEDS, CHOOSING = range(20), range(20, 25)
RULE = """\
Declared before the measurement. The arms: no norm, batch norm before the ReLU, and the latter with noise of each size
after its norms. Each arm trains for 200 steps at that of seven learning rates at which five other seeds get most test
digits right; then twenty seeds are compared, pair by pair, by 95% t-intervals. At a size of noise, (1) the inputs move
more than without a norm if the interval of the log ratio of their movements a step is above 0, and (2) batch norm still
helps if the interval of the difference in test accuracy to no norm is above 0. Of the sizes at which (1) holds, the
claim that batch norm helps without stopping the shift is supported if (2) holds at all of them, supported in part if at
some, and not supported if at none."""


class Interval(NamedTuple):
    """A mean and its 95% t-interval."""

    low: float
    mean: float
    high: float


def interval(of: np.ndarray) -> Interval:
    half = scipy.stats.t.ppf(0.975, len(of) - 1) * of.std(ddof=1) / np.sqrt(len(of))
    return Interval(float(of.mean() - half), float(of.mean()), float(of.mean() + half))


def verdict(moves_more: list[Interval], still_helps: list[Interval]) -> str:
    """What `RULE` says, for one interval of each kind and size of noise."""
    helped = [helps.low > 0 for moves, helps in zip(moves_more, still_helps, strict=True) if moves.low > 0]
    if not any(helped):
        return "not supported"
    return "supported" if all(helped) else "supported in part"


class NoisyBatchNorm(jbn.linen.BatchNorm):
    """Batch norm whose output, in training mode, is stretched and moved at random, in each step anew.

    Attributes:
      size: of the noise. In a step, a unit's mean is drawn from ±size / 2, its standard deviation from 1 to
        1 + size / 4; each example's own are within size / 10 of these.
    """

    size: Any = 0.0

    def __call__(self, x: jax.Array) -> jax.Array:
        y = super().__call__(x)
        if self.use_running_average:
            return y
        mean_key, std_key, shift_key, stretch_key = jax.random.split(self.make_rng("noise"), 4)
        unit = y.shape[-1:]
        mean = self.size / 2 * jax.random.uniform(mean_key, unit, minval=-1.0)
        std = 1 + self.size / 4 * jax.random.uniform(std_key, unit)
        shift = mean + self.size / 10 * jax.random.uniform(shift_key, y.shape, minval=-1.0)
        stretch = std + self.size / 10 * jax.random.uniform(stretch_key, y.shape, minval=-1.0)
        return stretch * y + shift


class Noisy(NamedTuple):
    """A `State`, the key of the noise to come, and the last means and how far they have moved in all."""

    params: Any
    batch_stats: Any
    key: jax.Array
    means: jax.Array
    moved: jax.Array


def start(network: Digits, seed: jax.Array) -> Noisy:
    first, blocks = init(network, seed), (len(network.hidden), network.hidden[0])
    key = jax.random.fold_in(jax.random.key(seed, impl="rbg"), 2)  # fast, for there is much noise
    return Noisy(first.params, first.batch_stats, key, jnp.full(blocks, jnp.nan), jnp.zeros(()))


def step(
    network: Digits, state: Noisy, images: jax.Array, labels: jax.Array, setting: dict[str, Any]
) -> dict[str, Any]:
    """One step of gradient descent with noise and, if `look`, how far what goes into the ReLUs has moved."""
    norm = partial(NoisyBatchNorm, size=setting["size"])
    noisy = network if network.placement == "none" else network.clone(norm=norm)
    key, now = jax.random.split(state.key)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = applied(noisy, variables, images, train=True, mutable=["batch_stats"], rngs={"noise": now})
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updates.get("batch_stats", {})

    (value, batch_stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    params = jax.tree.map(lambda leaf, g: leaf - setting["learning_rate"] * g, state.params, gradient)
    look = partial(_inputs, noisy, State(params, batch_stats), now)
    means, stds = jax.lax.cond(setting["look"] > 0, look, lambda: (state.means, jnp.ones_like(state.means)))
    away = jnp.abs(means - state.means) / stds
    moved = state.moved + jnp.where(jnp.isfinite(state.means), away, 0.0).mean()
    return {"state": Noisy(params, batch_stats, key, means, moved), "loss": value}


def _inputs(network: Digits, state: State, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of what goes into each unit's ReLU, over 128 test digits, `[blocks, units]`."""
    images = jnp.asarray(digits()[1].images[:128], jnp.float32)
    collections = ["batch_stats", "intermediates"]
    _, found = applied(network, state._asdict(), images, train=True, mutable=collections, rngs={"noise": key})
    blocks: Any = found["intermediates"]
    z = jnp.stack([blocks[f"block_{k}"]["activation_input"][0] for k in range(len(network.hidden))])
    return z.mean(1), jnp.maximum(z.std(1), 1e-3)


def measured(steps: int = STEPS, rates: tuple[float, ...] = RATES) -> dict[str, Any]:
    """Each arm at its own learning rate: test accuracy in percent and movement a step, `[seeds]`, and the verdict."""
    found: dict[str, list[Any]] = {"rate": [], "accuracy": [], "moved": []}
    for network, sizes in ((Digits("none"), [0.0]), (Digits("before"), [0.0, *SIZES])):
        every = [(rate, size) for size in sizes for rate in rates]
        chosen = (
            _trained(network, every, CHOOSING, steps, look=False)[0].mean(1).reshape(len(sizes), len(rates)).argmax(1)
        )
        settings = [(rates[best], size) for best, size in zip(chosen, sizes, strict=True)]
        accuracy, moved = _trained(network, settings, SEEDS, steps, look=True)
        found["rate"] += [rate for rate, _ in settings]
        found["accuracy"] += list(accuracy)
        found["moved"] += list(moved)
    accuracy, moved = np.stack(found["accuracy"]), np.stack(found["moved"])
    more = [interval(np.log(of / moved[0])) for of in moved[2:]]
    helps = [interval(of - accuracy[0]) for of in accuracy[2:]]
    return {**found, "moves_more": more, "still_helps": helps, "verdict": verdict(more, helps)}


def _trained(network: Digits, of: list[Any], seeds: range, steps: int, look: bool) -> tuple[np.ndarray, np.ndarray]:
    """Test accuracy and, with `look`, the movement a step, `[settings, seeds]`, for pairs of learning rate and size."""
    rates, sizes = np.array(of, np.float32).T
    settings = {"learning_rate": rates, "size": sizes, "look": np.full(len(of), look, np.float32)}
    run = runs(network, seeds, settings, steps, step=step, start=start)
    state = State(run.state.params, run.state.batch_stats)
    return 100 * np.asarray(tested(network, state)["accuracy"]), np.asarray(run.state.moved) / (steps - 1)
