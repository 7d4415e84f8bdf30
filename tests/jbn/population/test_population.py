"""jbn.population: the statistics of a whole data set for every batch norm of a model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import linen as nn
from flax import nnx
from helpers import batch, mask, mesh, poison
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jbn.linen
import jbn.nnx
from jbn import population

MODES = pytest.mark.parametrize("mode", ["together", "layer by layer"])
X = batch((29, 5), mean=20.0)
CUTS = [X[:8], X[8:15], X[15:17], X[17:]]  # of different sizes


class Net(nn.Module):
    """Three layers, with norms before and after the activation, and a branch."""

    norm: type = jbn.linen.BatchNorm

    @nn.compact
    def __call__(self, x, mask=None, train=False):
        norm = lambda name: self.norm(use_running_average=not train, momentum=0.9, name=name)  # noqa: E731
        x = norm("first")(nn.Dense(6)(x), mask=mask)
        side = norm("side")(nn.tanh(nn.Dense(6)(x)), mask=mask)
        x = norm("second")(nn.relu(nn.Dense(6)(x)), mask=mask)
        return nn.Dense(3)(norm("third")(x * side, mask=mask))


class Deep(nn.Module):
    """Four layers under one scan, with remat."""

    @nn.compact
    def __call__(self, x):
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return x + nn.tanh(jbn.linen.BatchNorm(use_running_average=True)(nn.Dense(5)(x))), None

        scan = nn.scan(
            nn.remat(Layer), variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=4
        )
        return scan()(x, None)[0]


class Nnx(nnx.Module):
    def __init__(self, norm=jbn.nnx.BatchNorm):
        rngs = nnx.Rngs(1)
        self.inner = nnx.List([nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)])
        self.norms = nnx.List([norm(6, rngs=rngs), norm(6, rngs=rngs)])

    def __call__(self, x, mask=None):
        for linear, norm in zip(self.inner, self.norms, strict=True):
            x = nnx.relu(norm(linear(x), mask=mask))
        return x


def variables_of(model, x=X):
    """Far from any fixed point: weights that amplify, arbitrary statistics."""
    variables = model.init(jax.random.key(0), x)
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + jnp.asarray(noise.uniform(-0.5, 0.9, a.shape), a.dtype), variables)


def close(a, b, rtol=3e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(np.abs(b).max())), a, b)


def estimate(model, variables, batches, **options):
    return population.estimate_linen(model, variables, batches, progress=False, **options)


# The definition of the statistics


@MODES
def test_of_one_batch_training_and_inference_agree(mode):
    """At the fixed point, nothing changes."""
    variables = estimate(Net(), variables_of(Net()), [X], mode=mode)
    close(Net().apply(variables, X), Net().apply(variables, X, train=True, mutable=["batch_stats"])[0])


def test_layer_by_layer_of_any_cuts_is_that_of_one_batch():
    cut, whole = (estimate(Net(), variables_of(Net()), b, mode="layer by layer") for b in (CUTS, [X]))
    close(cut, whole)
    close(Net().apply(cut, X), Net().apply(cut, X, train=True, mutable=["batch_stats"])[0])


def test_together_normalizes_each_batch_by_its_own_and_weighs_by_count():
    variables = variables_of(Net())
    stats = estimate(Net(), variables, CUTS)["batch_stats"]

    class Spy(nn.Module):
        """The output of the layer `first` in training, and the input of `second`."""

        @nn.compact
        def __call__(self, x):
            x = jbn.linen.BatchNorm(use_running_average=False, name="first")(nn.Dense(6, name="Dense_0")(x))
            return nn.relu(nn.Dense(6, name="Dense_2")(x))

    reaches = [Spy().apply(variables, x, mutable=["batch_stats"])[0] for x in CUTS]
    mean, var, _ = reference.moments(np.concatenate(reaches))
    close(stats["second"], {"mean": mean, "var": var})
    one = nn.Dense(6).apply({"params": variables["params"]["Dense_0"]}, X)
    close(stats["first"]["var"], reference.moments(one)[1])


@MODES
def test_flaxs_layers_give_the_same(mode):
    ours, theirs = (
        estimate(Net(norm), variables_of(Net()), CUTS, mode=mode) for norm in (jbn.linen.BatchNorm, nn.BatchNorm)
    )
    close(ours, theirs, 1e-6)


def test_masked_examples_have_no_part():
    keep = mask((29, 1))
    padded = poison(X, np.broadcast_to(keep, X.shape), 1e3)
    call = lambda m, b: m(b["x"], mask=b["keep"])  # noqa: E731
    batches = [{"x": padded[i : i + 10], "keep": keep[i : i + 10]} for i in (0, 10, 20)]
    got = estimate(Net(), variables_of(Net()), batches, mode="layer by layer", call=call)
    close(got, estimate(Net(), variables_of(Net()), [X[keep[:, 0]]], mode="layer by layer"))


def test_layers_under_scan_and_remat_have_their_fixed_point():
    variables = estimate(Deep(), variables_of(Deep()), CUTS, mode="layer by layer")
    x = X
    stacked = jax.tree.leaves_with_path(variables["params"])
    leaf = {jax.tree_util.keystr(p): a for p, a in stacked}
    kernel, bias, scale, shift = (
        next(a for p, a in leaf.items() if n in p)
        for n in ("['Dense_0']['kernel']", "['Dense_0']['bias']", "['scale']", "['BatchNorm_0']['bias']")
    )
    stats = jax.tree.leaves(variables["batch_stats"])  # mean, var
    for i in range(4):
        z = np.asarray(x @ kernel[i] + bias[i], np.float64)
        mean, var, _ = reference.moments(z)
        np.testing.assert_allclose(stats[0][i], mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(stats[1][i], var, rtol=1e-4)
        x = x + np.tanh(reference.normalize(z, mean, var, scale[i], shift[i]))


def test_arrays_sharded_over_devices_give_what_one_device_gives():
    x = X[:24]
    sharded = jax.device_put(x, NamedSharding(mesh(d=8), P("d")))
    close(estimate(Net(), variables_of(Net()), [sharded]), estimate(Net(), variables_of(Net()), [x]))


def test_the_unbiased_variance_is_that_of_the_whole():
    model, variables = jbn.linen.BatchNorm(use_running_average=True), None
    variables = variables_of(model)
    stats = estimate(model, variables, CUTS, variance="unbiased")["batch_stats"]
    np.testing.assert_allclose(stats["var"], np.var(np.asarray(X, np.float64), 0, ddof=1), rtol=1e-5)


def test_ghost_batches_and_the_activation_within_are_measured_as_the_layer_works():
    class Fused(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = jbn.linen.BatchNorm(use_running_average=False, virtual_batch_size=4, name="norm")
            x = norm(x, activation=nn.relu, placement="after")
            return jbn.linen.BatchNorm(use_running_average=False, name="next")(x)

    x = X[:24]
    variables = variables_of(Fused(), x)
    stats = estimate(Fused(), variables, [x])["batch_stats"]
    z = np.maximum(np.asarray(x, np.float64), 0)
    close(stats["norm"]["var"], reference.moments(z)[1])
    scale, bias = (variables["params"]["norm"][n] for n in ("scale", "bias"))
    out = [reference.normalize(g, *reference.moments(g)[:2], scale, bias) for g in np.split(z, 6)]
    close(stats["next"]["var"], reference.moments(np.concatenate(out))[1], 1e-4)


# nnx


@MODES
@pytest.mark.parametrize("norm", [jbn.nnx.BatchNorm, nnx.BatchNorm], ids=["jbn", "flax"])
def test_of_one_batch_training_and_inference_agree_in_nnx(norm, mode):
    model = Nnx(norm)
    before = nnx.to_pure_dict(nnx.state(model))
    better = population.estimate_nnx(model, [X] if mode == "together" else CUTS, mode=mode, progress=False)
    assert type(better.norms[0]) is norm
    better.eval()
    inference = better(X)
    better.train()
    close(inference, better(X))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), before)


def test_nnx_gives_what_linen_gives():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.relu(jbn.linen.BatchNorm(use_running_average=True)(nn.Dense(6)(x)))
            return x

    model = Nnx()
    params = {}
    for i in range(2):
        params[f"Dense_{i}"] = {n: getattr(model.inner[i], n)[...] for n in ("kernel", "bias")}
        params[f"BatchNorm_{i}"] = {n: getattr(model.norms[i], n)[...] for n in ("scale", "bias")}
    start = Linen().init(jax.random.key(0), X)["batch_stats"]
    linen = estimate(Linen(), {"params": params, "batch_stats": start}, CUTS)["batch_stats"]
    better = population.estimate_nnx(model, CUTS, progress=False)
    for i in range(2):
        close(better.norms[i].mean[...], linen[f"BatchNorm_{i}"]["mean"], 1e-6)
        close(better.norms[i].var[...], linen[f"BatchNorm_{i}"]["var"], 1e-6)


# Averaged weights


def test_one_call_fits_the_statistics_to_averaged_weights():
    variables = variables_of(Net())
    params, opt = variables["params"], optax.contrib.schedule_free_sgd(0.1)
    state, ema, swa = opt.init(params), params, params
    for k in range(3):
        grads = jax.tree.map(lambda p: 0.1 * jnp.sin(p + k), params)  # noqa: B023
        updates, state = opt.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        ema = optax.incremental_update(params, ema, 0.1)
        swa = optax.incremental_update(params, swa, 1 / (k + 1))
    for averaged in (ema, swa, optax.contrib.schedule_free_eval_params(state, params)):
        better = estimate(Net(), variables, CUTS, params=averaged, mode="layer by layer")
        jax.tree.map(np.testing.assert_array_equal, better["params"], averaged)
        close(Net().apply(better, X), Net().apply(better, X, train=True, mutable=["batch_stats"])[0])


# State


def test_what_was_given_stays_as_it_is_and_dtypes_are_kept():
    model = jbn.linen.BatchNorm(
        use_running_average=True, force_float32_reductions=False, param_dtype="bfloat16", debias=True
    )
    variables = model.init(jax.random.key(0), X)
    before = jax.tree.map(np.array, variables)
    better = estimate(model, variables, CUTS)
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    assert jax.tree.structure(better) == jax.tree.structure(variables)
    assert better["batch_stats"]["var"].dtype == "bfloat16"


def test_an_iterator_of_unknown_length_is_passed_over_once():
    handed = []
    batches = (handed.append(i) or x for i, x in enumerate(CUTS))
    close(estimate(Net(), variables_of(Net()), batches), estimate(Net(), variables_of(Net()), CUTS), 1e-6)
    assert handed == [0, 1, 2, 3]


def test_each_shape_is_compiled_once():
    traced = []

    def call(model, x):
        traced.append(x.shape)
        return model(x)

    estimate(Net(), variables_of(Net()), [X[:8], X[8:16], X[16:24]], call=call)
    assert len(traced) == 1


def test_the_bar_shows_a_pass_of_unknown_length(capsys, monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    population.estimate_linen(Net(), variables_of(Net()), iter(CUTS))
    assert "population statistics, pass 1" in capsys.readouterr().err


# Errors


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        norm = jbn.linen.BatchNorm(use_running_average=True)
        return norm(nn.Dense(5)(jnp.exp(0.3 * norm(x))))


@pytest.mark.parametrize(
    ("model", "batches", "options", "says"),
    [
        (nn.Dense(3), CUTS, {}, r"the model calls no batch norm .*; pass a model that has one"),
        (Net(), [], {}, r"batches is empty; pass at least one batch"),
        (Net(), iter(CUTS), {"mode": "layer by layer"}, r"is an iterator .* once; pass a list, or a function"),
        (Net(), CUTS, {"mode": "layerwise"}, r"mode is 'layerwise'; use 'together' or 'layer by layer'"),
        (Net(), CUTS, {"variance": "both"}, r"variance is 'both'; use 'biased' or 'unbiased'"),
        (Shared(), CUTS, {"mode": "layer by layer"}, r"the statistics still change, .* called twice .*mode='together'"),
    ],
)
def test_what_cannot_be_estimated_is_refused_with_a_remedy(model, batches, options, says):
    variables = {"batch_stats": {}} | dict(variables_of(model))
    with pytest.raises(ValueError, match=says):
        estimate(model, variables, batches, **options)


def test_variables_without_statistics_are_refused_with_the_layers_path():
    variables = variables_of(Net())
    with pytest.raises(ValueError, match=r"variables have the collections \['params'\]; pass all .* batch_stats"):
        estimate(Net(), {"params": variables["params"]}, CUTS)


def test_a_layer_called_twice_is_measured_over_both_calls():
    variables = variables_of(Shared())
    stats = estimate(Shared(), variables, CUTS[:1])["batch_stats"]["BatchNorm_0"]
    scale, bias = (variables["params"]["BatchNorm_0"][n] for n in ("scale", "bias"))
    first = np.asarray(CUTS[0], np.float64)
    hidden = np.exp(0.3 * reference.normalize(first, *reference.moments(first)[:2], scale, bias))
    dense = variables["params"]["Dense_0"]
    both = np.concatenate([first, hidden @ np.asarray(dense["kernel"], np.float64) + dense["bias"]])
    close(stats["var"], reference.moments(both)[1])


def test_frozen_layers_keep_their_statistics_and_domains_are_refused():
    class Net(nn.Module):
        norm: type

        @nn.compact
        def __call__(self, x):
            x = (
                self.norm(name="first")(x)
                if self.norm is jbn.linen.FrozenBatchNorm
                else self.norm(name="first")(x, 0, True)
            )
            return jbn.linen.BatchNorm(use_running_average=True, name="second")(x)

    model = Net(jbn.linen.FrozenBatchNorm)
    variables = variables_of(model)
    stats = estimate(model, variables, CUTS)["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, stats["first"], variables["batch_stats"]["first"])
    first = {c: variables[c]["first"] for c in ("params", "batch_stats")}
    mean, var, _ = reference.moments(jbn.linen.FrozenBatchNorm().apply(first, X))
    close(stats["second"], {"mean": mean, "var": var})
    domains = Net(jbn.linen.DomainBatchNorm)
    with pytest.raises(
        ValueError, match=r"first is a DomainBatchNorm, .*; estimate those of each domain with a BatchNorm"
    ):
        estimate(domains, variables_of(domains), CUTS)


@MODES
def test_whole_numbers_and_the_layers_dtype_are_taken_as_the_layers_take_them(mode):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (29, 5)), jnp.uint8)
    mean, var, _ = reference.moments(x)
    linen = jbn.linen.BatchNorm(use_running_average=True)
    stats = estimate(linen, linen.init(jax.random.key(0), x), [x[:9], x[9:]], mode=mode)["batch_stats"]
    close(stats, {"mean": mean, "var": var})
    seen = []
    model = jbn.nnx.BatchNorm(5, dtype="bfloat16", promote_dtype=lambda given, dtype: given, rngs=nnx.Rngs(0))
    call = lambda m, x: seen.append(m(x).dtype)  # noqa: E731
    better = population.estimate_nnx(model, [x[:9], x[9:]], mode=mode, call=call, progress=False)
    close(better.var[...], var)
    assert set(seen) == {model(x).dtype} == {jnp.dtype("bfloat16")}
