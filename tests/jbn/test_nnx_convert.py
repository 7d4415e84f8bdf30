"""A model of Flax's layers, converted, computes as before, with the same variables; `revert` is the way back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jbn.nnx
from jbn import interop


class Block(nnx.Module):
    """A residual block, as in He et al. 2015."""

    def __init__(self, features, *, rngs):
        self.first = nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(features, momentum=0.9, rngs=rngs) for _ in range(2)])
        self.second = nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.norms[0](self.first(x)))
        return nnx.relu(x + self.norms[1](self.second(y)))


class Network(nnx.Module):
    """Batch norms in a Sequential, a dictionary, a list, a stack made by vmap, and one that is called twice."""

    def __init__(self, *, rngs):
        self.stem = nnx.Sequential(
            nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, epsilon=1e-3, use_bias=False, rngs=rngs), nnx.relu
        )
        self.block = Block(4, rngs=rngs)
        self.named = nnx.Dict(norm=nnx.BatchNorm(4, use_scale=False, rngs=rngs))
        self.again = self.named["norm"]
        self.stack = nnx.split_rngs(splits=3)(nnx.vmap(lambda rngs: nnx.BatchNorm(4, rngs=rngs)))(rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        x = self.again(self.named["norm"](self.block(self.stem(x))))
        x = nnx.scan(lambda x, norm: norm(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.stack)
        return self.head(x.mean((1, 2)))


NORMS = ["block/norms/0", "block/norms/1", "again", "stack", "stem/layers/1"]


def network(seed=0):
    """A network that has been trained a little, so that no statistic is as it began."""
    model = Network(rngs=nnx.Rngs(seed))
    for key in jax.random.split(jax.random.key(seed), 3):
        model(3 + jax.random.normal(key, (8, 6, 6, 3)))
    return model


X = 3 + jax.random.normal(jax.random.key(9), (8, 6, 6, 3))


def norms(model):
    return [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.BatchNorm | jbn.nnx.BatchNorm)]


def assert_close(a, b, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), a, b)


def pure(model):
    return nnx.to_pure_dict(nnx.state(model))


def trained(model, steps=3):
    """Losses and the state after some steps of a real optimizer."""
    optimizer = nnx.Optimizer(model, optax.sgd(0.05, momentum=0.9), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x):
        loss, gradients = nnx.value_and_grad(lambda model: ((model(x) - 1) ** 2).mean())(model)
        optimizer.update(model, gradients)
        return loss, gradients

    results = [step(model, optimizer, X + i) for i in range(steps)]
    return [loss for loss, _ in results], nnx.to_pure_dict(results[0][1]), pure(model)


def test_a_converted_model_is_the_same_function_with_the_same_variables_and_trains_alike():
    theirs = network()
    before = pure(theirs)
    ours = jbn.nnx.convert(theirs)
    assert all(type(layer) is jbn.nnx.BatchNorm for layer in norms(ours)) and len(norms(ours)) == len(NORMS)
    assert all(type(layer) is nnx.BatchNorm for layer in norms(theirs)), "the model itself is left alone"
    assert ours.again is ours.named["norm"]
    assert jax.tree.structure(pure(ours)) == jax.tree.structure(before)
    jax.tree.map(np.testing.assert_array_equal, pure(ours), before)

    for model in (theirs, ours):
        model.eval()
    assert_close(ours(X), theirs(X))
    for model in (theirs, ours):
        model.train()
    assert_close(trained(ours), trained(theirs), 2e-5)
    jax.tree.map(np.testing.assert_array_equal, pure(network()), before)


def test_a_checkpoint_of_the_one_loads_into_the_other():
    theirs, ours = network(), jbn.nnx.convert(network(1))
    nnx.update(ours, nnx.state(theirs))
    theirs.eval(), ours.eval()
    assert_close(ours(X), theirs(X))
    back = jbn.nnx.revert(ours)
    nnx.update(back, nnx.state(ours))
    assert_close(back(X), theirs(X))


def test_reverting_gives_flaxs_model_back():
    theirs = network()
    back = jbn.nnx.revert(jbn.nnx.convert(theirs))
    assert nnx.graphdef(back) == nnx.graphdef(theirs)
    jax.tree.map(np.testing.assert_array_equal, pure(back), pure(theirs))


def test_options_reach_every_layer_and_only_chooses():
    paths = []
    ours = jbn.nnx.convert(
        network(), skip_nonfinite=True, momentum=0.5, only=lambda path: bool(paths.append(path)) or "stem" not in path
    )
    assert sorted(paths) == sorted(NORMS)
    assert type(ours.stem.layers[1]) is nnx.BatchNorm
    assert ours.block.norms[0].momentum == 0.5 and ours.block.norms[0].skip_nonfinite
    assert ours.stack.skipped.shape == (3,) and ours.again.skipped.shape == ()
    ours(X.at[0, 0, 0, 0].set(jnp.nan))
    assert np.isfinite(ours.block.norms[0].mean[...]).all() and (ours.stack.skipped[...] == 1).all()
    assert jbn.nnx.revert(ours, exact=False)(X).shape == (8, 2)


def test_ghost_batches_are_those_of_a_layer_that_was_made_with_them():
    theirs = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (12, 3))
    made = jbn.nnx.BatchNorm(3, virtual_batch_size=4, rngs=nnx.Rngs(0))
    ours = jbn.nnx.convert(theirs, virtual_batch_size=4)
    np.testing.assert_array_equal(ours(x), made(x))
    np.testing.assert_array_equal(ours.var[...], made.var[...])
    assert nnx.graphdef(ours) == nnx.graphdef(made)


@pytest.mark.parametrize(
    ("kind", "made"),
    [("frozen", jbn.nnx.FrozenBatchNorm), ("renorm", jbn.nnx.BatchRenorm), ("adaptive", jbn.nnx.AdaptiveBatchNorm)],
)
def test_other_kinds_are_those_of_jbn(kind, made):
    theirs = network()
    ours = jbn.nnx.convert(theirs, kind=kind)
    assert all(type(layer) is made for layer in norms(ours))
    if kind == "frozen":
        theirs.eval(), ours.eval()
        assert_close(ours(X), theirs(X))
        assert not any(np.any(g) for g in jax.tree.leaves(nnx.grad(lambda m: m(X).sum())(ours).stem.layers[1]))
    back = jbn.nnx.revert(ours, exact=False)
    assert nnx.graphdef(back) == nnx.graphdef(theirs)
    back.eval(), ours.eval()
    differs = np.abs(back(X + 5) - ours(X + 5)).max() > 1e-2
    assert differs == (kind == "adaptive"), "only that one computes something else at inference"
    with pytest.raises(ValueError, match=rf"has the class {made.__name__}.*, which Flax lacks; pass exact=False"):
        jbn.nnx.revert(ours)


@pytest.mark.parametrize(
    ("options", "seen", "count"),
    [
        ({"debias": True, "momentum": 0.9}, None, np.inf),
        ({"debias": True, "momentum": 0.9}, 3, 3),
        ({"momentum": None}, 3, 3),
        ({"momentum": lambda step: 0.9}, 3, 3),
    ],
)
def test_statistics_are_taken_as_those_of_so_many_batches(options, seen, count):
    ours = jbn.nnx.convert(network(), batches_seen=seen, **options)
    layer = interop.from_nnx(ours.block.norms[0], **{"debias": False} | options)
    np.testing.assert_allclose(layer.count, count, rtol=1e-5)
    assert all(np.ndim(getattr(ours.stack, name, np.zeros(3))) for name in ("weight", "step"))
    ours(X)


def test_a_model_that_has_seen_nothing_starts_from_nothing():
    fresh = jbn.nnx.convert(nnx.BatchNorm(3, rngs=nnx.Rngs(0)), momentum=None)
    made = jbn.nnx.BatchNorm(3, momentum=None, rngs=nnx.Rngs(0))
    x = 5 + jax.random.normal(jax.random.key(0), (12, 3))
    fresh(x), made(x)
    np.testing.assert_array_equal(fresh.mean[...], made.mean[...])


class Subclass(nnx.BatchNorm):
    def __init__(self, features, **options):
        super().__init__(features, **options)
        self.features, self.own = features, "kept"


class Louder(nnx.BatchNorm):
    def __call__(self, x, **options):
        return 2 * super().__call__(x, **options)


def test_a_subclass_is_replaced_unless_it_has_methods_of_its_own():
    ours = jbn.nnx.convert(Subclass(3, rngs=nnx.Rngs(0)))
    assert ours.own == "kept" == jbn.nnx.revert(ours).own and ours.features == 3
    model = nnx.List([nnx.BatchNorm(3, rngs=nnx.Rngs(0)), Louder(3, rngs=nnx.Rngs(0))])
    with pytest.raises(ValueError, match=r"1 is a Louder with its own __call__, which would be lost; leave it out"):
        jbn.nnx.convert(model)
    assert type(model[0]) is nnx.BatchNorm
    assert type(jbn.nnx.convert(model, only=lambda path: path != "1")[0]) is jbn.nnx.BatchNorm


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kind": "forzen"}, ValueError, "kind is 'forzen'; use 'batch_norm', 'frozen', 'renorm', 'adaptive'"),
        ({"use_bias": False}, ValueError, "use_bias would change scale and bias, which are kept; leave it out"),
        ({"bias_metadata": {"a": 1}}, ValueError, "bias_metadata would change scale and bias"),
        ({"batches_seen": -1}, ValueError, "batches_seen is -1; pass a number of batches, at least 0"),
        (
            {"debias": True, "momentum": lambda step: 0.9, "batches_seen": 3},
            ValueError,
            "does not say which weight 3 batches have .*; leave out debias, or set momentum to a number",
        ),
        ({"virtual_batch": 3}, TypeError, "virtual_batch"),
        ({"momentum": None}, ValueError, "again: the new layer needs the number of batches .*; pass batches_"),
        ({"only": lambda path: False}, ValueError, r"there is no flax.nnx.BatchNorm to replace \(.*, all left out"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_changed(options, error, words):
    model = network()
    before = nnx.graphdef(model)
    with pytest.raises(error, match=words):
        jbn.nnx.convert(model, **options)
    assert nnx.graphdef(model) == before


def test_a_model_without_batch_norm_and_one_with_several_statistics_are_refused():
    with pytest.raises(ValueError, match=r"there is no flax.nnx.BatchNorm to replace \(none\); pass a model that has"):
        jbn.nnx.convert(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="the model itself is a DomainBatchNorm, which has several statistics"):
        jbn.nnx.revert(jbn.nnx.DomainBatchNorm(3, domains=2, rngs=nnx.Rngs(0)))
    traced = functools.partial(jbn.nnx.convert, momentum=None)
    with pytest.raises(ValueError, match="pass batches_seen, because the running statistics have no values here"):
        nnx.eval_shape(lambda: traced(nnx.BatchNorm(3, rngs=nnx.Rngs(0))))
