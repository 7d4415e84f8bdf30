"""`max_drift` of adaptive batch norm: how far the blend may leave the running statistics."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import linen as nn
from flax import nnx
from helpers import assert_close, batch, case, case64, mask, mesh, poison, statistics
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jbn
import jbn.equinox
import jbn.linen
import jbn.nnx

STRICT = pytest.mark.usefixtures("strict")
DRIFTS = (0.01, 0.3, 1.0, 4.0)


def used(x, stats, epsilon=1e-5, **options):
    """Mean and sqrt(var + epsilon) that a call has used, from its outputs: it is an affine map of each feature."""
    y, _ = jbn.adaptive_batch_norm(x, None, None, stats, epsilon=epsilon, **options)
    x, y = reference.wide(x), reference.wide(y)
    deviation = (x[0] - x[-1]) / (y[0] - y[-1])
    return x[0] - y[0] * deviation, deviation


def bounded(x, stats, weight, drift, epsilon=1e-5, where=None):
    """The blend by the equations of the docstring, in float64."""
    mean, var, _ = reference.moments(x, where=where)
    source, square = reference.wide(stats.mean), reference.wide(stats.var) + epsilon
    mean, spread = weight * source + (1 - weight) * mean, np.sqrt(weight * square + (1 - weight) * (var + epsilon))
    sigma = np.sqrt(square)
    mean = np.clip(mean, source - drift * sigma, source + drift * sigma)
    return mean, np.clip(spread, sigma / (1 + drift), sigma * (1 + drift)) ** 2 - epsilon


@STRICT
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_blend_is_clipped_as_the_equations_say(weight, drift, masked):
    x, scale, bias, _ = case((13, 3))
    keep = mask((13, 3)) if masked else None
    given = x if keep is None else poison(x, keep)
    y, test = jbn.adaptive_batch_norm(
        given, scale, bias, statistics(), source_weight=weight, max_drift=drift, where=keep
    )
    exact = reference.normalize(x, *bounded(x, statistics(), weight, drift, where=keep), scale, bias)
    np.testing.assert_allclose(test.mean, reference.moments(x, where=keep)[0], rtol=1e-5)
    keep = True if keep is None else keep
    assert_close(jnp.where(keep, y, 0), np.where(keep, exact, 0), 1e-5)


@STRICT
@pytest.mark.parametrize("drift", DRIFTS)
def test_the_bound_holds_for_every_feature_and_is_reached_both_ways(drift, x64):
    # A mean far above and below, a spread far too large and too small, and one that is as the source's.
    x = jnp.stack([30 + jnp.linspace(-90, 90, 7), -70 + jnp.linspace(-1, 1, 7) / 99, jnp.linspace(-1, 1, 7)], 1)
    stats = jbn.BatchStats(jnp.asarray([0.0, 1.0, 0.0]), jnp.asarray([1.0, 4.0, 4 / 9]))
    mean, deviation = used(x, stats, max_drift=drift)
    sigma = np.sqrt(reference.wide(stats.var) + 1e-5)
    far, ratio = (mean - reference.wide(stats.mean)) / sigma, deviation / sigma
    assert (np.abs(far) <= drift * (1 + 1e-9)).all() and (np.abs(np.log(ratio)) <= np.log1p(drift) + 1e-9).all()
    np.testing.assert_allclose(far[:2], [drift, -drift], rtol=1e-9)
    np.testing.assert_allclose(ratio, [1 + drift, 1 / (1 + drift), 1], rtol=1e-9)


@STRICT
@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_no_bound_is_None_and_infinity_and_a_huge_number_traced_or_not(weight):
    x, scale, bias, _ = case((13, 3), mean=50.0)
    call = functools.partial(jbn.adaptive_batch_norm, x, scale, bias, statistics(), source_weight=weight)
    free = call()[0]
    traced = jax.jit(lambda d: call(max_drift=d)[0])
    for drift in (None, np.inf, 1e9, np.float32(1e30)):
        np.testing.assert_array_equal(call(max_drift=drift)[0], free)
        if drift is not None:
            assert_close(traced(jnp.float32(drift)), free, 1e-6)
    constant = jbn.BatchStats(jnp.zeros(3), jnp.zeros(3))  # a source that never varied has no spread to multiply
    y = jax.jit(lambda d: jbn.adaptive_batch_norm(x, None, None, constant, max_drift=d)[0])(jnp.inf)
    assert_close(y, jbn.adaptive_batch_norm(x, None, None, constant)[0], 1e-5)


@STRICT
def test_a_bound_that_tends_to_0_is_inference_as_usual():
    x, scale, bias, _ = case((13, 3))
    usual = jbn.batch_norm(x, scale, bias, statistics(), train=False)[0]
    for drift in (1e-3, 1e-5, 1e-7, np.finfo(np.float32).tiny):
        y, _ = jbn.adaptive_batch_norm(x, scale, bias, statistics(), max_drift=drift)
        assert_close(y, usual, 3 * drift + 2e-6)


@STRICT
def test_a_shift_below_the_bound_is_untouched_bit_by_bit():
    rng = np.random.default_rng(0)
    for mean in (0.0, 1e4):
        x = jnp.asarray(mean + rng.normal(0.2, 1.1, (64, 3)), jnp.float32)
        stats = jbn.BatchStats(jnp.full(3, mean), jnp.ones(3))
        free, _ = jbn.adaptive_batch_norm(x, None, None, stats)
        np.testing.assert_array_equal(jbn.adaptive_batch_norm(x, None, None, stats, max_drift=1.0)[0], free)


@STRICT
@pytest.mark.parametrize("drift", [0.2, 20.0], ids=["clipped", "free"])
def test_gradients_are_those_of_the_blend_or_of_a_constant(drift, x64):
    x, scale, bias, _ = case64((5, 2), mean=0.5)
    mean, var = jnp.asarray([3.0, -4.0]), jnp.asarray([9.0, 16.0])

    def f(x, scale, bias, mean, var, drift):
        return jbn.adaptive_batch_norm(x, scale, bias, jbn.BatchStats(mean, var), source_weight=0.3, max_drift=drift)[0]

    args = (x, scale, bias, mean, var, jnp.asarray(drift))
    check_grads(f, args, order=2, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)
    jacobian = jax.jacobian(f)(*args)
    alone = np.asarray([jacobian[i, :, j, :][~np.eye(2, dtype=bool)] for i in range(5) for j in range(5) if i != j])
    assert (alone == 0).all()  # features do not meet
    across = np.abs([jacobian[i, c, j, c] for i in range(5) for j in range(5) if i != j for c in range(2)])
    assert (across < 1e-12).all() if drift < 1 else (across > 1e-4).any(), "examples meet in what is not clipped alone"


@STRICT
def test_vmap_over_bounds_and_devices_give_what_single_calls_give():
    x, scale, bias, _ = case((4, 5, 3))
    call = functools.partial(jbn.adaptive_batch_norm, source_weight=0.25)
    drifts = jnp.asarray(DRIFTS)
    many = jax.vmap(lambda d: call(x, scale, bias, statistics(), max_drift=d)[0])(drifts)
    single = [call(x, scale, bias, statistics(), max_drift=d)[0] for d in DRIFTS]
    assert_close(many, jnp.stack(single), 1e-6)

    def device(x):
        return call(x, scale, bias, statistics(), max_drift=0.3, axis_name="d")[0]

    spread = jax.jit(jax.shard_map(device, mesh=mesh(d=4), in_specs=P("d"), out_specs=P("d")))(x)
    assert_close(spread, single[1], 2e-6)


@STRICT
def test_a_masked_feature_falls_back_to_the_source_and_complex_means_stay_in_a_circle():
    x, keep = batch((6, 3)), jnp.ones((6, 3), bool).at[:, 1].set(False)
    y, _ = jbn.adaptive_batch_norm(x, None, None, statistics(), max_drift=0.1, where=keep)
    usual, _, _ = jbn.batch_norm(x, None, None, statistics(), train=False)
    assert_close(y[:, 1], usual[:, 1], 2e-6)
    z = (batch((9, 1), dtype="complex64") + (3 - 4j)).at[0].set(0)
    stats = jbn.BatchStats(jnp.zeros(1, jnp.complex64), jnp.ones(1))
    for drift, inside in ((0.5, False), (1e3, True)):
        y, test = jbn.adaptive_batch_norm(z, None, None, stats, max_drift=drift, epsilon=0.0)
        spread = np.clip(np.sqrt(test.var), 1 / (1 + drift), 1 + drift)
        mean = -np.asarray(y[0]) * spread  # where x is 0
        center = np.asarray(test.mean)
        expected = center if inside else drift * center / abs(center)
        assert_close(mean, expected, 1e-5)


@STRICT
@pytest.mark.parametrize("drift", [0, 0.0, -1.0, np.nan, jnp.float32(0)], ids=str)
def test_a_bound_that_is_not_above_0_is_refused(drift):
    with pytest.raises(ValueError, match=r"max_drift=.* is not larger than 0; pass a number of source standard dev"):
        jbn.adaptive_batch_norm(batch((4, 3)), None, None, statistics(), max_drift=drift)


# The one call that adapts any model.

X = 5 + 2 * jax.random.normal(jax.random.key(0), (32, 6))
OPTIONS = {"kind": "adaptive", "source_weight": 0.25, "max_drift": 0.5}


def by_hand(x, kernels, stats):
    """Dense layers without bias, each followed by adaptive batch norm and ReLU."""
    for kernel, one in zip(kernels, stats, strict=True):
        y, _ = jbn.adaptive_batch_norm(x @ kernel, None, None, one, source_weight=0.25, max_drift=0.5)
        x = nn.relu(y)
    return x


def check(adapted, plain, kernels, stats):
    assert_close(adapted, by_hand(X, kernels, stats), 3e-6)
    assert np.abs(adapted - plain).max() > 0.05 * np.abs(plain).max(), (
        "the data are far from what the statistics describe"
    )


def test_one_call_adapts_a_linen_model():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for features in (5, 4):
                x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(features, use_bias=False)(x)))
            return x

    model = Net()
    variables = model.init(jax.random.key(1), X)
    plain = model.apply(variables, X)
    with jbn.linen.converted(**OPTIONS):
        adapted = jax.jit(model.apply)(variables, X)
    stats = [jbn.BatchStats(**variables["batch_stats"][f"BatchNorm_{i}"]) for i in range(2)]
    check(adapted, plain, [variables["params"][f"Dense_{i}"]["kernel"] for i in range(2)], stats)


def test_one_call_adapts_an_nnx_model_and_is_undone():
    rngs = nnx.Rngs(1)
    layers = []
    for m, n in [(6, 5), (5, 4)]:
        layers += [nnx.Linear(m, n, use_bias=False, rngs=rngs), nnx.BatchNorm(n, rngs=rngs), nnx.relu]
    model = nnx.Sequential(*layers)
    model.eval()
    adapted = jbn.nnx.convert(model, **OPTIONS)
    norms = [model.layers[i] for i in (1, 4)]
    stats = [jbn.BatchStats(norm.mean[...], norm.var[...]) for norm in norms]
    check(nnx.jit(lambda m, x: m(x))(adapted, X), model(X), [model.layers[i].kernel[...] for i in (0, 3)], stats)
    assert_close(jbn.nnx.revert(adapted, exact=False)(X), model(X), 1e-6)


def test_one_call_adapts_an_equinox_model():
    keys = jax.random.split(jax.random.key(1))
    layers = []
    for key, (m, n) in zip(keys, [(6, 5), (5, 4)], strict=True):
        norm = eqx.nn.BatchNorm(n, "batch", mode="batch")
        layers += [eqx.nn.Linear(m, n, use_bias=False, key=key), norm, eqx.nn.Lambda(nn.relu)]
    model, state = eqx.nn.make_with_state(eqx.nn.Sequential)(layers)

    def run(model, state, x):
        return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)

    state = run(model, state, X - 5)[1]  # Equinox' layer does not infer before it has seen a batch
    ours, own = jbn.equinox.convert(model, state, **OPTIONS)
    plain, _ = run(eqx.nn.inference_mode(model), state, X)
    adapted, _ = eqx.filter_jit(run)(eqx.nn.inference_mode(ours), own, X)
    stats = [own.get(ours[i].state_index) for i in (1, 4)]
    check(adapted, plain, [layer.weight.T for layer in (model[0], model[3])], stats)
