"""A network of Equinox' layers, to be converted, and how it is trained and compared."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jbn.equinox

Norm = functools.partial(eqx.nn.BatchNorm, axis_name="batch", momentum=0.9, mode="batch")


class Block(eqx.Module):
    """A residual block, as in He et al. 2015."""

    convs: list[eqx.nn.Conv2d]
    norms: tuple[eqx.nn.BatchNorm, ...]

    def __init__(self, features, *, key):
        keys = jax.random.split(key)
        self.convs = [eqx.nn.Conv2d(features, features, 3, padding=1, use_bias=False, key=k) for k in keys]
        self.norms = (Norm(features), Norm(features, eps=1e-3))

    def __call__(self, x, state):
        y, state = self.norms[0](self.convs[0](x), state)
        y, state = self.norms[1](self.convs[1](jax.nn.relu(y)), state)
        return jax.nn.relu(x + y), state


class Network(eqx.Module):
    """Batch norms in a Sequential, a dictionary, a block, a stack made by filter_vmap, and one that is shared."""

    stem: eqx.nn.Sequential
    block: Block
    named: dict[str, eqx.nn.BatchNorm]
    twice: eqx.nn.Shared
    stack: eqx.nn.BatchNorm
    head: eqx.nn.Linear

    def __init__(self, key, norm=Norm):
        a, b, c = jax.random.split(key, 3)
        self.stem = eqx.nn.Sequential(
            [eqx.nn.Conv2d(3, 4, 3, key=a), norm(4, channelwise_affine=False), eqx.nn.Lambda(jax.nn.relu)]
        )
        self.block = Block(4, key=b)
        self.named = {"norm": Norm(4)}
        pair = (Norm(4),) * 2
        self.twice = eqx.nn.Shared(pair, lambda pair: pair[1], lambda pair: pair[0])
        self.stack = eqx.filter_vmap(lambda _: Norm(4))(jnp.arange(3))
        self.head = eqx.nn.Linear(4, 2, key=c)

    def __call__(self, x, state):
        x, state = self.stem(x, state)
        x, state = self.block(x, state)
        x, state = self.named["norm"](x, state)
        for norm in self.twice():
            x, state = norm(jax.nn.relu(x), state)
        arrays, static = eqx.partition(self.stack, eqx.is_array)
        substate = state.substate(self.stack)

        def one(x, layer):
            return eqx.combine(layer[0], static)(jnp.tanh(x), layer[1])

        x, substate = jax.lax.scan(one, x, (arrays, substate))
        return self.head(x.mean((1, 2))), state.update(substate)


NORMS = ["block/norms/0", "block/norms/1", "named/norm", "stack", "stem/layers/1", "twice/pytree/0"]
IMAGES = 3 + jax.random.normal(jax.random.key(9), (8, 3, 6, 6))


def forward(model, state, x):
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)


@eqx.filter_jit
def step(model, state, x):
    """Loss, gradients, and the new state."""

    def loss(model):
        y, new = forward(model, state, x)
        return ((y - jnp.arange(2)) ** 2).mean(), new

    (value, new), gradients = eqx.filter_value_and_grad(loss, has_aux=True)(model)
    return value, gradients, new


def trained(model, state, steps=3):
    """Losses, first gradients, model and state after some steps of a real optimizer."""
    optimizer = optax.sgd(0.05, momentum=0.9)
    kept, losses, first = optimizer.init(eqx.filter(model, eqx.is_inexact_array)), [], None
    for i in range(steps):
        loss, gradients, state = step(model, state, IMAGES + i)
        updates, kept = optimizer.update(gradients, kept)
        model = eqx.apply_updates(model, updates)
        losses.append(loss)
        first = gradients if first is None else first
    return losses, first, model, state


@functools.cache
def network(seed=0):
    """A network that has been trained a little, so that nothing is as it began."""
    return trained(*eqx.nn.make_with_state(Network)(jax.random.key(seed)), 2)[2:]


def norms(model):
    kinds = (eqx.nn.BatchNorm, jbn.equinox.BatchNorm)
    leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=lambda node: isinstance(node, kinds))
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(path): leaf for path, leaf in leaves if isinstance(leaf, kinds)}


def arrays(tree):
    return [np.asarray(a) for a in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]


def assert_close(a, b, tolerance=1e-5):
    for x, y in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_array_equal(x, y)


def inferred(model, state):
    return eqx.filter_jit(forward)(eqx.nn.inference_mode(model), state, IMAGES + 1)[0]


def reverted(pair):
    """What jbn's layers hold, in Equinox' terms, so that the two can be compared."""
    return jbn.equinox.revert(*pair)
