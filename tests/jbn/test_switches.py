"""Three switches: which statistics normalize, whether the running ones are updated, whether scale and bias train."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import assert_close, batch, case, case64, mask, mesh, poison
from jax.sharding import PartitionSpec as P

import jbn

pytestmark = pytest.mark.usefixtures("strict")


def statistics(dtype="float32") -> jbn.BatchStats:
    return jbn.BatchStats(jnp.asarray([2.0, -1.0, 0.5], dtype), jnp.asarray([4.0, 0.25, 1.0], dtype))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("running", "update", "trainable"), list(itertools.product([False, True], repeat=3)), ids=lambda on: "ny"[on]
)
def test_the_three_switches_are_independent(x64, running, update, trainable, train):
    x, scale, bias, dy = case64((7, 3))
    stats, momentum = statistics("float64"), 0.75

    @jax.jit
    def call(x, scale, bias):
        switches = {"use_running_average": running, "update": update, "trainable": trainable}
        f = functools.partial(jbn.batch_norm, stats=stats, train=train, momentum=momentum, **switches)
        y, pull, new = jax.vjp(lambda *a: f(*a)[:2], x, scale, bias, has_aux=True)
        return y, pull(dy), new

    y, (dx, dscale, dbias), new = call(x, scale, bias)
    mean, var, _ = reference.moments(x)
    used = stats[:2] if running else (mean, var)
    assert_close(y, reference.normalize(x, *used, scale, bias), 1e-12)
    if running:
        used_mean, used_var, g, d = (np.asarray(a) for a in (*used, scale, dy))
        factor = 1 / np.sqrt(used_var + 1e-5)
        exact = d * g * factor, (d * (np.asarray(x) - used_mean) * factor).sum(0), d.sum(0)
    else:
        exact = reference.backward(x, dy, scale)
    assert_close(dx, exact[0], 1e-11)
    assert_close(dscale, exact[1] if trainable else np.zeros(3), 1e-11)
    assert_close(dbias, exact[2] if trainable else np.zeros(3), 1e-11)
    for got, old, seen in zip(new[:2], stats[:2], (mean, var), strict=True):
        assert_close(got, momentum * old + (1 - momentum) * seen if update else old, 1e-12)


def test_by_default_training_uses_and_moves_what_it_should():
    x, scale, bias, _ = case()
    stats = statistics()
    for train in (True, False):
        explicit = jbn.batch_norm(x, scale, bias, stats, train=not train, use_running_average=not train, update=train)
        default = jbn.batch_norm(x, scale, bias, stats, train=train)
        jax.tree.map(np.testing.assert_array_equal, explicit, default)


def test_masked_statistics_may_move_while_the_running_ones_normalize():
    x, scale, bias, _ = case((13, 3))
    keep = mask((13, 3))
    options = {"train": False, "update": True, "momentum": 0.0, "where": keep}
    y, new, info = jbn.batch_norm(poison(x, keep), scale, bias, statistics(), **options)
    mean, var, count = reference.moments(x, where=keep)
    exact = reference.normalize(x, *statistics()[:2], scale, bias)
    assert_close(jnp.where(keep, y, 0), np.where(keep, exact, 0))
    assert_close(new.mean, mean)
    np.testing.assert_allclose(new.var, var, rtol=2e-6)
    np.testing.assert_array_equal(info.moments.count, count)


def test_a_frozen_layer_takes_no_pass_over_the_batch_forwards_or_backwards():
    x, scale, bias, dy = case((8, 4, 3))

    def gradient(x, **options):
        return jax.vjp(lambda x, s, b: jbn.batch_norm(x, s, b, statistics(), **options)[0], x, scale, bias)[1](dy)

    compiled = jax.jit(functools.partial(gradient, train=False, trainable=False)).lower(x).compile().as_text()
    assert " reduce(" not in compiled and " reduce-window(" not in compiled
    assert " reduce(" in jax.jit(functools.partial(gradient, train=True)).lower(x).compile().as_text()


def test_a_frozen_layer_needs_no_axis_name():
    x, scale, bias, _ = case()
    frozen = functools.partial(jbn.batch_norm, train=False, axis_name="nowhere")
    y = frozen(x, scale, bias, statistics())[0]
    assert_close(y, reference.normalize(x, *statistics()[:2], scale, bias))


def test_devices_move_the_running_statistics_together_while_these_normalize():
    x = batch((4, 5, 3), mean=50.0)

    def device(x):
        options = {"train": False, "update": True, "momentum": 0.0, "axis_name": "d"}
        return jbn.batch_norm(x[0], None, None, statistics(), **options)[1].var

    var = jax.jit(jax.shard_map(device, mesh=mesh(d=4), in_specs=P("d"), out_specs=P()))(x)
    np.testing.assert_allclose(var, reference.moments(x)[1], rtol=1e-5)


# One value per feature


@pytest.mark.parametrize(("shape", "axis"), [((1, 3), -1), ((3,), 0), ((1, 1, 1, 3), -1), ((3, 1), 0)])
def test_one_value_per_feature_is_refused_in_training_with_the_remedy(shape, axis):
    says = r"has 1 value per feature, .* pass a larger batch, axis_name=.*, or train=False"
    for options in ({"train": True}, {"train": False, "update": True}):
        with pytest.raises(ValueError, match=says):
            jbn.batch_norm(jnp.ones(shape), None, None, statistics(), axis=axis, **options)
    y, _, _ = jbn.batch_norm(jnp.ones(shape), None, None, statistics(), axis=axis, train=False)
    assert_close(y.reshape(3), (1 - statistics().mean) / np.sqrt(reference.wide(statistics().var) + 1e-5))


def test_one_value_on_each_of_several_devices_is_enough():
    x = batch((4, 1, 3))
    y = jax.vmap(lambda x: jbn.batch_norm(x, None, None, None, train=True, axis_name="d")[0], axis_name="d")(x)
    assert_close(y, reference.normalize(x, *reference.moments(x)[:2]))


def test_one_value_in_a_group_of_one_device_is_refused():
    f = functools.partial(jbn.batch_norm, train=True, axis_name="d", axis_index_groups=[[0], [1, 2, 3]])
    with pytest.raises(ValueError, match="has 1 value per feature"):
        jax.vmap(lambda x: f(x, None, None, None)[0], axis_name="d")(batch((4, 1, 3)))


@pytest.mark.parametrize("options", [{}, {"virtual_batch_size": 1}, {"variance": "unbiased"}], ids=str)
def test_one_value_is_refused_where_it_is_computed_and_passes_where_shapes_are_asked_for(options):
    def f(x):
        return jbn.batch_norm(x, None, None, jbn.init_stats(3), train=True, **options)[:2]

    loss, x = (lambda x: f(x)[0].sum()), jnp.ones((1, 3))
    y, stats = jax.eval_shape(f, x)
    assert y.shape == x.shape and stats.mean.shape == (3,)
    assert jax.eval_shape(jax.vmap(jax.jacfwd(jax.grad(loss))), x[None]).shape == (1, 1, 3, 1, 3)
    for way in (f, jax.jit(f), jax.grad(loss), jax.jit(jax.grad(loss)), lambda x: jax.jvp(f, (x,), (x,))):
        with pytest.raises(ValueError, match="has 1 value per feature"):
            way(x)
    for way in (jax.vmap(f), jax.jit(jax.vmap(f)), lambda x: jax.lax.scan(lambda c, x: (c, f(x)), 0, x)):
        with pytest.raises(ValueError, match="has 1 value per feature"):
            way(x[None])


# Traced switches


SWITCHES = ["train", "use_running_average", "update", "trainable", "debias", "skip_nonfinite"]


@pytest.mark.parametrize("name", SWITCHES)
def test_a_traced_switch_is_refused_by_name_with_the_remedy(name):
    def call(x, flag):
        return jbn.batch_norm(x, None, None, statistics(), **({"train": True} | {name: flag}))[0]

    x = batch((5, 3))
    says = rf"{name} is a traced array of dtype bool, .* close over it, .* static_argnames='{name}'"
    for transformed in (jax.jit(call), jax.vmap(call, (None, 0))):
        with pytest.raises(TypeError, match=says):
            transformed(x, jnp.ones(2, bool))
    if name in SWITCHES[:4]:  # the other switches change which state is needed
        for flag in (True, False):  # a concrete value works like a Python value
            assert_close(call(x, jnp.asarray(flag)), call(x, flag))


# The measurements of a call


def test_info_tells_what_goes_wrong_in_a_batch():
    x = jnp.stack([jnp.zeros(64), *batch((64, 2), mean=1e3).T, jnp.linspace(-1e-4, 1e-4, 64)], 1)
    mean, var, _ = reference.moments(x)
    stats = jbn.init_stats(4, skip_nonfinite=True)._replace(skipped=jnp.asarray(7, jnp.int32))
    _, _, info = jbn.batch_norm(x, None, None, stats, train=True, skip_nonfinite=True)
    np.testing.assert_array_equal(info.dead, [True, False, False, False])
    np.testing.assert_allclose(info.cancellation, mean**2 / (var + 1e-5), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(info.drift, np.abs(mean) / np.sqrt(1 + 1e-5), rtol=1e-5, atol=1e-9)
    assert info.moments.count == 64 and info.skipped == 7
    assert info.var_to_epsilon == 0
    live = jbn.batch_norm(x[:, 3:], None, None, None, train=True)[2]
    np.testing.assert_allclose(live.var_to_epsilon, var[3] / 1e-5, rtol=1e-5)


def test_info_of_inference_measures_nothing():
    assert jbn.batch_norm(batch((5, 3)), None, None, statistics(), train=False)[2] == jbn.Info()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"placement": "both"}, r"placement is 'both'; choose 'before' or 'after'"),
        ({"stats": None, "use_running_average": True}, r"stats is None and use_running_average is True; pass running"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(options, says):
    with pytest.raises(ValueError, match=says):
        jbn.batch_norm(batch((5, 3)), None, None, **({"stats": statistics(), "train": True} | options))
