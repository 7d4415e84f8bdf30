"""Tanh against ReLU in VGG-16 on CIFAR-10: does the better placement depend on the activation?

    python -m experiments run configs/vgg16_activation.py

Kim, Kim & Kim 2023 ("Tanh works better with asymmetry", NeurIPS), 200 epochs, 3 seeds, learning rate and weight decay
tuned for each arm: tanh 91.75 before, 92.90 after; ReLU 93.69 before, 93.04 after. Weight decay of scale and bias made
a difference by itself (CIFAR-100, tanh before: 64.8 with it, 67.9 without), so this config tunes it, too. Their best
rate was 0.01 (tanh before: 0.1) and their best weight decay 1e-3 (tanh before: 1e-4); both are inside the grids. This
config trains for 30 epochs.

Cost: 2.8 PFLOP a training, 468 to 864 trainings; meant for a GPU. Not run yet: no result is claimed.
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
)

KIM = "Kim et al. 2023"
DEPENDS = Contrast(
    "(after - before in relu) - (the same in tanh)",
    {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1},
)

CONFIG = Config(
    name="vgg16_activation",
    question="VGG-16 on CIFAR-10: does batch norm belong after tanh, but before ReLU?",
    placements=("before", "after"),
    activations=("relu", "tanh"),
    data=DataConfig(name="cifar10", standardize="channel", validation_fraction=0.1),
    augmentation=AugmentationConfig(flip=True, pad_crop=4),
    model=ModelConfig(network="vgg16", dtype="bfloat16"),
    optimizer=OptimizerConfig(schedule="step"),
    training=TrainingConfig(batch_size=128, epochs=30, checkpoint_epochs=5, vmap_lanes=4),
    probes=ProbesConfig(seeds=2, examples=512),
    sweep=SweepConfig(
        lowest_learning_rate=0.005,
        learning_rate_points=6,
        weight_decays=(1e-4, 1e-3, 5e-3),
        decay_scale_bias=(False, True),
        seeds=6,
    ),
    analysis=AnalysisConfig(
        contrasts=(DEPENDS,),
        margin_pp=0.2,
        published=(
            Published("relu: after - before", 93.04 - 93.69, KIM, n=3),
            Published("tanh: after - before", 92.90 - 91.75, KIM, n=3),
            Published(DEPENDS.name, (93.04 - 93.69) - (92.90 - 91.75), KIM, n=3),
        ),
    ),
)
