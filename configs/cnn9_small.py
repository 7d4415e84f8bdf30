"""A small 9-layer CNN: batch norm before or after the ReLU, and does the gap come from training or from evaluation?

    python -m experiments run configs/cnn9_small.py

Published (https://github.com/gdd72582/AI-Lectures-and-Tutorials, assignment1): nine convolutions of 64 features at full
resolution on CIFAR-10, Adam at a constant 1e-3, batch 128, 10 epochs, 5 runs: before 78.74 ± 1.83, after 80.71 ± 0.73,
so after - before = +1.97 pp, with Welch's 95% interval from -0.27 to 4.21. The learning rate was constant and the last
epoch was evaluated, so the spread of `before` may be noise of the running statistics. This config uses 8 features, 16 x
16 pixels, 12,800 examples and 5 epochs, which are far from convergence. Each arm has its own learning rate, constant or
decaying, and is evaluated with the running statistics and with those of the whole training set. `configs/cnn9.py` is
the full version, for a GPU.

Result (8 seeds, 137 networks in 92 min, cpu x 1 (Intel(R) Xeon(R) Processor), jax 0.10.2, 2026-11-29; files in
experiments/published/cnn9_small): test accuracy in percent at the bagged choice, estimate ± standard error; then
differences in percentage points, 95% intervals for new seeds, then for new data, too, and verdicts:

    constant rate    before 41.16 ± 0.45    after 42.99 ± 0.60
    decaying rate    before 40.64 ± 0.39    after 42.86 ± 0.43

    (after - before at a constant rate) - (the same at a decaying rate) = -0.40 [-2.79, 1.99]; [-2.79, 1.99]: no
        detectable interaction; equivalence at ±1 pp not shown (TOST p = 0.86 after Holm)
    constant rate: after - before = +1.82 [0.00, 3.64]; [0.00, 3.64]: no detectable difference; equivalence at ±1 pp not
        shown (TOST p > 0.99 after Holm); published +1.97: compatible
        with the training set's statistics instead of the running ones +1.08 [-0.46, 2.62], changed by -0.74 [-1.67,
            0.18]
    decaying rate: after - before = +2.22 [0.77, 3.67]; [0.77, 3.67]: after is better by 2.22 pp
        with the training set's statistics instead of the running ones +2.19 [0.77, 3.61], changed by -0.03 [-0.12,
            0.06]
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
    name="cnn9_small",
    question="9-layer CNN on small CIFAR-10: is batch norm better after the ReLU, and does a decaying rate matter?",
    placements=("before", "after"),
    activations=("relu",),
    contexts=(
        vary("constant rate", {"optimizer.schedule": "constant"}),
        vary("decaying rate", {"optimizer.schedule": "cosine"}),
    ),
    data=DataConfig(name="cifar10", standardize="channel", shrink=2, train_examples=12800, validation_fraction=0.1),
    model=ModelConfig(network="cnn9", width=0.125),
    optimizer=OptimizerConfig(name="adam"),
    training=TrainingConfig(batch_size=128, epochs=5),
    probes=ProbesConfig(seeds=2, examples=512),
    sweep=SweepConfig(lowest_learning_rate=2.0**-9, learning_rate_points=5, seeds=8),
    analysis=AnalysisConfig(
        contrasts=(DEPENDS,),
        margin_pp=1.0,
        published=(
            Published("constant rate: after - before", 1.97, "gdd72582, assignment 1, at full size", n=5, sd=1.39),
        ),
    ),
)
