"""How large a learning rate does batch norm allow, by placement? The stress test of the 8-layer net.

    python -m experiments run configs/simple8_stress.py

Page 2019 (https://github.com/davidcpage/cifar10-fast, batch_norm_post.ipynb), one run: the rate doubles every two
epochs from 0.005, for 25 epochs. Training diverges at a rate between 0.11 and 0.23 without batch norm, and at about 2.6
with it. Scale and bias are frozen. In this config the rate grows smoothly instead of in steps. For each arm,
result.json holds the answer: `diverged_at` is the step at which the loss of each seed was first not finite, when the
learning rate was rate · 5793^(step / 2,425), and `validation_curve` is the accuracy over time.

Cost: 2.5 PFLOP a training, 42 trainings; meant for a GPU. Not run yet: no result is claimed.
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
    name="simple8_stress",
    question="8-layer net on CIFAR-10: up to which learning rate does it train, by placement of batch norm?",
    activations=("relu",),
    data=DataConfig(name="cifar10", standardize="channel", validation_fraction=0.1),
    augmentation=AugmentationConfig(flip=True, pad_crop=4),
    model=ModelConfig(network="simple8", dtype="bfloat16"),
    optimizer=OptimizerConfig(schedule="exponential", growth=2.0**12.5, weight_decay=1e-4),
    training=TrainingConfig(batch_size=512, epochs=25, checkpoint_epochs=5),
    probes=ProbesConfig(seeds=1, examples=512),
    sweep=SweepConfig(
        lowest_learning_rate=0.005, learning_rate_points=2, learning_rate_extension=0, seeds=7, race=False
    ),
)
