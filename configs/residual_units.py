"""Where do batch norm and ReLU belong in a residual unit, at 20 layers and at 110?

    python -m experiments run configs/residual_units.py

He et al. 2016 (https://arxiv.org/abs/1603.05027), table 2, ResNet-110 on CIFAR-10, median test error of 5: original
6.61, BN after addition 8.17, ReLU before addition 7.84, ReLU-only pre-activation 6.71, full pre-activation 6.37.
https://github.com/gcr/torch-residual-networks, one run each, errors at 20 and at 110 layers: without ReLU after the
addition, 8.62 and 6.32 with BN before the addition, 8.23 and 12.30 with BN after it; with that ReLU, 8.34 and 13.56
with BN after the addition, against 8.29 and 6.97. This config trains for 40 epochs.

Cost: 0.35 PFLOP a training at 20 layers, 2.2 at 110; meant for a GPU. Not run yet: no result is claimed.
"""

from experiments.config import (
    AnalysisConfig,
    AugmentationConfig,
    Config,
    Contrast,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ProbesConfig,
    Published,
    SweepConfig,
    TrainingConfig,
    vary,
)

HE, GCR = "He et al. 2016, table 2", "gcr/torch-residual-networks"
UNITS = (
    "original",
    "bn_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
    "no_relu_bn_before_addition",
    "no_relu_bn_after_addition",
)
ERROR_110 = {"bn_after_addition": 8.17, "relu_before_addition": 7.84, "relu_only_preactivation": 6.71}

DEPTH = tuple(
    Contrast(
        f"({unit} - original at 110 layers) - (the same at 20)",
        {f"{unit}/110 layers": 1, "original/110 layers": -1, f"{unit}/20 layers": -1, "original/20 layers": 1},
    )
    for unit in UNITS[1:]
)

CONFIG = Config(
    name="residual_units",
    question="ResNet on CIFAR-10: where do batch norm and ReLU belong in a residual unit, and does depth decide?",
    placements=(),
    units=UNITS,
    activations=("relu",),
    contexts=(vary("20 layers", {"model.depth": 20}), vary("110 layers", {"model.depth": 110})),
    data=DataConfig(name="cifar10", standardize="channel", validation_fraction=0.1),
    augmentation=AugmentationConfig(flip=True, pad_crop=4),
    model=ModelConfig(network="resnet", dtype="bfloat16"),
    optimizer=OptimizerConfig(schedule="step", weight_decay=1e-4),
    training=TrainingConfig(batch_size=128, epochs=40, checkpoint_epochs=5, vmap_lanes=8),
    probes=ProbesConfig(seeds=1, examples=512),
    sweep=SweepConfig(lowest_learning_rate=0.025, learning_rate_points=4, seeds=6),
    analysis=AnalysisConfig(
        contrasts=DEPTH,
        pairs=tuple((unit, "original") for unit in UNITS[1:]),
        margin_pp=0.3,
        published=(
            *(Published(f"110 layers: {u} - original", 6.61 - e, HE, n=5) for u, e in ERROR_110.items()),
            Published("110 layers: full_preactivation - original", 6.61 - 6.37, HE, n=5),
            Published("20 layers: bn_after_addition - original", 8.29 - 8.34, GCR),
            Published("20 layers: no_relu_bn_before_addition - original", 8.29 - 8.62, GCR),
            Published("20 layers: no_relu_bn_after_addition - original", 8.29 - 8.23, GCR),
            Published("110 layers: bn_after_addition - original", 6.97 - 13.56, GCR),
            Published("110 layers: no_relu_bn_before_addition - original", 6.97 - 6.32, GCR),
            Published("110 layers: no_relu_bn_after_addition - original", 6.97 - 12.30, GCR),
        ),
    ),
)
