"""Batch norm before or after the activation, or none at all, on real digits?

    make ablation            or: python -m experiments run configs/digits_placement.py

An MLP 64-100-100-100-10 on scikit-learn's 1,797 handwritten digits, trained by SGD with momentum 0.9, batch 60, 12
epochs, cosine schedule, no weight decay. Each seed has its own split of the digits: 1,078 to train, 269 to choose the
learning rate, 450 to test. Each of 9 arms is tuned on 7 learning rates a factor of 2 apart, and more where an arm
chooses an end of them. Seeds are paired across arms by split, initial weights and batch order.

Result (12 seeds, 558 networks in 2 min, cpu x 2 (AMD EPYC), jax 0.10.2, 2026-11-29; files in
experiments/published/digits_placement): test accuracy in percent at the bagged choice, estimate ± standard error; then
differences in percentage points, 95% intervals for new seeds and splits, then for new data, too, and verdicts:

    relu       none 96.85 ± 0.23    before 97.38 ± 0.20    after 97.40 ± 0.23
    tanh       none 96.33 ± 0.22    before 96.94 ± 0.26    after 96.66 ± 0.28
    sigmoid    none 85.63 ± 1.14    before 96.54 ± 0.23    after 96.76 ± 0.22

    relu: after - before = +0.01 [-0.24, 0.27]; [-0.56, 0.59]: equivalent within ±1 pp (TOST p = 0.014 after Holm)
    tanh: after - before = -0.29 [-0.61, 0.04]; [-1.02, 0.45]: for new seeds and splits: equivalent within ±1 pp (TOST p
        = 0.002 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown (TOST p = 0.2
        after Holm)
    sigmoid: after - before = +0.22 [-0.13, 0.57]; [-0.56, 1.00]: for new seeds and splits: equivalent within ±1 pp
        (TOST p = 0.0018 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown (TOST
        p = 0.2 after Holm)
    relu: before - none = +0.54 [0.09, 0.98]; [-0.46, 1.53]: no detectable difference; equivalence at ±1 pp not shown
        (TOST p = 0.6 after Holm)
    tanh: before - none = +0.61 [0.34, 0.89]; [-0.01, 1.24]: for new seeds and splits: before is better by 0.61 pp,
        detected yet within the margin of ±1 pp (TOST p = 0.028 after Holm); for new data, too: no detectable
        difference; equivalence at ±1 pp not shown (TOST p = 0.51 after Holm)
    sigmoid: before - none = +10.91 [8.53, 13.28]; [5.59, 16.22]: before is better by 10.91 pp
    relu: after - none = +0.55 [0.14, 0.96]; [-0.36, 1.46]: no detectable difference; equivalence at ±1 pp not shown
        (TOST p = 0.6 after Holm)
    tanh: after - none = +0.33 [-0.03, 0.69]; [-0.48, 1.14]: for new seeds and splits: equivalent within ±1 pp (TOST p =
        0.0054 after Holm); for new data, too: no detectable difference; equivalence at ±1 pp not shown (TOST p = 0.29
        after Holm)
    sigmoid: after - none = +11.13 [8.62, 13.64]; [5.52, 16.74]: after is better by 11.13 pp
"""

from experiments.config import Config, SweepConfig, TrainingConfig

CONFIG = Config(
    name="digits_placement",
    question="Does batch norm belong before or after the activation, or nowhere, in a small MLP on handwritten digits?",
    # Steps and lanes are fixed to what was fastest on a CPU, so that results do not depend on how busy a machine is.
    training=TrainingConfig(batch_size=60, epochs=12, steps="scan", lanes="vmap"),
    sweep=SweepConfig(lowest_learning_rate=2.0**-6, learning_rate_points=7, seeds=12),
)
