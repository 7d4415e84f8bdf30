"""Does the better side of the activation depend on the activation?

    python -m experiments run configs/fashion_activation.py

Kim, Kim & Kim 2023 ("Tanh works better with asymmetry", NeurIPS) report for VGG-16 that batch norm belongs after tanh
and before ReLU (CIFAR-100: tanh 64.8 before, 72.2 after; ReLU 73.7 before, 71.8 after; 3 seeds, no interval). The same
contrast in an MLP 784-100-100-100-10 on Fashion-MNIST (54,000 to train, 6,000 to choose the learning rate, 10,000 to
test): SGD with momentum 0.9, batch 100, 8 epochs, cosine schedule, no weight decay; for each of 6 arms 7 learning rates
a factor 2 apart, 3 seeds each, then 16 fresh seeds at the chosen rate, paired across arms.

Result (n = 16, two CPU cores, jax 0.10.2, 15 min on a busy machine, last reproduced 2026-11-23), test accuracy in
percent, mean ± sd; files in experiments/published/fashion_activation:

    relu    none 88.96 ± 0.21    before 89.06 ± 0.20    after 88.80 ± 0.13    after - before -0.26 [-0.39, -0.13] pp
    tanh    none 88.51 ± 0.16    before 88.59 ± 0.20    after 88.52 ± 0.13    after - before -0.07 [-0.18, 0.04] pp

Before ReLU is better than after it, as reported, though by little. For tanh the two are equivalent within 0.2 pp: the
advantage of after that was reported for a deep convolutional network is not there in this shallow one.
"""

from experiments.config import AnalysisConfig, Config, DataConfig, SweepConfig, TrainingConfig

CONFIG = Config(
    name="fashion_activation",
    question="Tanh against ReLU: on which side of it does batch norm belong in an MLP on Fashion-MNIST?",
    activations=("relu", "tanh"),
    data=DataConfig(name="fashion_mnist", validation_fraction=0.1),
    training=TrainingConfig(batch_size=100, epochs=8),
    sweep=SweepConfig(lowest_learning_rate=2.0**-7, learning_rate_points=7, tuning_seeds=3, evaluation_seeds=16),
    analysis=AnalysisConfig(margin_pp=0.2),
)
