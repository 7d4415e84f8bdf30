"""Splits lose nothing; standardization uses the training set; batches are exact; orders depend only on the seed."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from sklearn.datasets import load_digits

import jbn
from experiments.config import DATA_SETS, ConfigError, DataConfig, TrainingConfig
from experiments.data import cache
from experiments.data.arrays import Split, batch_order, batches, load, standardize
from experiments.data.parts import read

SPLITS = ("one", "each seed")


@pytest.fixture(scope="module")
def loaded():
    """The digits by the way of splitting; the first training seed is 3."""
    return {split: load(DataConfig(split=split), first_seed=3) for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_every_real_image_is_in_exactly_one_part(loaded, split):
    raw, labels = load_digits(return_X_y=True)
    data, description = loaded[split].of(3), loaded[split].description
    sizes = [len(part.y) for part in data]
    assert sum(sizes) == 1797
    assert sizes == [description[k] for k in ("train", "validation", "test")] == [1078, 269, 450]
    # Undo the standardization and compare as multisets of (image, label).
    varies = np.array(description["raw"]["std"]) > 0
    mean, std = (np.array(description["raw"][k])[varies] for k in ("mean", "std"))
    seen = [
        (*np.rint(np.asarray(x, np.float64)[varies] * std + mean).astype(int), int(y))
        for part in data
        for x, y in zip(np.asarray(part.x), np.asarray(part.y), strict=True)
    ]
    given = [(*x[varies].astype(int), int(y)) for x, y in zip(raw, labels, strict=True)]
    assert sorted(seen) == sorted(given)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", [3, 8])
def test_the_training_part_of_every_seed_has_mean_0_and_variance_1_and_the_others_nearly_so(loaded, split, seed):
    data = loaded[split].of(seed)
    x = np.asarray(data.train.x, np.float64)
    varies = x.var(0) > 0
    assert varies.sum() > 55
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.var(0)[varies], 1, rtol=1e-5)
    test = np.asarray(data.test.x, np.float64)
    assert np.abs(test.mean(0)).max() > 1e-3, "the test part must not be standardized by itself"
    assert np.median(np.abs(test.mean(0))) < 0.1


@pytest.mark.parametrize("split", SPLITS)
def test_constant_features_are_zero_in_every_part_whatever_they_are_elsewhere(loaded, split):
    constant = np.array(loaded[split].description["raw"]["std"]) == 0
    assert loaded[split].description["constant_features"] == constant.sum() >= 3
    for part in loaded[split].of(3):
        assert (np.asarray(part.x)[:, constant] == 0).all()
    moments = jbn.moments(jnp.array([[5.0, 1.0], [5.0, 3.0]]))
    assert standardize(jnp.array([[9.0, 4.0]]), moments).tolist() == [[0.0, 2.0]]


def test_annotated_shapes_are_checked_under_pytest():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"examples \.\.\."):
        standardize(jnp.ones((3, 3), int), jbn.moments(jnp.eye(3)))


@pytest.mark.parametrize("split", SPLITS)
def test_parts_keep_the_shares_of_the_classes(loaded, split):
    data = loaded[split].of(3)
    counts = [np.bincount(np.asarray(part.y), minlength=10) for part in data]
    shares = np.array([count / count.sum() for count in counts])
    assert np.abs(shares - shares[0]).max() < 0.006
    assert loaded[split].description["test_classes"] == counts[2].tolist()


@pytest.mark.parametrize(
    ("options", "each_seed"),
    [
        ({}, True),
        ({"split": "each seed"}, True),
        ({"split": "one"}, False),
        ({"name": "mnist"}, False),
        ({"name": "some/set", "split": "one"}, False),
    ],
)
def test_each_seed_has_its_own_split_where_the_set_has_no_test_part_unless_the_config_says_one(options, each_seed):
    assert DataConfig(**options).split_each_seed is each_seed


def labels(source, seed):
    """The test labels of a seed, which tell its split from others."""
    return tuple(np.asarray(source.of(seed).test.y).tolist())


def test_with_one_split_all_seeds_have_the_same_data_and_a_split_seed_has_its_own(loaded):
    one = loaded["one"]
    assert one.of(0) is one.of(5) and not one.each_seed
    first, again, other = (labels(load(DataConfig(split="one", split_seed=seed)), 0) for seed in (0, 0, 1))
    assert first == again == labels(one, 0) != other


def test_with_a_split_of_each_seed_it_depends_on_the_seed_and_the_split_seed_alone(loaded):
    sources = [loaded["each seed"], load(DataConfig(split_seed=1)), load(DataConfig(split_seed=2))]
    assert all(source.each_seed for source in sources)
    found = {labels(source, seed) for source in sources for seed in range(5)} | {labels(loaded["one"], 0)}
    assert len(found) == 16, "no two are alike, and none is the one split"
    assert labels(load(DataConfig(), first_seed=0), 4) == labels(loaded["each seed"], 4)
    assert {tuple(part.x.shape for part in sources[0].of(seed)) for seed in range(5)} == {
        ((1078, 64), (269, 64), (450, 64))
    }


def test_the_description_is_about_the_first_seed_and_says_how_examples_are_split(loaded):
    for split, source in loaded.items():
        test = np.asarray(source.of(3).test.x, np.float64)
        np.testing.assert_allclose(source.description["standardized_test"]["mean"], test.mean(0), atol=1e-6)
        assert source.description["split"] == split
    of_another = load(DataConfig(), first_seed=4).description
    assert of_another["raw"] != loaded["each seed"].description["raw"]
    assert of_another["checksum"] == loaded["one"].description["checksum"], "it is that of the whole set"


def test_a_smaller_training_part_is_drawn_anew_for_each_seed():
    source, whole = load(DataConfig(train_examples=50)), load(DataConfig())
    chosen = set()
    for seed in range(3):
        part, all_of_them = source.of(seed), whole.of(seed)
        assert len(part.train.y) == 50
        np.testing.assert_array_equal(part.test.y, all_of_them.test.y)
        chosen.add(tuple(np.asarray(part.train.y).tolist()))
    assert len(chosen) == 3


@pytest.mark.parametrize("size", [1, 3, 7, 8, 100])
def test_batches_hold_every_example_once_in_order(size):
    split = Split(jnp.arange(14.0).reshape(7, 2), jnp.arange(7))
    cut = batches(split, size)
    keep = np.asarray(cut.where).ravel()
    assert keep.sum() == 7
    assert np.asarray(cut.y).ravel()[keep].tolist() == list(range(7))
    np.testing.assert_array_equal(np.asarray(cut.x).reshape(-1, 2)[keep], np.asarray(split.x))
    # Batches are filled with real examples, so that their statistics are those of real data.
    filled = np.asarray(cut.x).reshape(-1, 2)[~keep]
    assert {tuple(row) for row in filled.tolist()} <= {tuple(row) for row in np.asarray(split.x).tolist()}


def test_an_order_depends_on_its_seed_alone_and_every_epoch_is_a_fresh_permutation():
    training, y = TrainingConfig(batch_size=5, epochs=3), np.zeros(23, np.int32)
    orders = np.array([[batch_order(training, y, seed, epoch) for epoch in range(3)] for seed in (4, 9)])
    assert orders.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(batch_order(training, y, 9, 2), orders[1, 2])
    flat = orders.reshape(6, 20)
    for epoch in flat:
        assert len(set(epoch.tolist())) == 20 and set(epoch.tolist()) <= set(range(23))
    assert len({tuple(epoch) for epoch in flat}) == 6


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_batches_of_few_classes_hold_equally_many_of_each_and_every_example_about_once(classes):
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(7), 41)).astype(np.int32)
    training = TrainingConfig(batch_size=8, classes_per_batch=classes)
    order = batch_order(training, y, 3, 1)
    assert order.shape == (7 * 41 // 8, 8)
    for batch in order:
        labels, counts = np.unique(y[batch], return_counts=True)
        assert len(labels) == classes and (counts == 8 // classes).all()
    assert np.bincount(order.ravel(), minlength=len(y)).max() <= 2
    assert (np.bincount(order.ravel(), minlength=len(y)) == 0).mean() < 0.1
    np.testing.assert_array_equal(order, batch_order(training, y, 3, 1))
    chosen = [frozenset(y[batch].tolist()) for batch in order]
    assert len(set(chosen)) > 4  # the classes are drawn for each batch


@pytest.mark.parametrize("classes", [3, 8])
def test_classes_that_do_not_fit_the_batch_or_the_set_are_refused(classes):
    y = np.repeat(np.arange(7), 41)
    with pytest.raises(ConfigError, match=rf"classes_per_batch is {classes}, with training.batch_size 8 and 7 classes"):
        batch_order(TrainingConfig(batch_size=8, classes_per_batch=classes), y, 0, 0)


# Sets of images


@pytest.fixture
def small_images(monkeypatch):
    """A set of grey images [9, 8] in three classes, as experiments.data.cache returns it."""
    rng = np.random.default_rng(0)
    y = np.arange(120, dtype=np.int32) % 3
    x = rng.integers(0, 200, (120, 9, 8, 1)).astype(np.uint8)
    x[:, 0, 0] = 7  # a constant pixel
    found = cache.Images(x[:90], y[:90], x[90:], y[90:], ("a", "b", "c"), {"name": "some/set"})
    monkeypatch.setattr(cache, "load", lambda name, **_: found)
    return found


def test_images_keep_their_shape_their_test_part_and_their_classes(small_images):
    source = load(DataConfig(name="some/set", validation_fraction=0.2))
    data = source.of(0)
    assert data is source.of(1), "all seeds share the test part of the set"
    assert [part.x.shape for part in data] == [(72, 9, 8, 1), (18, 9, 8, 1), (30, 9, 8, 1)]
    np.testing.assert_array_equal(data.test.y, small_images.test_y)
    assert source.classes == 3 and source.description["shape"] == [9, 8, 1]
    assert source.description["split"] == "one" and source.description["test_classes"] == [10, 10, 10]
    assert np.bincount(data.validation.y).tolist() == [6, 6, 6]
    x = np.asarray(data.train.x, np.float64)
    assert source.description["constant_features"] == 1 and (x[:, 0, 0] == 0).all()
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.var(0).ravel()[1:], 1, rtol=1e-5)


def test_a_channel_has_one_mean_and_variance_over_all_pixels(small_images):
    source = load(DataConfig(name="some/set", standardize="channel"))
    x = np.asarray(source.of(0).train.x, np.float64)
    np.testing.assert_allclose([x.mean(), x.var()], [0, 1], atol=1e-5)
    assert np.abs(x.mean(0)).max() > 0.1
    assert len(source.description["raw"]["mean"]) == 72


def test_shrunk_images_are_means_over_squares(small_images):
    data = load(DataConfig(name="some/set", shrink=2, standardize="none")).of(0)
    assert data.test.x.shape == (30, 4, 4, 1)
    whole = small_images.test_x.astype(np.float64) / 255
    expected = sum(whole[:, i:8:2, j::2] for i in range(2) for j in range(2)) / 4
    np.testing.assert_allclose(data.test.x, expected, rtol=1e-6)
    with pytest.raises(ConfigError, match=r"data\.shrink is 20, but images have 9 x 8 pixels; use less"):
        load(DataConfig(name="some/set", shrink=20))


def test_a_smaller_training_set_is_a_part_of_the_whole_and_leaves_the_other_splits(small_images):
    whole, part = (load(DataConfig(name="some/set", train_examples=n, standardize="channel")).of(0) for n in (None, 20))
    assert len(part.train.y) == 20
    np.testing.assert_array_equal(part.validation.y, whole.validation.y)
    with pytest.raises(
        ConfigError, match=r"data\.train_examples is 500, but some/set has 76 training examples .*fewer"
    ):
        load(DataConfig(name="some/set", train_examples=500))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"name": "fashion"},
            r"data\.name is 'fashion'; choose one of digits, mnist, .*did you mean 'fashion_mnist'\?",
        ),
        ({"image_column": "img"}, r"data\.image_column is 'img', but digits has none; leave it out"),
        (
            {"name": "mnist", "split": "each seed"},
            r"data\.split is 'each seed', but mnist has a test part of its own, .*; leave it out, or use 'one'",
        ),
        ({"train_examples": 1}, r"data\.train_examples is 1; use at least 2, or leave it out"),
    ],
)
def test_a_wrong_set_is_refused_before_anything_is_read(options, says):
    with pytest.raises(ConfigError, match=says):
        DataConfig(**options)


def test_the_config_knows_the_sets_that_can_be_loaded():
    assert ("digits", *cache.KNOWN) == DATA_SETS


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_data_with_nan_or_inf_are_refused_with_their_place(monkeypatch, bad, part):
    raw = read(DataConfig())

    def spoiled(seed):
        parts = raw.parts(seed)
        getattr(parts, part).x[[5, 7], 3] = bad
        return parts

    monkeypatch.setattr("experiments.data.arrays.read", lambda config: raw._replace(parts=spoiled))
    with pytest.raises(ConfigError, match=f"digits has 2 examples with NaN or inf, the first at place 5 of its {part}"):
        load(DataConfig())
