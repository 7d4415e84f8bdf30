"""jbn.equinox against the float64 oracle, against Equinox wherever it is right, and against jbn's other faces."""

import functools
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import affine, assert_close, batch, collectives, mask, mesh, poison
from jax.sharding import PartitionSpec as P

import jbn.equinox
import jbn.linen

C, N = 3, 10
SHAPES = {"vectors": (N, C), "images": (N, C, 4, 3)}
X, DY = batch(SHAPES["images"], 1), batch(SHAPES["images"], 1, seed=5, mean=0.5)
SCALE, BIAS = affine(SHAPES["images"], 1)
Theirs = functools.partial(eqx.nn.BatchNorm, mode="batch")


def made(kind=jbn.equinox.BatchNorm, axis_name="batch", **options):
    """A layer with weight and bias as in a trained model, and its state."""
    layer, state = eqx.nn.make_with_state(kind)(C, axis_name, **options)
    if layer.weight is None:
        return layer, state
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (SCALE, BIAS)), state


def call(layer, state, x, *masks, **options):
    """A layer called as Equinox calls it: for each example, with one state for all."""

    def one(x, *masks):
        return layer(x, state, **options, **({"mask": masks[0]} if masks else {}))

    return jax.vmap(one, axis_name="batch", out_axes=(0, None))(x, *masks)


def stats(layer, state):
    return state.get(layer.state_index)


def copied(state):
    return jax.tree.map(lambda leaf: leaf, state)


def test_the_arguments_are_those_of_equinox_in_the_same_order_with_the_same_defaults():
    ours, theirs = (
        [(p.name, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (jbn.equinox.BatchNorm.__init__, eqx.nn.BatchNorm.__init__)
    )
    assert ours[: len(theirs) - 1] == theirs[:-1]
    assert ours[len(theirs) - 1] == ("mode", "batch") and theirs[-1] == ("mode", "legacy")
    ours, theirs = (
        [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (jbn.equinox.BatchNorm.__call__, eqx.nn.BatchNorm.__call__)
    )
    assert ours[: len(theirs)] == theirs


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_the_parameters_are_those_of_equinox(affine, dtype):
    ours, theirs = (
        eqx.nn.make_with_state(k)(C, "b", 1e-3, affine, 0.9, True, dtype)[0] for k in (jbn.equinox.BatchNorm, Theirs)
    )
    leaves, same = eqx.partition(ours, eqx.is_array), eqx.partition(theirs, eqx.is_array)
    assert [(a.shape, a.dtype) for a in jax.tree.leaves(leaves[0])] == [
        (a.shape, a.dtype) for a in jax.tree.leaves(same[0])
    ]
    for name in ("inference", "input_size", "eps", "channelwise_affine", "momentum", "mode"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_training_and_its_gradients_are_the_oracle_and_those_of_equinox(shape):
    x, dy = batch(shape, 1), batch(shape, 1, seed=5, mean=0.5)
    results = []
    for kind in (jbn.equinox.BatchNorm, Theirs):
        layer, state = made(kind, eps=1e-3)

        def loss(layer_and_x, state=state):
            y, _ = call(layer_and_x[0], copied(state), layer_and_x[1])
            return (y * dy).sum(), y

        (_, y), (dlayer, dx) = eqx.filter_value_and_grad(loss, has_aux=True)((layer, x))
        results.append((y, dx, dlayer.weight, dlayer.bias))
    want = (
        reference.normalize(x, *reference.moments(x, 1)[:2], SCALE, BIAS, 1e-3, 1),
        *reference.backward(x, dy, SCALE, 1e-3, 1),
    )
    for ours, theirs, exact in zip(*results, want, strict=True):
        assert_close(ours, exact, 3e-6)
        assert_close(theirs, exact, 1e-5)


@pytest.mark.parametrize("steps", [1, 4, 30])
def test_the_running_statistics_are_right_from_the_first_batch_on(steps):
    """Equinox divides a variance that began at 1 as if it had begun at 0: m^n/(1 - m^n) too much."""
    momentum, xs = 0.9, [batch((N, C), 1, seed=seed) for seed in range(steps)]
    (ours, state), (theirs, their_state) = made(momentum=momentum), made(Theirs, momentum=momentum)
    for x in xs:
        _, state = call(ours, state, x)
        _, their_state = call(theirs, their_state, x)
    weight = 1 - momentum**steps
    mean, var = (
        reference.ema(np.zeros(C), [reference.moments(x, 1)[i] for x in xs], momentum) / weight for i in (0, 1)
    )
    got = stats(ours, state)
    for value, exact in ((got.mean, mean), (got.var, var)):
        assert_close(value, exact, 3e-6)
    np.testing.assert_allclose(got.weight, weight, rtol=1e-6)
    x = batch((N, C), 1, seed=99)
    y, unchanged = call(eqx.nn.inference_mode(ours), state, x)
    assert_close(y, reference.normalize(x, mean, var, SCALE, BIAS, axis=1), 3e-6)
    assert stats(ours, unchanged) == got or jax.tree.all(jax.tree.map(np.array_equal, stats(ours, unchanged), got))
    y, _ = call(theirs, their_state, x, inference=True)
    too_much = momentum**steps / weight
    assert_close(y, reference.normalize(x, mean, var + too_much, SCALE, BIAS, axis=1), 1e-5)


def test_a_step_is_that_of_the_linen_module():
    ours, state = made(momentum=0.7)
    theirs = jbn.linen.BatchNorm(use_running_average=False, momentum=0.7, debias=True, axis=1)
    zero = {"batch_stats": {k: v for k, v in stats(ours, state)._asdict().items() if v is not None}}
    variables = {"params": {"scale": SCALE, "bias": BIAS}} | zero
    for seed in range(3):
        x = batch(SHAPES["images"], 1, seed=seed)
        y, state = call(ours, state, x)
        want, updates = theirs.apply(variables, x, mutable=["batch_stats"])
        variables |= updates
        assert_close(y, want, 3e-6)
    for name, value in variables["batch_stats"].items():
        assert_close(getattr(stats(ours, state), name), value, 3e-6)


@pytest.mark.parametrize("mean", [1e3, 1e4])
def test_a_large_mean_costs_no_variance(mean):
    x = batch((257, C), 1, mean=mean)
    layer, state = made()
    y, state = call(layer, state, x)
    exact = reference.moments(x, 1)
    np.testing.assert_allclose(stats(layer, state).var, exact[1], rtol=1e-5)
    assert_close(y, reference.normalize(x, *exact[:2], SCALE, BIAS, axis=1), 1e-4)


@pytest.mark.parametrize("shape", [(N,), (N, 1, 4, 3), (N, C, 4, 1)], ids=["examples", "pixels", "features"])
def test_masked_equals_sliced_whatever_lies_beneath(shape):
    keep = jnp.asarray(mask(shape))
    wide = keep.reshape(N, *[1] * 3) if keep.ndim == 1 else keep
    layer, state = made()
    y, state = call(layer, state, poison(X, wide), keep)
    mean, var, _ = reference.moments(X, 1, np.broadcast_to(wide, X.shape))
    assert_close(stats(layer, state).mean, mean, 3e-6)
    assert_close(stats(layer, state).var, var, 3e-6)
    full = np.broadcast_to(wide, X.shape)
    exact = np.where(full, reference.normalize(X, mean, var, SCALE, BIAS, axis=1), np.asarray(BIAS)[:, None, None])
    assert_close(y, exact, 3e-6)


def test_many_devices_are_synchronized_by_one_collective():
    """And Equinox needs two: its variance waits for the mean."""

    def forward(layer, state):
        def device(x, state):
            y, new = layer(x[0], state)
            return y[None], new

        spread = jax.shard_map(device, mesh=mesh(batch=4), in_specs=(P("batch"), P()), out_specs=(P("batch"), P()))
        return lambda x: jax.jit(spread)(x, state)

    layer, state = made()
    ours, theirs = forward(layer, state), forward(*made(Theirs))
    assert collectives(ours, X[:4]) == 1 < collectives(theirs, X[:4])
    exact, (y, new) = reference.moments(X[:4], 1), ours(X[:4])
    assert_close(y, reference.normalize(X[:4], *exact[:2], SCALE, BIAS, axis=1), 3e-6)
    assert_close(stats(layer, new).mean, exact[0], 3e-6)


@pytest.mark.parametrize(("size", "ragged"), [(5, "refuse"), (4, "exact")])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_virtual_batches_are_cut_from_the_examples(size, ragged, masked):
    options = {"virtual_batch_size": size, "ragged_groups": ragged}
    keep = jnp.asarray(mask((N, 1, 4, 1))) if masked else None
    layer, state = made(**options)

    def ours(x):
        y, new = call(layer, copied(state), x, *([] if keep is None else [keep]))
        return (y * DY).sum(), (y, stats(layer, new))

    def core(x):
        y, new, _ = jbn.batch_norm(
            x, SCALE, BIAS, stats(layer, state), train=True, debias=True, axis=1, where=keep, **options
        )
        return (y * DY).sum(), (y, new)

    got, want = (jax.value_and_grad(f, has_aux=True)(X) for f in (ours, core))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(a, b, 3e-6)
    parts = [reference.moments(X[i : i + size], 1) for i in range(0, N, size)]
    if not masked:
        exact = [
            reference.normalize(X[i : i + size], *m[:2], SCALE, BIAS, axis=1)
            for i, m in zip(range(0, N, size), parts, strict=True)
        ]
        assert_close(got[0][1][0], np.concatenate(exact), 3e-6)


def test_without_an_axis_name_the_input_is_a_whole_batch():
    whole, example = made(axis_name=None, virtual_batch_size=5), made(virtual_batch_size=5)
    y, state = whole[0](jnp.moveaxis(X, 0, 1), whole[1])
    want, their = call(*example, X)
    assert_close(jnp.moveaxis(y, 1, 0), want, 3e-6)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(their), strict=True):
        assert_close(a, b, 3e-6)


@pytest.mark.parametrize("names", [("a", "b"), ["a", "b"]])
def test_several_axes_are_one_batch(names):
    layer, state = made(axis_name=names)
    one = jax.vmap(lambda x: layer(x, state), axis_name="b", out_axes=(0, None))
    y, new = jax.vmap(one, axis_name="a", out_axes=(0, None))(X.reshape(2, N // 2, *X.shape[1:]))
    want, _ = call(*made(), X)
    assert_close(y.reshape(X.shape), want, 3e-6)
    assert_close(stats(layer, new).mean, reference.moments(X, 1)[0], 3e-6)


def test_an_axis_may_have_any_name():
    layer, state = made(axis_name=b"batch")  # but JAX takes a number for an axis of the array
    y, _ = jax.vmap(lambda x: layer(x, state), axis_name=b"batch", out_axes=(0, None))(X)
    assert_close(y, call(*made(), X)[0], 3e-6)


OPTIONS = {
    "cumulative": {"momentum": None},
    "schedule": {"momentum": lambda step: 1 - 1 / (step + 2.0)},
    "not-debiased": {"debias": False, "momentum": 0.7},
    "unbiased": {"variance": "unbiased", "momentum": 0.7},
    "skip": {"skip_nonfinite": True},
    "accumulate": {"accumulate_steps": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_options_of_the_running_statistics_are_those_of_the_core(options):
    layer, state = made(**options)
    core = {"debias": options.get("momentum", 0) is not None} | options
    want = jbn.init_stats(C, **{k: v for k, v in core.items() if k != "variance"})
    for seed in range(4):
        x = batch(SHAPES["images"], 1, seed=seed)
        if "skip_nonfinite" in options and seed == 2:
            x = x.at[0, 0, 0, 0].set(jnp.nan)
        _, state = call(layer, state, x)
        want = jbn.batch_norm(x, None, None, want, train=True, axis=1, **core)[1]
    got = stats(layer, state)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        assert_close(jnp.asarray(a, jnp.float32), b, 3e-6)


def test_the_switches_are_three():
    layer, state = made()
    _, state = call(layer, state, X)
    kept = stats(layer, state)
    y, new = call(layer, copied(state), X + 1, update_running_average=False)
    assert_close(y, call(layer, copied(state), X + 1)[0], 1e-7)
    np.testing.assert_array_equal(stats(layer, new).mean, kept.mean)
    y, new = call(layer, copied(state), X + 1, inference=True, update_running_average=True)
    assert_close(y, reference.normalize(X + 1, kept.mean, kept.var, SCALE, BIAS, axis=1), 3e-6)
    assert np.abs(stats(layer, new).mean - kept.mean).min() > 0.1
    still = made(trainable=False)
    gradient = eqx.filter_grad(lambda layer: (call(layer, still[1], X)[0] * DY).sum())(still[0])
    assert not np.any(gradient.weight) and not np.any(gradient.bias)


@pytest.mark.parametrize("placement", ["before", "after"])
def test_the_activation_within_is_that_around(placement):
    layer, state = made()
    y, new = call(layer, copied(state), X, activation=jax.nn.relu, placement=placement)
    want, their = call(layer, state, X if placement == "before" else jax.nn.relu(X))
    assert_close(y, jax.nn.relu(want) if placement == "before" else want, 3e-6)
    assert_close(stats(layer, new).mean, stats(layer, their).mean, 3e-6)


def test_frozen_is_an_affine_map_by_constants_in_training_too():
    layer, state = made(jbn.equinox.FrozenBatchNorm)
    state = state.set(layer.state_index, stats(layer, state)._replace(mean=BIAS + 3, var=SCALE**2))
    want = reference.normalize(X, BIAS + 3, SCALE**2, SCALE, BIAS, axis=1)
    y, new = jax.vmap(layer, in_axes=(0, None), out_axes=(0, None))(X, state)  # without a name
    assert_close(y, want, 3e-6)
    np.testing.assert_array_equal(stats(layer, new).mean, BIAS + 3)
    gradient = eqx.filter_grad(lambda layer: (call(layer, state, X)[0] * DY).sum())(layer)
    assert not np.any(gradient.weight) and not np.any(gradient.bias)


def test_renorm_and_adaptive_are_those_of_the_core():
    layer, state = made(jbn.equinox.BatchRenorm, r_max=1.5, d_max=lambda step: 0.1 * (step + 1), momentum=0.7)
    options = dict(train=True, r_max=1.5, d_max=lambda step: 0.1 * (step + 1), momentum=0.7, debias=True, axis=1)
    want = jbn.init_stats(C, debias=True, count_steps=True)
    for seed in range(3):
        x = batch(SHAPES["images"], 1, seed=seed, mean=0.3)
        y, state = call(layer, state, x)
        exact, want, _ = jbn.batch_renorm(x, SCALE, BIAS, want, **options)
        assert_close(y, exact, 3e-6)
    assert stats(layer, state).step == 3

    layer, state = made(jbn.equinox.AdaptiveBatchNorm, source_weight=0.25, max_drift=0.5)
    _, state = call(layer, state, X)
    y, new = call(eqx.nn.inference_mode(layer), state, X + 2)
    options = dict(source_weight=0.25, max_drift=0.5, axis=1)
    exact, _ = jbn.adaptive_batch_norm(X + 2, SCALE, BIAS, stats(layer, state), **options)
    assert_close(y, exact, 3e-6)
    np.testing.assert_array_equal(stats(layer, new).mean, stats(layer, state).mean)


def test_dtypes_are_those_of_input_and_parameters_and_statistics_are_wide():
    layer, state = eqx.nn.make_with_state(jbn.equinox.BatchNorm)(C, "batch", dtype=jnp.bfloat16)
    y, state = call(layer, state, X.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16 and stats(layer, state).mean.dtype == jnp.float32
    assert call(layer, copied(state), X)[0].dtype == jnp.float32
    whole = jnp.round(X * 3).astype(jnp.int32)
    y, _ = call(*made(), whole)
    assert_close(y, reference.normalize(whole, *reference.moments(whole, 1)[:2], SCALE, BIAS, axis=1), 3e-6)
    layer, state = eqx.nn.make_with_state(jbn.equinox.BatchNorm)(C, "batch", dtype=jnp.complex64)
    z = batch((N, C), 1, "complex64")
    y, state = call(layer, state, z)
    assert_close(y, reference.normalize(z, *reference.moments(z, 1)[:2], axis=1), 3e-6)
    assert stats(layer, state).mean.dtype == jnp.complex64 and stats(layer, state).var.dtype == jnp.float32


def test_float64_stays_float64(x64):
    layer, state = eqx.nn.make_with_state(jbn.equinox.BatchNorm)(C, "batch")
    x = batch((N, C), 1, "float64", mean=1e4)
    y, state = call(layer, state, x)
    assert_close(y, reference.normalize(x, *reference.moments(x, 1)[:2], axis=1), 1e-11)
    assert stats(layer, state).var.dtype == layer.weight.dtype == jnp.float64


@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: made(mode="ema"), ValueError, "mode is 'ema'; jbn normalizes training by the batch: use mode='batch'"),
        (lambda: made(mode="legacy"), ValueError, "mode is 'legacy'; .*, or eqx.nn.BatchNorm if training is to be"),
        (lambda: made(momentum=1.5), ValueError, "momentum=1.5 is not between 0 and 1"),
        (lambda: made()[0](X[0], made()[1]), ValueError, "axis_name='batch' is not bound here; call inside vmap"),
        (lambda: call(*made(), X[:1, :, 0, 0]), ValueError, "1 value per feature, and training takes statistics of"),
        (
            lambda: call(*made(virtual_batch_size=4), X),
            ValueError,
            "virtual_batch_size=4 does not divide the batch of 10",
        ),
        (lambda: call(*made(), batch((N, C), 1, "complex64")), ValueError, "make the layer with dtype=jnp.complex64"),
        (lambda: jax.jit(call)(*made(), X), TypeError, "inference is a traced array .* and must be a Python value"),
        (lambda: call(*made(), X[:, :2]), ValueError, r"shape \(3,\), but axis=0 of an input of shape \(2, 4, 3\)"),
    ],
)
def test_what_cannot_be_done_is_said(use, error, says):
    with pytest.raises(error, match=says):
        use()
