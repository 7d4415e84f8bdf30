"""An arm, and the config of one of its trainings."""

from __future__ import annotations

from typing import NamedTuple

from experiments.config.data import AugmentationConfig, DataConfig
from experiments.config.errors import require
from experiments.config.model import ModelConfig
from experiments.config.training import OptimizerConfig, ProbesConfig, TrainingConfig


class Arm(NamedTuple):
    """One cell of the ablation: the names of a treatment and of a context."""

    treatment: str
    """Name of the treatment."""
    context: str
    """Name of the context."""

    def __str__(self) -> str:
        return f"{self.treatment}/{self.context}"


class Setup(NamedTuple):
    """Everything that one training depends on, except learning rate, decay and seed."""

    data: DataConfig
    """The data set, its splits, and how it is standardized."""
    augmentation: AugmentationConfig
    """Random changes of the training images."""
    model: ModelConfig
    """The network, its norm, and the placement of the norm."""
    optimizer: OptimizerConfig
    """Optimizer, learning rate through training, decay, and the loss."""
    training: TrainingConfig
    """Batches, epochs, and how steps and seeds run."""
    probes: ProbesConfig
    """Measurements inside the networks."""

    def steps_per_epoch(self, train_size: int) -> int:
        """Batches per epoch; the last, incomplete batch is dropped.

        Args:
          train_size: number of training examples.

        Returns:
          The number of steps in an epoch.

        Raises:
          ConfigError: a batch is larger than the training set.
        """
        batch = self.training.batch_size
        require(
            batch <= train_size,
            f"training.batch_size is {batch}, but {self.data.name} has only {train_size} training examples; "
            f"use at most {train_size}",
        )
        return train_size // batch
