"""Does the whole pipeline work? This says nothing about batch norm: it has far too few seeds, rates and steps.

    python -m experiments run configs/smoke.py

It runs the same code as every other config, in seconds.
"""

from experiments.config import Config, ModelConfig, SweepConfig, TrainingConfig

CONFIG = Config(
    name="smoke",
    question="Does the whole job work? (Too small to say anything about batch norm.)",
    activations=("tanh",),
    model=ModelConfig(hidden=(16, 12)),
    training=TrainingConfig(epochs=2, steps="scan", lanes="vmap"),
    sweep=SweepConfig(lowest_learning_rate=0.05, learning_rate_points=3, learning_rate_extension=0, seeds=4),
)
