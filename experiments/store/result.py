"""Types of result.json, the summary of a run (`experiments.analysis.stats.summarize` makes it)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from experiments.store.schema import Amount, Count, Kind, Numbers, Pair, Percent, Positive, Share, known
from experiments.vocabulary import Metric


@known
class Spread(TypedDict):
    """Of the values of the seeds: mean, sample standard deviation, and Student's interval of the mean."""

    mean: Percent
    sd: Amount
    ci: Pair
    values: Annotated[list[Percent], Field(min_length=2)]


@known
class SettingRow(TypedDict):
    """One setting (learning rate and decay) of an arm: validation scores of the seeds trained at it."""

    learning_rate: Positive
    weight_decay: Amount
    decay_scale_bias: bool
    seeds: Count
    """How many seeds were trained at it: all, or those of the first round, which dropped it."""
    mean: Percent
    sd: Amount | None
    values: Annotated[list[Percent], Field(min_length=1)]
    loss: float | None
    diverged: Count
    share: Share
    """Of the bags that choose it; 0 where it was dropped."""


@known
class Curve(TypedDict):
    steps: list[Count]
    mean: list[Percent]
    sd: list[Amount]


@known
class End(TypedDict):
    eigenvalues: dict[Kind, Annotated[list[float], Field(min_length=1)]] | None
    eigenvalue_residuals: dict[Kind, Numbers] | None
    mean_logit: dict[Kind, dict[str, float]] | None


@known
class LearnedRow(TypedDict):
    """How many trainings of an arm at its most chosen setting learned (experiments.analysis.learned)."""

    count: Count
    n: Count
    ci: Pair
    """Clopper-Pearson interval of the share, 0 to 1."""
    limit: Percent
    """Highest test accuracy that chance explains, percent."""
    accuracy: Percent | None
    """Mean of those that learned, percent."""


@known
class ArmRow(TypedDict):
    treatment: str
    context: str
    n: Count
    seeds: list[Count]
    estimate: Percent
    """Accuracy at the bagged choice, percent; `se` and `ci` know that the choice was made."""
    se: Amount
    ci: Pair
    learning_rate: Positive
    """Of the setting that most bags choose; so are the decays, and everything from `values` on."""
    weight_decay: Amount
    decay_scale_bias: bool
    share: Share
    """Of the bags that choose this setting."""
    at_end: Share
    """Share of the bags that choose an end of the grid, of rates or of decays."""
    settings: list[SettingRow]
    learned: LearnedRow
    mean: Percent
    sd: Amount
    values: Annotated[list[Percent], Field(min_length=2)]
    """Of the metric, by seed."""
    test_accuracy: Spread
    test_accuracy_population: Spread | None
    test_accuracy_batch: Spread | None
    test_loss: float | None
    diverged: Count
    diverged_at: list[Count | None]
    validation_curve: Curve
    max_learning_rate: Positive
    """The highest rate, at the most chosen decay, at which it still learns: half the best validation accuracy."""
    max_stable_rate: Positive | None
    """The highest rate, at that decay, such that no seed diverged at it or at a lower one; None if there is none."""
    end: list[End]
    """Of the probed seeds."""


@known
class Power(TypedDict):
    power: Share
    detectable: Amount | None
    n_to_detect: Count | None
    n_to_show_equivalence: Count | None


@known
class Difference(TypedDict):
    difference: float
    ci: Pair


@known
class ByStatistics(Difference):
    metric: Metric
    change: Difference | None


@known
class Inference(Difference):
    """What is concluded about a contrast where `speaks_of` says what is drawn anew."""

    speaks_of: Literal["new seeds", "new seeds and splits", "new data, too"]
    se: Amount
    df: Positive
    p: Share
    adjusted_p: Share
    """After Holm over the run's primary contrasts; of a secondary one, p itself."""
    tost_p: Share
    adjusted_tost_p: Share
    simultaneous_ci: Pair | None
    """With the rest of the family, all at once; None for a secondary contrast."""
    equivalence_ci: Pair
    """Of confidence 1 - 2 alpha: within the margin where tost_p is below alpha."""
    finding: str
    """A value of experiments.analysis.findings.Finding."""


@known
class AtEnd(TypedDict):
    arm: str
    share: Share


@known
class ContrastRow(Inference):
    """One contrast. The fields of `Inference` are those of its widest interval, on which the verdict rests."""

    name: str
    kind: Literal["simple", "interaction", "mean"]
    primary: bool
    same_arm: bool
    weights: dict[str, float]
    """By "treatment/context"."""
    margin_pp: Positive
    alpha: Positive
    family: Count
    """How many contrasts p values are adjusted over; 1 for a secondary one."""
    n: Count
    paired: bool
    """Whether all its arms have the same seeds."""
    exact: bool
    """Neither seed nor bag moves it, so that it has no interval."""
    values: list[float]
    """Each seed's part, pp; their mean is the difference. Empty where arms have seeds of their own."""
    intervals: list[Inference]
    """All of them, that of new seeds first."""
    at_end: list[AtEnd]
    """Arms that choose an end of their grid in 5% of the bags or more."""
    caution: str | None
    """What must be said with it, since some trainings did not learn."""
    power: Power
    verdict: str
    sentence: str
    by_statistics: list[ByStatistics]


@known
class PublishedRow(Difference):
    """A published difference and ours, `difference`."""

    contrast: str
    source: str
    published: float
    published_n: Count
    published_sd: Amount | None
    n: Count
    gap: float
    """Ours - theirs, pp."""
    gap_ci: Pair
    adjusted_p: Share
    adjusted_tost_p: Share
    prediction_ci: Pair | None
    """Where ours was to be expected; None if the source gives no spread."""
    word: Literal["shown equal", "compatible", "not reproduced"]
    sentence: str


@known
class ShareRow(TypedDict):
    """A difference in the share of trainings that learn, of two arms of a contrast."""

    contrast: str
    difference: float
    p: Share
    adjusted_p: Share
    test: str
    sentence: str


@known
class RaceRow(TypedDict):
    """How an arm was searched."""

    treatment: str
    context: str
    first_seeds: Count
    """Seeds of the first round."""
    tried: list[Positive]
    """Learning rates of the grid as grown."""
    dropped: list[str]
    """Settings that the first round dropped, such as "0.0156"."""


@known
class Look(TypedDict):
    """How many seeds the run has, and at which level it is judged."""

    seeds: Count
    planned: list[Count]
    """Declared looks; only `seeds` itself if none were declared."""
    alpha: Positive
    """Nominal level at this look."""
    undeclared: list[Count]
    """Numbers of seeds with which the run had been finished before, without a declared look."""


@known
class Result(TypedDict):
    """result.json: the summary."""

    metric: Metric
    look: Look
    learning_rates: list[Positive]
    """The grid of all arms as grown, lowest first."""
    added_rates: list[Positive]
    """Those that were added to the config's."""
    arms: list[ArmRow]
    contrasts: list[ContrastRow]
    published: list[PublishedRow]
    shares: list[ShareRow]
    race: list[RaceRow]
    warnings: list[str]
