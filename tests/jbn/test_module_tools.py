"""Uses of a module besides training: shapes, tables, initialization; and traced switches."""

import re

import flax.linen as flax_linen
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jbn
import jbn.linen
import jbn.nnx

ONE = jnp.ones((1, 4))
WIDE = {"console_kwargs": {"width": 300, "color_system": None}}
REFUSAL = "has 1 value per feature|does not divide the batch of 1"
VARIANTS = {
    "BatchNorm": {},
    "BatchRenorm": {},
    "FrozenBatchNorm": {},
    "AdaptiveBatchNorm": {},
    "ghost": {"virtual_batch_size": 32},
    "unbiased": {"variance": "unbiased", "debias": True},
}


def nnx_model(variant: str) -> nnx.Sequential:
    norm = getattr(jbn.nnx, variant, jbn.nnx.BatchNorm)(4, rngs=nnx.Rngs(0), **VARIANTS[variant])
    return nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), norm)


def linen_model(variant: str) -> flax_linen.Sequential:
    norm = getattr(jbn.linen, variant, jbn.linen.BatchNorm)(use_running_average=False, **VARIANTS[variant])
    return flax_linen.Sequential([flax_linen.Dense(4), norm])


def rows(table: str) -> list[tuple[str, str]]:
    """The first two columns of a table: path and module."""
    return re.findall(r"^[│|] (\S*) +[│|] (\w+)", table, re.MULTILINE)


# One example, if no value is used


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_tables_and_initialization_of_nnx_take_one_example_and_training_does_not(variant):
    model = nnx_model(variant)
    assert nnx.eval_shape(lambda model, x: model(x), model, ONE).shape == (1, 4)
    for flops in (False, True):
        table = nnx.tabulate(model, ONE, compute_flops=flops, compute_vjp_flops=flops, **WIDE)
        assert table.count("float32[1,4]") == 6  # input and output of the model and of two layers
    variables = nnx.bridge.to_linen(lambda rngs: nnx_model(variant), skip_rng=False).init(jax.random.key(0), ONE)
    assert set(variables) == {"params", "batch_stats"}
    nnx.bridge.lazy_init(nnx_model(variant), ONE)
    for train in (lambda: model(ONE), lambda: nnx.jit(lambda model, x: model(x))(model, ONE)):
        if variant == "FrozenBatchNorm":
            train()
            continue
        with pytest.raises(ValueError, match=REFUSAL):
            train()


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_tables_and_initialization_of_linen_take_one_example_and_training_does_not(variant):
    model = linen_model(variant)
    variables = model.init(jax.random.key(0), ONE)
    apply = lambda v, x: model.apply(v, x, mutable=["batch_stats"])  # noqa: E731
    assert jax.eval_shape(apply, variables, ONE)[0].shape == (1, 4)
    for flops in (False, True):
        table = model.tabulate(jax.random.key(0), ONE, compute_flops=flops, compute_vjp_flops=flops, **WIDE)
        assert table.count("float32[1,4]") == 6
    if variant != "FrozenBatchNorm":
        with pytest.raises(ValueError, match=REFUSAL):
            apply(variables, ONE)


def test_adaptation_to_one_example_is_refused_where_it_is_computed():
    layer = jbn.nnx.AdaptiveBatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))
    assert nnx.eval_shape(lambda layer, x: layer(x), layer, ONE).shape == (1, 4)
    with pytest.raises(ValueError, match="has 1 value per feature, and source_weight=0"):
        layer(ONE)


# One row for each norm


def norms(model: flax_linen.Module) -> set[tuple[str, str]]:
    table = model.tabulate(jax.random.key(0), jnp.ones((8, 4)), show_repeated=True, **WIDE)
    return set(rows(table))


@pytest.mark.parametrize("variant", ["BatchNorm", "BatchRenorm", "FrozenBatchNorm", "AdaptiveBatchNorm"])
def test_a_table_of_linen_shows_one_row_for_each_norm(variant):
    theirs = norms(flax_linen.Sequential([flax_linen.Dense(4), flax_linen.BatchNorm(use_running_average=False)]))
    assert {path for path, _ in theirs} == {"", "layers_0", "layers_1"}
    assert {path for path, _ in norms(linen_model(variant))} == {"", "layers_0", "layers_1"}


@pytest.mark.parametrize("variant", ["BatchNorm", "BatchRenorm", "FrozenBatchNorm", "AdaptiveBatchNorm"])
def test_captured_intermediates_of_linen_hold_the_output_alone(variant):
    model, x = linen_model(variant), jnp.arange(32.0).reshape(8, 4)
    variables = model.init(jax.random.key(0), x)
    y, updates = model.apply(variables, x, capture_intermediates=True, mutable=True)
    assert set(updates["intermediates"]["layers_1"]) == {"__call__"}
    assert updates["intermediates"]["layers_1"]["__call__"][0] is y


# A traced switch


@pytest.mark.parametrize("name", ["use_running_average", "update_running_average"])
def test_modules_refuse_a_traced_switch_by_name(name):
    x, layer = jnp.arange(12.0).reshape(3, 4), jbn.linen.BatchNorm()
    variables = layer.init(jax.random.key(0), x, use_running_average=True)
    says = rf"{name} is a traced array of dtype bool, .* static_argnames='{name}'"
    options = {"use_running_average": False}

    @jax.jit
    def linen(flag):
        return layer.apply(variables, x, mutable=["batch_stats"], **(options | {name: flag}))

    @nnx.jit
    def nnx_(layer, flag):
        return layer(x, **(options | {name: flag}))

    for call in (linen, lambda flag: nnx_(jbn.nnx.BatchNorm(4, rngs=nnx.Rngs(0)), flag)):
        with pytest.raises(TypeError, match=says):
            call(jnp.asarray(True))
