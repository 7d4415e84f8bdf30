"""All variants: the modules give the results of the functions; frozen batch norm; errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import linen as nn
from flax import nnx
from helpers import assert_close, batch, case, case64, statistics, tree_close

import jbn
import jbn.linen
import jbn.nnx

pytestmark = pytest.mark.usefixtures("strict")
MASKS = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])


# Frozen


def test_frozen_is_an_affine_map_whose_gradient_reaches_the_input_alone(x64):
    x, scale, bias, dy = case64((7, 3))
    stats = statistics("float64")
    y, pull = jax.vjp(lambda *a: jbn.frozen_batch_norm(*a, stats), x, scale, bias)
    assert_close(y, reference.normalize(x, stats.mean, stats.var, scale, bias), 1e-12)
    dx, dscale, dbias = pull(dy)
    assert_close(dx, np.asarray(dy) * np.asarray(scale) / np.sqrt(np.asarray(stats.var) + 1e-5), 1e-12)
    assert not dscale.any() and not dbias.any()


# Modules


def run(layer, x, *args, train=True):
    """y and the state of a linen or nnx layer, twice in training and then at inference."""
    out = []
    if isinstance(layer, nnx.Module):
        for running in (not train, not train, True):
            out.append(layer(x, *args, use_running_average=running))
        return out, {k: v for k, v in nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat)).items()}
    variables = layer.init(jax.random.key(0), x, *args, use_running_average=False)
    for running in (not train, not train, True):
        y, updates = layer.apply(variables, x, *args, use_running_average=running, mutable=["batch_stats"])
        variables |= updates
        out.append(y)
    return out, dict(variables["batch_stats"])


MODULES = {
    "BatchRenorm": ({"r_max": 1.5, "d_max": 0.25}, (), functools.partial(jbn.batch_renorm, r_max=1.5, d_max=0.25)),
    "FrozenBatchNorm": ({}, (), lambda *a, train, **k: jbn.batch_norm(*a, train=False, **k)),
    "AdaptiveBatchNorm": (
        {"source_weight": 0.25, "max_drift": 0.5},
        (),
        lambda *a, train, momentum: (
            jbn.batch_norm(*a, train=True, momentum=momentum)
            if train
            else (jbn.adaptive_batch_norm(*a, source_weight=0.25, max_drift=0.5)[0], a[3], None)
        ),
    ),
    "DomainBatchNorm": ({"domains": 3}, (jnp.asarray(1),), jbn.domain_batch_norm),
    "BatchNorm": ({}, (), jbn.batch_norm),
}


@pytest.mark.parametrize("flavour", ["linen", "nnx"])
@pytest.mark.parametrize("name", MODULES)
def test_the_modules_give_what_the_functions_give(name, flavour):
    options, args, function = MODULES[name]
    x = batch((7, 3))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        make = getattr(getattr(jbn, flavour), name)
        layer = (
            make(momentum=0.5, **options) if flavour == "linen" else make(3, momentum=0.5, rngs=nnx.Rngs(0), **options)
        )
        outs, state = run(layer, x, *args)
    stats = jbn.init_domain_stats(3, 3) if args else jbn.init_stats(3)
    for y, train in zip(outs, (True, True, False), strict=True):
        exact, stats, _ = function(x, None, None, stats, *args, train=train, momentum=0.5)
        assert_close(y, exact, 3e-6)
    tree_close([state["mean"], state["var"]], [stats.mean, stats.var], 1e-6)


@pytest.mark.parametrize("flavour", ["linen", "nnx"])
def test_separate_affine_has_a_scale_and_bias_a_domain(flavour):
    x = batch((7, 3))
    options = {"domains": 2, "separate_affine": True}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if flavour == "linen":
            layer = jbn.linen.DomainBatchNorm(use_running_average=False, **options)
            variables = layer.init(jax.random.key(0), x, 0)
            assert variables["params"]["scale"].shape == (2, 3)
            params = {"scale": jnp.stack([jnp.ones(3), jnp.full(3, 2.0)]), "bias": jnp.zeros((2, 3))}
            one, two = (layer.apply(variables | {"params": params}, x, d, mutable=["batch_stats"])[0] for d in (0, 1))
        else:
            layer = jbn.nnx.DomainBatchNorm(3, rngs=nnx.Rngs(0), **options)
            assert layer.scale.shape == (2, 3)
            layer.scale[...] = jnp.stack([jnp.ones(3), jnp.full(3, 2.0)])
            one, two = layer(x, 0), layer(x, 1)
    assert_close(two, 2 * np.asarray(one), 1e-6)


@pytest.mark.parametrize("flavour", ["linen", "nnx"])
def test_a_frozen_layer_stays_frozen_whatever_it_is_told(flavour):
    x, _, _, dy = case((7, 3))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if flavour == "linen":
            layer = jbn.linen.FrozenBatchNorm(use_running_average=False)
            variables = layer.init(jax.random.key(0), x)
            grads = jax.grad(lambda v: jnp.sum(dy * layer.apply(v, x, use_running_average=False)))(variables)["params"]
        else:
            layer = jbn.nnx.FrozenBatchNorm(3, rngs=nnx.Rngs(0))
            layer.train()
            grads = nnx.to_pure_dict(nnx.grad(lambda m: jnp.sum(dy * m(x)))(layer))
            np.testing.assert_array_equal(layer.mean[...], np.zeros(3))
    assert set(grads) == {"scale", "bias"} and not any(g.any() for g in grads.values())


def test_checkpoints_of_batch_norm_load_into_frozen_and_adaptive_layers():
    x = batch((7, 3))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        start = nn.BatchNorm(use_running_average=True).init(jax.random.key(0), x)
        for layer in (jbn.linen.FrozenBatchNorm(), jbn.linen.AdaptiveBatchNorm(use_running_average=True)):
            assert jax.tree.structure(layer.init(jax.random.key(0), x)) == jax.tree.structure(start)


# Errors


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: jbn.batch_renorm(x, None, None, None, train=True), r"stats is None, .*pass jbn\.init_stats\("),
        (
            lambda x: jbn.batch_renorm(x, None, None, statistics(), train=True, r_max=0.5),
            r"r_max=0\.5 is out .*least 1",
        ),
        (lambda x: jbn.batch_renorm(x, None, None, statistics(), train=True, d_max=-1), r"d_max=-1 is out .*least 0"),
        (
            lambda x: jbn.batch_renorm(x, None, None, statistics(), train=True, r_max=lambda step: 1.0),
            r"r_max is a function of the step, .*use jbn\.init_stats\(features, count_steps=True\)",
        ),
        (lambda x: jbn.renorm_ramp(3.0, start=5, end=2, initial=1.0), r"from step 5 to step 2 runs backwards; choose"),
        (
            lambda x: jbn.adaptive_batch_norm(x, None, None, statistics(), source_weight=1.5),
            r"source_weight=1\.5 is not between 0 and 1; pass",
        ),
        (
            lambda x: jbn.domain_batch_norm(x, None, None, statistics(), 0, train=True),
            r"stats\.mean has shape \(3,\); .*pass one of shape \('domains', 3\)",
        ),
        (
            lambda x: jbn.domain_batch_norm(x, None, None, jbn.init_domain_stats(2, 3), 2, train=True),
            r"domain=2 is out of range; pass whole numbers from 0 to 1",
        ),
        (
            lambda x: jbn.domain_batch_norm(x, None, None, jbn.init_domain_stats(2, 3), 0.5, train=True),
            r"domain has dtype float32; pass whole numbers",
        ),
        (
            lambda x: jbn.domain_batch_norm(x, None, None, jbn.init_domain_stats(2, 3), jnp.zeros(4, int), train=True),
            r"domain has shape \(4,\); pass one number for the batch, or one for each of the 7 examples",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(call, says):
    with pytest.raises(ValueError, match=says):
        call(batch((7, 3)))
