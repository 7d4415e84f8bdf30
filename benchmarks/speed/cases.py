"""What is timed: inputs with the shapes of common networks, and the modes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Mode = Literal["forward", "forward+backward", "inference", "forward+backward, ReLU"]
Option = Literal["plain", "masked", "ghost"]

MODES: tuple[Mode, ...] = ("forward", "forward+backward", "inference", "forward+backward, ReLU")
SUMMED: dict[str, Mode] = {"fwd": "forward", "fwd_bwd": "forward+backward", "infer": "inference"}
GHOST = 32  # examples in a virtual batch


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
      network: where such an input occurs.
      shape: of the input, features last.
      dtype: of the input; parameters and statistics are float32.
      option: "masked" leaves every fifth example out; "ghost" normalizes by groups of 32 examples.
    """

    network: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    option: Option = "plain"

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * (2 if self.dtype == "bfloat16" else 4)

    @property
    def features(self) -> int:
        return self.shape[-1]

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return f"{self.network} {shape}, {self.dtype}" + ("" if self.option == "plain" else f", {self.option}")


SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "images": ((128, 32, 32, 3),),
    "ResNet-50": (
        (16, 112, 112, 64),
        (16, 56, 56, 64),
        (16, 56, 56, 256),
        (16, 28, 28, 128),
        (16, 28, 28, 512),
        (16, 14, 14, 256),
        (16, 14, 14, 1024),
        (16, 7, 7, 512),
        (16, 7, 7, 2048),
    ),
    "CIFAR ResNet": ((128, 32, 32, 16), (128, 16, 16, 32), (128, 8, 8, 64), (128, 32, 32, 64), (128, 4, 4, 512)),
    "MLP": ((60, 100), (64, 512), (256, 512), (1024, 2048), (16384, 512)),
}
QUICK: dict[str, tuple[tuple[int, ...], ...]] = {
    "images": ((128, 32, 32, 3),),
    "ResNet-50": ((16, 56, 56, 64), (16, 14, 14, 1024), (16, 7, 7, 2048)),
    "CIFAR ResNet": ((128, 32, 32, 16), (128, 8, 8, 64)),
    "MLP": ((60, 100), (1024, 2048)),
}
GPU_BATCH = 16  # how many times as many examples a GPU gets


def cases(*, quick: bool, gpu: bool) -> list[Case]:
    """All inputs, plain ones first."""

    def scaled(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0] * GPU_BATCH, *shape[1:]) if gpu else shape

    shapes = QUICK if quick else SHAPES
    # A quick run has bfloat16 for every other shape only.
    found = [
        Case(network, scaled(shape), dtype)
        for network, some in shapes.items()
        for i, shape in enumerate(some)
        for dtype in (("float32",) if quick and i % 2 else ("float32", "bfloat16"))
    ]
    options: tuple[Option, ...] = ("masked", "ghost")
    chosen = (("CIFAR ResNet", (128, 32, 32, 16)), ("CIFAR ResNet", (128, 8, 8, 64)), ("MLP", (1024, 2048)))
    return found + [Case(network, scaled(shape), option=o) for network, shape in chosen for o in options]
