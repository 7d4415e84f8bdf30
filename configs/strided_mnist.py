"""Before or after the ReLU in the small strided CNN on MNIST?

    python -m experiments run configs/strided_mnist.py

Bakshi 2024 (https://github.com/vishalbakshi/blog, posts/2024-07-02-bn-placement): four strided convolutions of 8 to
64 features and one to the classes, batches of 512, one epoch of one-cycle Adam at a rate of 0.06. One run each gave
98.66% before and 98.70% after. The standard error of one such accuracy is 0.11 pp, so one run tells nothing. Here each
arm is tuned on 7 rates, and more where it chooses an end of them, and the margin of equivalence is 0.1 pp.

Result (16 seeds, 216 networks in 90 min, cpu x 1 (AMD EPYC), jax 0.10.2, 2026-11-29; files in
experiments/published/strided_mnist): test accuracy in percent at the bagged choice, estimate ± standard error; then
differences in percentage points, 95% intervals for new seeds, then for new data, too, and verdicts:

    relu    none 97.33 ± 0.04    before 98.29 ± 0.02    after 98.31 ± 0.03

    relu: after - before = +0.02 [-0.04, 0.09]; [-0.04, 0.09]: equivalent within ±0.1 pp (TOST p = 0.0494 after Holm);
        published +0.04: shown equal
    relu: before - none = +0.96 [0.86, 1.06]; [0.83, 1.09]: before is better by 0.96 pp
    relu: after - none = +0.99 [0.90, 1.07]; [0.86, 1.11]: after is better by 0.99 pp
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
