"""How accurate is a network that trains only its batch norms, and does their placement matter?

    python -m experiments run configs/only_norm.py

Frankle, Schwab & Morcos 2021 (https://arxiv.org/abs/2003.00152): scale (drawn from [0, 1]) and bias of the batch
norms are trained; all other parameters keep their random initial values. A replication (tdtce, one run, 160 epochs)
reached 46.0% with ResNet-14 and 56.4% with ResNet-32 on CIFAR-10. Nobody has published a comparison of placements. This
config trains for 40 epochs.

Cost: 0.33 PFLOP a training at 14 layers, 0.85 at 32; meant for a GPU. Not run yet: no result is claimed.
"""

from experiments.config import (
    AnalysisConfig,
    AugmentationConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ProbesConfig,
    SweepConfig,
    TrainingConfig,
    vary,
)

CONFIG = Config(
    name="only_norm",
    question="ResNets on CIFAR-10 with everything but batch norm frozen: does its placement decide what it can learn?",
    placements=(),
    units=("original", "bn_after_addition", "full_preactivation"),
    activations=("relu",),
    contexts=(vary("14 layers", {"model.depth": 14}), vary("32 layers", {"model.depth": 32})),
    data=DataConfig(name="cifar10", standardize="channel", validation_fraction=0.1),
    augmentation=AugmentationConfig(flip=True, pad_crop=4),
    model=ModelConfig(network="resnet", scale_init="uniform", dtype="bfloat16"),
    optimizer=OptimizerConfig(schedule="step", trains="norm"),
    training=TrainingConfig(batch_size=128, epochs=40, checkpoint_epochs=5, vmap_lanes=8),
    probes=ProbesConfig(seeds=1, examples=512),
    sweep=SweepConfig(lowest_learning_rate=0.025, learning_rate_points=5, seeds=6),
    analysis=AnalysisConfig(
        pairs=(
            ("full_preactivation", "original"),
            ("bn_after_addition", "original"),
            ("full_preactivation", "bn_after_addition"),
        ),
    ),
)
