"""jbn.optim: the parameters of normalization layers, found in any Flax tree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jbn.linen
import jbn.nnx
from jbn import optim

X = jnp.asarray(np.random.default_rng(0).normal(1, 2, (8, 6, 6, 4)), jnp.float32)


class Net(nn.Module):
    """Every normalization layer of linen, with and without scale and bias, at several depths."""

    @nn.compact
    def __call__(self, x):
        class Inner(nn.Module):
            @nn.compact
            def __call__(self, x):
                return jbn.linen.BatchNorm(use_running_average=False, name="deep")(nn.Conv(4, (3, 3), name="conv")(x))

        x = Inner(name="inner")(x)
        x = jbn.linen.BatchNorm(use_running_average=False, use_scale=False, name="no_scale")(x)
        x = nn.BatchNorm(use_running_average=False, use_bias=False, name="no_bias")(x)
        x = nn.LayerNorm(name="layer")(nn.GroupNorm(2, name="group")(x))
        x = nn.RMSNorm(name="rms")(x)
        return nn.Dense(3, name="dense")(x.reshape(len(x), -1))


NORMS = {"inner/deep", "no_scale", "no_bias", "group", "layer", "rms"}


def flat(tree):
    return {"/".join(str(k.key) for k in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def params():
    return Net().init(jax.random.key(0), X)["params"]


def test_the_mask_finds_each_norm_and_nothing_else():
    mask = flat(optim.norm_mask(params()))
    assert {name.rpartition("/")[0] for name, norm in mask.items() if norm} == NORMS
    assert {name for name, norm in mask.items() if not norm} == {
        "inner/conv/kernel", "inner/conv/bias", "dense/kernel", "dense/bias"
    }  # fmt: skip


def test_weight_decay_shrinks_kernels_alone():
    start = params()
    opt = optax.adamw(0.1, weight_decay=0.5, mask=optim.decay_mask)
    updates, _ = opt.update(jax.tree.map(jnp.zeros_like, start), opt.init(start), start)
    for name, update in flat(updates).items():
        expected = -0.05 * flat(start)[name] if name.endswith("kernel") else np.zeros(update.shape)
        np.testing.assert_allclose(update, expected, rtol=1e-5)


def test_each_label_has_a_learning_rate_of_its_own():
    start = params()
    opt = optax.multi_transform({"norm": optax.sgd(0.01), "rest": optax.sgd(0.1)}, optim.norm_labels)
    updates, _ = opt.update(jax.tree.map(jnp.ones_like, start), opt.init(start), start)
    for name, update in flat(updates).items():
        np.testing.assert_allclose(update, -0.01 if name.rpartition("/")[0] in NORMS else -0.1, rtol=1e-6)


def test_only_the_norms_are_trained():
    variables = Net().init(jax.random.key(0), X)
    opt = optim.only_norm(optax.adam(0.1))
    trained, state = variables["params"], opt.init(variables["params"])
    moments = sum(a.size for a in jax.tree.leaves(state))
    assert moments < sum(a.size for a in jax.tree.leaves(trained)) / 2

    def loss(p):
        y, _ = Net().apply(variables | {"params": p}, X, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y))

    for _ in range(2):
        updates, state = opt.update(jax.grad(loss)(trained), state, trained)
        trained = optax.apply_updates(trained, updates)
    start = flat(variables["params"])
    for name, value in flat(trained).items():
        assert bool((value != start[name]).any()) == (name.rpartition("/")[0] in NORMS)


def test_an_nnx_state_is_a_tree_as_any_other():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Conv(4, 4, (3, 3), rngs=rngs),
        jbn.nnx.BatchNorm(4, rngs=rngs),
        nnx.LayerNorm(4, rngs=rngs),
        nnx.BatchNorm(4, use_scale=False, rngs=rngs),
        nnx.Linear(4, 2, rngs=rngs),
    )
    state = nnx.state(model, nnx.Param)
    for tree in (state, nnx.to_pure_dict(state)):
        mask = optim.norm_mask(tree)
        assert jax.tree.structure(mask) == jax.tree.structure(tree)
        assert [bool(m) for m in jax.tree.leaves(mask)] == [False] * 2 + [True] * 5 + [False] * 2
        assert sum(jax.tree.leaves(optim.decay_mask(tree))) == 2

    optimizer = nnx.Optimizer(model, optim.only_norm(optax.sgd(0.1)), wrt=nnx.Param)
    before = nnx.to_pure_dict(state)
    optimizer.update(model, nnx.grad(lambda m: jnp.sum(jnp.sin(m(X))))(model))
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert [any(jax.tree.leaves(changed["layers"][i])) for i in range(5)] == [False, True, True, True, False]


def test_a_tree_without_norms_is_refused_with_what_was_found():
    tree = {"dense": {"kernel": 1.0, "bias": 0.0}}
    for f in (optim.norm_mask, optim.norm_labels, optim.only_norm(optax.sgd(0.1)).init):
        with pytest.raises(
            ValueError, match=r"no normalization layer .* \(dense/bias, dense/kernel.*\); write the param"
        ):
            f(tree)
