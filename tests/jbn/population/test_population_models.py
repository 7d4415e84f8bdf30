"""jbn.population accepts any module and any data: subclasses, mapped axes, random keys, other variables, NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import linen as nn
from flax import nnx
from helpers import batch

import jbn.linen
import jbn.nnx
from jbn import population

MODES = pytest.mark.parametrize("mode", ["together", "layer by layer"])
KINDS = [jbn.linen.BatchNorm, nn.BatchNorm, jbn.nnx.BatchNorm, nnx.BatchNorm]
ALL = pytest.mark.parametrize("kind", KINDS, ids=["linen", "flax-linen", "nnx", "flax-nnx"])
X = batch((24, 4), mean=2.0)
CUTS = [X[:9], X[9:16], X[16:]]
SCALE, BIAS = jnp.asarray([0.5, 1.5, -2.0, 1.0]), jnp.asarray([1.0, -2.0, 0.5, 1.5])


def of_linen(kind):
    return issubclass(kind, nn.Module)


def norm(kind, **options):
    return kind(use_running_average=True, **options) if of_linen(kind) else kind(4, rngs=nnx.Rngs(0), **options)


def model_of(*layers):
    return nn.Sequential(layers) if isinstance(layers[0], nn.Module) else nnx.Sequential(*layers)


def estimate(model, batches, x=X, **options):
    """Mean and var of each layer of a sequence, with scale SCALE and bias BIAS."""
    options = {"progress": False} | options
    if isinstance(model, nnx.Module):
        for layer in model.layers:
            layer.scale[...], layer.bias[...] = SCALE, BIAS
        new = population.estimate_nnx(model, batches, **options)
        return [(layer.mean[...], layer.var[...]) for layer in new.layers]
    variables = model.init(jax.random.key(0), x)
    variables["params"] = {name: {"scale": SCALE, "bias": BIAS} for name in variables["params"]}
    new = population.estimate_linen(model, variables, batches, **options)
    return [(layer["mean"], layer["var"]) for _, layer in sorted(new["batch_stats"].items())]


def close(a, b, rtol=3e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(np.abs(b).max())), a, b)


# Subclasses


def subclass(kind, before=lambda x: x, after=lambda y: y):
    class Own(kind):
        def __call__(self, x, *args, **options):
            return after(super().__call__(before(x), *args, **options))

    return Own


@MODES
@ALL
def test_what_a_subclass_does_around_its_call_reaches_the_layers_above(kind, mode):
    own = subclass(kind, before=lambda x: 3 * x - 1, after=jnp.exp)
    first, second = estimate(model_of(norm(own), norm(kind)), CUTS, mode=mode)
    x = 3 * np.asarray(X, np.float64) - 1
    cuts = np.split(x, [9, 16]) if mode == "together" else [x]
    out = [np.exp(reference.normalize(c, *reference.moments(c)[:2], SCALE, BIAS)) for c in cuts]
    close(first, reference.moments(x)[:2])
    close(second, reference.moments(np.concatenate(out))[:2])


def test_a_subclass_under_remat_is_measured():
    own = nn.remat(subclass(nn.BatchNorm, after=jnp.exp))
    close(
        estimate(model_of(norm(own), norm(nn.BatchNorm)), CUTS),
        estimate(model_of(norm(subclass(nn.BatchNorm, after=jnp.exp)), norm(nn.BatchNorm)), CUTS),
    )


@ALL
def test_a_subclass_with_its_own_arithmetic_is_refused_with_its_path(kind):
    class Own(kind):
        def __call__(self, x, use_running_average=None):
            return x / 2

    words = r"^layers[_/]1 is a Own, whose __call__ does its own arithmetic.*; normalize by super\(\).__call__\(x, .*\)"
    with pytest.raises(ValueError, match=words):
        estimate(model_of(norm(kind), norm(Own)), CUTS)


@pytest.mark.parametrize("kind", [jbn.linen.BatchNorm, nn.BatchNorm])
def test_a_subclass_that_changes_its_parameters_is_refused(kind):
    class Own(kind):
        def param(self, name, *args, **options):
            return 1 + super().param(name, *args, **options)

    with pytest.raises(
        ValueError, match=r"^layers_0 is a Own, which changes what param or variable return, .*; change"
    ):
        estimate(model_of(norm(Own)), CUTS)


@MODES
@pytest.mark.parametrize(
    ("adaptive", "kind"),
    [(jbn.linen.AdaptiveBatchNorm, jbn.linen.BatchNorm), (jbn.nnx.AdaptiveBatchNorm, jbn.nnx.BatchNorm)],
)
def test_an_adaptive_layer_normalizes_as_in_training_or_as_at_inference(adaptive, kind, mode):
    first, second = estimate(model_of(norm(adaptive, source_weight=0.75, max_drift=0.05), norm(kind)), CUTS, mode=mode)
    mean, var, _ = reference.moments(X)
    close(first, (mean, var))
    w = 0.75 if mode == "layer by layer" else 0
    out = []
    for cut in CUTS:
        m, v, _ = reference.moments(cut)
        m, v = w * mean + (1 - w) * m, w * var + (1 - w) * v
        if w:  # at inference, bounded
            m = np.clip(m, mean - 0.05 * np.sqrt(var), mean + 0.05 * np.sqrt(var))
            v = np.clip(v, var / 1.05**2, var * 1.05**2)
        out.append(reference.normalize(cut, m, v, SCALE, BIAS))
    close(second, reference.moments(np.concatenate(out))[:2], 1e-4)


# Batches that are not finite


BAD = [CUTS[0], X[:7].at[2, 1].set(jnp.nan), CUTS[1], X[:9].at[0].set(jnp.inf), CUTS[2]]


@MODES
@pytest.mark.parametrize("kind", KINDS[::2])
def test_batches_that_are_not_finite_are_left_out_and_said_where_the_layers_say_so(kind, mode):
    model = model_of(*(norm(kind, skip_nonfinite=True) for _ in range(2)))
    with pytest.warns(UserWarning, match=r"^of 5 batches, .* left out .*: 2 \(the first is 1\) at layers[_/]0, layers"):
        found = estimate(model, BAD, mode=mode)
    close(found, estimate(model, CUTS, mode=mode), 1e-6)


@MODES
@ALL
def test_a_batch_that_is_not_finite_is_named_where_the_layers_do_not_say_so(kind, mode):
    with pytest.raises(
        ValueError, match=r"^batch 1 \(counted from 0\) has .* not finite at layers[_/]0: .*; leave that"
    ):
        estimate(model_of(norm(kind), norm(kind)), BAD, mode=mode)


def test_a_layer_that_does_not_leave_it_out_is_named_though_one_below_does():
    model = model_of(norm(jbn.linen.BatchNorm, skip_nonfinite=True), norm(nn.BatchNorm))
    with pytest.raises(ValueError, match=r"^batch 1 .* not finite at layers_1"):
        estimate(model, BAD)


def test_no_batch_that_is_finite_is_refused():
    with pytest.raises(ValueError, match=r"^none of the 2 batches has finite moments at layers_0, .*; look for NaN"):
        estimate(model_of(norm(jbn.linen.BatchNorm, skip_nonfinite=True)), [X * jnp.nan, X / 0])


@MODES
@pytest.mark.parametrize("kind", KINDS[::2])
def test_running_statistics_that_are_not_finite_are_repaired(kind, mode):
    """As after a poisoned training. A feature without data in any batch gets its initial statistics."""
    keep = np.array([True, True, True, False])
    call = lambda m, x: m.layers[1](m.layers[0](x, mask=keep))  # noqa: E731
    model = model_of(norm(kind), norm(kind))
    if of_linen(kind):
        variables = jax.tree.map(lambda a: a.at[0].set(jnp.nan), model.init(jax.random.key(0), X)["batch_stats"])
        variables = {"params": model.init(jax.random.key(0), X)["params"], "batch_stats": variables}
        variables["batch_stats"]["layers_0"] = {name: jnp.full(4, jnp.nan) for name in ("mean", "var")}
        new = population.estimate_linen(model, variables, CUTS, mode=mode, call=call, progress=False)["batch_stats"]
        first, second = ([new[f"layers_{i}"][name] for name in ("mean", "var")] for i in range(2))
    else:
        for layer in model.layers:
            layer.mean[...], layer.var[...] = jnp.full(4, jnp.nan), jnp.full(4, jnp.nan)
        new = population.estimate_nnx(model, CUTS, mode=mode, call=call, progress=False)
        first, second = ([layer.mean[...], layer.var[...]] for layer in new.layers)
    mean, var, _ = reference.moments(X)
    close(first, [np.where(keep, mean, 0), np.where(keep, var, 1)])
    assert np.isfinite(second).all()


def test_statistics_in_a_dtype_that_cannot_hold_them_are_refused():
    layer = norm(jbn.linen.BatchNorm, force_float32_reductions=False, param_dtype=jnp.float16)
    with pytest.raises(
        ValueError, match=r"^layers_0 keeps its var in float16, which cannot hold it; keep it in float32"
    ):
        estimate(model_of(layer), [1000 * X])


def test_a_cut_of_one_example_has_its_part():
    model = model_of(norm(jbn.linen.BatchNorm), norm(jbn.linen.BatchNorm))
    whole, cut = (estimate(model, b, mode="layer by layer") for b in ([X], [X[:1], X[1:]]))
    close(cut, whole)


def test_layers_that_overflow_below_unsettled_ones_are_settled_after_them():
    """Arbitrary statistics, far from any fixed point: the first pass is not finite."""
    layers = [norm(jbn.linen.BatchNorm, epsilon=1e-30) for _ in range(4)]
    model = model_of(*layers)
    variables = model.init(jax.random.key(0), X)
    variables["batch_stats"] = jax.tree.map(lambda a: 0 * a + 1e-30, variables["batch_stats"])
    new = population.estimate_linen(model, variables, CUTS, mode="layer by layer", progress=False)
    close(model.apply(new, X), reference.normalize(X, *reference.moments(X)[:2], 1, 0), 1e-4)


# Mapped axes


@MODES
@pytest.mark.parametrize("kind", [jbn.linen.BatchNorm, nn.BatchNorm])
def test_an_axis_that_the_model_maps_is_one_batch_in_linen(kind, mode):
    """One example per lane: without the axis, each lane has its own statistics."""
    lanes = nn.vmap(
        kind, variable_axes={"params": None, "batch_stats": None}, split_rngs={"params": False}, axis_name="d"
    )
    mapped = estimate(model_of(*(norm(lanes, axis_name="d") for _ in range(2))), CUTS, mode=mode)
    close(mapped, estimate(model_of(norm(kind), norm(kind)), CUTS, mode=mode))


@MODES
@pytest.mark.parametrize("kind", [jbn.nnx.BatchNorm, nnx.BatchNorm])
def test_an_axis_that_the_model_maps_is_one_batch_in_nnx(kind, mode):
    axes = nnx.StateAxes({...: None})
    call = nnx.vmap(lambda model, x: model(x), in_axes=(axes, 0), axis_name="d")
    mapped = estimate(model_of(*(norm(kind, axis_name="d") for _ in range(2))), CUTS, mode=mode, call=call)
    close(mapped, estimate(model_of(norm(kind), norm(kind)), CUTS, mode=mode))


@MODES
@ALL
def test_an_axis_that_nobody_maps_leaves_the_batch_whole(kind, mode):
    groups = dict(axis_name=("d", "e"), axis_index_groups=[[0], [1]])
    close(
        estimate(model_of(norm(kind, **groups)), CUTS, mode=mode),
        [reference.moments(X)[:2]],
    )


# Other parameters and dtypes


@MODES
@pytest.mark.parametrize("kind", KINDS[::2])
def test_complex_numbers_are_measured_as_in_training(kind, mode):
    z = X + 1j * X[::-1]
    ((mean, var),) = estimate(model_of(norm(kind)), [z[:9], z[9:]], x=z, mode=mode)
    close(mean, np.mean(np.asarray(z, np.complex128), 0))
    close(var, np.var(np.asarray(z, np.complex128), 0))


def test_parameters_in_boxes_are_taken_as_the_layers_take_them():
    layer = norm(jbn.linen.BatchNorm, scale_init=nn.with_partitioning(lambda *_: SCALE, (None,)))
    model = model_of(layer, norm(jbn.linen.BatchNorm))
    new = population.estimate_linen(model, model.init(jax.random.key(0), X), [X], progress=False)["batch_stats"]
    y = reference.normalize(X, *reference.moments(X)[:2], SCALE, 0)
    close(new["layers_1"]["var"], reference.moments(y)[1])


# Random keys, and other variables


class Noisy(nn.Module):
    """Draws twice per batch, and counts its calls."""

    kind: type = jbn.linen.BatchNorm

    @nn.compact
    def __call__(self, x, train=False):
        calls = self.variable("counters", "calls", lambda: jnp.zeros(()))
        calls.value += 1
        x = x + calls.value + jax.random.normal(self.make_rng("noise"), x.shape)
        return nn.Dropout(0.5, deterministic=False)(self.kind(use_running_average=True, name="norm")(x))


@MODES
def test_keys_are_split_for_every_batch_alike_in_every_pass_and_what_is_written_is_dropped(mode):
    keys = {"noise": jax.random.key(1), "dropout": jax.random.key(2)}
    variables = Noisy().init({"params": jax.random.key(0)} | keys, X)
    new = population.estimate_linen(Noisy(), variables, CUTS, rngs=keys, mode=mode, progress=False)

    class Inner(Noisy):
        @nn.compact
        def __call__(self, x):
            return x + 2 + jax.random.normal(self.make_rng("noise"), x.shape)

    seen = [Inner().apply({}, x, rngs={"noise": jax.random.fold_in(keys["noise"], i)}) for i, x in enumerate(CUTS)]
    mean, var, _ = reference.moments(np.concatenate(seen))
    close(new["batch_stats"]["norm"], {"mean": mean, "var": var})
    assert variables["counters"]["calls"] == new["counters"]["calls"] == 1


class NoisyNnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0, noise=7)
        self.noise = nnx.List([rngs["noise"].fork(), rngs["noise"].fork()])
        self.norm, self.calls = jbn.nnx.BatchNorm(4, rngs=rngs), nnx.Variable(jnp.zeros(()))

    def draw(self, x):
        return x + sum(jax.random.normal(stream(), x.shape) for stream in self.noise)

    def __call__(self, x):
        self.calls[...] += 1
        return self.norm(self.draw(x) + self.calls[...])


@MODES
@pytest.mark.parametrize("rngs", [None, {"noise": 3}, {"noise": jax.random.key(3)}], ids=["own", "number", "key"])
def test_streams_are_split_for_every_batch_in_nnx(rngs, mode):
    model = NoisyNnx()
    new = population.estimate_nnx(model, CUTS, rngs=rngs, mode=mode, progress=False)
    seen = []
    for i, x in enumerate(CUTS):
        drawn = nnx.clone(model)
        nnx.reseed(drawn, **(rngs or {}))
        for stream in drawn.noise:
            stream.key.set_value(jax.random.fold_in(stream.key[...], i))
        seen.append(drawn.draw(x) + 1)
    close([new.norm.mean[...], new.norm.var[...]], list(reference.moments(np.concatenate(seen))[:2]))
    assert model.calls[...] == new.calls[...] == 0


# Batches that are not arrays


class Tensor:
    """Like a torch tensor; torch is not installed here."""


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        ([{"x": X, "name": ["a"]}], r"^batch 0\['name'\]\[0\] is a str, which"),
        (
            [X, Tensor()],
            r"^batch 1 is a \S*test_population_models.Tensor, which jax.jit does not take; pass arrays .*asarray",
        ),
        ([np.array(["a", "b"])], r"^batch 0 is a numpy.ndarray of <U1, which"),
        ({"x": X}, r"^batch 0 is a str, which"),
    ],
)
@pytest.mark.parametrize("kind", KINDS[::2])
def test_what_is_no_array_is_refused_in_one_line(kind, batches, says):
    call = lambda m, b: m(b["x"] if isinstance(b, dict) else b)  # noqa: E731
    with pytest.raises(ValueError, match=says) as error:
        estimate(model_of(norm(kind)), batches, call=call)
    assert "\n" not in str(error.value)
