"""How much is trained to choose, how much to answer, and how the answer is judged."""

from __future__ import annotations

import math

from experiments.config.errors import configuration, require
from experiments.vocabulary import Metric

MOST_TRAININGS = 100_000


@configuration
class SweepConfig:
    lowest_learning_rate: float = 2.0**-7
    """First point of the grid that every arm is tuned over."""
    learning_rate_factor: float = 2.0
    """Ratio of neighbouring points of the grid."""
    learning_rate_points: int = 8
    """Points of the grid; the same budget for every arm."""
    weight_decays: tuple[float, ...] = ()
    """Weight decays that every arm is tuned over as well; () leaves optimizer.weight_decay."""
    decay_scale_bias: tuple[bool, ...] = ()
    """Whether scale and bias of the norms decay, tuned as well; () leaves optimizer.decay_scale_bias."""
    tuning_seeds: int = 3
    """Seeds trained at each learning rate, judged on validation data."""
    evaluation_seeds: int = 24
    """Fresh seeds trained at the chosen learning rate, judged on the test set."""
    first_seed: int = 0
    """First tuning seed; evaluation seeds follow the tuning seeds, so the two never overlap."""

    def __post_init__(self) -> None:
        rate, factor, points = self.lowest_learning_rate, self.learning_rate_factor, self.learning_rate_points
        require(rate > 0, f"sweep.lowest_learning_rate is {rate}; use a positive value")
        require(
            factor - 1 > 1e-6,  # nearer ones are one rate in float32
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
            trainings <= MOST_TRAININGS,
            f"the sweep asks for {trainings:,} trainings of every arm ({points} rates, {decays} decays, "
            f"{self.tuning_seeds} tuning and {self.evaluation_seeds} evaluation seeds); use at most "
            f"{MOST_TRAININGS:,}",
        )
        self.check_seeds("sweep.first_seed", self.first_seed)

    def check_seeds(self, name: str, first: int) -> None:
        """Refuses a first seed with which not every seed is a whole number of 32 bits."""
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
        """Seeds of the evaluation trainings: those after the tuning seeds."""
        first = (self.first_seed if first_seed is None else first_seed) + self.tuning_seeds
        return tuple(range(first, first + self.evaluation_seeds))


@configuration
class Published:
    """A difference a - b that others reported."""

    a: str
    b: str
    context: str
    """The context of this run to compare with; its activation, where there are no others."""
    difference: float
    """In percentage points."""
    source: str
    """Who reported it, where."""
    n: int = 1
    """Trainings an arm."""


@configuration
class AnalysisConfig:
    contrasts: tuple[tuple[str, str], ...] = ()
    """Pairs (a, b) of treatments compared as a - b in each context; Holm's family is one pair over the contexts. ()
    stands for those of after - before, before - none and after - none that the run trains."""
    margin_pp: float = 1.0
    """Equivalence margin in percentage points, declared before the run: smaller differences do not matter."""
    alpha: float = 0.05
    """Significance level; intervals cover 1 - alpha."""
    resamples: int = 9999
    """Resamples of the bootstrap and of the permutation test."""
    metric: Metric = "test_accuracy"
    """What is compared: accuracy with running statistics, with those of the whole training set (population), or with
    those of the test batches. All three are recorded."""
    published: tuple[Published, ...] = ()
    """Differences that others reported, judged against those of this run."""

    def __post_init__(self) -> None:
        require(self.margin_pp > 0, f"analysis.margin_pp is {self.margin_pp}; use a positive margin, such as 1.0")
        require(1e-6 <= self.alpha < 0.5, f"analysis.alpha is {self.alpha}; use a level such as 0.05, at least 1e-6")
        require(self.resamples >= 99, f"analysis.resamples is {self.resamples}; use at least 99, better 9999")
