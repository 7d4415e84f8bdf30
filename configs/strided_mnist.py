"""Before or after the ReLU in the small strided CNN on MNIST?

    python -m experiments run configs/strided_mnist.py

Bakshi 2024 (https://github.com/vishalbakshi/blog, posts/2024-07-02-bn-placement): four strided convolutions of 8 to
64 features and one to the classes, batches of 512, one epoch of one-cycle Adam at a rate of 0.06. One run each gave
98.66% before and 98.70% after. The standard error of one such accuracy is 0.11 pp, so one run tells nothing. Here each
arm has the best of 7 rates, and enough seeds for an equivalence test within 0.1 pp.

Result (n = 30, one of two CPU cores, jax 0.10.2, 21 min, last reproduced 2026-11-26), test accuracy in percent, mean ±
sd; files in experiments/published/strided_mnist:

    relu    none 97.21 ± 0.28    before 98.30 ± 0.10    after 98.29 ± 0.14    after - before -0.01 [-0.06, 0.04] pp

The two are equivalent within 0.1 pp (TOST p < 0.001), both at about the published rate, 0.06. Without batch norm, the
accuracy after one epoch is 1.1 points lower.
"""

from experiments.config import (
    AnalysisConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Published,
    SweepConfig,
    TrainingConfig,
)

CONFIG = Config(
    name="strided_mnist",
    question="Strided CNN on MNIST, one epoch: does it matter on which side of the ReLU batch norm sits?",
    activations=("relu",),
    data=DataConfig(name="mnist", validation_fraction=0.1, standardize="channel"),
    model=ModelConfig(network="strided_cnn"),
    optimizer=OptimizerConfig(name="adam", schedule="onecycle"),
    training=TrainingConfig(batch_size=512, epochs=1),
    sweep=SweepConfig(lowest_learning_rate=2.0**-9, learning_rate_points=7, seeds=16),
    analysis=AnalysisConfig(
        margin_pp=0.1, published=(Published("relu: after - before", 98.70 - 98.66, "Bakshi 2024", n=1),)
    ),
)
