"""Does the better placement depend on the activation?

    python -m experiments run configs/fashion_activation.py

Kim, Kim & Kim 2023 ("Tanh works better with asymmetry", NeurIPS) report for VGG-16 that batch norm belongs after tanh
and before ReLU (CIFAR-100: tanh 64.8 before, 72.2 after; ReLU 73.7 before, 71.8 after; 3 seeds, no interval), and that
tanh saturates more with the norm after it (mean |a| over max |a| of the most saturated layer: 0.89 against 0.43). This
config tests the same contrast, and with it the interaction of placement and activation, in an MLP 784-100-100-100-10 on
Fashion-MNIST (54,000 to train, 6,000 to choose the learning rate, 10,000 to test): SGD with momentum 0.9, batch 100, 8
epochs, cosine schedule, no weight decay. Each of 6 arms is tuned on 7 learning rates a factor of 2 apart, and more
where an arm chooses an end of them. The report's figures show saturation over time.

Result (by the former procedure, see docs/what-changed.md: not quoted here).
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
