"""The config of an ablation: frozen, typed, cross-checked when built. Imports no jax, so that reading a config,
refusing a wrong one and drawing a report stay instant.

Pydantic refuses ill-typed and unknown fields (strictly: a string is no number); `__post_init__` checks ranges, and
fields against each other. The only place that turns epochs into steps is `Setup.steps_per_epoch`.
"""

from experiments.config.ablation import Arm as Arm
from experiments.config.ablation import Config as Config
from experiments.config.ablation import Setting as Setting
from experiments.config.ablation import vary as vary
from experiments.config.data import DATA_SETS as DATA_SETS
from experiments.config.data import AugmentationConfig as AugmentationConfig
from experiments.config.data import DataConfig as DataConfig
from experiments.config.errors import ConfigError as ConfigError
from experiments.config.model import ModelConfig as ModelConfig
from experiments.config.reading import from_json as from_json
from experiments.config.reading import load as load
from experiments.config.reading import to_json as to_json
from experiments.config.setup import Setup as Setup
from experiments.config.sweep import AnalysisConfig as AnalysisConfig
from experiments.config.sweep import Published as Published
from experiments.config.sweep import SweepConfig as SweepConfig
from experiments.config.training import OptimizerConfig as OptimizerConfig
from experiments.config.training import ProbesConfig as ProbesConfig
from experiments.config.training import TrainingConfig as TrainingConfig
from experiments.vocabulary import Activation as Activation
from experiments.vocabulary import Placement as Placement
from experiments.vocabulary import Unit as Unit
