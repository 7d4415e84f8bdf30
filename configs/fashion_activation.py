"""Does the better placement depend on the activation?

    python -m experiments run configs/fashion_activation.py

Kim, Kim & Kim 2023 ("Tanh works better with asymmetry", NeurIPS) report for VGG-16 that batch norm belongs after tanh
and before ReLU (CIFAR-100: tanh 64.8 before, 72.2 after; ReLU 73.7 before, 71.8 after; 3 seeds, no interval), and that
tanh saturates more with the norm after it (mean |a| over max |a| of the most saturated layer: 0.89 against 0.43). This
config tests the same contrast, and with it the interaction of placement and activation, in an MLP 784-100-100-100-10 on
Fashion-MNIST (54,000 to train, 6,000 to choose the learning rate, 10,000 to test): SGD with momentum 0.9, batch 100, 8
epochs, cosine schedule, no weight decay. Each of 6 arms is tuned on 7 learning rates a factor of 2 apart, and more
where an arm chooses an end of them. The report's figures show saturation over time.

Result (16 seeds, 408 networks in 83 min, cpu x 1 (AMD EPYC), jax 0.10.2, 2026-11-29; files in
experiments/published/fashion_activation): test accuracy in percent at the bagged choice, estimate ± standard error;
then differences in percentage points, 95% intervals for new seeds, then for new data, too, and verdicts:

    relu    none 88.95 ± 0.04    before 89.05 ± 0.05    after 89.03 ± 0.03
    tanh    none 88.54 ± 0.04    before 88.60 ± 0.02    after 88.51 ± 0.04

    (after - before in relu) - (the same in tanh) = +0.07 [-0.07, 0.21]; [-0.08, 0.22]: no detectable interaction;
        equivalence at ±0.2 pp not shown (TOST p = 0.12 after Holm); published -1.80: not reproduced
    relu: after - before = -0.02 [-0.15, 0.10]; [-0.15, 0.10]: equivalent within ±0.2 pp (TOST p = 0.025 after Holm);
        published -0.65: not reproduced
    tanh: after - before = -0.09 [-0.18, -0.01]; [-0.22, 0.03]: for new seeds: equivalent within ±0.2 pp (TOST p = 0.037
        after Holm); for new data, too: no detectable difference; equivalence at ±0.2 pp not shown (TOST p = 0.12 after
        Holm); published +1.15: not reproduced
    relu: before - none = +0.10 [-0.02, 0.23]; [-0.03, 0.24]: no detectable difference; equivalence at ±0.2 pp not shown
        (TOST p = 0.12 after Holm)
    tanh: before - none = +0.06 [-0.03, 0.15]; [-0.07, 0.19]: for new seeds: equivalent within ±0.2 pp (TOST p = 0.017
        after Holm); for new data, too: no detectable difference; equivalence at ±0.2 pp not shown (TOST p = 0.08 after
        Holm)
    relu: after - none = +0.08 [-0.03, 0.18]; [-0.03, 0.19]: for new seeds: equivalent within ±0.2 pp (TOST p = 0.037
        after Holm); for new data, too: no detectable difference; equivalence at ±0.2 pp not shown (TOST p = 0.065 after
        Holm)
    tanh: after - none = -0.03 [-0.14, 0.08]; [-0.14, 0.08]: equivalent within ±0.2 pp (TOST p = 0.016 after Holm)
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
