"""Batch norm or batch renormalization, if batches are small or their examples are not independent?

    python -m experiments run configs/small_batches.py

Ioffe 2017 (https://arxiv.org/abs/1702.03275), Inception-v3 on ImageNet: with batches of 32, both are about equal (78.3
and 78.5%); with groups of 4, renormalization is better by 2.3 points (74.2 and 76.5); with batches of 16 labels, two
images each, it is better by 11.5 (67.0 and 78.5). This config trains an MLP on Fashion-MNIST with batches of 32: whole,
in virtual batches of 4 and of 2, and with images of four classes or of one class in each batch. The limits of r and d
open to 3 and 5 between steps 500 and 2,000, which is the paper's schedule scaled to this training. Rates are a factor
of 4 apart.

Result (12 seeds, 516 networks in 22 min, cpu x 1 (AMD EPYC), jax 0.10.2, 2026-11-29; files in
experiments/published/small_batches): test accuracy in percent at the bagged choice, estimate ± standard error; then
differences in percentage points, 95% intervals for new seeds, then for new data, too, and verdicts:

    iid, 32              batch norm 88.10 ± 0.04    batch renorm 88.22 ± 0.03
    iid, groups of 4     batch norm 83.43 ± 0.10    batch renorm 86.10 ± 0.03
    iid, groups of 2     batch norm 50.95 ± 0.89    batch renorm 70.29 ± 0.20
    4 classes a batch    batch norm 84.51 ± 0.08    batch renorm 87.68 ± 0.05
    1 class a batch      batch norm 15.50 ± 0.62    batch renorm 53.13 ± 0.41
    Not all trainings learned: batch norm/1 class a batch 10 of 12.

    iid, 32: batch renorm - batch norm = +0.12 [0.01, 0.23]; [-0.01, 0.25]: for new seeds: batch renorm is better by
        0.12 pp, detected yet within the margin of ±0.5 pp (TOST p < 0.001 after Holm); for new data, too: equivalent
        within ±0.5 pp (TOST p < 0.001 after Holm); published +0.20: shown equal
    iid, groups of 4: batch renorm - batch norm = +2.67 [2.45, 2.88]; [2.34, 2.99]: batch renorm is better by 2.67 pp;
        published +2.30: compatible
    iid, groups of 2: batch renorm - batch norm = +19.35 [17.28, 21.42]; [17.25, 21.45]: batch renorm is better by 19.35
        pp
    4 classes a batch: batch renorm - batch norm = +3.17 [2.99, 3.35]; [2.88, 3.47]: batch renorm is better by 3.17 pp;
        published +11.50: not reproduced
    1 class a batch: batch renorm - batch norm = +37.63 [36.04, 39.23]; [35.96, 39.30]: batch renorm is better by 37.63
        pp; not all trainings learned
"""

from experiments.config import (
    AnalysisConfig,
    Config,
    DataConfig,
    ModelConfig,
    Published,
    SweepConfig,
    TrainingConfig,
    vary,
)

IOFFE = "Ioffe 2017, Inception-v3 on ImageNet"

CONFIG = Config(
    name="small_batches",
    question="Small or non-iid batches: does batch renormalization do better than batch norm on Fashion-MNIST?",
    placements=(),
    treatments=(
        vary("batch norm", {"model.norm": "batch_norm"}),
        vary("batch renorm", {"model.norm": "batch_renorm"}),
    ),
    activations=("relu",),
    contexts=(
        vary("iid, 32", {}),
        vary("iid, groups of 4", {"model.virtual_batch_size": 4}),
        vary("iid, groups of 2", {"model.virtual_batch_size": 2}),
        vary("4 classes a batch", {"training.classes_per_batch": 4}),
        vary("1 class a batch", {"training.classes_per_batch": 1}),
    ),
    data=DataConfig(name="fashion_mnist", validation_fraction=0.1),
    model=ModelConfig(renorm_ramp=(500, 2000), momentum=0.99),
    training=TrainingConfig(batch_size=32, epochs=3),
    sweep=SweepConfig(lowest_learning_rate=2.0**-14, learning_rate_factor=4.0, learning_rate_points=7, seeds=12),
    analysis=AnalysisConfig(
        pairs=(("batch renorm", "batch norm"),),
        margin_pp=0.5,
        published=(
            Published("iid, 32: batch renorm - batch norm", 78.5 - 78.3, IOFFE),
            Published("iid, groups of 4: batch renorm - batch norm", 76.5 - 74.2, IOFFE),
            Published("4 classes a batch: batch renorm - batch norm", 78.5 - 67.0, f"{IOFFE}, 16 labels a batch"),
        ),
    ),
)
