"""experiments.training.step: evaluation, population statistics and augmentation do what their names say."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_arms import BEFORE, NONE, make_data

from experiments.config import (
    AugmentationConfig,
    OptimizerConfig,
)
from experiments.data.arrays import Batches, Split, batches
from experiments.training.optimizers import Tuned
from experiments.training.step import evaluate, init, train_step, with_population_statistics


@pytest.mark.parametrize("size", [1, 4, 23, 64])
def test_evaluation_is_exact_whatever_the_batches(size):
    data = make_data()
    state = init(BEFORE, 3, jnp.int32(0), data.train.x)
    found = evaluate(BEFORE, 3, state, batches(data.test, size))
    whole = Batches(data.test.x[None], data.test.y[None], jnp.ones((1, 23), bool))
    expected = evaluate(BEFORE, 3, state, whole)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    assert int(found.correct) == int(expected.correct)
    np.testing.assert_array_equal(found.right.ravel()[:23], expected.right[0])
    assert int(found.correct) == int(found.right.sum())


def test_a_diverged_network_has_no_finite_loss_but_its_accuracy_is_counted():
    data = make_data()
    state = init(BEFORE, 3, jnp.int32(0), data.train.x)
    state = state._replace(params=jax.tree.map(lambda a: a * jnp.nan, state.params))
    found = evaluate(BEFORE, 3, state, batches(data.test, 8))
    assert math.isnan(found.loss)
    assert int(found.correct) == int((data.test.y == 0).sum())  # the argmax of NaN is class 0


def test_population_statistics_are_those_of_the_training_set_layer_by_layer_of_whole_batches():
    data = make_data()
    state = init(BEFORE, 3, jnp.int32(0), data.train.x)
    whole = Batches(*(a[None] for a in (*data.train, jnp.ones(47, bool))))
    found = with_population_statistics(BEFORE, 3, state, whole).batch_stats["block_0"]["norm"]
    w = jax.tree.map(lambda a: np.asarray(a, np.float64), state.params["block_0"]["layer"])
    h = np.asarray(data.train.x, np.float64) @ w["kernel"] + w["bias"]
    np.testing.assert_allclose(found["mean"], h.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], h.var(0), rtol=1e-4)
    # The last of 6 batches is padded with examples.
    parts = with_population_statistics(BEFORE, 3, state, batches(data.train, 9))
    np.testing.assert_allclose(parts.batch_stats["block_0"]["norm"]["var"], h[:45].var(0), rtol=1e-4)


def test_evaluation_by_the_batchs_own_statistics_is_training_mode():
    data = make_data()
    state = init(BEFORE, 3, jnp.int32(0), data.train.x)
    state = state._replace(batch_stats=jax.tree.map(lambda a: a + 7, state.batch_stats))
    whole = Batches(data.test.x[None], data.test.y[None], jnp.ones((1, 23), bool))
    population = with_population_statistics(BEFORE, 3, state, whole)
    by_batch = evaluate(BEFORE, 3, state, whole, by_batch=True)
    assert float(by_batch.loss) == pytest.approx(float(evaluate(BEFORE, 3, population, whole).loss), rel=1e-4)
    assert abs(float(by_batch.loss) - float(evaluate(BEFORE, 3, state, whole).loss)) > 1e-3


def test_augmentation_depends_on_seed_and_step_alone_and_smoothing_enters_the_loss():
    rng = np.random.default_rng(0)
    train = Split(jnp.asarray(rng.normal(size=(12, 6, 6, 1)), jnp.float32), jnp.asarray(rng.integers(0, 3, 12)))
    plain = NONE._replace(optimizer=OptimizerConfig(label_smoothing=0.3))
    moved = plain._replace(augmentation=AugmentationConfig(translate=2))
    rows, tuned = jnp.arange(12), Tuned(0.1, 0.0, False)

    def loss(setup, seed, step):
        state = init(setup, 3, jnp.int32(0), train.x)._replace(seed=jnp.int32(seed), step=jnp.int32(step))
        return float(train_step(setup, 3, 10, state, tuned, rows, train)[1])

    assert loss(plain, 0, 0) == loss(plain, 1, 5)
    assert loss(moved, 0, 0) == loss(moved, 0, 0)
    assert len({loss(plain, 0, 0), loss(moved, 0, 0), loss(moved, 0, 1), loss(moved, 1, 0)}) == 4
    state = init(plain, 3, jnp.int32(0), train.x)
    hard, smooth = loss(NONE, 0, 0), loss(plain, 0, 0)
    model_loss = evaluate(NONE, 3, state, Batches(train.x[None], train.y[None], jnp.ones((1, 12), bool))).loss
    assert hard == pytest.approx(float(model_loss), rel=1e-5) and smooth != pytest.approx(hard, rel=1e-3)
