"""Gradient accumulation by optax.MultiSteps: one window of micro-batches, one step of weights and of statistics."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import linen as nn
from flax import nnx
from helpers import batch

import jbn
import jbn.linen
import jbn.nnx

K, WINDOWS, MOMENTUM = 3, 4, 0.75
OPTIONS = {"accumulate_steps": K, "skip_nonfinite": True, "momentum": MOMENTUM}
TX = optax.MultiSteps(optax.sgd(0.05), K, should_skip_update_fn=optax.skip_not_finite)


@functools.cache
def linen_model():
    """Parameters, statistics and `loss(params, stats, x, y) -> (loss, statistics)` of a model with two norms."""
    norm = functools.partial(jbn.linen.BatchNorm, use_running_average=False, **OPTIONS)
    model = nn.Sequential([norm(), nn.Dense(3), norm(), nn.Dense(1)])
    variables = model.init(jax.random.key(0), jnp.ones((2, 3)))

    def loss(params, stats, x, y):
        out, updates = model.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
        return jnp.mean((out[:, 0] - y) ** 2), updates["batch_stats"]

    return variables["params"], variables["batch_stats"], loss


@functools.cache
def nnx_model():
    rngs = nnx.Rngs(0)
    norm = functools.partial(jbn.nnx.BatchNorm, 3, rngs=rngs, **OPTIONS)
    model = nnx.Sequential(norm(), nnx.Linear(3, 3, rngs=rngs), norm(), nnx.Linear(3, 1, rngs=rngs))
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)

    def loss(params, stats, x, y):
        model = nnx.merge(graph, params, stats)
        out = model(x)
        return jnp.mean((out[:, 0] - y) ** 2), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats), loss


@functools.cache
def domain_model():
    """One norm with two domains, with functions instead of modules."""

    def loss(params, stats, x, y):
        x, domain = x
        h, new, _ = jbn.domain_batch_norm(x, params["scale"], None, stats, domain, train=True, **OPTIONS)
        return jnp.mean((h @ params["kernel"] - y) ** 2), new

    return {"scale": jnp.ones(3), "kernel": jnp.ones(3)}, jbn.init_domain_stats(2, 3, **OPTIONS), loss


@functools.partial(jax.jit, static_argnames=("loss", "take_back"))
def step(params, stats, state, x, y, *, loss, take_back):
    (_, new), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, x, y)
    updates, state = TX.update(grads, state, params)
    if take_back:
        skipped = state.skip_state["should_skip"]
        new = jax.tree.map(lambda old, new: jnp.where(skipped, old, new), stats, new)
    return optax.apply_updates(params, updates), new, state


def train(params, stats, loss, xs, ys, take_back=False):
    """Parameters and statistics before the first micro-step and after each, and whether optax counts each."""
    states, state, counts = [(params, stats)], TX.init(params), []
    for x, y in zip(xs, ys, strict=True):
        params, stats, state = step(params, stats, state, x, y, loss=loss, take_back=take_back)
        states.append((params, stats))
        counts.append(not state.skip_state["should_skip"])
    return states, counts


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def running(stats):
    """Running means and variances, layer by layer."""
    found = [leaf for path, leaf in jax.tree.leaves_with_path(stats) if str(path[-1].key) in ("mean", "var")]
    return [np.asarray(a, np.float64) for a in found]


def assert_in_step(states):
    """In every layer, the statistics change exactly when the weights do."""
    moved = [not same(old[0], new[0]) for old, new in itertools.pairwise(states)]
    assert sum(moved) == WINDOWS
    for moves, (old, new) in zip(moved, itertools.pairwise(states), strict=True):
        for before, after in zip(running(old[1]), running(new[1]), strict=True):
            assert np.array_equal(before, after) != moves


def windows(counts, bad):
    """The finite micro-batches of each window; a window consists of K micro-batches that optax counts."""
    counted = [i for i, c in enumerate(counts) if c]
    return [[i for i in counted[j : j + K] if i not in bad] for j in range(0, K * WINDOWS, K)]


def follow(mean, var, x):
    new_mean, new_var, _ = reference.moments(x)
    return MOMENTUM * mean + (1 - MOMENTUM) * new_mean, MOMENTUM * var + (1 - MOMENTUM) * new_var


def stream(bad, junk):
    """Micro-batches for `WINDOWS` windows: clean ones, the same with `junk` in those of `bad`, and targets."""
    n = K * WINDOWS + len(bad)
    clean = [batch((5, 3), mean=3.0 + i, seed=i) for i in range(n)]
    return (
        clean,
        [x.at[1, 1].set(junk) if i in bad else x for i, x in enumerate(clean)],
        [jnp.sin(x[:, 0]) for x in clean],
    )


# 1e20 overflows only in the variance: the gradients are finite, and optax counts the micro-batch.
@pytest.mark.parametrize("make", [linen_model, nnx_model])
@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e20], ids=str)
@pytest.mark.parametrize("bad", [(), (0,), (1,), (2,), (3,), (5,), (0, 1), (1, 5, 9), (2, 3, 11)], ids=str)
def test_statistics_stay_in_step_with_the_weights(make, junk, bad):
    clean, xs, ys = stream(bad, junk)
    if junk == 1e20:
        xs, ys = xs[: K * WINDOWS], ys[: K * WINDOWS]
    states, counts = train(*make(), xs, ys)
    assert counts == [junk == 1e20 or i not in bad for i in range(len(xs))]
    assert_in_step(states)
    mean, var = np.zeros(3), np.ones(3)
    for window in windows(counts, bad):
        mean, var = follow(mean, var, np.concatenate([clean[i] for i in window]))
    first = running(states[-1][1])[:2]
    np.testing.assert_allclose(first[0], mean, rtol=3e-6, atol=1e-6)
    np.testing.assert_allclose(first[1], var, rtol=3e-6)


@pytest.mark.parametrize("make", [linen_model, nnx_model])
@pytest.mark.parametrize("bad", [(0,), (1,), (2,), (1, 5, 9)], ids=str)
def test_what_comes_after_the_layer_and_is_not_finite_is_taken_back(make, bad):
    clean, _, ys = stream(bad, np.nan)
    ys = [y.at[0].set(jnp.nan) if i in bad else y for i, y in enumerate(ys)]
    assert_in_step(train(*make(), clean, ys, take_back=True)[0])


@pytest.mark.parametrize("bad", [(), (0,), (1,), (2,), (1, 5, 9)], ids=str)
@pytest.mark.parametrize("each", [False, True], ids=["a domain a batch", "a domain an example"])
def test_the_windows_of_all_domains_are_those_of_the_weights(bad, each):
    clean, xs, ys = stream(bad, np.nan)
    domains = [np.arange(5) % 2 if each else np.asarray(i * i % 5 % 2) for i in range(len(xs))]
    states, counts = train(*domain_model(), list(zip(xs, domains, strict=True)), ys)
    mean, var = np.zeros((2, 3)), np.ones((2, 3))
    for window in windows(counts, bad):
        x = np.concatenate([clean[i] for i in window])
        domain = np.concatenate([np.broadcast_to(domains[i], 5) for i in window])
        for d in set(domain):
            mean[d], var[d] = follow(mean[d], var[d], x[domain == d])
    moved = [not same(old[0], new[0]) for old, new in itertools.pairwise(states)]
    assert moved == [not np.array_equal(old[1].mean, new[1].mean) for old, new in itertools.pairwise(states)]
    assert sum(moved) == WINDOWS
    np.testing.assert_allclose(states[-1][1].mean, mean, rtol=3e-6, atol=2e-6)
    np.testing.assert_allclose(states[-1][1].var, var, rtol=3e-6)
    np.testing.assert_array_equal(states[-1][1].skipped, [len(bad)] * 2)
