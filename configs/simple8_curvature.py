"""The loss surface of the 8-layer net by placement: top Hessian eigenvalues, and how the weights shift the mean logit.

    python -m experiments run configs/simple8_curvature.py

Page 2019 (https://github.com/davidcpage/cifar10-fast, batch_norm_post.ipynb) reports one run with softplus of slope 10,
after 10 of 20 epochs, at a peak learning rate of 5.0 (0.2 without batch norm). The top eigenvalue is 128 with batch
norm, 2,246 with frozen statistics, 3,486 without batch norm. ||d mean(logit 0) / dW||² of the last blocks is 0.3 with
batch norm, 5.4 with frozen statistics, 0.66 with frozen statistics after the activation, 15.7 without batch norm. This
is the only published mechanism for an effect of placement. This config measures after all 20 epochs, with each arm at
its own rate, at most 5.1. The result holds both tables (`end` of each arm), with the batch's statistics and with frozen
ones.

Cost: 2.0 PFLOP a training and minutes of Lanczos each; meant for a GPU. Not run yet: no result is claimed.
"""

from experiments.config import (
    AugmentationConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ProbesConfig,
    SweepConfig,
    TrainingConfig,
)

CONFIG = Config(
    name="simple8_curvature",
    question="8-layer net on CIFAR-10: how sharp is the loss, and how sensitive the mean logit, by placement?",
    activations=("softplus10",),
    data=DataConfig(name="cifar10", standardize="channel", validation_fraction=0.1),
    augmentation=AugmentationConfig(flip=True, pad_crop=4),
    model=ModelConfig(network="simple8"),
    optimizer=OptimizerConfig(schedule="triangle", warmup=0.2, weight_decay=1e-4),
    training=TrainingConfig(batch_size=512, epochs=20, checkpoint_epochs=5),
    probes=ProbesConfig(seeds=5, examples=20480, eigenvalues=25, mean_logit=True, predictiveness=True),
    sweep=SweepConfig(lowest_learning_rate=0.02, learning_rate_factor=4.0, learning_rate_points=5, seeds=5),
)
