"""Meshes with explicit or automatic axes, sharded over batch, features or both, give the results of one device."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from helpers import affine, assert_close, batch, mask
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jbn
import jbn.fold
import jbn.linen
import jbn.nnx
import jbn.population

SHAPE = (12, 2, 6)
PLACES = {"batch": P("d"), "features": P(None, None, "f"), "both": P("d", None, "f")}
KINDS = {"explicit": AxisType.Explicit, "automatic": AxisType.Auto}
QUICKLY = {"xla_backend_optimization_level": 0}


def mesh_of(kind):
    return jax.make_mesh((2, 3), ("d", "f"), axis_types=(KINDS[kind],) * 2, devices=jax.devices()[:6])


def ramp(final):
    return jbn.renorm_ramp(final, start=0, end=2, initial=1.0 if final > 1 else 0.0)


def swish(slope):
    """An activation that uses another array on the mesh."""
    return lambda x: x * jax.nn.sigmoid(slope * x)


def trained(norm, **options):
    def step(x, keep, scale, bias, stats):
        masked = {"where": keep} if options.get("masked") else {}
        y, stats, info = norm(x, scale, bias, stats, **masked, **{k: v for k, v in options.items() if k != "masked"})
        return y, (stats, info)

    return step


def with_parameter(x, keep, scale, bias, stats):
    y, *others = jbn.batch_norm(
        x, scale, None, stats, train=True, where=keep, activation=swish(bias), placement="after", skip_nonfinite=True
    )
    return y, others


def frozen(x, keep, scale, bias, stats):
    return jbn.frozen_batch_norm(x, scale, bias, stats, where=keep, activation=jax.nn.silu), ()


def adapted(x, keep, scale, bias, stats):
    y, test = jbn.adaptive_batch_norm(x, scale, bias, stats, source_weight=jnp.asarray(0.25), where=keep)
    return y, test


def domains(choose):
    def step(x, keep, scale, bias, stats):
        separate = jnp.stack([bias, -bias])
        stats = jax.tree.map(lambda a: jnp.stack([a, a + 1]), stats)
        return trained(jbn.domain_batch_norm, domain=choose(x), train=True, masked=True)(
            x, keep, scale, separate, stats
        )

    return step


def named(x, keep, scale, bias, stats):
    def one(x):
        return trained(jbn.batch_norm, train=True, axis_name="v", axis_index_groups=[[0, 1], [2, 3]])(
            x, None, scale, bias, stats
        )

    y, others = jax.vmap(one, axis_name="v")(x.reshape(4, 3, *x.shape[1:]))
    return y.reshape(x.shape), others


train = functools.partial(trained, jbn.batch_norm, train=True)
renorm = functools.partial(trained, jbn.batch_renorm, train=True)
# From x, mask, scale, bias and running statistics: y and all other results; with the options of the statistics.
STEPS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (train(debias=True, variance="unbiased"), {"debias": True}),
    "mask and activation": (with_parameter, {"skip_nonfinite": True}),
    "ghost": (train(virtual_batch_size=4, accumulate_steps=2), {"accumulate_steps": 2}),
    "ghost, ragged, masked": (
        train(virtual_batch_size=5, ragged_groups="exact", masked=True, activation=jax.nn.silu, momentum=None),
        {"momentum": None},
    ),
    "renorm": (renorm(r_max=ramp(1.5), d_max=0.4, masked=True), {"count_steps": True}),
    "renorm, ghost": (
        renorm(r_max=1.5, d_max=0.4, virtual_batch_size=4, momentum=lambda step: 0.5),
        {"count_steps": True},
    ),
    "running and updated": (trained(jbn.batch_norm, train=False, update=True, masked=True), {}),
    "frozen": (frozen, {}),
    "adaptive": (adapted, {}),
    "domain": (domains(lambda x: jnp.asarray(1)), {}),
    "domains": (domains(lambda x: jnp.arange(x.shape[0]) % 2), {}),
    "named": (named, {}),
}


def numbers(options):
    scale, bias = affine(SHAPE)
    stats = jbn.init_stats(SHAPE[-1], **options)
    stats = stats._replace(mean=stats.mean + 2.5 * bias, var=stats.var + scale**2)
    return batch(SHAPE, mean=5.0), jnp.asarray(mask(SHAPE)), batch(SHAPE, seed=5), scale, bias, stats


def everything(step):
    def run(x, keep, dy, scale, bias, stats):
        def forward(x, scale, bias):
            return step(x, keep, scale, bias, stats)

        y, pull, others = jax.vjp(forward, x, scale, bias, has_aux=True)
        return y, pull(dy), others

    return run


@functools.cache
def on_one_device(name):
    step, options = STEPS[name]
    return jax.jit(everything(step))(*numbers(options))


def spread(arrays, mesh, place, vectors_too=False):
    """Shards arrays of the shape of x by `place`, and vectors like the features or not at all."""

    def put(a):
        vector = P(*place[2:]) if vectors_too and a.ndim else P()
        return jax.device_put(a, NamedSharding(mesh, place if a.ndim == len(SHAPE) else vector))

    return jax.tree.map(put, arrays)


close = functools.partial(jax.tree.map, functools.partial(assert_close, tolerance=1e-5))


def spec(a):
    return jax.typeof(a).sharding.spec


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STEPS)
def test_every_variant_and_option_spread_over_a_mesh_is_that_of_one_device(name, kind, place):
    step, options = STEPS[name]
    mesh, vectors_too = mesh_of(kind), list(STEPS).index(name) % 2 == 0
    with jax.set_mesh(mesh):
        given = spread(numbers(options), mesh, PLACES[place], vectors_too)
        got = jax.jit(everything(step), compiler_options=QUICKLY)(*given)
    close(got, on_one_device(name))
    if kind == "explicit":
        y, grads, _ = got
        assert (spec(y), *map(spec, grads)) == (spec(given[0]), *map(spec, (given[0], *given[3:5])))


@pytest.mark.parametrize("vectors_too", [False, True], ids=["replicated", "spread"])
def test_a_scan_carries_the_statistics_as_they_were_spread(vectors_too):
    x, _, _, scale, bias, stats = numbers({"momentum": None})

    def run(stats, batches, scale, bias):
        def step(stats, x):
            y, stats, info = jbn.batch_norm(x, scale, bias, stats, train=True, momentum=None, virtual_batch_size=3)
            return stats, (y, info)

        return jax.lax.scan(step, stats, batches)

    want = jax.jit(run)(stats, jnp.stack([x, -x]), scale, bias)
    mesh = mesh_of("explicit")
    with jax.set_mesh(mesh):
        x, scale, bias, stats = spread((x, scale, bias, stats), mesh, PLACES["both"], vectors_too)
        got = jax.jit(run)(stats, jnp.stack([x, -x]), scale, bias)
    close(got, want)
    assert spec(got[0].var) == spec(stats.var)


@pytest.mark.parametrize("place", PLACES)
def test_each_function_alone_says_how_its_result_is_spread(place):
    x, keep, _, scale, bias, stats = numbers({})

    def run(x, keep, scale, bias, stats):
        m = jbn.moments(x, where=keep)
        merged = jbn.merge(m, jbn.merge(jbn.moments(x), jbn.moments(2 * x, where=jnp.asarray([[True], [False]]))))
        return jbn.normalize(x, m.mean, m.var, scale, bias, where=keep), m, merged, jbn.update_stats(stats, merged)

    mesh = mesh_of("explicit")
    with jax.set_mesh(mesh):
        given = spread((x, keep, scale, bias, stats), mesh, PLACES[place])
        y, m, merged, new = got = jax.jit(run)(*given)
    close(got, jax.jit(run)(x, keep, scale, bias, stats))
    assert spec(y) == spec(given[0])
    assert spec(m.mean) == spec(merged.var) == P(*PLACES[place][2:] or [None])
    assert spec(new.mean) == P(None)


@pytest.mark.parametrize(("place", "context"), [("both", "set"), ("batch", "not set"), ("features", "not set")])
def test_calls_and_gradients_without_jit_are_those_of_one_device(place, context):
    def step(x, scale, bias, stats):
        return jbn.batch_norm(x, scale, bias, stats, train=True, virtual_batch_size=6)

    def run(x, dy, *vectors):
        y, pull, others = jax.vjp(lambda x: (lambda y, *rest: (y, rest))(*step(x, *vectors)), x, has_aux=True)
        return y, pull(dy), others

    x, _, dy, *vectors = numbers({})
    mesh = mesh_of("explicit")
    with jax.set_mesh(mesh) if context == "set" else contextlib.nullcontext():
        got = run(*spread((x, dy), mesh, PLACES[place]), *vectors)
    close(got, jax.jit(run)(x, dy, *vectors))


@pytest.mark.parametrize("lanes", [P("d"), P("d", "f"), P(None, "f")], ids=str)
def test_layers_side_by_side_may_be_spread_too(lanes):
    def layers(x, scale, bias):
        norm = functools.partial(jbn.batch_norm, stats=jbn.init_stats(6), train=True, virtual_batch_size=3)
        return jax.vmap(lambda x: norm(x, scale, bias))(x)

    x, *_, scale, bias, _ = numbers({})
    x = jnp.stack([x, x**2])
    mesh = mesh_of("explicit")
    with jax.set_mesh(mesh):
        got = jax.jit(layers)(jax.device_put(x, NamedSharding(mesh, lanes)), scale, bias)
    close(got, jax.jit(layers)(x, scale, bias))
    assert spec(got[0])[:2] == (*lanes, None)[:2]


def test_one_axis_may_be_divided_by_shard_map_and_the_other_spread():
    def step(x, scale, bias, stats, **across):
        return jbn.batch_norm(x, scale, bias, stats, train=True, **across)[:2]

    x, *_, scale, bias, stats = numbers({})
    mesh = mesh_of("explicit")
    device = jax.shard_map(
        functools.partial(step, axis_name="d"),
        in_specs=(P("d"), P(), P(), P()),
        out_specs=(P("d"), P()),
        axis_names={"d"},
    )
    with jax.set_mesh(mesh):
        got = jax.jit(device)(*spread((x, scale, bias, stats), mesh, PLACES["both"]))
    close(got, jax.jit(step)(x, scale, bias, stats))


def test_population_and_fold_take_batches_that_are_spread():
    x, *_ = numbers({})
    norm = jbn.nnx.BatchNorm(SHAPE[-1], use_running_average=True, rngs=nnx.Rngs(0))
    model = nnx.Sequential(nnx.Linear(SHAPE[-1], SHAPE[-1], rngs=nnx.Rngs(1)), norm)

    def run(x):
        measured = nnx.clone(model)
        jbn.population.estimate_nnx(measured, [x, x], progress=False)
        folded = jbn.fold.fold_nnx(measured, x)
        return nnx.to_pure_dict(nnx.state(measured, nnx.BatchStat)), folded(x)

    want, mesh = run(x), mesh_of("explicit")
    with jax.set_mesh(mesh):
        close(run(spread(x, mesh, PLACES["both"])), want)


MODULES = {
    "BatchNorm": dict(virtual_batch_size=4),
    "BatchRenorm": dict(r_max=1.5, d_max=0.4),
    "FrozenBatchNorm": {},
    "AdaptiveBatchNorm": dict(source_weight=0.25, use_running_average=True),
    "DomainBatchNorm": dict(separate_affine=True),
}


def linen_step(kind, x, keep, *domain):
    layer = getattr(jbn.linen, kind)(**{"use_running_average": False} | MODULES[kind])
    variables = layer.init(jax.random.key(0), x, *domain)

    def loss(params):
        y, updates = layer.apply(variables | {"params": params}, x, *domain, mask=keep, mutable=["batch_stats"])
        return jnp.sum(y**3), (y, updates)

    return jax.grad(loss, has_aux=True)(variables["params"])


def nnx_step(kind, x, keep, *domain):
    layer = getattr(jbn.nnx, kind)(SHAPE[-1], rngs=nnx.Rngs(0), **MODULES[kind])

    def loss(layer):
        y = layer(x, *domain, mask=keep)
        return jnp.sum(y**3), y

    grads, y = nnx.grad(loss, has_aux=True)(layer)
    return nnx.to_pure_dict(grads), (y, nnx.to_pure_dict(nnx.state(layer)))


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("step", [linen_step, nnx_step], ids=["linen", "nnx"])
def test_the_modules_are_made_trained_and_run_on_explicit_axes(step, kind):
    x, keep, *_ = numbers({})
    run = jax.jit(lambda *arrays: step(kind, *arrays))
    domain = [jnp.asarray(1)] if kind == "DomainBatchNorm" else []
    mesh = mesh_of("explicit")
    with jax.set_mesh(mesh):
        got = run(*spread((x, keep), mesh, PLACES["both"]), *domain)
    close(got, run(x, keep, *domain))
