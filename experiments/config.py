"""A config is a value: frozen, typed, cross-checked when built, and all that a run needs to be repeated.

Nothing here imports jax, so that reading a config, refusing a wrong one and drawing a report stay instant. Ill-typed
and unknown fields are refused by pydantic (strict: a string is no number); what one field alone cannot know is checked
in `__post_init__`. The only place that turns epochs into steps is `Config.steps_per_epoch`.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

# Repeated from jbn.placement, which imports jax; a test holds the two equal.
Placement = Literal["none", "before", "after", "both", "pre_linear"]
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "identity"]

DATA_SETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ConfigError(Exception):
    """Something that the user wrote is wrong; the message is one line that says what to write instead.

    No ValueError: pydantic and tyro would wrap that in a page of their own words.
    """


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


class Arm(NamedTuple):
    """One cell of the ablation: where the norm sits, and around which activation."""

    placement: Placement
    activation: Activation

    def __str__(self) -> str:
        return f"{self.placement}/{self.activation}"


@dataclass(frozen=True, config=_STRICT)
class DataConfig:
    name: str = "digits"
    """Data set: `digits`, scikit-learn's 1,797 real handwritten digits of 8 x 8 pixels, which travel with it; `mnist`,
    `fashion_mnist`, `cifar10`, `cifar100`; or any image-classification set of the Hugging Face hub as owner/name."""
    image_column: str | None = None
    """Column of the images, where a set of the hub has several."""
    label_column: str | None = None
    """Column of the classes, where a set of the hub has several."""
    subset: str | None = None
    """Configuration of a set of the hub, where it has several."""
    standardize: Literal["feature", "channel"] = "feature"
    """By the training set's mean and variance of each `feature` (pixel), or of each `channel` over all pixels."""
    train_examples: int | None = None
    """Train on that many examples only, drawn with `split_seed`; None takes all."""
    validation_fraction: float = 0.15
    """Share of the examples kept for choosing learning rates: of all for digits, else of the training part."""
    test_fraction: float = 0.25
    """Share of the examples kept for the final answer, read once; sets with a test part of their own do not use it."""
    split_seed: int = 0
    """Seed of the stratified split; the same for every arm and every training seed."""

    def __post_init__(self) -> None:
        near = difflib.get_close_matches(self.name, DATA_SETS, n=1)
        _require(
            self.name in DATA_SETS or self.name.count("/") == 1,
            f"data.name is {self.name!r}; write one of {', '.join(DATA_SETS)}, or owner/name of a set on the hub"
            + (f"; did you mean {near[0]!r}?" if near else ""),
        )
        for field in ("image_column", "label_column", "subset"):
            _require(
                self.name != "digits" or getattr(self, field) is None,
                f"data.{field} is {getattr(self, field)!r}, but digits has none; leave it out, or write another name",
            )
        _require(
            self.train_examples is None or self.train_examples >= 2,
            f"data.train_examples is {self.train_examples}; write at least 2, or leave it out",
        )
        _require(self.split_seed >= 0, f"data.split_seed is {self.split_seed}; write a whole number from 0 up")
        for field in ("validation_fraction", "test_fraction"):
            value = getattr(self, field)
            _require(0 < value < 1, f"data.{field} is {value}; write a share between 0 and 1, such as 0.2")
        held_out = self.validation_fraction + self.test_fraction
        _require(
            held_out < 1,
            f"data.validation_fraction + data.test_fraction is {held_out:g}, which leaves nothing to train on; "
            "write shares that add up to less than 1",
        )


@dataclass(frozen=True, config=_STRICT)
class ModelConfig:
    hidden: tuple[int, ...] = (100, 100, 100)
    """Units of each hidden layer of the multilayer perceptron."""
    momentum: float = 0.9
    """Weight kept on the old running statistics (Flax's meaning; torch's 0.1 is 0.9 here); in [0, 1)."""
    epsilon: float = 1e-5
    """Added to the variance before the square root."""

    def __post_init__(self) -> None:
        _require(
            len(self.hidden) > 0 and all(width > 0 for width in self.hidden),
            f"model.hidden is {self.hidden}; write at least one positive width, such as (100, 100, 100)",
        )
        _require(0 <= self.momentum < 1, f"model.momentum is {self.momentum}; write a value in [0, 1), such as 0.9")
        _require(self.epsilon > 0, f"model.epsilon is {self.epsilon}; write a positive value, such as 1e-5")


@dataclass(frozen=True, config=_STRICT)
class OptimizerConfig:
    name: Literal["sgd", "adamw"] = "sgd"
    """`sgd` with momentum, its weight decay added to the gradient as in torch; or `adamw`, its decay decoupled."""
    momentum: float = 0.9
    """Momentum of `sgd`, and beta_1 of `adamw`; in [0, 1)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate through training: `cosine` falls to 0 at the last step."""
    weight_decay: float = 0.0
    """Weight decay on kernels; 0 is off. Biases of linear layers never decay."""
    decay_scale_bias: bool = False
    """Whether weight decay acts on the scale and bias of the norm layers, too."""

    def __post_init__(self) -> None:
        _require(0 <= self.momentum < 1, f"optimizer.momentum is {self.momentum}; write a value in [0, 1)")
        _require(self.weight_decay >= 0, f"optimizer.weight_decay is {self.weight_decay}; write 0 or more")


@dataclass(frozen=True, config=_STRICT)
class TrainingConfig:
    batch_size: int = 60
    """Examples a step. Every epoch visits a fresh order and leaves the last, incomplete batch out."""
    epochs: int = 20
    """Passes over the training set."""

    def __post_init__(self) -> None:
        _require(self.batch_size >= 2, f"training.batch_size is {self.batch_size}; batch norm needs at least 2")
        _require(self.epochs >= 1, f"training.epochs is {self.epochs}; write at least 1")


@dataclass(frozen=True, config=_STRICT)
class SweepConfig:
    lowest_learning_rate: float = 2.0**-7
    """First point of the grid that every arm is tuned over."""
    learning_rate_factor: float = 2.0
    """Ratio of neighbouring points of the grid."""
    learning_rate_points: int = 8
    """Points of the grid; the same budget for every arm."""
    tuning_seeds: int = 3
    """Seeds trained at each learning rate, judged on validation data."""
    evaluation_seeds: int = 24
    """Fresh seeds trained at the chosen learning rate, judged on the test set."""
    first_seed: int = 0
    """First tuning seed; evaluation seeds follow the tuning seeds, so the two never overlap."""

    def __post_init__(self) -> None:
        rate, factor, points = self.lowest_learning_rate, self.learning_rate_factor, self.learning_rate_points
        _require(rate > 0, f"sweep.lowest_learning_rate is {rate}; write a positive value")
        _require(factor > 1, f"sweep.learning_rate_factor is {factor}; write a value above 1, such as 2.0")
        _require(
            points >= 2,
            f"sweep.learning_rate_points is {points}: a grid of one point tunes nothing; write 7 or more to publish "
            "(at least 2 to try)",
        )
        _require(self.tuning_seeds >= 1, f"sweep.tuning_seeds is {self.tuning_seeds}; write at least 1")
        _require(
            self.evaluation_seeds >= 2,
            f"sweep.evaluation_seeds is {self.evaluation_seeds}: a spread needs at least 2 seeds; write 10 or more "
            "to publish",
        )
        _require(self.first_seed >= 0, f"sweep.first_seed is {self.first_seed}; write a whole number from 0 up")

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The grid, lowest first."""
        return tuple(self.lowest_learning_rate * self.learning_rate_factor**k for k in range(self.learning_rate_points))

    @property
    def tuning(self) -> tuple[int, ...]:
        return tuple(range(self.first_seed, self.first_seed + self.tuning_seeds))

    @property
    def evaluation(self) -> tuple[int, ...]:
        first = self.first_seed + self.tuning_seeds
        return tuple(range(first, first + self.evaluation_seeds))


@dataclass(frozen=True, config=_STRICT)
class AnalysisConfig:
    contrasts: tuple[tuple[Placement, Placement], ...] = (("after", "before"), ("before", "none"), ("after", "none"))
    """Pairs (a, b) of placements compared as a - b for each activation; Holm's family is one pair over activations."""
    margin_pp: float = 1.0
    """Equivalence margin in percentage points, declared before the run: smaller differences do not matter."""
    alpha: float = 0.05
    """Significance level; intervals cover 1 - alpha."""
    resamples: int = 9999
    """Resamples of the bootstrap and of the permutation test."""

    def __post_init__(self) -> None:
        _require(self.margin_pp > 0, f"analysis.margin_pp is {self.margin_pp}; write a positive margin, such as 1.0")
        _require(0 < self.alpha < 0.5, f"analysis.alpha is {self.alpha}; write a level such as 0.05")
        _require(self.resamples >= 99, f"analysis.resamples is {self.resamples}; write at least 99, better 9999")


@dataclass(frozen=True, config=_STRICT)
class Config:
    """An ablation: every placement with every activation, tuned alike, compared on fresh seeds."""

    name: str
    """Name of the run folder."""
    question: str = ""
    """What the run is to answer, in one sentence; printed above the answer."""
    placements: tuple[Placement, ...] = ("none", "before", "after")
    """Where batch norm sits: none, before or after the activation, both, or pre_linear (on the layer's input)."""
    activations: tuple[Activation, ...] = ("relu", "tanh", "sigmoid")
    """Activation functions; every placement is trained with each."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    sweep: SweepConfig = SweepConfig()
    analysis: AnalysisConfig = AnalysisConfig()

    def __post_init__(self) -> None:
        plain = self.name and all(c.isalnum() or c in "._-" for c in self.name) and not self.name.startswith(".")
        _require(bool(plain), f"name is {self.name!r}; write letters, digits, '_', '-' and '.' only: it names a folder")
        for field in ("placements", "activations"):
            values = getattr(self, field)
            _require(len(values) > 0, f"{field} is empty; write at least one")
            _require(len(set(values)) == len(values), f"{field} is {values}: one appears twice; write each once")

    @property
    def arms(self) -> tuple[Arm, ...]:
        return tuple(Arm(p, a) for a in self.activations for p in self.placements)

    @property
    def contrasts(self) -> tuple[tuple[Placement, Placement], ...]:
        """The declared contrasts whose two placements this run trains."""
        return tuple(pair for pair in self.analysis.contrasts if set(pair) <= set(self.placements))

    def steps_per_epoch(self, train_size: int) -> int:
        batch = self.training.batch_size
        _require(
            batch <= train_size,
            f"training.batch_size is {batch}, but {self.data.name} has only {train_size} training examples; "
            f"write at most {train_size}",
        )
        return train_size // batch


_ADAPTER = TypeAdapter(Config)


def to_json(config: Config) -> dict[str, Any]:
    """The resolved config as plain JSON values, every field written out."""
    return _ADAPTER.dump_python(config, mode="json")


def from_json(values: dict[str, Any]) -> Config:
    """The inverse of `to_json`; a wrong or unknown field raises ConfigError."""
    try:
        return _ADAPTER.validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def load(path: str | Path) -> Config:
    """The CONFIG of a config file, such as configs/digits_placement.py.

    Raises:
      ConfigError: no such file, no `CONFIG` in it, or a field that is unknown, ill-typed or out of range.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else "; write the path of a config, such as "
        raise ConfigError(f"no config at {path}{hint if near else hint + 'configs/digits_placement.py'}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file; write the path of a config, such as configs/smoke.py")
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (SyntaxError, ImportError, NameError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from None
    finally:
        sys.dont_write_bytecode = writes
    config = getattr(module, "CONFIG", None)
    if not isinstance(config, Config):
        raise ConfigError(f"{path} defines no CONFIG; write CONFIG = Config(name=..., ...)")
    return config


def explain(error: ValidationError) -> str:
    """Pydantic's first complaint as one line: the field, what was given, what was expected, the nearest right word."""
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    first = min(error.errors(), key=lambda e: e["type"] not in unknown)  # a misspelt field before the missing one
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] in unknown:
        known = _fields(error.title, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(known)}"
        return f"{error.title} has no field {where!r}; {hint}"
    if first["type"] == "missing":
        return f"{error.title} needs the field {where!r}; write {where}=..."
    message, given = first["msg"], first["input"]
    if first["type"] == "literal_error":
        choices = [
            c.strip().strip("'") for c in str(first.get("ctx", {}).get("expected")).replace(" or ", ", ").split(",")
        ]
        near = difflib.get_close_matches(str(given), choices, n=1)
        message = f"write one of {', '.join(choices)}" + (f"; did you mean {near[0]!r}?" if near else "")
        return f"{error.title}.{where} is {given!r}; {message}"
    return f"{error.title}.{where} is {given!r}; {message[0].lower()}{message[1:]}"


def _fields(title: str, loc: tuple[int | str, ...]) -> list[str]:
    kind: Any = globals().get(title, Config)
    for part in loc:
        kind = type(kind.__pydantic_fields__[part].default)
    return list(kind.__pydantic_fields__)
