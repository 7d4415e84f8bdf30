"""Augmentation: pure functions of (key, images) that run on the device and may be part of the training step.

Each image is changed independently. The same key gives the same images under jit, vmap and scan, on every device. The
dtype is kept: uint8 in, uint8 out. Padding and cutout fill with 0, which is the mean colour of standardized images but
black in raw ones. So standardize first, then augment.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Key, Num, UInt32

from experiments.config import ConfigError

Images = Num[Array, "n height width channels"]
Seed = Key[Array, ""] | UInt32[Array, "2"]
Step = Callable[[jax.Array, jax.Array], jax.Array]
Fill = Literal["zero", "reflect"]

_PAD = {"zero": "constant", "reflect": "reflect"}


def augment(
    key: Seed,
    x: Images,
    *,
    pad_crop: int = 0,
    flip: bool = False,
    cutout: int = 0,
    translate: int | tuple[int, int] = 0,
) -> Images:
    """The usual augmentations, in the order flip, pad_crop, translate, cutout. All are off by default.

    Each augmentation derives its key from its position in that order, so switching one on or off does not change the
    random draws of the others: two arms that differ in one augmentation stay paired in the rest.

    Args:
      key: one random key for the whole batch; `jax.random.fold_in(key, step)` gives each step its own.
      x: images [n, height, width, channels], of any real dtype.
      pad_crop: pixels of zero padding before a crop to the original size; 0 is off, 4 is usual for CIFAR.
      flip: whether to mirror left and right, with probability 1/2.
      cutout: side in pixels of the square that is set to 0; 0 is off, 16 is usual for CIFAR-10, 8 for CIFAR-100.
      translate: largest shift in pixels, along both axes or as (rows, columns); 0 is off.

    Returns:
      Images of the shape and dtype of `x`.

    Raises:
      ConfigError: `x` is not a batch of images, or a size is negative.

    >>> x = jnp.ones((2, 32, 32, 3), jnp.uint8)
    >>> jax.jit(partial(augment, pad_crop=4, flip=True))(jax.random.key(0), x).shape
    (2, 32, 32, 3)
    """
    # Flip comes first because XLA:CPU would fuse it into the two shifts before it, which is slow (14 ms instead of 3
    # for 512 images of CIFAR). Shifts are symmetric, so the distribution is the same in either order.
    steps = (
        _flip if flip else _same,
        partial(_translate, pixels=pad_crop) if pad_crop else _same,
        partial(_translate, pixels=translate) if translate else _same,
        partial(_cutout, size=cutout) if cutout else _same,
    )
    return compose(*steps)(key, x)


def compose(*steps: Step) -> Step:
    """Composes augmentations, applied from left to right; step i uses the key `fold_in(key, i)`.

    >>> both = compose(flip, partial(cutout, size=8))
    >>> both(jax.random.key(0), jnp.ones((2, 32, 32, 3))).shape
    (2, 32, 32, 3)
    """

    def composed(key: jax.Array, x: jax.Array) -> jax.Array:
        for place, step in enumerate(steps):
            x = step(jax.random.fold_in(key, place), x)
        return x

    return composed


def translate(key: Seed, x: Images, pixels: int | tuple[int, int], mode: Fill = "zero") -> Images:
    """Shifts each image by a random whole number of pixels, uniform from -`pixels` to `pixels` along each axis.

    Args:
      key: one random key for the batch.
      x: images [n, height, width, channels].
      pixels: largest shift along both axes, or (rows, columns).
      mode: how to fill in: `zero`, or `reflect`, the image mirrored at its border, without repeating the border.

    Returns:
      Images of the shape and dtype of `x`.

    Raises:
      ConfigError: `x` is not a batch of images, or `pixels` is negative, or too large to reflect.
    """
    _check_images(x)
    rows, columns = (pixels, pixels) if isinstance(pixels, int) else pixels
    n, height, width, channels = x.shape
    for shift, size, side in ((rows, height, "height"), (columns, width, "width")):
        if shift < 0:
            raise ConfigError(f"a shift or padding of {shift} pixels; use 0 (off) or more")
        if mode == "reflect" and shift >= size:
            raise ConfigError(f"an image of {side} {size} reflects at most {size - 1} pixels, not {shift}; use fewer")
    if mode not in _PAD:
        raise ConfigError(f"mode is {mode!r}; choose one of {', '.join(_PAD)}")
    padded = jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)), mode=_PAD[mode])

    def crop(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (top, left, jnp.int32(0)), (height, width, channels))

    for_rows, for_columns = jax.random.split(key)
    return jax.vmap(crop)(padded, _draw(for_rows, n, 2 * rows + 1), _draw(for_columns, n, 2 * columns + 1))


def pad_crop(key: Seed, x: Images, pad: int, mode: Fill = "zero") -> Images:
    """Pads each image by `pad` pixels on every side and crops it to its original size at a random position.

    The same as `translate(key, x, pad, mode)`, under the name that papers on CIFAR use.
    """
    return _translate(key, x, pad, mode)


def flip(key: Seed, x: Images) -> Images:
    """Mirrors each image left to right with probability 1/2. Applied twice with the same key, it is the identity."""
    _check_images(x)
    mirrored = _draw(key, x.shape[0], 2) == 1
    return jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)


def cutout(key: Seed, x: Images, size: int) -> Images:
    """Sets a square of `size` by `size` pixels to 0 in each image; its centre is uniform over all pixels.

    The square is clipped at the border, so less is removed there. The square around the centre (i, j) begins in row
    i - size // 2 and column j - size // 2.

    Args:
      key: one random key for the batch.
      x: images [n, height, width, channels].
      size: side of the square in pixels; 0 removes nothing.

    Returns:
      Images of the shape and dtype of `x`.

    Raises:
      ConfigError: `x` is not a batch of images, or `size` is negative.

    Reference: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017.
    """
    _check_images(x)
    if size < 0:
        raise ConfigError(f"a cutout of {size} pixels; use 0 (off) or more")
    n, height, width, _ = x.shape

    def inside(key: jax.Array, length: int) -> jax.Array:
        first = _draw(key, n, length)[:, None] - size // 2
        place = jnp.arange(length, dtype=jnp.int32)[None]
        return (first <= place) & (place < first + size)

    for_rows, for_columns = jax.random.split(key)
    removed = inside(for_rows, height)[:, :, None, None] & inside(for_columns, width)[:, None, :, None]
    return jnp.where(removed, jnp.zeros((), x.dtype), x)


# Aliases, because arguments of `augment` have the same names.
_translate, _flip, _cutout = translate, flip, cutout


def _same(key: jax.Array, x: jax.Array) -> jax.Array:
    _check_images(x)
    return x


def _draw(key: jax.Array, n: int, choices: int) -> jax.Array:
    return jax.random.randint(key, (n,), 0, choices, jnp.int32)  # int32 gives the same draws with and without x64


def _check_images(x: jax.Array) -> None:
    if x.ndim != 4:
        raise ConfigError(f"images have shape {x.shape}; pass [n, height, width, channels], as x[..., None] for grey")
