"""Batch norm before or after the activation, or none at all, on real digits?

    make ablation            or: python -m experiments run configs/digits_placement.py

An MLP 64-100-100-100-10 on scikit-learn's 1,797 handwritten digits, trained by SGD with momentum 0.9, batch 60, 12
epochs, cosine schedule, no weight decay. Each seed has its own split of the digits: 1,078 to train, 269 to choose the
learning rate, 450 to test. Each of 9 arms is tuned on 7 learning rates a factor of 2 apart, and more where an arm
chooses an end of them. Seeds are paired across arms by split, initial weights and batch order.

Result (by the former procedure, see docs/what-changed.md: not quoted here).
"""

from experiments.config import Config, SweepConfig, TrainingConfig

CONFIG = Config(
    name="digits_placement",
    question="Does batch norm belong before or after the activation, or nowhere, in a small MLP on handwritten digits?",
    # Steps and lanes are fixed to what was fastest on a CPU, so that results do not depend on how busy a machine is.
    training=TrainingConfig(batch_size=60, epochs=12, steps="scan", lanes="vmap"),
    sweep=SweepConfig(lowest_learning_rate=2.0**-6, learning_rate_points=7, seeds=12),
)
