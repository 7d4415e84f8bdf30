"""jbn.optim: the parameters of normalization layers, found in any Flax tree."""

import functools

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
    mask = flat(optim.norm_mask(params(), Net(), X))
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
    labels = optim.norm_labels(start, Net(), X)
    opt = optax.multi_transform({"norm": optax.sgd(0.01), "rest": optax.sgd(0.1)}, labels)
    updates, _ = opt.update(jax.tree.map(jnp.ones_like, start), opt.init(start), start)
    for name, update in flat(updates).items():
        np.testing.assert_allclose(update, -0.01 if name.rpartition("/")[0] in NORMS else -0.1, rtol=1e-6)


def test_only_the_norms_are_trained():
    variables = Net().init(jax.random.key(0), X)
    opt = optim.only_norm(optax.adam(0.1), optim.norm_mask(variables["params"], Net(), X))
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
        mask = optim.norm_mask(tree, model)
        assert jax.tree.structure(mask) == jax.tree.structure(tree)
        assert [bool(m) for m in jax.tree.leaves(mask)] == [False] * 2 + [True] * 5 + [False] * 2
        assert sum(jax.tree.leaves(optim.decay_mask(tree))) == 2

    opt = optim.only_norm(optax.sgd(0.1), functools.partial(optim.norm_mask, model=model))
    optimizer = nnx.Optimizer(model, opt, wrt=nnx.Param)
    before = nnx.to_pure_dict(state)
    optimizer.update(model, nnx.grad(lambda m: jnp.sum(jnp.sin(m(X))))(model))
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert [any(jax.tree.leaves(changed["layers"][i])) for i in range(5)] == [False, True, True, True, False]


def test_a_tree_without_norms_is_refused_with_what_was_found():
    tree = {"dense": {"kernel": 1.0, "bias": 0.0}}
    for f in (optim.norm_mask, optim.norm_labels, optim.only_norm(optax.sgd(0.1)).init):
        with pytest.raises(
            ValueError,
            match=r"no normalization layer .* \(dense/bias, dense/kernel.*\); pass the param.* and the model",
        ):
            f(tree)


# Norms, and layers that only look like norms: (linen, nnx with 4 features), and the names of scale and bias in each.


class Scaled(nn.Module):
    """LayerScale, the bias of an output, and an affine map: parameters named like those of norms, without a norm."""

    names: tuple[str, ...]

    @nn.compact
    def __call__(self, x):
        return x + sum(self.param(name, nn.initializers.ones, (4,)) for name in self.names)


class NnxScaled(nnx.Module):
    def __init__(self, names):
        for name in names:
            setattr(self, name, nnx.Param(jnp.ones(4)))

    def __call__(self, x):
        return x


class OwnNorm(jbn.linen.BatchNorm):
    """A user's class, derived from a norm."""


class NnxOwnNorm(jbn.nnx.BatchNorm):
    """A user's class, derived from a norm."""


def kinds():
    rngs = nnx.Rngs(0)
    eval_mode = {"use_running_average": True}
    for with_scale, with_bias in ((True, True), (True, False), (False, True)):
        affine = {"use_scale": with_scale, "use_bias": with_bias}
        for name in ("LayerNorm", "InstanceNorm"):
            yield getattr(nn, name)(**affine), getattr(nnx, name)(4, rngs=rngs, **affine), True
        yield nn.GroupNorm(2, **affine), nnx.GroupNorm(4, 2, rngs=rngs, **affine), True
        for linen_class, nnx_class in (
            (nn.BatchNorm, nnx.BatchNorm),
            (jbn.linen.BatchNorm, jbn.nnx.BatchNorm),
            (jbn.linen.FrozenBatchNorm, jbn.nnx.FrozenBatchNorm),
            (jbn.linen.AdaptiveBatchNorm, jbn.nnx.AdaptiveBatchNorm),
            (OwnNorm, NnxOwnNorm),
        ):
            yield linen_class(**affine, **eval_mode), nnx_class(4, rngs=rngs, **affine, **eval_mode), True
    yield nn.RMSNorm(), nnx.RMSNorm(4, rngs=rngs), True
    yield nn.Dense(4), nnx.Linear(4, 4, rngs=rngs), False
    yield nn.Embed(4, 4), nnx.Embed(4, 4, rngs=rngs), False
    for names in (("scale",), ("bias",), ("bias", "scale")):
        yield Scaled(names), NnxScaled(names), False


KINDS = list(kinds())


class Layers(nn.Module):
    """Each layer has its own input, also under Flax's transformations."""

    layers: tuple[nn.Module, ...]

    @nn.compact
    def __call__(self, x, *, stop: bool = False):
        assert stop is True  # arrives as it was passed, not traced
        for layer in self.layers:
            layer(jnp.zeros((2, 3), int) if isinstance(layer, nn.Embed) else x)
        norm = functools.partial(nn.LayerNorm, use_bias=False)
        nn.remat(norm)(name="remat_norm")(x)
        nn.jit(norm)(name="jit_norm")(x)
        nn.vmap(norm, variable_axes={"params": 0}, split_rngs={"params": True})(name="vmap_norm")(x)
        lone = nn.vmap(Scaled, variable_axes={"params": 0}, split_rngs={"params": True})
        return lone(("scale",), name="vmap_lone")(x)


def test_the_modules_of_a_linen_model_tell_what_is_of_a_norm():
    layers = tuple(layer for layer, _, _ in KINDS)
    model, x = Layers(layers), jnp.ones((2, 3, 4))
    params = model.init(jax.random.key(0), x, stop=True)["params"]
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    mask = optim.norm_mask(params, model, shape, stop=True)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    for i, (layer, _, norm) in enumerate(KINDS):
        leaves = flat(mask[f"layers_{i}"])
        assert leaves and set(leaves.values()) == {norm}, layer
    names = {name: mask[name] for name in mask if not name.startswith("layers")}
    assert names == {f"{how}_norm": {"scale": True} for how in ("remat", "jit", "vmap")} | {
        "vmap_lone": {"scale": False}
    }
    assert optim.norm_mask(params, model, shape, stop=True) == mask  # traced before, and found again
    decay = flat(optim.decay_mask(params, model, shape, stop=True, norms=True))
    frozen = {name for name, is_frozen in flat(optim.frozen_mask(params, model, shape, stop=True)).items() if is_frozen}
    expected = {name: not name.endswith(("scale", "bias")) or norm for name, norm in flat(mask).items()}
    assert decay == expected | dict.fromkeys(frozen, False)
    assert {name.partition("/")[0] for name in frozen} == {
        f"layers_{i}" for i, layer in enumerate(layers) if isinstance(layer, jbn.linen.FrozenBatchNorm)
    }


def test_the_modules_of_an_nnx_model_tell_what_is_of_a_norm():
    layers = [layer for _, layer, _ in KINDS]
    model = nnx.Dict(layers=nnx.List(layers), again=layers[0], lone=NnxScaled(("scale", "bias")))
    tree = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    mask = optim.norm_mask(tree, model)
    assert all(jax.tree.leaves(mask["again"])) and not any(jax.tree.leaves(mask["lone"]))
    frozen = optim.frozen_mask(tree, model)["layers"]
    for i, (_, layer, norm) in enumerate(KINDS[1:], 1):
        assert set(jax.tree.leaves(mask["layers"][i])) == {norm}, layer
        assert set(jax.tree.leaves(frozen[i])) == {isinstance(layer, jbn.nnx.FrozenBatchNorm)}


def test_without_a_model_a_pair_of_names_is_a_norm_and_a_lone_name_is_none():
    tree = {
        "norm": {"scale": 1.0, "bias": 1.0},
        "layer_scale": {"scale": 1.0},
        "bias": 1.0,
        "output": {"bias": 1.0},
        "dense": {"kernel": 1.0, "bias": 1.0, "scale": 1.0},
    }
    assert {name for name, norm in flat(optim.norm_mask(tree)).items() if norm} == {"norm/scale", "norm/bias"}
    assert {name for name, decays in flat(optim.decay_mask(tree)).items() if decays} == {"dense/kernel"}
    updates, _ = (opt := optim.only_norm(optax.sgd(1.0))).update(tree, opt.init(tree))
    assert {name for name, update in flat(updates).items() if update} == {"norm/scale", "norm/bias"}


# Frozen


@functools.cache
def frozen_models():
    """(parameters, loss, mask) of a model with a frozen and an unfrozen layer, for both ways to freeze."""
    models = []
    for freeze, options in (("FrozenBatchNorm", {}), ("BatchNorm", {"trainable": False, "use_running_average": True})):
        model = nn.Sequential([nn.Dense(4), getattr(jbn.linen, freeze)(**options), nn.LayerNorm()])
        params = model.init(jax.random.key(0), X[0, 0])["params"]
        stats = {"batch_stats": {"layers_1": {"mean": jnp.full(4, 0.5), "var": jnp.full(4, 2.0)}}}
        loss = lambda p, model=model, stats=stats: jnp.sum(jnp.sin(model.apply({"params": p} | stats, X[0, 0])))  # noqa: E731
        models.append((params, loss, optim.frozen_mask(params, model, X[0, 0]), "layers_1"))
        rngs = nnx.Rngs(0)
        layer = getattr(jbn.nnx, freeze)(4, rngs=rngs, **options)
        model = nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), layer, nnx.LayerNorm(4, rngs=rngs))
        graph, state, rest = nnx.split(model, nnx.Param, ...)
        loss = lambda p, graph=graph, rest=rest: jnp.sum(jnp.sin(nnx.merge(graph, p, rest)(X[0, 0])))  # noqa: E731
        params = nnx.as_pure(state)
        models.append((params, loss, optim.frozen_mask(params, model), "layers/1"))
    return models


@pytest.mark.parametrize("case", range(4), ids=["linen-Frozen", "nnx-Frozen", "linen-trainable", "nnx-trainable"])
@pytest.mark.parametrize("name", ["adamw", "decayed sgd with momentum", "noise"])
def test_a_frozen_layer_stays_as_it_is_under_whatever_moves_the_others(case, name):
    params, loss, mask, frozen = frozen_models()[case]
    moving = {
        "adamw": optax.adamw(1e-2, weight_decay=0.1),
        "decayed sgd with momentum": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1e-2, momentum=0.9)),
        "noise": optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(1e-2)),
    }[name]

    def trained(opt):
        def step(carry, _):
            p, state = carry
            updates, state = opt.update(jax.grad(loss)(p), state, p)
            return (optax.apply_updates(p, updates), state), None

        return jax.jit(lambda p: jax.lax.scan(step, (p, opt.init(p)), length=20)[0][0])(params)

    still = trained(optax.chain(moving, optax.masked(optax.set_to_zero(), mask)))
    moved = trained(moving)
    start, still, moved = (flat(t) for t in (params, still, moved))
    assert {name for name in start if name.startswith(frozen)} == {f"{frozen}/scale", f"{frozen}/bias"}
    for name, value in start.items():
        if name.startswith(frozen):
            np.testing.assert_array_equal(still[name], value)
        else:
            assert (still[name] != value).any(), name
    assert (moved[f"{frozen}/scale"] != start[f"{frozen}/scale"]).all()  # although it has no gradient


# Errors


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda p: optim.norm_mask({"params": p}, Net(), X),
            r"has params/.*, which is no parameter of this Net .*; pass",
        ),
        (lambda p: optim.norm_mask(p, Net()), r"a linen model has layers only when it is called; pass its inputs"),
        (lambda p: optim.norm_mask(p, p), r"model is a dict; pass a linen or nnx module, or no model"),
        (
            lambda p: optim.norm_mask({"kernel": 1.0, "bias": 1.0}, nn.Dense(3), X),
            r"no normalization layer of Flax or jbn among 2 parameters \(bias, kernel, \.\.\.\); pass the param",
        ),
    ],
)
def test_what_is_not_the_models_is_refused_with_a_remedy(call, says):
    with pytest.raises(ValueError, match=says):
        call(params())
