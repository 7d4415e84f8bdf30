"""Batch norm before or after the activation, or none at all, on real digits?

    make ablation            or: python -m experiments run configs/digits_placement.py

An MLP 64-100-100-100-10 on scikit-learn's 1,797 handwritten digits (1,078 to train, 269 to choose the learning rate,
450 to test), trained by SGD with momentum 0.9, batch 60, 12 epochs, cosine schedule, no weight decay. Each of 9 arms is
tuned on 7 learning rates a factor of 2 apart, with 3 seeds each, by validation accuracy. Then 21 fresh seeds are
trained at the chosen rate, paired across arms by initial weights and batch order.

Result (n = 21, two CPU cores, jax 0.10.2, 39 s, last reproduced 2026-11-26), test accuracy in percent, mean ± sd:

    relu      none 96.60 ± 0.44    before 97.12 ± 0.46    after 97.01 ± 0.63    after - before -0.12 [-0.42, 0.19] pp
    tanh      none 96.55 ± 0.58    before 96.65 ± 0.45    after 96.76 ± 0.46    after - before +0.12 [-0.03, 0.26] pp
    sigmoid   none 86.94 ± 6.22    before 96.41 ± 0.36    after 96.43 ± 0.49    after - before +0.02 [-0.25, 0.29] pp
"""

from experiments.config import Config, SweepConfig, TrainingConfig

CONFIG = Config(
    name="digits_placement",
    question="Does batch norm belong before or after the activation, or nowhere, in a small MLP on handwritten digits?",
    # Steps and lanes are fixed to what was fastest on a CPU, so that results do not depend on how busy a machine is.
    training=TrainingConfig(batch_size=60, epochs=12, steps="scan", lanes="vmap"),
    sweep=SweepConfig(lowest_learning_rate=2.0**-6, learning_rate_points=7, seeds=12),
)
