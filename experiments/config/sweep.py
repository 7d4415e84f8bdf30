"""Config of the sweep: learning rates and seeds, the race between rates, and looks before all seeds are trained."""

from __future__ import annotations

import math

from experiments.config.errors import configuration, require

MAX_TRAININGS = 100_000


@configuration
class SweepConfig:
    """Every seed is trained at every learning rate and decay that is still in the race; the choice is bagged."""

    lowest_learning_rate: float = 2.0**-7
    """Lowest learning rate of the grid over which every arm is tuned."""
    learning_rate_factor: float = 2.0
    """Ratio of neighbouring learning rates of the grid."""
    learning_rate_points: int = 8
    """Number of learning rates of the grid to begin with, the same for every arm."""
    learning_rate_extension: int = 3
    """Learning rates that may be added beyond either end of the grid, for all arms, one at a time, while 5% or more of
    the bags of an arm choose that end; 0 keeps the grid as it is."""
    weight_decays: tuple[float, ...] = ()
    """Weight decays over which every arm is tuned as well; () uses optimizer.weight_decay."""
    decay_scale_bias: tuple[bool, ...] = ()
    """Values of decay_scale_bias over which every arm is tuned as well; () uses optimizer.decay_scale_bias."""
    seeds: int = 12
    """Number of seeds. A finished run goes on from what is there if it is run again with more."""
    race: bool = True
    """Whether a first round, with a quarter of the seeds (at least 3), drops the rates and decays that cannot be an
    arm's best any more (see experiments.analysis.race); the others are trained with all seeds."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds after which the run may end, the last one being `seeds`: it ends at the first at which every
    primary contrast is decided. The level is spent over the looks (O'Brien & Fleming's bounds, by Lan & DeMets)."""
    first_seed: int = 0
    """First seed; the others follow it."""

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
        more = self.learning_rate_extension
        require(more >= 0, f"sweep.learning_rate_extension is {more}; use 0 (keep the grid) or more rates")
        ends = [math.log10(rate) + k * math.log10(factor) for k in (-more, points - 1 + more)]
        require(
            min(ends) >= -30 and max(ends) <= 30,
            f"the grid of sweep.lowest_learning_rate {rate:g}, learning_rate_factor {factor:g}, {points} points and "
            f"{more} more at either end goes from 1e{ends[0]:.0f} to 1e{ends[1]:.0f}; use one within 1e-30 and 1e30, "
            "which float32 holds",
        )
        require(
            self.seeds >= 2, f"sweep.seeds is {self.seeds}: a spread needs at least 2 seeds; use 12 or more to publish"
        )
        require(
            list(self.weight_decays) == sorted(set(self.weight_decays)) and all(d >= 0 for d in self.weight_decays),
            f"sweep.weight_decays is {self.weight_decays}; use growing values from 0 up, such as (0.0, 1e-4, 5e-4)",
        )
        require(
            len(set(self.decay_scale_bias)) == len(self.decay_scale_bias),
            f"sweep.decay_scale_bias is {self.decay_scale_bias}: one appears twice; use (False, True), or ()",
        )
        grows = list(self.looks) == sorted(set(self.looks)) and all(look >= 2 for look in self.looks)
        require(
            not self.looks or (grows and self.looks[-1] == self.seeds),
            f"sweep.looks is {self.looks}; use growing numbers of seeds from 2 up that end with sweep.seeds "
            f"({self.seeds}), or () for a single look at the end",
        )
        decays = max(1, len(self.weight_decays)) * max(1, len(self.decay_scale_bias))
        trainings = (points + 2 * more) * decays * self.seeds
        require(
            trainings <= MAX_TRAININGS,
            f"the sweep asks for up to {trainings:,} trainings of every arm ({points} rates and {2 * more} more, "
            f"{decays} decays, {self.seeds} seeds); use at most {MAX_TRAININGS:,}",
        )
        self.check_seeds("sweep.first_seed", self.first_seed)

    def check_seeds(self, name: str, first: int) -> None:
        """Refuses a first seed if one of the seeds would not fit into int32."""
        require(
            0 <= first <= 2**31 - self.seeds,
            f"{name} is {first}; use a whole number from 0 to {2**31 - self.seeds}, for {self.seeds} seeds of 31 bits",
        )

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The grid to begin with, lowest first."""
        return self.extended()

    def extended(self, lower: int = 0, higher: int = 0) -> tuple[float, ...]:
        """The grid with this many rates more at its ends, lowest first."""
        places = range(-lower, self.learning_rate_points + higher)
        return tuple(self.lowest_learning_rate * self.learning_rate_factor**k for k in places)
