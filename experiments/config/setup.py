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
    context: str

    def __str__(self) -> str:
        return f"{self.treatment}/{self.context}"


class Setup(NamedTuple):
    """Everything that one training depends on, except learning rate, decay and seed."""

    data: DataConfig
    augmentation: AugmentationConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    probes: ProbesConfig

    def steps_per_epoch(self, train_size: int) -> int:
        """Batches per epoch; the last, incomplete batch is dropped.

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
