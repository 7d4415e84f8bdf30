"""jbn.placement: the block applies its layers in the order of the placement, which changes nothing else."""

from functools import partial
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, batch

import jbn.linen
from jbn.placement import ORDER, Block, Placement, order

PLACEMENTS = get_args(Placement)
LAYERS = {"dense": (partial(nn.Dense, 4), (13, 3)), "conv": (partial(nn.Conv, 4, (3, 3)), (5, 6, 7, 3))}
NORMS = {
    "jbn": partial(jbn.linen.BatchNorm, use_running_average=False),
    "flax": partial(nn.BatchNorm, use_running_average=False),
    "layer-norm": nn.LayerNorm,
}
# What each placement computes, written out by hand from the definitions in the papers.
MEANING = {
    "none": lambda layer, norm, act, x: act(layer(x)),
    "before": lambda layer, norm, act, x: act(norm[0](layer(x))),
    "after": lambda layer, norm, act, x: norm[0](act(layer(x))),
    "both": lambda layer, norm, act, x: norm[1](act(norm[0](layer(x)))),
    "pre_linear": lambda layer, norm, act, x: act(layer(norm[0](x))),
}
UPDATES = {"mutable": ["batch_stats", "intermediates"]}


def moved(variables):
    """Variables away from their initial values, so that no step is the identity."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + jnp.asarray(rng.uniform(0.2, 1.0, a.shape), a.dtype), variables)


def test_every_placement_has_an_order_and_a_meaning():
    assert tuple(ORDER) == tuple(MEANING) == PLACEMENTS
    assert all(order(p) == ORDER[p] for p in PLACEMENTS)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_steps_run_in_the_order_that_the_placement_names(placement):
    """Steps that do not commute, so that each order gives another value."""
    steps, log = {"layer": lambda x: 3 * x, "norm": lambda x: x + 5}, []

    def make(kind):
        return lambda name: lambda x: (log.append(name), steps[kind](x))[1]

    block = Block(make("layer"), make("norm"), lambda x: (log.append("activation"), x**2)[1], placement)
    y = block.apply({}, jnp.asarray(2.0))
    assert y == MEANING[placement](steps["layer"], 2 * [steps["norm"]], lambda x: x**2, 2.0)
    assert [name.removesuffix("_1") for name in log] == list(ORDER[placement])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_real_layers_and_norms_compute_what_is_written_out_by_hand(placement, layer, norm):
    make, shape = LAYERS[layer]
    x, norms = batch(shape, mean=0.5), iter(("norm", "norm_1"))
    block = Block(make, NORMS[norm], jnp.tanh, placement)
    variables = moved(block.init(jax.random.key(0), x))
    y, updates = block.apply(variables, x, **UPDATES)
    stats = {}

    def applied(module, name):
        own = {kind: tree[name] for kind, tree in variables.items() if name in tree}

        def call(x):
            y, new = module.apply(own, x, mutable=["batch_stats"])
            stats.update({name: new["batch_stats"]} if new.get("batch_stats") else {})
            return y

        return call

    names = list(norms)
    by_hand = MEANING[placement](applied(make(), "layer"), [applied(NORMS[norm](), n) for n in names], jnp.tanh, x)
    assert_close(y, by_hand, 1e-5)
    assert jax.tree.structure(updates.get("batch_stats", {})) == jax.tree.structure(stats)
    jax.tree.map(partial(assert_close, tolerance=1e-5), updates.get("batch_stats", {}), stats)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_the_norm_leaves_is_normalized_where_the_placement_says(placement):
    # Centred input and a leaky activation, because no norm can normalize the constant output of a dead unit.
    x = batch((333, 3), mean=0.0)
    block = Block(partial(nn.Dense, 4), NORMS["jbn"], jax.nn.leaky_relu, placement)
    y, variables = block.init_with_output(jax.random.key(0), x)
    _, updates = block.apply(variables, x, **UPDATES)
    into_activation = updates["intermediates"]["activation_input"][0]

    def normalized(a):
        return bool(np.allclose(a.mean(0), 0, atol=1e-4) and np.allclose(a.std(0), 1, atol=0.05))

    assert normalized(into_activation) == (placement in ("before", "both"))
    assert normalized(y) == (placement in ("after", "both"))


@pytest.mark.parametrize("layer", LAYERS)
def test_one_seed_gives_the_layer_the_same_weights_in_every_placement(layer):
    make, shape = LAYERS[layer]
    x = batch(shape)
    inits = {p: Block(make, NORMS["jbn"], jax.nn.relu, p).init(jax.random.key(3), x)["params"] for p in PLACEMENTS}
    for params in inits.values():
        jax.tree.map(np.testing.assert_array_equal, params["layer"], inits["none"]["layer"])
    norms = {p: sorted(set(params) - {"layer"}) for p, params in inits.items()}
    one = {p: ["norm"] for p in ("before", "after", "pre_linear")}
    assert norms == one | {"none": [], "both": ["norm", "norm_1"]}


def test_init_keeps_no_intermediates():
    block = Block(partial(nn.Dense, 4), NORMS["jbn"], jax.nn.relu)
    assert set(block.init(jax.random.key(0), batch((13, 3)))) == {"params", "batch_stats"}


@pytest.mark.parametrize(
    ("wrong", "near"), [("befor", "before"), ("After", "after"), ("pre-linear", "pre_linear"), ("bothh", "both")]
)
def test_an_unknown_placement_is_refused_and_the_nearest_named(wrong, near):
    says = rf"placement is '{wrong}'; use one of none, before, after, both, pre_linear; did you mean '{near}'\?"
    with pytest.raises(ValueError, match=says):
        order(wrong)
    with pytest.raises(ValueError, match=says):
        Block(partial(nn.Dense, 4), NORMS["jbn"], jax.nn.relu, wrong).init(jax.random.key(0), batch((13, 3)))


def test_a_placement_like_no_other_is_refused_without_a_guess():
    with pytest.raises(ValueError, match=r"placement is 'xyzzy'; use one of none, before, after, both, pre_linear$"):
        order("xyzzy")
