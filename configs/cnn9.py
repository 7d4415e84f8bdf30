"""The full 9-layer CNN: before or after the ReLU, or no batch norm, with a constant and with a decaying rate.

    python -m experiments run configs/cnn9.py

Published (https://github.com/gdd72582/AI-Lectures-and-Tutorials, assignment1): CIFAR-10, Adam at a constant 1e-3,
batch 128, 10 epochs, 5 runs: before 78.74 ± 1.83, after 80.71 ± 0.73, so after - before = +1.97 pp, with
Welch's 95% interval from -0.27 to 4.21. Here each arm has its own learning rate. `configs/cnn9_small.py` is a small
version for a CPU.

Cost: 0.9 PFLOP a training, 288 to 504 trainings; meant for a GPU. Not run yet: no result is claimed.
"""

from experiments.config import (
    AnalysisConfig,
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

DEPENDS = Contrast(
    "(after - before at a constant rate) - (the same at a decaying rate)",
    {"after/constant rate": 1, "before/constant rate": -1, "after/decaying rate": -1, "before/decaying rate": 1},
)

CONFIG = Config(
    name="cnn9",
    question="9-layer CNN on CIFAR-10: is batch norm better after the ReLU, and does a decaying rate matter?",
    activations=("relu",),
    contexts=(
        vary("constant rate", {"optimizer.schedule": "constant"}),
        vary("decaying rate", {"optimizer.schedule": "cosine"}),
    ),
    data=DataConfig(name="cifar10", standardize="channel", validation_fraction=0.1),
    model=ModelConfig(network="cnn9"),
    optimizer=OptimizerConfig(name="adam"),
    training=TrainingConfig(batch_size=128, epochs=10, checkpoint_epochs=5, vmap_lanes=8),
    probes=ProbesConfig(seeds=2, examples=512),
    sweep=SweepConfig(lowest_learning_rate=2.0**-12, learning_rate_points=7, seeds=12),
    analysis=AnalysisConfig(
        contrasts=(DEPENDS,),
        margin_pp=0.5,
        published=(Published("constant rate: after - before", 1.97, "gdd72582, assignment 1", n=5, sd=1.39),),
    ),
)
