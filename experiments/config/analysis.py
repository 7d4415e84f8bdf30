"""Config of the analysis: the contrasts that a run asks about, its margin and level, and what others published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from experiments.config.errors import configuration, require
from experiments.vocabulary import Metric


def _pairs(weights: Any) -> Any:
    """A mapping, or the lists that JSON has for it, as tuples."""
    items = (
        weights.items() if isinstance(weights, Mapping) else weights if isinstance(weights, list | tuple) else [weights]
    )
    return tuple(tuple(item) if isinstance(item, list) else item for item in items)


if TYPE_CHECKING:  # what may be written
    Weights = Mapping[str, float] | tuple[tuple[str, float], ...]
else:  # what is kept, since a config is an immutable value
    Weights = Annotated[tuple[tuple[str, float], ...], BeforeValidator(_pairs)]


@configuration
class Contrast:
    """A question about several arms: the sum of weight times accuracy, with weights that sum to 0.

    Example:
      >>> from experiments.config import Contrast
      >>> weights = {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1}
      >>> Contrast("placement x activation", weights).weights
      (('after/relu', 1.0), ('before/relu', -1.0), ('after/tanh', -1.0), ('before/tanh', 1.0))
    """

    name: str
    """Its name in answer, tables and figures."""
    weights: Weights
    """Weights by "treatment/context", given as a mapping: 1 and -1 for a difference, 1, -1, -1 and 1 for a difference
    of differences, 0.5, 0.5, -0.5 and -0.5 for a difference averaged over two contexts."""
    primary: bool = True
    """Whether it belongs to the family over which p values are adjusted; a secondary one is worded as an
    exploration."""
    margin_pp: float | None = None
    """Its own equivalence margin in percentage points; None uses analysis.margin_pp."""


@configuration
class Published:
    """A difference that others reported."""

    contrast: str
    """Name of the contrast of this run that asks the same, with the same sign, such as "relu: after - before"."""
    difference: float
    """The published difference, in percentage points."""
    source: str
    """Who reported the difference, and where."""
    n: int = 1
    """Trainings per arm."""
    sd: float | None = None
    """Sample standard deviation of one arm's accuracy over its trainings, in percentage points (root mean square of
    the arms'); None if the source does not report it."""

    def __post_init__(self) -> None:
        require(self.n >= 1, f"published n is {self.n} ({self.source}); use the number of trainings per arm")
        require(
            self.sd is None or (self.sd >= 0 and self.n >= 2),
            f"{self.source} has sd {self.sd} of n = {self.n} trainings; a standard deviation needs 2 or more, and is "
            "not negative: give both as the source does, or leave sd out",
        )


@configuration
class AnalysisConfig:
    """The contrasts that the run asks about, and how they are judged."""

    pairs: tuple[tuple[str, str], ...] = ()
    """Pairs (a, b) of treatments to compare as a - b in each context. () means after - before, before - none and
    after - none, as far as the run trains them, and each treatment that these and the contrasts leave out against the
    run's first."""
    contrasts: tuple[Contrast, ...] = ()
    """Further contrasts, which are answered first; interactions that are not declared here are explorations."""
    margin_pp: float = 1.0
    """Equivalence margin in percentage points, below which a difference does not matter; declare it before the run."""
    alpha: float = 0.05
    """Level of the whole run: of all primary contrasts together, for differences and for equivalence each; intervals
    have confidence 1 - alpha."""
    metric: Metric = "test_accuracy"
    """The metric to compare: accuracy with running statistics, with statistics of the whole training set (population),
    or with statistics of each test batch. All three are recorded."""
    published: tuple[Published, ...] = ()
    """Differences that others reported, to be compared with those of this run."""

    def __post_init__(self) -> None:
        require(self.margin_pp > 0, f"analysis.margin_pp is {self.margin_pp}; use a positive margin, such as 1.0")
        require(1e-6 <= self.alpha < 0.5, f"analysis.alpha is {self.alpha}; use a level such as 0.05, at least 1e-6")
