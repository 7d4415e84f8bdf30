"""Domain batch norm: each domain has its own statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from helpers import assert_close, batch, case, mask, poison, statistics, tree_close

import jbn
import jbn.linen
import jbn.nnx

pytestmark = pytest.mark.usefixtures("strict")
MASKS = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])


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
    """The value of a constant is known; the value of a computation with it under a transformation is not."""
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
