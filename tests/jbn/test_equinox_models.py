"""Models with jbn.equinox layers under Equinox' tools: filter_jit, filter_vmap, inference_mode, checkpoints."""

import io

import equinox as eqx
import jax
import numpy as np
import optax
from helpers import batch

import jbn.equinox

C, N = 3, 10


def stats(layer, state):
    return state.get(layer.state_index)


def copied(state):
    return jax.tree.map(lambda leaf: leaf, state)


class Model(eqx.Module):
    """As Equinox' documentation writes models with state."""

    first: eqx.nn.Linear
    norm: eqx.Module
    drop: eqx.nn.Dropout
    rest: eqx.nn.Sequential

    def __init__(self, key, **options):
        a, b = jax.random.split(key)
        self.first = eqx.nn.Linear(4, C, key=a)
        self.norm = jbn.equinox.BatchNorm(C, "batch", **options)
        self.drop = eqx.nn.Dropout(0.5, inference=True)
        norm = jbn.equinox.BatchNorm(C, "batch", channelwise_affine=False, **options)
        self.rest = eqx.nn.Sequential([norm, eqx.nn.Lambda(jax.nn.relu), eqx.nn.Linear(C, 2, key=b)])

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        return self.rest(self.drop(jax.nn.tanh(x)), state)


MAKE = eqx.nn.make_with_state(Model)
INPUTS = 2 + batch((N, 4), mean=1.0)


def step(model, state, x):
    """Loss, gradients and the new state."""

    def loss(model):
        y, new = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)
        return ((y - 1) ** 2).mean(), new

    (value, new), gradients = eqx.filter_value_and_grad(loss, has_aux=True)(model)
    return value, gradients, new


def trained(model, state, steps=3, **options):
    optimizer = optax.sgd(0.05)
    kept = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    run = eqx.filter_jit(step, **options)
    for i in range(steps):
        _, gradients, state = run(model, state, INPUTS + i)
        updates, kept = optimizer.update(gradients, kept)
        model = eqx.apply_updates(model, updates)
    return model, state


def numbers(*trees):
    return [np.asarray(a) for a in jax.tree.leaves(eqx.filter(trees, eqx.is_array))]


def test_a_model_trains_under_filter_jit_as_it_does_step_by_step():
    (model, state), traced = MAKE(jax.random.key(0)), []
    with jax.disable_jit():
        slow = step(model, copied(state), INPUTS)

    @eqx.filter_jit
    def counted(*args):
        traced.append(0)
        return step(*args)

    fast = counted(model, copied(state), INPUTS)
    counted(model, fast[2], INPUTS)
    assert len(traced) == 1, "the state keeps its structure from step to step"
    for a, b in zip(numbers(*fast), numbers(*slow), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert np.abs(numbers(fast[1].norm.weight)).max() > 1e-3


def test_an_ensemble_under_filter_vmap_is_its_members():
    keys = jax.random.split(jax.random.key(0), 3)
    models, states = eqx.filter_vmap(MAKE)(keys)
    assert models.norm.weight.shape == (3, C) and stats(models.norm, states).mean.shape == (3, C)
    values, gradients, new = eqx.filter_jit(eqx.filter_vmap(step, in_axes=(eqx.if_array(0), eqx.if_array(0), None)))(
        models, states, INPUTS
    )
    for i, key in enumerate(keys):
        want = numbers(*step(*MAKE(key), INPUTS))
        got = [a[i] for a in numbers(values, gradients, new)]
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_inference_mode_reaches_every_layer_and_leaves_the_state_alone():
    model, state = trained(*MAKE(jax.random.key(0)))
    fixed = eqx.nn.inference_mode(model)
    assert fixed.norm.inference and fixed.rest[0].inference and not model.norm.inference
    run = eqx.filter_jit(lambda x: jax.vmap(fixed, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state))
    y, new = run(INPUTS)
    for a, b in zip(numbers(new), numbers(state), strict=True):
        np.testing.assert_array_equal(a, b)
    one, _ = run(INPUTS[:1])
    np.testing.assert_allclose(one, y[:1], rtol=1e-6, atol=1e-6)
    assert eqx.nn.inference_mode(fixed, value=False).norm.inference is False


def test_a_checkpoint_brings_model_and_state_back():
    model, state = trained(*MAKE(jax.random.key(0), skip_nonfinite=True))
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, (model, state))
    file.seek(0)
    again = eqx.tree_deserialise_leaves(file, MAKE(jax.random.key(1), skip_nonfinite=True))
    for a, b in zip(numbers(again), numbers((model, state)), strict=True):
        np.testing.assert_array_equal(a, b)
    results = [numbers(*trained(*pair)) for pair in (again, (model, state))]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    like = eqx.filter_eval_shape(MAKE, jax.random.key(1), skip_nonfinite=True)
    file.seek(0)
    assert stats(like[0].norm, eqx.tree_deserialise_leaves(file, like)[1]).weight.shape == (C,)
