"""The published runs that can be quoted, and the questions that the table of all results asks of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.store.record import Run, read

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "experiments" / "published"

Runs = Mapping[str, Run]
"""Published runs by name."""


class Asked(NamedTuple):
    """One row of the table of all results."""

    words: str
    run: str
    contrast: str
    """Its name in result.json."""


QUESTIONS = (
    Asked("Fashion-MNIST MLP, ReLU: after - before; published for VGG-16 on CIFAR-10", "fashion_activation",
          "relu: after - before"),
    Asked("the same with tanh", "fashion_activation", "tanh: after - before"),
    Asked("does it depend on the activation? ReLU's difference - tanh's", "fashion_activation",
          "(after - before in relu) - (the same in tanh)"),
    Asked("strided CNN on MNIST, ReLU: after - before; published: one run", "strided_mnist", "relu: after - before"),
    Asked("Fashion-MNIST MLP, batches of 32: renormalization - batch norm; published for ImageNet", "small_batches",
          "iid, 32: batch renorm - batch norm"),
    Asked("the same in groups of 4", "small_batches", "iid, groups of 4: batch renorm - batch norm"),
    Asked("the same, 4 classes a batch; published: 16 classes", "small_batches",
          "4 classes a batch: batch renorm - batch norm"),
    Asked("sigmoid MLP on MNIST, weights of sd 0.01: before - none", "mnist_sigmoid", "std 0.01: before - none"),
    Asked("the same with Glorot's weights", "mnist_sigmoid", "Glorot: before - none"),
    Asked("is the gain larger with the small weights? sd 0.01's difference - Glorot's", "mnist_sigmoid",
          "(before - none with std 0.01) - (the same with Glorot)"),
    Asked("small 9-layer CNN on CIFAR-10, Adam at a constant rate: after - before; published at full size",
          "cnn9_small", "constant rate: after - before"),
    Asked("the same with a decaying rate", "cnn9_small", "decaying rate: after - before"),
    Asked("does a decaying rate matter? the constant rate's difference - the decaying rate's", "cnn9_small",
          "(after - before at a constant rate) - (the same at a decaying rate)"),
    Asked("A/A test, digits: the same arm (before ReLU) twice, disjoint seeds", "digits_aa",
          "relu: before again - before"),
    Asked("control, digits, ReLU: before + final norm - before", "digits_controls",
          "relu: before + final norm - before"),
    Asked("control: before without bias in the layers - before", "digits_controls",
          "relu: before, no layer bias - before"),
    Asked("control: after without scale and bias in the norms - after", "digits_controls",
          "relu: after, no affine - after"),
    Asked("small 8-layer net on CIFAR-10, ReLU: after - before, zero padding", "simple8_controls",
          "relu: after - before"),
    Asked("control: the same with reflected edges", "simple8_controls",
          "relu: after, reflect - before, reflect"),
    Asked("does padding matter? the difference with reflected edges - with zero padding", "simple8_controls",
          "placement x padding"),
    Asked("does pooling first matter? the difference with pooling first - with pooling last", "simple8_controls",
          "placement x pooling"),
)  # fmt: skip


def read_published(folder: Path = PUBLISHED) -> dict[str, Run]:
    """Every run that is published in `folder`, by name.

    Raises:
      ConfigError: a folder cannot be read.
    """
    return {path.parent.name: read(path.parent) for path in sorted(folder.glob("*/result.json"))}


def result_of(run: Run) -> dict[str, Any]:
    """The result of a published run, which has one."""
    assert run.result is not None
    return run.result


def contrast_of(run: Run, name: str) -> dict[str, Any]:
    """One contrast of a run.

    Raises:
      ValueError: the run has no such contrast.
    """
    found = [row for row in result_of(run)["contrasts"] if row["name"] == name]
    if not found:
        known = ", ".join(repr(row["name"]) for row in result_of(run)["contrasts"])
        raise ValueError(f"{run.folder} has no contrast {name!r}; choose one of {known}")
    return found[0]
