"""Which test examples a network classified correctly, as text for a record: one bit per example, in base64."""

from __future__ import annotations

import base64
import binascii

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pack_right(correct: ArrayLike) -> str:
    """Packs one bool per test example, in the order of the test split.

    Args:
      correct: `[examples]`, True where the network is right.

    Returns:
      Base64 of `np.packbits(correct)`: the first example is the highest bit of the first byte.

    Example:
      >>> pack_right([True, False, True])
      'oA=='
      >>> unpack_right("oA==", 3)
      array([ True, False,  True])
    """
    return base64.b64encode(np.packbits(np.asarray(correct, bool)).tobytes()).decode("ascii")


def unpack_right(text: str, examples: int) -> NDArray[np.bool_]:
    """Unpacks the text of `pack_right` to `[examples]`.

    Raises:
      ValueError: the text is no base64, or not of this number of examples. The message is a predicate about the text.
    """
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is no base64") from None
    wanted = -(-examples // 8)
    if len(packed) != wanted:
        raise ValueError(f"has {len(packed)} bytes, but the bits of {examples} examples are {wanted}")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8)).astype(bool)
    if bits[examples:].any():
        raise ValueError(f"has bits after those of the {examples} examples")
    return bits[:examples]
