"""Does the better placement depend on the activation?

    python -m experiments run configs/fashion_activation.py

Kim, Kim & Kim 2023 ("Tanh works better with asymmetry", NeurIPS) report for VGG-16 that batch norm belongs after tanh
and before ReLU (CIFAR-100: tanh 64.8 before, 72.2 after; ReLU 73.7 before, 71.8 after; 3 seeds, no interval). This
config tests the same contrast in an MLP 784-100-100-100-10 on Fashion-MNIST (54,000 to train, 6,000 to choose the
learning rate, 10,000 to test): SGD with momentum 0.9, batch 100, 8 epochs, cosine schedule, no weight decay. Each of 6
arms is tuned on 7 learning rates a factor of 2 apart, with 3 seeds each. Then 16 fresh seeds are trained at the chosen
rate, paired across arms.

Result (n = 16, one of two CPU cores, jax 0.10.2, 10 min, last reproduced 2026-11-26), test accuracy in percent, mean ±
sd, and the saturation of the activations (mean |a| over max |a|, mean of the layers) after the last step; files in
experiments/published/fashion_activation:

    relu    none 88.96 ± 0.20    before 89.08 ± 0.17    after 89.00 ± 0.16    after - before -0.08 [-0.20, 0.04] pp
    tanh    none 88.50 ± 0.16    before 88.59 ± 0.20    after 88.48 ± 0.16    after - before -0.10 [-0.22, 0.01] pp

    saturation    relu none 0.09, before 0.11, after 0.12    tanh none 0.70, before 0.59, after 0.74

Both differences are equivalent to 0 within ±0.2 pp (TOST p = 0.02 and 0.046). So this shallow network does not show the
effects that were reported for a deep convolutional one, neither for ReLU nor, with the opposite sign, for tanh. It does
show that tanh saturates more if the norm follows it: 0.74 against 0.59 (reported for the most saturated layer: 0.89
against 0.43). But tanh is not sparser then, as was reported. Two earlier runs of the same config, whose steps were
compiled differently, gave -0.26 [-0.39, -0.13] and -0.13 [-0.22, -0.03] pp for ReLU, and -0.07 [-0.18, 0.04] and -0.10
[-0.23, 0.02] pp for tanh. Rounding alone changes the trainings and, at a tie, the tuned rate. So the sign for ReLU was
the published one each time, but its size is within what tuning alone changes.
"""

from experiments.config import AnalysisConfig, Config, Contrast, DataConfig, Published, SweepConfig, TrainingConfig

KIM = "Kim et al. 2023, VGG-16 on CIFAR-10"
DEPENDS = Contrast(
    "(after - before in relu) - (the same in tanh)",
    {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1},
)

CONFIG = Config(
    name="fashion_activation",
    question="Tanh against ReLU: on which side of it does batch norm belong in an MLP on Fashion-MNIST?",
    activations=("relu", "tanh"),
    data=DataConfig(name="fashion_mnist", validation_fraction=0.1),
    training=TrainingConfig(batch_size=100, epochs=8),
    sweep=SweepConfig(lowest_learning_rate=2.0**-7, learning_rate_points=7, seeds=16),
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
