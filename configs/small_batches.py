"""Batch norm or batch renormalization, if batches are small or their examples are not independent?

    python -m experiments run configs/small_batches.py

Ioffe 2017 (https://arxiv.org/abs/1702.03275), Inception-v3 on ImageNet: with batches of 32, both are about equal (78.3
and 78.5%); with groups of 4, renormalization is better by 2.3 points (74.2 and 76.5); with batches of 16 labels, two
images each, it is better by 11.5 (67.0 and 78.5). This config trains an MLP on Fashion-MNIST with batches of 32: whole,
in virtual batches of 4 and of 2, and with images of four classes or of one class in each batch. The limits of r and d
open to 3 and 5 between steps 500 and 2,000, which is the paper's schedule scaled to this training. Rates are a factor
of 4 apart.

Result (by the former procedure, see docs/what-changed.md: not quoted here).
"""

from experiments.config import (
    AnalysisConfig,
    Config,
    DataConfig,
    ModelConfig,
    Published,
    SweepConfig,
    TrainingConfig,
    vary,
)

IOFFE = "Ioffe 2017, Inception-v3 on ImageNet"

CONFIG = Config(
    name="small_batches",
    question="Small or non-iid batches: does batch renormalization do better than batch norm on Fashion-MNIST?",
    placements=(),
    treatments=(
        vary("batch norm", {"model.norm": "batch_norm"}),
        vary("batch renorm", {"model.norm": "batch_renorm"}),
    ),
    activations=("relu",),
    contexts=(
        vary("iid, 32", {}),
        vary("iid, groups of 4", {"model.virtual_batch_size": 4}),
        vary("iid, groups of 2", {"model.virtual_batch_size": 2}),
        vary("4 classes a batch", {"training.classes_per_batch": 4}),
        vary("1 class a batch", {"training.classes_per_batch": 1}),
    ),
    data=DataConfig(name="fashion_mnist", validation_fraction=0.1),
    model=ModelConfig(renorm_ramp=(500, 2000), momentum=0.99),
    training=TrainingConfig(batch_size=32, epochs=3),
    sweep=SweepConfig(lowest_learning_rate=2.0**-14, learning_rate_factor=4.0, learning_rate_points=7, seeds=12),
    analysis=AnalysisConfig(
        pairs=(("batch renorm", "batch norm"),),
        margin_pp=0.5,
        published=(
            Published("iid, 32: batch renorm - batch norm", 78.5 - 78.3, IOFFE),
            Published("iid, groups of 4: batch renorm - batch norm", 76.5 - 74.2, IOFFE),
            Published("4 classes a batch: batch renorm - batch norm", 78.5 - 67.0, f"{IOFFE}, 16 labels a batch"),
        ),
    ),
)
