"""Options of running statistics: debiased, cumulative, scheduled, skipping bad batches, accumulated."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from helpers import batch, mask, poison

import jbn

pytestmark = pytest.mark.usefixtures("strict")
K = pytest.mark.parametrize("k", [0, 1, 2, 17])


def inputs(k: int) -> list[jax.Array]:
    """k batches of different size, mean and standard deviation."""
    return [batch((7 + 2 * i, 3), mean=3.0 + 40 * i, seed=i) for i in range(k)]


def follow(xs, where=None, **options) -> jbn.BatchStats:
    """The running statistics after `xs`, with these options of update_stats."""
    needs = {k: v for k, v in options.items() if k != "variance"}
    stats = jbn.init_stats(xs[0].shape[-1] if xs else 3, **needs)
    for x in xs:
        stats = jbn.update_stats(stats, jbn.moments(x, where=where), **options)
    return stats


def average(values, weights):
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def assert_stats(stats, mean, var, rtol=1e-6) -> None:
    np.testing.assert_allclose(stats.mean, mean, rtol=rtol, atol=rtol * np.abs(mean).max())
    np.testing.assert_allclose(stats.var, var, rtol=rtol)


def oracle(xs):
    """float64 means and biased variances, one row per batch."""
    rows = [reference.moments(x) for x in xs]
    return [np.array([r[i] for r in rows]).reshape(-1, 3) for i in (0, 1)]


# Debiased


@K
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99, 0.9999])
def test_the_debiased_average_is_the_weighted_mean_of_the_batches_alone(k, momentum):
    xs = inputs(k)
    stats = follow(xs, momentum=momentum, debias=True)
    if not k:
        return assert_stats(stats, np.zeros(3), np.ones(3))
    weights = [momentum ** (k - 1 - i) for i in range(k)]
    assert_stats(stats, *(average(v, weights) for v in oracle(xs)), rtol=2e-6)


@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.9999])
def test_the_debiased_average_of_one_batch_is_that_batch(momentum):
    x = inputs(1)[0]
    m = jbn.moments(x)
    stats = follow([x], momentum=momentum, debias=True)
    np.testing.assert_array_equal(stats.mean, m.mean)
    np.testing.assert_array_equal(stats.var, m.var)


def test_the_debiased_average_turns_into_the_plain_one():
    x = inputs(1)[0]
    plain, debiased = (follow([x] * 400, momentum=0.9, debias=d) for d in (False, True))
    assert_stats(debiased, plain.mean, plain.var, rtol=2e-6)
    np.testing.assert_allclose(debiased.weight, 1.0, rtol=1e-6)


def test_debiased_features_that_were_masked_at_first_are_right_from_their_own_first_batch():
    xs, keep = inputs(2), jnp.ones((7, 3), bool).at[:, 1].set(False)
    stats = jbn.init_stats(3, debias=True)
    stats = jbn.update_stats(stats, jbn.moments(xs[0], where=keep), debias=True)
    stats = jbn.update_stats(stats, jbn.moments(xs[1]), debias=True)
    mean, var = oracle(xs)
    weights = np.array([0.99, 1.0])
    expected = [np.where([False, True, False], v[1], average(v, weights)) for v in (mean, var)]
    assert_stats(stats, *expected)


# Cumulative


@K
def test_momentum_none_gives_every_batch_the_same_weight(k):
    xs = inputs(k)
    stats = follow(xs, momentum=None)
    if not k:
        return assert_stats(stats, np.zeros(3), np.ones(3))
    assert_stats(stats, *(v.mean(0) for v in oracle(xs)), rtol=2e-6)
    np.testing.assert_array_equal(stats.weight, np.full(3, k))


# Schedules


@K
def test_a_schedule_is_asked_for_the_momentum_of_its_step(k):
    schedule = optax.linear_schedule(0.5, 0.95, transition_steps=9)
    xs = inputs(k)
    with jax.numpy_dtype_promotion("standard"):
        stats = follow(xs, momentum=schedule)
        momenta = [float(schedule(i)) for i in range(k)]
    mean, var = np.zeros(3), np.ones(3)
    for m, new_mean, new_var in zip(momenta, *oracle(xs), strict=True):
        mean, var = m * mean + (1 - m) * new_mean, m * var + (1 - m) * new_var
    assert_stats(stats, mean, var, rtol=3e-6)
    assert stats.step == k and stats.step.dtype == jnp.int32


def test_a_debiased_schedule_is_the_weighted_mean_under_jit():
    xs, momenta = inputs(4), np.array([0.5, 0.8, 0.9, 0.0])
    schedule = lambda step: jnp.asarray(momenta, jnp.float32)[step]  # noqa: E731
    stats = jbn.init_stats(3, momentum=schedule, debias=True)
    update = jax.jit(functools.partial(jbn.update_stats, momentum=schedule, debias=True))
    for k, x in enumerate(xs, 1):
        stats = update(stats, jbn.moments(x))
        weights = [(1 - momenta[i]) * momenta[i + 1 : k].prod() for i in range(k)]
        assert_stats(stats, *(average(v, weights) for v in oracle(xs[:k])), rtol=2e-6)


def test_a_debiased_schedule_that_starts_at_1_waits():
    """The total weight is still 0, and 0/0 must not occur."""
    x = inputs(1)[0]
    schedule = lambda step: jnp.where(step == 0, 1.0, 0.9)  # noqa: E731
    stats = follow([x], momentum=schedule, debias=True)
    assert_stats(stats, np.zeros(3), np.ones(3))
    assert_stats(follow([x, x], momentum=schedule, debias=True), *reference.moments(x)[:2])


# Biased and unbiased


def test_the_unbiased_variance_is_n_over_n_minus_1_of_the_biased():
    xs = inputs(3)
    stats = follow(xs, momentum=0.0, variance="unbiased")
    np.testing.assert_allclose(stats.var, np.var(np.asarray(xs[-1], np.float64), 0, ddof=1), rtol=1e-6)


def test_masked_elements_do_not_count_in_the_unbiased_variance():
    x, keep = batch((13, 3)), mask((13, 3))
    stats = follow([poison(x, keep)], where=keep, momentum=0.0, variance="unbiased")
    exact = [np.var(np.asarray(x, np.float64)[keep[:, c], c], ddof=1) for c in range(3)]
    np.testing.assert_allclose(stats.var, exact, rtol=1e-6)


def test_one_value_has_no_unbiased_variance_and_gives_0_not_nan():
    stats = follow([jnp.full((1, 3), 5.0)], momentum=0.5, variance="unbiased")
    np.testing.assert_array_equal(stats.var, np.full(3, 0.5))


@pytest.mark.parametrize(
    ("library", "rate", "epsilon", "ddof"), [("flax", 0.01, 1e-5, 0), ("keras", 0.01, 1e-3, 0), ("torch", 0.1, 1e-5, 1)]
)
@K
def test_a_preset_is_the_recurrence_of_its_library(library, rate, epsilon, ddof, k):
    """Written with the formula of each library; benchmarks/correctness runs the libraries themselves."""
    xs, options = inputs(k), jbn.preset(library)
    assert options.pop("epsilon") == epsilon
    stats = follow(xs, **options)
    mean, var = np.zeros(3), np.ones(3)
    for x in xs:
        x = np.asarray(x, np.float64)
        mean, var = mean + rate * (x.mean(0) - mean), var + rate * (x.var(0, ddof=ddof) - var)
    assert_stats(stats, mean, var, rtol=3e-6)


# Poisoned batches


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e30], ids=["nan", "inf", "-inf", "overflow"])
@pytest.mark.parametrize("options", [{}, {"debias": True}, {"momentum": None}], ids=["ema", "debias", "cumulative"])
def test_a_poisoned_batch_is_left_out_and_counted(junk, options):
    xs = inputs(4)
    poisoned = [x.at[2, 1].set(junk) if i in (0, 2) else x for i, x in enumerate(xs)]
    stats = follow(poisoned, skip_nonfinite=True, **options)
    clean = follow([xs[1], xs[3]], skip_nonfinite=True, **options)
    assert stats.skipped == 2
    jax.tree.map(np.testing.assert_array_equal, stats._replace(skipped=clean.skipped), clean)


def test_a_poisoned_batch_is_left_out_by_the_layer_on_every_device():
    x = batch((4, 5, 3)).at[1, 2, 0].set(jnp.nan)
    stats = jbn.init_stats(3, skip_nonfinite=True)
    f = functools.partial(jbn.batch_norm, train=True, skip_nonfinite=True, axis_name="d")
    _, new, info = jax.vmap(lambda x: f(x, None, None, stats), axis_name="d")(x)
    np.testing.assert_array_equal(new.mean, np.zeros((4, 3)))
    np.testing.assert_array_equal(info.skipped, np.ones(4))


def test_an_empty_batch_is_neither_counted_nor_a_step():
    nothing = jbn.moments(jnp.full((5, 3), jnp.nan), where=jnp.zeros((5, 1), bool))
    options = {"momentum": lambda step: 0.9, "debias": True, "skip_nonfinite": True}
    stats = follow(inputs(2), **options)
    jax.tree.map(np.testing.assert_array_equal, jbn.update_stats(stats, nothing, **options), stats)


# Gradient accumulation


@pytest.mark.parametrize("options", [{}, {"debias": True}, {"momentum": None}, {"variance": "unbiased"}], ids=str)
@pytest.mark.parametrize("mean", [3.0, 1e4])
def test_micro_batches_move_the_statistics_once_and_as_the_full_batch(options, mean):
    full = [batch((24, 3), mean=mean * (i + 1), seed=i) for i in range(3)]
    cuts = [0, 5, 6, 17, 24]  # micro-batches of different sizes
    micro = [x[a:b] for x in full for a, b in itertools.pairwise(cuts)]
    stats = follow(micro, accumulate_steps=4, **options)
    whole = follow(full, **options)
    rtol = 1e-6 if mean < 10 else 1e-4  # a mean of 1e4 is exact to 1e-3, and so are differences between means
    assert_stats(stats, whole.mean, whole.var, rtol)
    assert stats.pending_steps == 0
    np.testing.assert_array_equal(stats.pending_count, np.zeros(3))
    between = follow(micro[:-1], accumulate_steps=4, **options)
    until = follow(full[:-1], **options)
    assert_stats(between, until.mean, until.var, rtol)
    assert between.pending_steps == 3


def test_micro_batches_with_masks_and_poison_move_the_statistics_as_what_is_left():
    x, keep = batch((5, 6, 3)), mask((5, 6, 3))
    keep[1] = False
    options = {"accumulate_steps": 4, "skip_nonfinite": True, "momentum": 0.25}
    stats = jbn.init_stats(3, **options)
    for i in range(5):  # as if batch 2 had never occurred
        np.testing.assert_array_equal(stats.mean, np.zeros(3))
        micro = jnp.full_like(x[i], jnp.nan) if i == 2 else poison(x[i], keep[i])
        stats = jbn.update_stats(stats, jbn.moments(micro, where=None if i == 2 else jnp.asarray(keep[i])), **options)
    left = np.delete(np.asarray(x), 2, 0), np.delete(keep, 2, 0)
    mean, var, _ = reference.moments(left[0], where=left[1])
    assert_stats(stats, 0.75 * mean, 0.25 + 0.75 * var, rtol=2e-6)
    assert stats.skipped == 1


def test_accumulation_lives_in_a_scan():
    x = batch((8, 6, 3), mean=100.0)
    options = {"accumulate_steps": 4, "debias": True}

    def step(stats, x):
        y, stats, _ = jbn.batch_norm(x, None, None, stats, train=True, **options)
        return stats, y

    stats, _ = jax.lax.scan(step, jbn.init_stats(3, **options), x)
    whole = follow([x[:4].reshape(24, 3), x[4:].reshape(24, 3)], debias=True)
    assert_stats(stats, whole.mean, whole.var, rtol=3e-6)


# Errors


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"momentum": None, "debias": True}, r"momentum=None with debias=True: .* set debias=False"),
        ({"momentum": 1.5}, r"momentum=1\.5 is not between 0 and 1; pass .*torch's 0\.1 is 0\.9"),
        ({"accumulate_steps": 0}, r"accumulate_steps=0; pass the number of micro-batches"),
        ({"variance": "sample"}, r"variance is 'sample'; choose 'biased' \(Flax, Keras\) or 'unbiased'"),
        (
            {"debias": True},
            r"debias=True needs state .*\(they have mean, var\); use jbn\.init_stats\(.*debias=True\)",
        ),
        ({"momentum": None}, r"momentum=None needs state .*; use jbn\.init_stats\("),
        ({"momentum": lambda step: 0.9}, r"momentum=<schedule> needs state .*; use jbn\.init_stats\("),
        ({"skip_nonfinite": True}, r"skip_nonfinite=True needs state .*; use jbn\.init_stats\("),
        ({"accumulate_steps": 2}, r"accumulate_steps=2 needs state .*; use jbn\.init_stats\("),
    ],
)
def test_options_that_do_not_fit_are_refused_with_a_remedy(options, says):
    with pytest.raises(ValueError, match=says):
        jbn.update_stats(jbn.init_stats(3), jbn.moments(batch((5, 3))), **options)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"no preset 'pytorch'; choose one of flax, keras, torch; did you mean 'torch'\?"
    ):
        jbn.preset("pytorch")
