"""Tools that read a program operation by operation, or have their own rules for it: exporters, jet and checkify."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import affine, assert_close, batch, mesh
from jax.experimental import checkify
from jax.experimental.jet import jet
from jax.extend.core import Primitive, jaxprs_in_params
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jbn
import jbn.linen
import jbn.nnx

# Programs for inference


def statistics(features: int) -> jbn.BatchStats:
    mean, var = np.linspace(-2, 2, features), np.linspace(0.5, 2, features)
    return jbn.BatchStats(jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32))


def functional(norm=jbn.batch_norm, **options):
    def inference(x):
        return norm(x, *affine(x.shape), statistics(x.shape[-1]), train=False, **options)[0]

    return inference


def domains(x):
    stats = jax.tree.map(lambda a: jnp.stack([a, a + 1]), statistics(x.shape[-1]))
    return jbn.domain_batch_norm(x, *affine(x.shape), stats, 1, train=False)[0]


def linen(kind=jbn.linen.BatchNorm, **options):
    def inference(x):
        (scale, bias), stats = affine(x.shape), statistics(x.shape[-1])
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": stats.mean, "var": stats.var}}
        return kind(use_running_average=True, **options).apply(variables, x)

    return inference


def by_nnx(kind=jbn.nnx.BatchNorm, **options):
    def inference(x):
        with jax.ensure_compile_time_eval():
            layer = kind(x.shape[-1], use_running_average=True, rngs=nnx.Rngs(0), **options)
        return layer(x)

    return inference


def masked(x):
    return functional(where=jnp.arange(x.shape[0])[:, None] > 1)(x)


INFERENCE = {
    "function": functional(),
    "masked": masked,
    "activation": functional(activation=jax.nn.relu),
    "activation-first": functional(activation=jax.nn.gelu, placement="after"),
    "narrow": functional(dtype=jnp.bfloat16),
    "without-affine": lambda x: jbn.batch_norm(x, None, None, statistics(x.shape[-1]), train=False)[0],
    "normalize": lambda x: jbn.normalize(x, *statistics(x.shape[-1])[:2], *affine(x.shape)),
    "renorm": functional(jbn.batch_renorm),
    "frozen": lambda x: jbn.frozen_batch_norm(x, *affine(x.shape), statistics(x.shape[-1])),
    "adaptive": lambda x: jbn.adaptive_batch_norm(x, *affine(x.shape), statistics(x.shape[-1]), source_weight=0.5)[0],
    "domains": domains,
    "linen": linen(),
    "linen-narrow": linen(dtype=jnp.float16),
    "linen-frozen": linen(jbn.linen.FrozenBatchNorm),
    "nnx": by_nnx(),
    "nnx-narrow": by_nnx(dtype=jnp.bfloat16),
}


def operations(jaxpr) -> set[Primitive]:
    """All operations of a program, including those of nested programs."""
    inner = (operations(j) for eqn in jaxpr.eqns for j in jaxprs_in_params(eqn.params))
    return {eqn.primitive for eqn in jaxpr.eqns}.union(*inner)


def ours() -> set[Primitive]:
    modules = [module for name, module in sys.modules.items() if name.startswith("jbn")]
    return {v for module in modules for v in vars(module).values() if isinstance(v, Primitive)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("name", INFERENCE)
def test_a_program_for_inference_holds_no_operation_of_ours_and_none_of_a_platform(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        for shape in ((8, 3), (60, 100), (1024, 40)):
            found = operations(jax.make_jaxpr(INFERENCE[name])(jnp.zeros(shape, dtype)).jaxpr)
            assert not found & ours() and "platform_index" not in {p.name for p in found}


def test_a_program_for_training_holds_operations_of_ours():
    program = jax.make_jaxpr(lambda x: jbn.batch_norm(x, None, None, None, train=True)[0])(jnp.zeros((1024, 40)))
    assert len(operations(program.jaxpr) & ours()) > 2


def test_shapes_are_compared_outside_of_programs(monkeypatch):
    """Exporters replace functions of jax.numpy while they trace: jnp.shape then returns an array."""
    monkeypatch.setattr(jnp, "shape", lambda x: pytest.fail("the shape was asked of jax.numpy"))
    for inference in INFERENCE.values():
        jax.eval_shape(inference, jnp.zeros((8, 3)))
    jax.eval_shape(lambda x: jbn.batch_norm(x, None, None, jbn.init_stats(3), train=True), jnp.zeros((8, 3)))


@pytest.mark.parametrize("features", [40, 100])
def test_the_factor_of_inference_is_computed_once(features):
    """Without this, XLA:CPU multiplies each element by rsqrt(var) and by scale."""
    x, vectors = jnp.zeros((4096, features)), [jnp.ones(features)] * 4

    def inference(x, scale, bias, mean, var):
        return jbn.batch_norm(x, scale, bias, jbn.BatchStats(mean, var), train=False)[0]

    flops = jax.jit(inference).lower(x, *vectors).compile().cost_analysis()["flops"]
    assert flops < 3.1 * x.size  # minus, times, plus


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_half_precision_at_inference_is_the_same_wherever_it_lies(dtype):
    x = batch((64, 96), dtype=dtype)
    wide = functional()(x.astype(jnp.float32))
    # Compiled, the float32 result may differ by its last digit, which decides where it lies halfway between two others.
    rounded = [np.asarray((wide * (1 + digit)).astype(dtype)) for digit in (-3e-7, 0.0, 3e-7)]
    spread = jax.device_put(x, NamedSharding(mesh(d=4), P("d")))
    once = np.asarray(jax.jit(functional())(x))
    for found in (jax.jit(functional())(spread), jax.jit(jax.vmap(functional()))(x[None])[0]):
        np.testing.assert_array_equal(found, once)
    for found in (functional()(x), once):
        right = np.any([np.asarray(found) == one for one in rounded], axis=0)
        assert found.dtype == dtype and right.all(), f"{(~right).sum()} are not the float32 result, rounded once"


# Taylor mode


def by_jvp(f, x, v, order: int):
    """Derivatives of f(x + t·v) at t = 0, of orders 1 to `order`."""

    def along(t):
        return f(x + t * v)

    found = []
    for _ in range(order):
        along = (lambda g: lambda t: jax.jvp(g, (t,), (jnp.ones_like(t),))[1])(along)
        found.append(along(jnp.zeros(())))
    return found


def training(**options):
    return lambda x: jbn.batch_norm(x, *affine(x.shape), statistics(x.shape[-1]), train=True, **options)[0]


FEW = jnp.arange(6)[:, None] > 1
FOLLOWED = {
    "training": training(),
    "masked": training(where=FEW),
    "ghost": training(virtual_batch_size=4, ragged_groups="exact"),
    "activation": training(activation=jnp.tanh),
    "activation-first": training(activation=jnp.tanh, placement="after", where=FEW),
    "inference": lambda x: jnp.sin(functional()(x)),
    "masked-inference": lambda x: jnp.sin(functional(where=FEW)(x)),
    "renorm": lambda x: jbn.batch_renorm(x, *affine(x.shape), statistics(x.shape[-1]), train=True)[0],
    "adaptive": INFERENCE["adaptive"],
    "gradient": jax.grad(lambda x: jnp.sum(jnp.sin(training()(x)))),
    "lanes": lambda x: jax.vmap(training())(jnp.stack([x, jnp.sin(x)])),
    "linen": lambda x: jnp.sin(linen()(x)),
    "nnx": lambda x: jbn.nnx.BatchNorm(x.shape[-1], rngs=nnx.Rngs(0))(x),
}
JETS = {
    "jet": lambda f, x, series: jet(f, (x,), (series,)),
    "within jit": lambda f, x, series: jax.jit(lambda x: jet(f, (x,), (series,)))(x),
    "around jit": lambda f, x, series: jet(jax.jit(f), (x,), (series,)),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_jet_gives_the_derivatives_of_repeated_jvp(x64, name):
    f, x, v = FOLLOWED[name], *(batch((6, 40), dtype="float64", seed=seed) for seed in (0, 1))
    series = [v, *[jnp.zeros_like(v)] * 2]
    exact = jax.jit(lambda x, v: [f(x), *by_jvp(f, x, v, 3)])(x, v)
    for how in JETS if name in ("training", "inference") else ["jet"]:
        y, terms = JETS[how](f, x, series)
        for got, want in zip((y, *terms), exact, strict=True):
            assert_close(got, want, 1e-12)


# Checks inside of programs


def across(x, **options):
    lanes = x.reshape(2, -1, x.shape[-1])
    return jax.vmap(training(axis_name="d", **options), axis_name="d")(lanes)


def without_scale(train, x):
    where = jnp.arange(x.shape[0])[:, None] > 1
    scale, bias = jnp.zeros(x.shape[-1]), jnp.ones(x.shape[-1])

    def y(x, scale):
        return jbn.batch_norm(x, scale, bias, statistics(x.shape[-1]), train=train, where=where)[0]

    return y(x, scale), jax.grad(lambda *args: jnp.sum(jnp.sin(y(*args))), argnums=(0, 1))(x, scale)


CHECKED = INFERENCE | {
    "training": training(),
    "masked": training(where=jnp.arange(8)[:, None] > 1),
    "all masked": training(where=jnp.zeros((8, 1), bool)),
    "constant": lambda x: training()(0 * x),
    "ghost": training(virtual_batch_size=4),
    "ragged": training(virtual_batch_size=3, ragged_groups="exact"),
    "ghost, features masked": training(virtual_batch_size=4, where=jnp.arange(24).reshape(8, 3) % 5 > 0),
    "sync": across,
    "sync in groups": functools.partial(across, axis_index_groups=[[0], [1]]),
    "sync and ghost": functools.partial(across, virtual_batch_size=2),
    "scale 0 and a mask": functools.partial(without_scale, True),
    "scale 0 and a mask at inference": functools.partial(without_scale, False),
    "gradient": jax.grad(lambda x: jnp.sum(jnp.sin(training(virtual_batch_size=4)(x)))),
    "renorm": FOLLOWED["renorm"],
}


@pytest.mark.parametrize("name", CHECKED)
def test_checkify_finds_nothing_where_nothing_is_wrong(name):
    x = batch((8, 3))
    error, found = jax.jit(checkify.checkify(CHECKED[name], errors=checkify.all_checks))(x)
    assert error.get() is None
    jax.tree.map(functools.partial(assert_close, tolerance=3e-6), found, jax.jit(CHECKED[name])(x))


def test_checkify_finds_a_number_that_is_none():
    error, _ = jax.jit(checkify.checkify(training(), errors=checkify.float_checks))(batch((8, 3)).at[0, 0].set(jnp.nan))
    assert "nan" in str(error.get())
