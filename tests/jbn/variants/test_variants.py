"""Batch renormalization, frozen, adaptive and domain batch norm: their equations, and where they are one another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import linen as nn
from flax import nnx, serialization
from helpers import SPREAD, assert_close, batch, case, case64, mask, mesh, poison
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jbn
import jbn.linen
import jbn.nnx

pytestmark = pytest.mark.usefixtures("strict")
MASKS = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])


def statistics(dtype="float32") -> jbn.BatchStats:
    return jbn.BatchStats(jnp.asarray([2.0, -1.0, 0.5], dtype), jnp.asarray([4.0, 0.25, 1.0], dtype))


def tree_close(ours, theirs, tolerance=3e-6):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert_close(np.asarray(a, np.float64), b, tolerance)


# Batch renormalization


def renorm_twin(x, scale, bias, stats, r_max, d_max, epsilon=1e-5, keep=None):
    """The paper's algorithm in plain jax.numpy, last axis only."""
    mean = jnp.mean(x, 0, where=keep)
    var = jnp.mean((x - mean[None]) ** 2, 0, where=keep)
    sigma_b, sigma = jnp.sqrt(var + epsilon), jnp.sqrt(stats.var + epsilon)
    r = jax.lax.stop_gradient(jnp.clip(sigma_b / sigma, 1 / r_max, r_max))
    d = jax.lax.stop_gradient(jnp.clip((mean - stats.mean) / sigma, -d_max, d_max))
    return ((x - mean[None]) / sigma_b[None] * r[None] + d[None]) * scale[None] + bias[None]


@MASKS
@pytest.mark.parametrize(("r_max", "d_max"), [(1.0, 0.0), (1.5, 0.4), (3.0, 5.0), (1e6, 1e6)])
def test_renorm_and_its_gradients_are_those_of_the_papers_algorithm(x64, r_max, d_max, masked):
    *args, dy = case64((13, 3))
    keep = mask((13, 3)) if masked else None
    stats = statistics("float64")

    def ours(x, scale, bias):
        return jbn.batch_renorm(x, scale, bias, stats, train=True, r_max=r_max, d_max=d_max, where=keep)[0]

    def twin(x, scale, bias):
        return renorm_twin(x, scale, bias, stats, r_max, d_max, keep=keep)

    both = (jax.jit(lambda *a, f=f: (lambda y, pull: (y, *pull(dy)))(*jax.vjp(f, *a)))(*args) for f in (ours, twin))
    jax.tree.map(functools.partial(assert_close, tolerance=1e-11), *both)


def test_renorm_with_its_limits_closed_is_batch_norm():
    x, scale, bias, _ = case()
    args = x, scale, bias, statistics()
    renorm = jbn.batch_renorm(*args, train=True, r_max=1.0, d_max=0.0)
    tree_close(renorm, jbn.batch_norm(*args, train=True), 3e-7)


def test_renorm_with_its_limits_wide_is_inference_and_moves_the_statistics():
    x, scale, bias, _ = case()
    args = x, scale, bias, statistics()
    y, stats, _ = jbn.batch_renorm(*args, train=True, r_max=1e6, d_max=1e6)
    assert_close(y, jbn.batch_norm(*args, train=False)[0], 3e-6)
    tree_close(stats, jbn.batch_norm(*args, train=True)[1], 3e-7)


def test_renorm_keeps_a_large_mean():
    x, scale, bias, _ = case((257, 3), mean=1e4)
    stats = jbn.BatchStats(jnp.mean(x, 0) + 0.125, jnp.ones(3))
    y = jbn.batch_renorm(x, scale, bias, stats, train=True, r_max=1e6, d_max=1e6)[0]
    assert_close(y, reference.normalize(x, stats.mean, stats.var, scale, bias), 2e-5)


def test_renorm_of_virtual_batches_corrects_each():
    x, scale, bias, _ = case((9, 3))
    stats = statistics()
    f = functools.partial(jbn.batch_renorm, train=True, r_max=1.5, d_max=0.4)
    y = f(x, scale, bias, stats, virtual_batch_size=3)[0]
    for i in (0, 3, 6):
        assert_close(y[i : i + 3], f(x[i : i + 3], scale, bias, stats)[0], 2e-6)
    assert_close(f(x.T, scale, bias, stats, axis=0, virtual_batch_size=3)[0].T, y, 2e-6)


@pytest.mark.parametrize("how", SPREAD)
def test_renorm_over_devices_is_that_of_one(how):
    x, scale, bias, _ = case((4, 5, 3))
    f = functools.partial(jbn.batch_renorm, train=True, r_max=1.5, d_max=0.4)
    y = SPREAD[how](lambda x: f(x, scale, bias, statistics(), axis_name="d")[0], 4)(x)
    assert_close(y, f(x, scale, bias, statistics())[0], 5e-6)


def test_a_ramp_opens_with_the_updates_and_survives_a_checkpoint():
    x = batch((8, 3))
    ramps = {
        "r_max": jbn.renorm_ramp(3.0, start=1, end=3, initial=1.0),
        "d_max": jbn.renorm_ramp(5.0, start=1, end=2, initial=0.0),
    }
    layer = jbn.linen.BatchRenorm(use_running_average=False, momentum=0.5, **ramps)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        variables = layer.init(jax.random.key(0), x)
        assert variables["batch_stats"]["step"] == 0
        for limits in ((1.0, 0.0), (1.0, 0.0), (2.0, 5.0), (3.0, 5.0)):
            y, updates = layer.apply(variables, x, mutable=["batch_stats"])
            state = variables["batch_stats"]
            stats = jbn.BatchStats(state["mean"], state["var"])
            assert_close(y, renorm_twin(x, jnp.ones(3), jnp.zeros(3), stats, *limits), 5e-6)
            variables |= serialization.from_bytes(updates, serialization.to_bytes(updates))
        assert variables["batch_stats"]["step"] == 4


@pytest.mark.parametrize("shell", ["linen", "nnx"])
def test_at_inference_a_ramp_needs_no_step_and_renorm_is_batch_norm(shell):
    x = batch((8, 3))
    ramps = {"r_max": lambda step: 1.0 + step, "d_max": lambda step: 1.0 * step}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if shell == "linen":
            stats = {"mean": jnp.full(3, 2.0), "var": jnp.full(3, 4.0)}  # as a checkpoint of Flax holds them
            layer = jbn.linen.BatchRenorm(use_running_average=True, epsilon=0.0, **ramps)
            y = layer.apply({"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}, "batch_stats": stats}, x)
        else:
            layer = jbn.nnx.BatchRenorm(3, use_running_average=True, epsilon=0.0, rngs=nnx.Rngs(0), **ramps)
            layer.mean[...], layer.var[...] = jnp.full(3, 2.0), jnp.full(3, 4.0)
            y = layer(x)
        assert_close(y, (np.asarray(x, np.float64) - 2) / 2, 1e-6)


def test_nothing_seen_is_nothing_to_correct():
    x, scale, bias, _ = case((5, 3))
    y, stats, _ = jbn.batch_renorm(x, scale, bias, statistics(), train=True, where=jnp.zeros((5, 3), bool))
    assert np.isfinite(y).all()
    jax.tree.map(np.testing.assert_array_equal, stats, statistics())


# Frozen


def test_frozen_is_an_affine_map_whose_gradient_reaches_the_input_alone(x64):
    x, scale, bias, dy = case64((7, 3))
    stats = statistics("float64")
    y, pull = jax.vjp(lambda *a: jbn.frozen_batch_norm(*a, stats), x, scale, bias)
    assert_close(y, reference.normalize(x, stats.mean, stats.var, scale, bias), 1e-12)
    dx, dscale, dbias = pull(dy)
    assert_close(dx, np.asarray(dy) * np.asarray(scale) / np.sqrt(np.asarray(stats.var) + 1e-5), 1e-12)
    assert not dscale.any() and not dbias.any()


# Adaptive


@MASKS
@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_adaptive_normalizes_by_the_blend(weight, masked):
    x, scale, bias, _ = case((13, 3), mean=1e3)
    stats = jbn.BatchStats(jnp.mean(x, 0) + 1.5, jnp.asarray([4.0, 0.25, 1.0]))
    keep = mask((13, 3)) if masked else None
    given = x if keep is None else poison(x, keep)
    y, test = jbn.adaptive_batch_norm(given, scale, bias, stats, source_weight=weight, where=keep)
    mean, var, _ = reference.moments(x, where=keep)
    source = reference.wide(stats.mean), reference.wide(stats.var)
    blend = weight * source[0] + (1 - weight) * mean, weight * source[1] + (1 - weight) * var
    exact = reference.normalize(x, *blend, scale, bias)
    keep = True if keep is None else keep
    assert_close(jnp.where(keep, y, 0), np.where(keep, exact, 0), 1e-4)
    np.testing.assert_allclose(test.var, var, rtol=1e-5)


def test_adaptive_is_inference_at_weight_1_and_training_at_0():
    x, scale, bias, _ = case()
    args = x, scale, bias, statistics()
    for weight, train in ((1.0, False), (0.0, True)):
        y, _ = jbn.adaptive_batch_norm(*args, source_weight=weight)
        assert_close(y, jbn.batch_norm(*args, train=train)[0], 1e-6)


@pytest.mark.parametrize("placement", ["before", "after"])
@pytest.mark.parametrize("face", ["linen", "nnx"])
def test_an_adaptive_layer_takes_an_activation_on_either_side(face, placement):
    x, options = batch((13, 3)), dict(use_running_average=True, source_weight=0.25)
    if face == "linen":
        layer = jbn.linen.AdaptiveBatchNorm(**options)
        variables = layer.init(jax.random.key(0), x)
        call = lambda x, **more: layer.apply(variables, x, **more)  # noqa: E731
    else:
        call = jbn.nnx.AdaptiveBatchNorm(3, rngs=nnx.Rngs(0), **options)
    apart = jax.nn.silu(call(x)) if placement == "before" else call(jax.nn.silu(x))
    assert_close(call(x, activation=jax.nn.silu, placement=placement), apart, 1e-6)


def test_adaptive_lets_gradients_through_the_test_batchs_statistics(x64):
    *args, _ = case64((5, 2), mean=0.5)
    stats = jbn.BatchStats(jnp.asarray([0.5, -1.0]), jnp.asarray([1.5, 0.5]))
    f = lambda *a: jbn.adaptive_batch_norm(*a, stats, source_weight=0.3)[0]  # noqa: E731
    check_grads(f, args, order=2, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


def test_adaptive_over_devices_is_that_of_one_and_a_masked_feature_falls_back_to_the_source():
    x, scale, bias, _ = case((4, 5, 3))
    keep = jnp.ones((4, 5, 3), bool).at[..., 1].set(False)

    def device(x, keep):
        options = {"source_weight": 0.25, "where": keep[0], "axis_name": "d"}
        return jbn.adaptive_batch_norm(x[0], scale, bias, statistics(), **options)[0][None]

    y = jax.jit(jax.shard_map(device, mesh=mesh(d=4), in_specs=P("d"), out_specs=P("d")))(x, keep)
    whole = jbn.adaptive_batch_norm(x, scale, bias, statistics(), source_weight=0.25)[0]
    source = jbn.batch_norm(x, scale, bias, statistics(), train=False)[0]
    assert_close(y, jnp.where(keep, whole, source), 2e-6)


@pytest.mark.parametrize("face", ["function", "linen", "nnx"])
@pytest.mark.parametrize(("shape", "axis"), [((1, 3), -1), ((1, 1, 1, 3), -1), ((1, 3, 1, 1), 1)], ids=str)
@pytest.mark.parametrize("weight", [0, 0.0, np.float32(0), jnp.float32(0)], ids=["int", "float", "numpy", "jax"])
def test_adaptive_refuses_one_value_by_itself_as_training_does(weight, shape, axis, face):
    x = batch((1, 3)).reshape(shape)

    def call(weight):
        options = {"source_weight": weight, "axis": axis}
        if face == "function":
            return jbn.adaptive_batch_norm(x, None, None, statistics(), **options)[0]
        options |= {"use_running_average": True}
        stats = {"mean": statistics().mean, "var": statistics().var}
        if face == "linen":
            layer = jbn.linen.AdaptiveBatchNorm(use_scale=False, use_bias=False, **options)
            return layer.apply({"batch_stats": stats}, x)
        layer = jbn.nnx.AdaptiveBatchNorm(3, rngs=nnx.Rngs(0), **options)
        layer.mean[...], layer.var[...] = stats["mean"], stats["var"]
        return layer(x)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        says = r"has 1 value per feature, and source_weight=0 takes .* pass a larger batch, .* or source_weight=N"
        with pytest.raises(ValueError, match=says):
            call(weight)
        for w in (0.25, 1.0):  # the blend of Schneider et al. works on one example, and so does inference
            exact = (1 - w) * np.asarray(batch((1, 3))) + w * np.asarray(statistics().mean)
            exact = (np.asarray(batch((1, 3)), np.float64) - exact) / np.sqrt(w * np.asarray(statistics().var) + 1e-5)
            assert_close(call(w).ravel(), exact.ravel(), 3e-6)


def test_adaptive_of_one_value_that_only_the_call_can_tell_falls_back_to_the_source():
    """Under a mask, or with a traced weight, nothing can be refused."""
    x, scale, bias, _ = case((5, 3))
    args, keep = (scale, bias, statistics()), jnp.arange(5)[:, None] == 2
    source = jbn.batch_norm(x, *args, train=False)[0]
    assert_close(jbn.adaptive_batch_norm(x, *args, where=keep)[0][2], source[2], 2e-6)
    one = jax.jit(lambda w: jbn.adaptive_batch_norm(x[:1], *args, source_weight=w)[0])
    assert_close(one(0.0), source[:1], 2e-6)
    assert_close(one(0.5), jbn.adaptive_batch_norm(x[:1], *args, source_weight=0.5)[0], 2e-6)


# Domains


@pytest.mark.parametrize("separate", [False, True], ids=["shared-affine", "separate-affine"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_one_compiled_step_serves_every_domain(train, separate):
    x, scale, bias, _ = case()
    scales, biases = (jnp.stack([p, 2 * p]) for p in (scale, bias))
    stats = jax.tree.map(lambda a: jnp.stack([a, a + 1]), statistics())
    traces = []

    @jax.jit
    def f(x, scale, bias, stats, domain):
        traces.append(domain)
        return jbn.domain_batch_norm(x, scale, bias, stats, domain, train=train, momentum=0.5)

    for d in (0, 1):
        y, new, _ = f(x, scales if separate else scale, biases if separate else bias, stats, d)
        own = jax.tree.map(lambda a: a[d], stats)  # noqa: B023
        affine = (scales[d], biases[d]) if separate else (scale, bias)
        one, moved, _ = jbn.batch_norm(x, *affine, own, train=train, momentum=0.5)
        assert_close(y, one, 1e-6)
        tree_close(jax.tree.map(lambda a: a[d], new), moved, 1e-6)  # noqa: B023
        other = jax.tree.map(lambda a: a[1 - d], (new, stats))  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, *other)
    assert len(traces) == 1


@MASKS
def test_each_example_may_have_a_domain_of_its_own(masked):
    x, scale, bias, _ = case((13, 2, 3))
    keep = mask((13, 2, 3)) if masked else np.ones((13, 2, 3), bool)
    domain = jnp.asarray([0, 2, 0, 0, 2, 2, 0, 2, 0, 0, 2, 2, 0])
    stats = jbn.init_domain_stats(3, 3)
    f = jax.jit(functools.partial(jbn.domain_batch_norm, train=True, momentum=0.0))
    y, new, info = f(poison(x, keep), scale, bias, stats, domain, where=jnp.asarray(keep))
    for d in (0, 2):
        rows = np.asarray(domain) == d
        mean, var, _ = reference.moments(x[rows], where=keep[rows])
        exact = reference.normalize(x[rows], mean, var, scale, bias)
        assert_close(jnp.where(keep[rows], y[rows], 0), np.where(keep[rows], exact, 0), 3e-6)
        np.testing.assert_allclose(new.mean[d], mean, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(new.var[d], var, rtol=3e-6)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), new, stats)
    assert info.moments.mean.shape == (3, 3)


def test_one_domain_is_batch_norm():
    x, scale, bias, dy = case()
    stats = jax.tree.map(lambda a: a[None], statistics())

    def step(f, *args):
        y, pull, new = jax.vjp(lambda x, s, b: f(x, s, b, *args, train=True)[:2], x, scale, bias, has_aux=True)
        return y, pull(dy), jax.tree.map(jnp.squeeze, new)

    plain = step(jbn.batch_norm, statistics())
    tree_close(step(jbn.domain_batch_norm, stats, 0), plain, 1e-6)
    tree_close(step(jbn.domain_batch_norm, stats, jnp.zeros(7, int)), plain, 3e-6)


def test_a_traced_domain_out_of_range_is_seen():
    x, _, _, _ = case()
    stats = jbn.init_domain_stats(2, 3)
    y, new, _ = jax.jit(lambda d: jbn.domain_batch_norm(x, None, None, stats, d, train=True))(2)
    assert np.isnan(y).all()
    jax.tree.map(np.testing.assert_array_equal, new, stats)


UNDER = {
    "eager": lambda f: f(),
    "jit": lambda f: jax.jit(f)(),
    "scan": lambda f: jax.tree.map(lambda a: a[0], jax.lax.scan(lambda c, _: (c, f()), 0, None, length=2)[1]),
    "grad": lambda f: jax.jit(jax.value_and_grad(lambda _: (jnp.sum(y := f()), y), has_aux=True))(0.0)[0][1],
}


def on_face(face, domains, x, domain):
    if face == "functional":
        return jbn.domain_batch_norm(x, None, None, jbn.init_domain_stats(domains, x.shape[-1]), domain, train=True)[0]
    if face == "nnx":
        return jbn.nnx.DomainBatchNorm(x.shape[-1], domains=domains, rngs=nnx.Rngs(0))(x, domain)
    layer = jbn.linen.DomainBatchNorm(domains=domains, use_running_average=False)
    return layer.apply(layer.init(jax.random.key(0), x, 0), x, domain, mutable=["batch_stats"])[0]


@pytest.mark.parametrize("kind", [int, np.int32, jnp.asarray], ids=["python", "numpy", "jax"])
@pytest.mark.parametrize("under", UNDER)
@pytest.mark.parametrize("face", ["functional", "linen", "nnx"])
def test_a_domain_may_be_a_constant_of_the_program_and_is_checked(face, under, kind):
    """Of a constant, values are known; of what is computed from it under a transformation they are not."""
    x = batch((7, 3))
    for domain in [kind(1)] if kind is int else [kind(1), kind([0, 1, 1, 0, 1, 1, 0])]:
        got = UNDER[under](lambda: on_face(face, 2, x, domain))  # noqa: B023
        assert_close(got, on_face(face, 2, x, domain), 2e-6)
    two = kind(2)
    with pytest.raises(ValueError, match=r"domain=2 is out of range; pass whole numbers from 0 to 1"):
        UNDER[under](lambda: on_face(face, 2, x, two))


@pytest.mark.parametrize("under", UNDER)
def test_numbers_that_are_constants_of_the_program_are_checked_whatever_holds_them(under):
    x, stats, two, negative = batch((7, 3)), statistics(), jnp.asarray(2.0), jnp.asarray(-2.0)
    for call, says in (
        (lambda: jbn.batch_norm(x, None, None, stats, train=True, momentum=two)[0], "momentum=2"),
        (lambda: jbn.adaptive_batch_norm(x, None, None, stats, source_weight=two)[0], "source_weight=2"),
        (lambda: jbn.batch_renorm(x, None, None, stats, train=True, d_max=negative)[0], "d_max=-2"),
    ):
        with pytest.raises(ValueError, match=says):
            UNDER[under](call)
    half = jnp.asarray(0.5)
    got = UNDER[under](lambda: jbn.batch_norm(x, None, None, stats, train=True, momentum=half)[1].mean)
    np.testing.assert_allclose(got, jbn.batch_norm(x, None, None, stats, train=True, momentum=0.5)[1].mean, rtol=1e-6)


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
        {"source_weight": 0.25},
        (),
        lambda *a, train, momentum: (
            jbn.batch_norm(*a, train=True, momentum=momentum)
            if train
            else (jbn.adaptive_batch_norm(*a, source_weight=0.25)[0], a[3], None)
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
