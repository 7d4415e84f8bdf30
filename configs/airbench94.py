"""The fastest network to 94% on CIFAR-10 normalizes before its GELU: would after be better?

    python -m experiments run configs/airbench94.py

Jordan 2024 (https://arxiv.org/abs/2404.00498), legacy/airbench94.py: 94.01% (mean of 1,000), 9.9 epochs, batch 1,024.
Its recipe, converted to a mean loss: SGD with Nesterov momentum 0.85, learning rate 11.5 / (1 + 1/0.15) = 1.5, weight
decay 1.36/1,024 = 0.00133, 64 times that learning rate for the norms' biases, linear warmup for 23% and linear decay,
label smoothing 0.2. This config differs: 10 epochs, random instead of alternating flips, no test-time augmentation, no
averaging of weights. So expect some tenths of a percent less. Nobody has published this swap.

Cost: 0.36 PFLOP a training, 84 to 600 trainings (looks at 12, 30 and 60 seeds); meant for a GPU. Not run yet: no result
is claimed.
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
)

CONFIG = Config(
    name="airbench94",
    question="airbench94 on CIFAR-10: batch norm before or after the GELU?",
    placements=("before", "after"),
    activations=("gelu",),
    data=DataConfig(name="cifar10", standardize="channel", validation_fraction=0.1),
    augmentation=AugmentationConfig(flip=True, translate=2),
    model=ModelConfig(network="airbench94", dtype="bfloat16"),
    optimizer=OptimizerConfig(
        momentum=0.85,
        nesterov=True,
        schedule="triangle",
        warmup=0.23,
        weight_decay=0.00133,
        norm_bias_rate=64.0,
        label_smoothing=0.2,
    ),
    training=TrainingConfig(batch_size=1024, epochs=10, vmap_lanes=8),
    probes=ProbesConfig(seeds=1, examples=512),
    sweep=SweepConfig(lowest_learning_rate=0.375, learning_rate_points=5, seeds=60, looks=(12, 30, 60)),
    analysis=AnalysisConfig(margin_pp=0.1),
)
