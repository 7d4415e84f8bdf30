"""experiments.probes.gradients: norms, mean logits and predictiveness, against NumPy and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from helpers import assert_close, batch

import jbn.linen
from experiments.networks import NETWORKS
from experiments.probes import gradients

BATCH = partial(jbn.linen.BatchNorm, use_running_average=False)
# Networks run once, so they are compiled fast.
fast = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def mlp(norm=BATCH, placement="after", **options):
    options = dict(hidden=(5, 4)) | options
    return NETWORKS["mlp"](classes=3, activation=jax.nn.relu, norm=norm, placement=placement, **options)


def example(model, seed=0, n=11):
    """Parameters away from their initial values, images and labels."""
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
    grads, norms = fast(lambda p: (g := jax.grad(loss_of(model, x, y))(p), gradients.gradient_norms(g)))(params)
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
    names = list(gradients.gradient_norms(grads))
    assert names[0] == "stage_0_stem/layer_0" and names[-3:] == ["stage_4_tail/norm_0", "final_norm", "head"]
    assert list(jax.jit(jax.vmap(gradients.gradient_norms))(grads)) == names
    assert list(jax.tree.map(jnp.sum, gradients.gradient_norms(grads))) == names


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_vanishing_and_exploding_gradients_have_a_norm(size):
    kernel = jnp.asarray(np.float32(size) * np.array([[3, 0], [0, 4]], np.float32))
    assert_close(gradients.gradient_norms({"head": {"kernel": kernel}})["head"], 5 * size)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_norm_of_what_is_not_finite_says_so(bad):
    norms = gradients.gradient_norms({"a": {"bias": jnp.array([1.0, bad])}, "b": {"bias": jnp.zeros(3)}})
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
            found = gradients.mean_logit_gradients(fn, params, index)
            assert list(found) == list(exact)
            for name in exact:
                assert_close(found[name], exact[name], 1e-5)


def test_a_norm_in_front_of_the_classifier_takes_the_mean_shift_from_its_kernel():
    heads = {}
    for final_norm in (False, True):
        params, x, _ = example(model := mlp(placement="none", final_norm=final_norm))
        if final_norm:
            params["final_norm"]["bias"] *= 0
        measure = partial(gradients.mean_logit_gradients, partial(logits_of, model, x=x))
        found = fast(measure)(params)
        assert list(found) == ["block_0/layer", "block_1/layer", "head"]
        heads[final_norm] = found["head"]
    assert heads[True] < 1e-12 < 1e-2 < heads[False]


# The loss along the gradient


def quadratic(seed=0, n=6):
    """The loss ½·xᵀAx - bᵀx, with parameters in two leaves; A, b and x are float64."""
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
    found = gradients.gradient_predictiveness(loss, params, jnp.asarray(steps))
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
    found = gradients.gradient_predictiveness(loss, jnp.asarray(x), jnp.asarray(steps))
    change = np.linalg.norm(4 * (x - steps[:, None] * 4 * x**3) ** 3 - 4 * x**3, axis=1)
    ratios = change[1:] / (steps[1:] * np.linalg.norm(4 * x**3))
    assert ratios.argmax() == 1
    assert_close(found.smoothness, ratios.max())


def test_smoothness_where_nothing_moves_is_zero():
    found = gradients.gradient_predictiveness(lambda x: (x**2).sum(), jnp.zeros(3), jnp.array([0.1, 1.0]))
    assert all((leaf == 0).all() for leaf in found)


def test_gradient_functions_under_jit_and_vmap_equal_eager():
    x = batch((11, 4))
    params = [{"head": {"kernel": batch((4, 3), seed=seed, mean=seed)}} for seed in range(3)]
    steps = jnp.array([0.01, 0.1, 1.0])

    def logits(params):
        return jnp.tanh(x @ params["head"]["kernel"])

    def all_of(params):
        return (
            gradients.gradient_norms(params),
            gradients.mean_logit_gradients(logits, params),
            gradients.gradient_predictiveness(lambda p: (logits(p) ** 2).sum(), params, steps),
        )

    mapped = jax.jit(jax.vmap(all_of))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *params))
    for i in range(3):
        for one, expected in zip(jax.tree.leaves(mapped), jax.tree.leaves(all_of(params[i])), strict=True):
            np.testing.assert_allclose(one[i], expected, rtol=1e-4, atol=1e-5)
