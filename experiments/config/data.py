"""Config of the data: the data set, its splits, standardization, and augmentation."""

from __future__ import annotations

from typing import Literal

from experiments.config.errors import configuration, near, require

DATA_SETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")


@configuration
class DataConfig:
    """The data set, its splits, and how it is standardized."""

    name: str = "digits"
    """Data set: `digits`, the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships; `mnist`,
    `fashion_mnist`, `cifar10`, `cifar100`; or any image-classification set of the Hugging Face hub as owner/name."""
    image_column: str | None = None
    """Column of the images, needed if a set of the hub has several."""
    label_column: str | None = None
    """Column of the classes, needed if a set of the hub has several."""
    subset: str | None = None
    """Subset (configuration) of a set of the hub, needed if it has several."""
    standardize: Literal["feature", "channel", "none"] = "feature"
    """Standardize by the training set's mean and variance of each `feature` (pixel), or of each `channel` over all
    pixels; `none` leaves images in [0, 1]."""
    shrink: int = 1
    """Side of the squares of pixels that are averaged into one: 2 turns 32 x 32 into 16 x 16."""
    train_examples: int | None = None
    """Number of training examples to use, drawn with `split_seed`; None uses all."""
    validation_fraction: float = 0.15
    """Share of the examples held out to choose learning rates: of all for digits, else of the training part."""
    test_fraction: float = 0.25
    """Share of the examples held out for the final answer, read once; unused for sets that have a test part."""
    split: Literal["auto", "one", "each seed"] = "auto"
    """Whether all training seeds share one split of the examples, or each has its own; `auto`: each its own if the data
    set has no test part of its own (digits), else one."""
    split_seed: int = 0
    """Seed of the stratified split. If each training seed has its own split, NumPy's SeedSequence draws it from
    (split_seed, training seed). All arms share the splits."""

    def __post_init__(self) -> None:
        require(
            self.name in DATA_SETS or self.name.count("/") == 1,
            f"data.name is {self.name!r}; choose one of {', '.join(DATA_SETS)}, or owner/name of a set on the hub"
            + near(self.name, DATA_SETS),
        )
        for field in ("image_column", "label_column", "subset"):
            require(
                self.name != "digits" or getattr(self, field) is None,
                f"data.{field} is {getattr(self, field)!r}, but digits has none; leave it out, or set another name",
            )
        require(
            self.split != "each seed" or self.name == "digits",
            f"data.split is 'each seed', but {self.name} has a test part of its own, which all seeds share; leave it "
            "out, or use 'one'",
        )
        require(self.shrink >= 1, f"data.shrink is {self.shrink}; use 1 (as they are) or more")
        require(
            self.name != "digits" or self.shrink == 1, f"data.shrink is {self.shrink}, but digits is no set of images"
        )
        require(
            self.train_examples is None or self.train_examples >= 2,
            f"data.train_examples is {self.train_examples}; use at least 2, or leave it out",
        )
        require(self.split_seed >= 0, f"data.split_seed is {self.split_seed}; use a whole number from 0 up")
        for field in ("validation_fraction", "test_fraction"):
            value = getattr(self, field)
            require(0 < value < 1, f"data.{field} is {value}; use a share between 0 and 1, such as 0.2")
        held_out = self.validation_fraction + self.test_fraction
        require(
            held_out < 1,
            f"data.validation_fraction + data.test_fraction is {held_out:g}, which leaves nothing to train on; "
            "use shares that add up to less than 1",
        )

    @property
    def split_each_seed(self) -> bool:
        """Whether each training seed has its own split."""
        return self.split == "each seed" or (self.split == "auto" and self.name == "digits")


@configuration
class AugmentationConfig:
    """Random changes of the training images in each step. They depend on the seed alone, so all arms see the same."""

    flip: bool = False
    """Mirror left and right with probability 1/2."""
    pad_crop: int = 0
    """Pixels of zero padding before a random crop to the original size; 4 is usual for CIFAR."""
    translate: int = 0
    """Largest random shift in pixels along both axes."""
    cutout: int = 0
    """Side in pixels of a random square that is set to 0."""

    def __post_init__(self) -> None:
        for field in ("pad_crop", "translate", "cutout"):
            value = getattr(self, field)
            require(value >= 0, f"augmentation.{field} is {value}; use 0 (off) or more pixels")

    @property
    def on(self) -> bool:
        """Whether images change at all."""
        return self.flip or self.pad_crop > 0 or self.translate > 0 or self.cutout > 0
