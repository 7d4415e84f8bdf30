"""The config of an ablation: frozen dataclasses that are checked when they are built.

Nothing here imports jax, so a config is read, or refused, at once. Pydantic refuses unknown fields and wrong types
(strictly: it converts no string to a number). `__post_init__` checks ranges, and fields against each other. Only
`Setup.steps_per_epoch` turns epochs into steps.
"""

from experiments.config.ablation import Config as Config
from experiments.config.ablation import Setting as Setting
from experiments.config.ablation import vary as vary
from experiments.config.analysis import AnalysisConfig as AnalysisConfig
from experiments.config.analysis import Contrast as Contrast
from experiments.config.analysis import Published as Published
from experiments.config.contrasts import Question as Question
from experiments.config.data import DATA_SETS as DATA_SETS
from experiments.config.data import AugmentationConfig as AugmentationConfig
from experiments.config.data import DataConfig as DataConfig
from experiments.config.errors import ConfigError as ConfigError
from experiments.config.model import ModelConfig as ModelConfig
from experiments.config.reading import from_json as from_json
from experiments.config.reading import load as load
from experiments.config.reading import to_json as to_json
from experiments.config.setup import Arm as Arm
from experiments.config.setup import Setup as Setup
from experiments.config.sweep import SweepConfig as SweepConfig
from experiments.config.training import OptimizerConfig as OptimizerConfig
from experiments.config.training import ProbesConfig as ProbesConfig
from experiments.config.training import TrainingConfig as TrainingConfig
from experiments.vocabulary import Activation as Activation
from experiments.vocabulary import Placement as Placement
from experiments.vocabulary import Unit as Unit
