"""experiments.probes: what is reported of activations and gradients, against NumPy and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from helpers import assert_close, batch

import jbn.linen
from experiments import probes
from experiments.networks import NETWORKS

BATCH = partial(jbn.linen.BatchNorm, use_running_average=False)
CHANNELS = 5
# Networks run once: compile them fast.
fast = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPES = pytest.mark.parametrize("shape", [(13, CHANNELS), (7, 3, 3, CHANNELS)], ids=["dense", "conv"])


def hand_made():
    """Channels: all as large; one of four; none; in between, and skewed; a constant."""
    return jnp.asarray([[1, 0, 0, -2, 3], [-1, 4, 0, 0, 3], [1, 0, 0, 1, 3], [-1, 0, 0, 1, 3]], jnp.float32)


def flat64(a):
    return reference.wide(a).reshape(-1, a.shape[-1])


def skewness64(a):
    a = flat64(a)
    d = a - a.mean(0)
    return (d**3).mean(0) / np.sqrt((d**2).mean(0)) ** 3


# Activations


def test_of_a_hand_made_array():
    a = hand_made()
    np.testing.assert_array_equal(probes.saturation(a), [1, 1 / 4, 0, 1 / 2, 1])
    np.testing.assert_array_equal(probes.sparsity(a), [0, 3 / 4, 1, 1 / 2, 0])
    np.testing.assert_array_equal(probes.dead(a), [False, False, True, False, True])
    assert probes.zero_share(a) == np.float32(8 / 20)
    # One of four at 1, the others at 0: a coin of p = 1/4 has (1 - 2p) / √(p(1 - p)).
    np.testing.assert_allclose(probes.skewness(a)[:3], [0, 0.5 / np.sqrt(3 / 16), 0], rtol=1e-6)
    assert probes.skewness(a)[3] < 0 and probes.skewness(a)[4] == 0


@SHAPES
def test_statistics_equal_float64(shape):
    z = batch(shape)
    a = jnp.tanh(z / 3 + 0.3)
    stats = probes.activation_stats(z, a, bounds=(-1.0, 1.0))
    exact = np.abs(flat64(a))
    assert_close(probes.saturation(a), exact.mean(0) / exact.max(0))
    assert_close(stats.saturation, (exact.mean(0) / exact.max(0)).mean())
    assert_close(stats.sparsity, 1 - (exact.mean(0) / exact.max(0)).mean())
    assert_close(stats.skewness, np.abs(skewness64(a)).mean(), 1e-5)
    assert_close(stats.input_skewness, np.abs(skewness64(z)).mean(), 1e-5)
    assert_close(stats.input_mean, flat64(z).mean(0))
    assert_close(stats.input_std, flat64(z).std(0))
    assert stats.saturated_share == np.float32((exact >= 0.9).mean())
    assert probes.activation_stats(z, a).saturated_share is None


@SHAPES
def test_dead_units_of_relu_are_counted_and_nothing_else(shape):
    z = np.array(batch(shape, mean=0))
    z[..., [1, 4]] = -np.abs(z[..., [1, 4]])
    z[..., 3] = -1
    z[(0,) * (z.ndim - 1) + (3,)] = 1e-30  # one spark of life
    a = jax.nn.relu(z)
    np.testing.assert_array_equal(probes.dead(a), [False, True, False, False, True])
    stats = probes.activation_stats(jnp.asarray(z), a)
    assert_close(stats.dead, 2 / 5)
    assert_close(stats.zero_share, (z <= 0).mean())
    assert probes.saturation(a)[1] == 0 and probes.sparsity(a)[1] == 1


def test_skewness_is_that_of_the_channel_whatever_its_scale_and_shift():
    a = np.random.default_rng(0).exponential(1, (1001, 3)).astype(np.float32)
    exact = skewness64(a)
    for scale, shift in [(1, 0), (-2.0, 0), (2.0**-70, 0), (2.0**100, 0), (1.0, 1e3)]:
        moved = jnp.asarray(scale * a + np.float32(shift), jnp.float32)
        np.testing.assert_allclose(probes.skewness(moved), np.sign(scale) * exact, rtol=2e-3 if shift else 1e-5)
    np.testing.assert_allclose(probes.skewness(jnp.asarray(a + 1e3)), skewness64(a + np.float32(1e3)), rtol=1e-5)


def test_a_constant_channel_has_no_skewness_however_its_mean_rounds():
    constants = np.random.default_rng(0).normal(0, 1e4, 64).astype(np.float32)
    constants[:3] = 0, 1e-20, 3e30
    a = jnp.broadcast_to(constants, (4099, 64))
    # Under jit, sums are taken in another order, by which these means are off.
    np.testing.assert_array_equal(jax.jit(probes.skewness)(a), np.zeros(64))


def test_half_precision_is_accumulated_in_float32():
    a = batch((4099, 3), dtype="bfloat16")
    exact = np.abs(flat64(a.astype(jnp.float32)))
    assert_close(probes.saturation(a), exact.mean(0) / exact.max(0))
    assert_close(probes.skewness(a), skewness64(a.astype(jnp.float32)), 1e-4)


def test_tanh_and_sigmoid_are_saturated_alike():
    z = jnp.linspace(-4, 4, 1001)[:, None]
    share = probes.saturated_share(jnp.tanh(z), (-1.0, 1.0))
    assert share == probes.saturated_share(jax.nn.sigmoid(2 * z), (0.0, 1.0))
    assert_close(share, (np.abs(np.tanh(reference.wide(z))) >= 0.9).mean())
    np.testing.assert_allclose(1 - np.tanh(1.4722) ** 2, 0.19, atol=1e-3)  # as the docstring says
    low_half = probes.saturated_share(jnp.where(z < 0, jnp.tanh(z), 0), (-1.0, 1.0))
    assert_close(2 * low_half, reference.wide(share))  # either bound counts


def test_activation_stats_under_jit_and_vmap_equal_eager():
    z = jnp.stack([batch((7, 3, 3, CHANNELS), seed=seed, mean=seed) for seed in range(3)])
    z = z.at[1, ..., 2].set(-5)
    stats = partial(probes.activation_stats, bounds=(0.0, 6.0))
    eager = [stats(z[i], jax.nn.relu6(z[i])) for i in range(3)]
    mapped = jax.jit(jax.vmap(stats))(z, jax.nn.relu6(z))
    for i in range(3):
        for name, one, expected in zip(eager[i]._fields, [leaf[i] for leaf in mapped], eager[i], strict=True):
            assert one.dtype == jnp.float32, name
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6, err_msg=name)


# Gradients


def mlp(norm=BATCH, placement="after", **options):
    options = dict(hidden=(5, 4)) | options
    return NETWORKS["mlp"](classes=3, activation=jax.nn.relu, norm=norm, placement=placement, **options)


def example(model, seed=0, n=11):
    """Parameters that are not what they start with, images and labels."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(0.5, 1, (n, 7)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.5, 1, leaf.shape), jnp.float32), shapes)
    return params, x, jnp.arange(n) % 3


def logits_of(model, params, x):
    return model.apply({"params": params}, x, mutable=["batch_stats"])[0]


def loss_of(model, x, y):
    return lambda params: optax.softmax_cross_entropy_with_integer_labels(logits_of(model, params, x), y).mean()


def test_gradient_norms_are_those_of_each_module():
    params, x, y = example(model := mlp())
    grads, norms = fast(lambda p: (g := jax.grad(loss_of(model, x, y))(p), probes.gradient_norms(g)))(params)
    blocks = [f"block_{i}/{part}" for i in range(2) for part in ("layer", "norm")]
    assert list(norms) == [*blocks, "head"]
    for name, norm in norms.items():
        leaves = grads
        for part in name.split("/"):
            leaves = leaves[part]
        assert len(leaves) == 2
        assert_close(norm, np.sqrt(sum((reference.wide(leaf) ** 2).sum() for leaf in leaves.values())))
    assert_close(np.linalg.norm(list(norms.values())), reference.wide(optax.tree.norm(grads)), 1e-6)


def test_the_order_is_that_of_the_forward_pass_also_after_jit_and_vmap():
    model = NETWORKS["resnet"](
        classes=3, activation=jax.nn.relu, norm=BATCH, unit="full_preactivation", depth=8, final_norm=True
    )
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8, 8, 3)))["params"]
    grads = jax.tree.map(lambda leaf: jnp.ones((2, 3)), params)
    names = list(probes.gradient_norms(grads))
    assert names[0] == "stage_0_stem/layer_0" and names[-3:] == ["stage_4_tail/norm_0", "final_norm", "head"]
    assert list(jax.jit(jax.vmap(probes.gradient_norms))(grads)) == names
    assert list(jax.tree.map(jnp.sum, probes.gradient_norms(grads))) == names


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_vanishing_and_exploding_gradients_have_a_norm(size):
    kernel = jnp.asarray(np.float32(size) * np.array([[3, 0], [0, 4]], np.float32))
    assert_close(probes.gradient_norms({"head": {"kernel": kernel}})["head"], 5 * size)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_norm_of_what_is_not_finite_says_so(bad):
    norms = probes.gradient_norms({"a": {"bias": jnp.array([1.0, bad])}, "b": {"bias": jnp.zeros(3)}})
    np.testing.assert_array_equal([norms["a"], norms["b"]], [bad, 0])


def test_mean_logit_gradients_of_two_layers_in_closed_form():
    x, w, v = (np.array(batch(shape, seed=seed)) for seed, shape in enumerate([(11, 4), (4, 3), (3, 2)]))
    params = {"block_0": {"kernel": w, "bias": np.zeros(3, np.float32)}, "head": {"kernel": v}}

    def logits(params):
        hidden = x @ params["block_0"]["kernel"] + params["block_0"]["bias"]
        return hidden @ params["head"]["kernel"]

    mean, w, v = reference.wide(x).mean(0), reference.wide(w), reference.wide(v)
    for index in (0, 1):
        exact = {"block_0": (mean**2).sum() * (v[:, index] ** 2).sum(), "head": ((mean @ w) ** 2).sum()}
        for fn in (logits, lambda params: logits(params).mean(0)):
            found = probes.mean_logit_gradients(fn, params, index)
            assert list(found) == list(exact)
            for name in exact:
                assert_close(found[name], exact[name], 1e-5)


def test_a_norm_in_front_of_the_classifier_takes_the_mean_shift_from_its_kernel():
    heads = {}
    for final_norm in (False, True):
        params, x, _ = example(model := mlp(placement="none", final_norm=final_norm))
        if final_norm:
            params["final_norm"]["bias"] *= 0
        gradients = partial(probes.mean_logit_gradients, partial(logits_of, model, x=x))
        found = fast(gradients)(params)
        assert list(found) == ["block_0/layer", "block_1/layer", "head"]
        heads[final_norm] = found["head"]
    assert heads[True] < 1e-12 < 1e-2 < heads[False]


# The loss along the gradient


def quadratic(seed=0, n=6):
    """A loss ½·xᵀAx - bᵀx of parameters in two leaves; A, b and x in float64."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, n)) + 2
    a, b, x = a + a.T, rng.normal(1, 1, n), rng.normal(-1, 2, n)

    def loss(params):
        x = jnp.concatenate([params["one"].ravel(), params["two"]])
        return 0.5 * x @ a.astype(x.dtype) @ x - b.astype(x.dtype) @ x

    return loss, {"one": jnp.asarray(x[:4].reshape(2, 2)), "two": jnp.asarray(x[4:])}, a, b, x


def test_predictiveness_of_a_quadratic_in_closed_form(x64):
    loss, params, a, b, x = quadratic()
    steps = np.array([0.3, 0.01, 0.07])
    found = probes.gradient_predictiveness(loss, params, jnp.asarray(steps))
    g = a @ x - b
    moved = x - steps[:, None] * g
    assert_close(found.start, 0.5 * x @ a @ x - b @ x)
    assert_close(found.gradient_norm, np.linalg.norm(g))
    assert_close(found.loss, 0.5 * ((moved @ a) * moved).sum(1) - moved @ b)
    assert_close(found.gradient_change, steps * np.linalg.norm(a @ g))
    assert_close(found.smoothness, np.linalg.norm(a @ g) / np.linalg.norm(g))


def test_smoothness_is_the_largest_of_all_steps(x64):
    def loss(x):
        return (x**4).sum()

    x, steps = np.array([0.5, -1.0, 2.0]), np.array([0.0, 0.01, 0.3, 0.02])
    found = probes.gradient_predictiveness(loss, jnp.asarray(x), jnp.asarray(steps))
    change = np.linalg.norm(4 * (x - steps[:, None] * 4 * x**3) ** 3 - 4 * x**3, axis=1)
    ratios = change[1:] / (steps[1:] * np.linalg.norm(4 * x**3))
    assert ratios.argmax() == 1
    assert_close(found.smoothness, ratios.max())


def test_smoothness_where_nothing_moves_is_zero():
    found = probes.gradient_predictiveness(lambda x: (x**2).sum(), jnp.zeros(3), jnp.array([0.1, 1.0]))
    assert all((leaf == 0).all() for leaf in found)


def test_gradient_functions_under_jit_and_vmap_equal_eager():
    x = batch((11, 4))
    params = [{"head": {"kernel": batch((4, 3), seed=seed, mean=seed)}} for seed in range(3)]
    steps = jnp.array([0.01, 0.1, 1.0])

    def logits(params):
        return jnp.tanh(x @ params["head"]["kernel"])

    def all_of(params):
        return (
            probes.gradient_norms(params),
            probes.mean_logit_gradients(logits, params),
            probes.gradient_predictiveness(lambda p: (logits(p) ** 2).sum(), params, steps),
        )

    mapped = jax.jit(jax.vmap(all_of))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *params))
    for i in range(3):
        for one, expected in zip(jax.tree.leaves(mapped), jax.tree.leaves(all_of(params[i])), strict=True):
            np.testing.assert_allclose(one[i], expected, rtol=1e-4, atol=1e-5)
