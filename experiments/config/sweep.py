"""Config of the sweep (tuning and evaluation) and of the analysis."""

from __future__ import annotations

import math

from experiments.config.errors import configuration, require
from experiments.vocabulary import Metric

MAX_TRAININGS = 100_000


@configuration
class SweepConfig:
    lowest_learning_rate: float = 2.0**-7
    """Lowest learning rate of the grid over which every arm is tuned."""
    learning_rate_factor: float = 2.0
    """Ratio of neighbouring learning rates of the grid."""
    learning_rate_points: int = 8
    """Number of learning rates of the grid, the same for every arm."""
    weight_decays: tuple[float, ...] = ()
    """Weight decays over which every arm is tuned as well; () uses optimizer.weight_decay."""
    decay_scale_bias: tuple[bool, ...] = ()
    """Values of decay_scale_bias over which every arm is tuned as well; () uses optimizer.decay_scale_bias."""
    tuning_seeds: int = 3
    """Number of seeds trained at each point of the grid and judged by validation accuracy."""
    evaluation_seeds: int = 24
    """Number of fresh seeds trained at the chosen point and judged by test accuracy."""
    first_seed: int = 0
    """First tuning seed; evaluation seeds follow the tuning seeds, so they never overlap."""

    def __post_init__(self) -> None:
        rate, factor, points = self.lowest_learning_rate, self.learning_rate_factor, self.learning_rate_points
        require(rate > 0, f"sweep.lowest_learning_rate is {rate}; use a positive value")
        require(
            factor - 1 > 1e-6,  # with a smaller factor, neighbouring rates are equal in float32
            f"sweep.learning_rate_factor is {factor}; use a value above 1, such as 2.0",
        )
        require(
            points >= 2,
            f"sweep.learning_rate_points is {points}: a grid of one point tunes nothing; use 7 or more to publish "
            "(at least 2 to try)",
        )
        ends = [math.log10(rate), math.log10(rate) + (points - 1) * math.log10(factor)]
        require(
            min(ends) >= -30 and max(ends) <= 30,
            f"the grid of sweep.lowest_learning_rate {rate:g}, learning_rate_factor {factor:g} and {points} points "
            f"goes from 1e{ends[0]:.0f} to 1e{ends[1]:.0f}; use one within 1e-30 and 1e30, which float32 holds",
        )
        require(self.tuning_seeds >= 1, f"sweep.tuning_seeds is {self.tuning_seeds}; use at least 1")
        require(
            self.evaluation_seeds >= 2,
            f"sweep.evaluation_seeds is {self.evaluation_seeds}: a spread needs at least 2 seeds; use 10 or more "
            "to publish",
        )
        require(
            list(self.weight_decays) == sorted(set(self.weight_decays)) and all(d >= 0 for d in self.weight_decays),
            f"sweep.weight_decays is {self.weight_decays}; use growing values from 0 up, such as (0.0, 1e-4, 5e-4)",
        )
        require(
            len(set(self.decay_scale_bias)) == len(self.decay_scale_bias),
            f"sweep.decay_scale_bias is {self.decay_scale_bias}: one appears twice; use (False, True), or ()",
        )
        decays = max(1, len(self.weight_decays)) * max(1, len(self.decay_scale_bias))
        trainings = points * decays * self.tuning_seeds + self.evaluation_seeds
        require(
            trainings <= MAX_TRAININGS,
            f"the sweep asks for {trainings:,} trainings of every arm ({points} rates, {decays} decays, "
            f"{self.tuning_seeds} tuning and {self.evaluation_seeds} evaluation seeds); use at most "
            f"{MAX_TRAININGS:,}",
        )
        self.check_seeds("sweep.first_seed", self.first_seed)

    def check_seeds(self, name: str, first: int) -> None:
        """Refuses a first seed if one of the seeds would not fit into int32."""
        count = self.tuning_seeds + self.evaluation_seeds
        require(
            0 <= first <= 2**31 - count,
            f"{name} is {first}; use a whole number from 0 to {2**31 - count}, for {count} seeds of 31 bits",
        )

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The grid, lowest first."""
        return tuple(self.lowest_learning_rate * self.learning_rate_factor**k for k in range(self.learning_rate_points))

    def tuning(self, first_seed: int | None = None) -> tuple[int, ...]:
        """Seeds of the tuning trainings."""
        first = self.first_seed if first_seed is None else first_seed
        return tuple(range(first, first + self.tuning_seeds))

    def evaluation(self, first_seed: int | None = None) -> tuple[int, ...]:
        """Seeds of the evaluation trainings; they follow the tuning seeds."""
        first = (self.first_seed if first_seed is None else first_seed) + self.tuning_seeds
        return tuple(range(first, first + self.evaluation_seeds))


@configuration
class Published:
    """A difference a - b that others reported."""

    a: str
    b: str
    context: str
    """The context of this run to compare with: the name of the activation, unless the run has further contexts."""
    difference: float
    """The published difference, in percentage points."""
    source: str
    """Who reported the difference, and where."""
    n: int = 1
    """Trainings per arm."""


@configuration
class AnalysisConfig:
    contrasts: tuple[tuple[str, str], ...] = ()
    """Pairs (a, b) of treatments to compare as a - b in each context; Holm's family is one pair over all contexts. ()
    means after - before, before - none and after - none, as far as the run trains them."""
    margin_pp: float = 1.0
    """Equivalence margin in percentage points, below which a difference does not matter; declare it before the run."""
    alpha: float = 0.05
    """Significance level; intervals have confidence 1 - alpha."""
    resamples: int = 9999
    """Resamples of the bootstrap and of the permutation test."""
    metric: Metric = "test_accuracy"
    """The metric to compare: accuracy with running statistics, with statistics of the whole training set (population),
    or with statistics of each test batch. All three are recorded."""
    published: tuple[Published, ...] = ()
    """Differences that others reported, to be compared with those of this run."""

    def __post_init__(self) -> None:
        require(self.margin_pp > 0, f"analysis.margin_pp is {self.margin_pp}; use a positive margin, such as 1.0")
        require(1e-6 <= self.alpha < 0.5, f"analysis.alpha is {self.alpha}; use a level such as 0.05, at least 1e-6")
        require(self.resamples >= 99, f"analysis.resamples is {self.resamples}; use at least 99, better 9999")
