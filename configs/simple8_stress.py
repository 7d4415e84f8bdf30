"""How large a learning rate does batch norm allow, by placement? The stress test of the 8-layer net.

    python -m experiments run configs/simple8_stress.py

Page 2019 (https://github.com/davidcpage/cifar10-fast, batch_norm_post.ipynb), one run: the rate doubles every two
epochs from 0.005, for 25 epochs; without batch norm training breaks at a rate between 0.11 and 0.23, with it at about
2.6. Scale and bias are frozen. The rate grows smoothly here (there in pieces). The answer is in
`diverged_at` of each arm in result.json, the step at which the loss of each seed was first not finite, when the rate
was rate · 5793^(step / 2,425), and in `validation_curve`, the accuracy on the way.

Cost: 2.5 PFLOP a training, 27 trainings; meant for a GPU. Not run yet: no result is claimed.
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
    sweep=SweepConfig(lowest_learning_rate=0.005, learning_rate_points=2, tuning_seeds=2, evaluation_seeds=5),
)
