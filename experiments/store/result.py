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
    """One arm: its accuracy at the bagged choice, and what was seen at the setting that most bags choose."""

    treatment: str
    """Name of the treatment."""
    context: str
    """Name of the context."""
    n: Count
    """How many seeds."""
    seeds: list[Count]
    """The seeds, in the order of `values`."""
    estimate: Percent
    """Accuracy at the bagged choice, percent; `se` and `ci` know that the choice was made."""
    se: Amount
    """Standard error of the estimate."""
    ci: Pair
    """Interval of the estimate."""
    learning_rate: Positive
    """Of the setting that most bags choose; so are the decays, and everything from `mean` on."""
    weight_decay: Amount
    """Of that setting."""
    decay_scale_bias: bool
    """Of that setting: whether decay acts on the norms' scale and bias, too."""
    share: Share
    """Of the bags that choose this setting."""
    at_end: Share
    """Share of the bags that choose an end of the grid, of rates or of decays."""
    settings: list[SettingRow]
    """Every rate and decay that was trained, with its validation scores."""
    learned: LearnedRow
    """How many trainings learned."""
    mean: Percent
    """Of the metric over seeds."""
    sd: Amount
    """Of the metric over seeds."""
    values: Annotated[list[Percent], Field(min_length=2)]
    """Of the metric, by seed."""
    test_accuracy: Spread
    """By running statistics."""
    test_accuracy_population: Spread | None
    """By statistics of the whole training set."""
    test_accuracy_batch: Spread | None
    """By statistics of each test batch."""
    test_loss: float | None
    """Mean over seeds; None if one of them has none."""
    diverged: Count
    """How many trainings ended because the loss was not finite."""
    diverged_at: list[Count | None]
    """At which step, by seed; None for a training that did not diverge."""
    validation_curve: Curve
    """Validation accuracy over the steps."""
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
    """Percentage points; above 0 favours what is named first."""
    ci: Pair
    """Its interval, of confidence 1 - alpha."""


@known
class ByStatistics(Difference):
    metric: Metric
    change: Difference | None


@known
class Inference(Difference):
    """What is concluded about a contrast where `speaks_of` says what is drawn anew."""

    speaks_of: Literal["new seeds", "new seeds and splits", "new data, too"]
    """What is drawn anew when the experiment is repeated."""
    se: Amount
    """Standard error of the difference."""
    df: Positive
    """Degrees of freedom of Student's t."""
    p: Share
    """Of no difference, two-sided."""
    adjusted_p: Share
    """After Holm over the run's primary contrasts; of a secondary one, p itself."""
    tost_p: Share
    """Of a difference at the margin or beyond: two one-sided tests."""
    adjusted_tost_p: Share
    """After Holm, as `adjusted_p`."""
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
    """Such as "relu: after - before"."""
    kind: Literal["simple", "interaction", "mean"]
    """A difference of two arms, a difference of two such differences, or an average of them."""
    primary: bool
    """Whether it belongs to the family over which p values are adjusted."""
    same_arm: bool
    """Whether it is an A/A test: both arms are set alike, and differ in their seeds."""
    weights: dict[str, float]
    """By "treatment/context"."""
    margin_pp: Positive
    """A difference below this does not matter."""
    alpha: Positive
    """Level at which it is judged."""
    family: Count
    """How many contrasts p values are adjusted over; 1 for a secondary one."""
    n: Count
    """How many seeds."""
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
    """What this n could show."""
    verdict: str
    """The finding in words, with its p value."""
    sentence: str
    """All of it in one sentence."""
    by_statistics: list[ByStatistics]
    """The same by each kind of statistics at test, and its change from the running ones."""


@known
class PublishedRow(Difference):
    """A published difference and ours, `difference`."""

    contrast: str
    """Name of our contrast."""
    source: str
    """Who reported the difference, and where."""
    published: float
    """What they reported, pp."""
    published_n: Count
    """Their trainings of each arm."""
    published_sd: Amount | None
    """Their standard deviation over trainings, pp."""
    n: Count
    """Our seeds."""
    gap: float
    """Ours - theirs, pp."""
    gap_ci: Pair
    """Interval of the gap."""
    adjusted_p: Share
    """Of no gap, after Holm."""
    adjusted_tost_p: Share
    """Of a gap at the margin or beyond, after Holm."""
    prediction_ci: Pair | None
    """Where ours was to be expected; None if the source gives no spread."""
    word: Literal["shown equal", "compatible", "not reproduced"]
    """What the gap says."""
    sentence: str
    """All of it in one sentence."""


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
    """The metric that is compared."""
    look: Look
    """How many seeds the run has, and at which level it is judged."""
    learning_rates: list[Positive]
    """The grid of all arms as grown, lowest first."""
    added_rates: list[Positive]
    """Those that were added to the config's."""
    arms: list[ArmRow]
    """Each treatment in each context."""
    contrasts: list[ContrastRow]
    """Each question, with its answer."""
    published: list[PublishedRow]
    """Differences that others reported, beside ours."""
    shares: list[ShareRow]
    """Differences in the share of trainings that learn."""
    race: list[RaceRow]
    """How each arm was searched."""
    warnings: list[str]
    """What to read before believing it."""
