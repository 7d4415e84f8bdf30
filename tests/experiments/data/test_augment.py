"""Augmentations are pure functions of (key, images), and draw from the documented distributions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments.config import ConfigError
from experiments.data.augment import augment, compose, cutout, flip, pad_crop, translate

pytestmark = pytest.mark.usefixtures("strict")

EVERY = {
    "pad_crop": partial(pad_crop, pad=2),
    "pad_crop reflect": partial(pad_crop, pad=3, mode="reflect"),
    "translate": partial(translate, pixels=(1, 3)),
    "flip": flip,
    "cutout": partial(cutout, size=3),
    "compose": compose(partial(pad_crop, pad=1), flip),
    "augment": partial(augment, pad_crop=2, translate=1, flip=True, cutout=2),
}


@pytest.fixture(params=EVERY.values(), ids=EVERY)
def function(request):
    return request.param


def photos(n=16, height=5, width=6, channels=3, dtype="float32", seed=0):
    """Images whose pixels are all different and not 0."""
    rng = np.random.default_rng(seed)
    size = height * width * channels
    pixels = rng.permuted(np.tile(np.arange(1, size + 1), (n, 1)), axis=1)
    return jnp.asarray(pixels.reshape(n, height, width, channels), dtype)


def copies(image, n):
    return jnp.broadcast_to(image[None], (n, *image.shape))


def counts(outputs, possible):
    """How often each of the possible images was drawn; every output must be one of them."""
    index = {np.asarray(image).tobytes(): k for k, image in enumerate(possible)}
    assert len(index) == len(possible), "the possible images must differ, or frequencies mean nothing"
    return np.bincount([index[image.tobytes()] for image in np.asarray(outputs)], minlength=len(possible))


def assert_uniform(seen):
    assert scipy.stats.chisquare(seen).pvalue > 1e-3, seen


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_a_crop_is_one_of_the_crops_of_the_padded_image_all_equally_often(mode):
    image, pad = photos(1)[0], 2
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="constant" if mode == "zero" else mode)
    possible = [padded[i : i + 5, j : j + 6] for i in range(5) for j in range(5)]
    assert_uniform(counts(pad_crop(jax.random.key(1), copies(image, 4000), pad, mode), possible))


def test_a_translation_is_every_shift_up_to_its_limits_all_equally_often():
    image = np.asarray(photos(1)[0])
    possible = []
    for down in range(-1, 2):
        for right in range(-3, 4):
            moved = np.zeros_like(image)
            for i in range(5):
                for j in range(6):
                    if 0 <= i - down < 5 and 0 <= j - right < 6:
                        moved[i, j] = image[i - down, j - right]
            possible.append(moved)
    assert_uniform(counts(translate(jax.random.key(2), copies(jnp.asarray(image), 4000), (1, 3)), possible))


def test_pad_crop_is_translate_under_another_name():
    x, key = photos(), jax.random.key(3)
    for mode in ("zero", "reflect"):
        np.testing.assert_array_equal(pad_crop(key, x, 3, mode), translate(key, x, 3, mode))


def test_flip_mirrors_half_of_the_images_and_twice_with_one_key_is_the_identity():
    x, key = photos(4000), jax.random.key(4)
    given, once = np.asarray(x), np.asarray(flip(key, x))
    mirrored = (once == given[:, :, ::-1]).all((1, 2, 3))
    untouched = (once == given).all((1, 2, 3))
    assert (mirrored ^ untouched).all()
    assert scipy.stats.binomtest(int(mirrored.sum()), 4000).pvalue > 1e-3
    np.testing.assert_array_equal(flip(key, jnp.asarray(once)), x)


@pytest.mark.parametrize("size", [1, 4, 9])
def test_cutout_removes_the_square_around_each_centre_equally_often_less_what_is_over_the_border(size):
    height, width = 4, 5
    expected: dict[bytes, int] = {}
    for i in range(height):
        for j in range(width):
            kept = np.ones((height, width), bool)
            top, left = i - size // 2, j - size // 2
            kept[max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = False
            expected[kept.tobytes()] = expected.get(kept.tobytes(), 0) + 1
    x = photos(4000, height, width, 2)
    y = np.asarray(cutout(jax.random.key(5), x, size))
    removed = y == 0
    assert (removed[..., 0] == removed[..., 1]).all(), "all channels of a pixel go together"
    np.testing.assert_array_equal(y[~removed], np.asarray(x)[~removed])
    seen = {}
    for mask in ~removed[..., 0]:
        seen[mask.tobytes()] = seen.get(mask.tobytes(), 0) + 1
    assert set(seen) <= set(expected)
    if len(expected) > 1:
        share = np.array(list(expected.values())) / (height * width)
        assert scipy.stats.chisquare([seen.get(k, 0) for k in expected], 4000 * share).pvalue > 1e-3


def test_rows_and_columns_of_an_image_and_two_images_draw_independently():
    ramp = jnp.arange(1, 50, dtype=jnp.int32).reshape(1, 7, 7, 1)
    middle = np.asarray(translate(jax.random.key(6), copies(ramp[0], 4000), 1))[:, 3, 3, 0] - 1
    down, right = middle // 7, middle % 7
    assert scipy.stats.chi2_contingency(np.histogram2d(down, right, 3)[0]).pvalue > 1e-3
    for a in (down, right):
        assert scipy.stats.chi2_contingency(np.histogram2d(a[:-1], a[1:], 3)[0]).pvalue > 1e-3


def test_the_same_key_gives_the_same_images_and_another_key_others(function):
    x, key = photos(), jax.random.key(7)
    first = np.asarray(function(key, x))
    np.testing.assert_array_equal(function(key, x), first)
    assert (np.asarray(function(jax.random.key(8), x)) != first).any()


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16", "float32"])
def test_shape_and_dtype_stay_and_every_dtype_draws_alike(function, dtype):
    x, key = photos(dtype="uint8"), jax.random.key(9)
    y = function(key, x.astype(dtype))
    assert y.dtype == dtype and y.shape == x.shape
    np.testing.assert_array_equal(y.astype("uint8"), function(key, x))


def test_x64_changes_no_draw(function):
    x, key = photos(dtype="uint8"), jax.random.key(9)
    narrow = function(key, x)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(function(key, x), narrow)


def test_jit_equals_eager(function):
    x, key = photos(), jax.random.key(10)
    np.testing.assert_array_equal(jax.jit(function)(key, x), function(key, x))


def test_vmap_over_seeds_equals_a_loop(function):
    x, keys = photos(), jax.random.split(jax.random.key(11), 3)
    together = jax.vmap(function, in_axes=(0, None))(keys, x)
    for y, key in zip(together, keys, strict=True):
        np.testing.assert_array_equal(y, function(key, x))


def test_scan_over_steps_equals_a_loop():
    x, key, function = photos(), jax.random.key(12), EVERY["augment"]

    def at_step(step):
        return function(jax.random.fold_in(key, step), x)

    seen = jax.lax.map(at_step, jnp.arange(3))
    for step in range(3):
        np.testing.assert_array_equal(seen[step], at_step(step))


def test_nothing_is_changed_where_everything_is_off():
    x, key = photos(), jax.random.key(13)
    for y in (augment(key, x), pad_crop(key, x, 0), translate(key, x, 0), cutout(key, x, 0), compose()(key, x)):
        np.testing.assert_array_equal(y, x)


def test_switching_one_augmentation_on_or_off_leaves_the_draws_of_the_others():
    x, key = photos(64), jax.random.key(14)
    flips, crops, shifts, cuts = (jax.random.fold_in(key, place) for place in range(4))
    alone = {
        "flip": augment(key, x, flip=True),
        "pad_crop": augment(key, x, pad_crop=2),
        "translate": augment(key, x, translate=1),
        "cutout": augment(key, x, cutout=3),
    }
    np.testing.assert_array_equal(alone["flip"], flip(flips, x))
    np.testing.assert_array_equal(alone["pad_crop"], pad_crop(crops, x, 2))
    np.testing.assert_array_equal(alone["translate"], translate(shifts, x, 1))
    np.testing.assert_array_equal(alone["cutout"], cutout(cuts, x, 3))
    every = cutout(cuts, translate(shifts, pad_crop(crops, flip(flips, x), 2), 1), 3)
    np.testing.assert_array_equal(augment(key, x, pad_crop=2, flip=True, cutout=3, translate=1), every)


def test_compose_applies_from_left_to_right_each_step_with_its_own_key():
    x, key = photos(64), jax.random.key(15)
    first, second = (jax.random.fold_in(key, place) for place in range(2))
    np.testing.assert_array_equal(
        compose(partial(pad_crop, pad=2), partial(cutout, size=3))(key, x), cutout(second, pad_crop(first, x, 2), 3)
    )
    twice = compose(flip, flip)(key, x)
    assert (np.asarray(twice) != np.asarray(x)).any(), "with one key for both the second flip would undo the first"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k, x: translate(k, x, -1), "-1 pixels; use 0"),
        (lambda k, x: pad_crop(k, x, 5, "reflect"), "height 5 reflects at most 4 pixels, not 5"),
        (lambda k, x: translate(k, x, (0, 6), "reflect"), "width 6 reflects at most 5 pixels, not 6"),
        (lambda k, x: pad_crop(k, x, 1, "mirror"), "mode is 'mirror'; choose one of zero, reflect"),
        (lambda k, x: cutout(k, x, -2), "cutout of -2 pixels; use 0"),
        (lambda k, x: augment(k, x, translate=-2), "-2 pixels"),
        (lambda k, x: augment(k, x[0]), r"shape \(5, 6, 3\); pass \[n, height"),
        (lambda k, x: flip(k, x[..., 0]), r"shape \(16, 5, 6\); pass \[n, height"),
    ],
)
def test_what_makes_no_sense_is_refused_with_one_line(call, message):
    with pytest.raises(ConfigError, match=message) as refused:
        call(jax.random.key(0), photos())
    assert "\n" not in str(refused.value)
