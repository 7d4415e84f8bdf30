"""A small 9-layer CNN: batch norm before or after the ReLU, and does the gap come from training or from evaluation?

    python -m experiments run configs/cnn9_small.py

Published (https://github.com/gdd72582/AI-Lectures-and-Tutorials, assignment1): nine convolutions of 64 features at full
resolution on CIFAR-10, Adam at a constant 1e-3, batch 128, 10 epochs, 5 runs: before 78.74 ± 1.83, after 80.71 ± 0.73,
so after - before = +1.97 [-0.27, 4.21] pp (Welch). The learning rate was constant and the last epoch was evaluated, so
the spread of `before` may be noise of the running statistics. This config uses 8 features, 16 x 16 pixels, 12,800
examples and 5 epochs. Each arm has its own learning rate, constant or decaying, and is evaluated with the running
statistics and with those of the whole training set. `configs/cnn9.py` is the full version, for a GPU.

Result (n = 10, two CPU cores, jax 0.10.2, 25 min on a busy machine, last reproduced 2026-11-26), test accuracy in
percent, mean ± sd, and after - before; files in experiments/published/cnn9_small:

    constant rate    none 24.95 ± 5.69    before 38.13 ± 3.78    after 41.41 ± 1.88    +3.28 [0.81, 5.75] pp
    decaying rate    none 24.55 ± 1.88    before 39.83 ± 1.80    after 42.64 ± 1.98    +2.81 [0.61, 5.01] pp

With the training set's statistics instead of the running ones, and the change (`by_statistics` in result.json):

    constant rate    +1.87 [0.24, 3.50] pp    by -1.41 [-3.57, 0.74]
    decaying rate    +2.82 [0.54, 5.10] pp    by +0.01 [-0.12, 0.15]

After the ReLU is better, as published, also with a decaying rate and with exact statistics. With n = 10 we cannot
decide whether part of the gap at a constant rate comes from evaluation; at a decaying rate, none of it does. `before`
with a decaying rate was best at the highest rate of the grid, so it may be better than shown. 5 epochs are far from
convergence. An earlier run (2026-11-24, 4 rates, n = 6) gave +4.17 [1.35, 6.98] and +4.14 [1.07, 7.21].
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
    sweep=SweepConfig(lowest_learning_rate=2.0**-11, learning_rate_points=7, seeds=10),
    analysis=AnalysisConfig(
        contrasts=(DEPENDS,),
        margin_pp=1.0,
        published=(
            Published("constant rate: after - before", 1.97, "gdd72582, assignment 1, at full size", n=5, sd=1.39),
        ),
    ),
)
