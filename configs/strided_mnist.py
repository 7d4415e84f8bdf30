"""Before or after the ReLU in the small strided CNN on MNIST?

    python -m experiments run configs/strided_mnist.py

Bakshi 2024 (https://github.com/vishalbakshi/blog, posts/2024-07-02-bn-placement): four strided convolutions of 8 to
64 features and one to the classes, batches of 512, one epoch of one-cycle Adam at a rate of 0.06. One run each gave
98.66% before and 98.70% after. The standard error of one such accuracy is 0.11 pp, so one run tells nothing. Here each
arm is tuned on 7 rates, and more where it chooses an end of them, and the margin of equivalence is 0.1 pp.

Result (by the former procedure, see docs/what-changed.md: not quoted here).
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
