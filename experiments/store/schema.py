"""Types of the content of all files in a run folder; `experiments.store.validation` checks what is read."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from experiments.vocabulary import Metric

_known = with_config(ConfigDict(strict=True, extra="allow", allow_inf_nan=False))

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100 + 1e-9)]
Numbers = list[float | None]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Kind = Literal["batch", "frozen"]


@_known
class Extension(TypedDict):
    """A run was given more seeds."""

    seeds: Count
    """How many it had, or was to have."""
    date: str
    finished: bool
    """Whether it had a result with them."""


@_known
class Environment(TypedDict):
    """env.json: the provenance of the numbers."""

    commit: str | None
    dirty: bool | None
    date: str
    device: str
    cores: Count
    processor: NotRequired[str | None]
    """Model of the CPU; None if unknown."""
    xla_flags: NotRequired[str]
    """The environment variable XLA_FLAGS."""
    platform: str
    versions: dict[str, str | None]
    wall_seconds: NotRequired[Amount]
    resumed: NotRequired[list[Environment]]
    extended: NotRequired[list[Extension]]


@_known
class Histogram(TypedDict):
    mean: list[float]
    std: list[Amount]
    edges: list[float]
    counts: list[Count]


@_known
class Moments(TypedDict):
    mean: list[float]
    std: list[Amount]


@_known
class Description(TypedDict):
    """data.json: statistics of the data."""

    name: str
    source: str
    checksum: NotRequired[str]
    split: NotRequired[Literal["one", "each seed"]]
    """Whether all seeds share one split; if not, the numbers are about the first seed's."""
    train: Count
    validation: Count
    test: Count
    test_classes: NotRequired[list[Count]]
    """Number of test examples of each class."""
    test_labels: NotRequired[list[Count]]
    """Class of each test example, where all seeds share the test set."""
    shape: list[Count]
    features: Count
    classes: Annotated[int, Field(ge=2)]
    constant_features: Count
    raw: Histogram
    standardized: Histogram
    standardized_test: Moments


@_known
class Network(TypedDict):
    """One entry of arms.json: size and computation of one arm."""

    parameters: Count
    multiply_adds: Count
    program: NotRequired[str]
    """SHA-256 of the traced programs: initialization, training step and evaluation."""
    traced_by: NotRequired[dict[str, str | None]]
    """Versions of the tracing libraries; another version may print the same program differently."""


@_known
class Engine(TypedDict):
    """One entry of engine.json: how one kind of network runs."""

    steps: Literal["scan", "loop"]
    lanes: Literal["vmap", "sequence"]


@_known
class Predictiveness(TypedDict):
    steps: list[Count]
    step_sizes: list[float]
    losses: list[Numbers]
    gradient_distances: list[Numbers]
    smoothness: Numbers


@_known
class Probes(TypedDict):
    """Measurements inside the network of one training; lists run over time, then over layers or norms."""

    steps: Annotated[list[Count], Field(min_length=1)]
    layers: list[str]
    norms: list[str]
    percentiles: list[list[Annotated[Numbers, Field(min_length=3, max_length=3)]]]
    saturation: list[Numbers]
    sparsity: list[Numbers]
    skewness: list[Numbers]
    dead: list[Numbers]
    zero_share: list[Numbers]
    mean_gap: list[Numbers] | None
    var_ratio: list[Numbers] | None
    scale: list[Numbers] | None
    gradient_norms: dict[str, Numbers] | None
    predictiveness: Predictiveness | None
    eigenvalues: dict[Kind, Annotated[Numbers, Field(min_length=1)]] | None
    eigenvalue_residuals: NotRequired[dict[Kind, Numbers] | None]
    mean_logit: dict[Kind, dict[str, float | None]] | None


@_known
class Training(TypedDict):
    """One line of records.jsonl. A "probe" repeats a training of the phase "train" with probes on, after the choice."""

    phase: Literal["train", "probe"]
    treatment: str
    context: str
    learning_rate: Positive
    weight_decay: Amount
    decay_scale_bias: bool
    seed: Count
    steps: Annotated[list[Count], Field(min_length=1)]
    train_loss: Numbers
    val_loss: Numbers
    val_accuracy: list[Share]
    diverged: Count | None
    seconds: Amount
    test_loss: float | None
    test_accuracy: Share
    test_loss_population: float | None
    test_accuracy_population: Share | None
    test_loss_batch: float | None
    test_accuracy_batch: Share | None
    right: str
    """Which test examples are right, by the config's metric, a bit each, as base64 (experiments.store.right)."""
    probes: NotRequired[Probes | None]


_nan = with_config(ConfigDict(strict=True, extra="allow"))


@_nan
class Curves(TypedDict):
    """Curves of one unfinished lane."""

    train_loss: list[float]
    val_loss: list[float]
    val_accuracy: list[float]


@_nan
class Along(TypedDict):
    loss: list[float]
    gradient_change: list[float]
    smoothness: float


@_nan
class Observation(TypedDict):
    """One observation of one lane, see `experiments.training.observe`."""

    saturation: list[float]
    sparsity: list[float]
    skewness: list[float]
    dead: list[float]
    zero_share: list[float]
    mean_gap: list[float]
    var_ratio: list[float]
    scale: list[float]
    gradient_norms: dict[str, float]
    percentiles: list[list[float]]
    predictiveness: NotRequired[Along]


@_nan
class Past(TypedDict):
    """The file next to the checkpoints of some lanes: curves of all lanes, and observations of the first ones."""

    curves: list[Curves]
    looks: list[list[Observation]]


@_known
class Spread(TypedDict):
    """Of the values of the seeds: mean, sample standard deviation, and Student's interval of the mean."""

    mean: Percent
    sd: Amount
    ci: Pair
    values: Annotated[list[Percent], Field(min_length=2)]


@_known
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


@_known
class Curve(TypedDict):
    steps: list[Count]
    mean: list[Percent]
    sd: list[Amount]


@_known
class End(TypedDict):
    eigenvalues: dict[Kind, Annotated[list[float], Field(min_length=1)]] | None
    eigenvalue_residuals: dict[Kind, Numbers] | None
    mean_logit: dict[Kind, dict[str, float]] | None


@_known
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


@_known
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


@_known
class Power(TypedDict):
    power: Share
    detectable: Amount | None
    n_to_detect: Count | None
    n_to_show_equivalence: Count | None


@_known
class Difference(TypedDict):
    difference: float
    ci: Pair


@_known
class ByStatistics(Difference):
    metric: Metric
    change: Difference | None


@_known
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


@_known
class AtEnd(TypedDict):
    arm: str
    share: Share


@_known
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


@_known
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


@_known
class ShareRow(TypedDict):
    """A difference in the share of trainings that learn, of two arms of a contrast."""

    contrast: str
    difference: float
    p: Share
    adjusted_p: Share
    test: str
    sentence: str


@_known
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


@_known
class Look(TypedDict):
    """How many seeds the run has, and at which level it is judged."""

    seeds: Count
    planned: list[Count]
    """Declared looks; only `seeds` itself if none were declared."""
    alpha: Positive
    """Nominal level at this look."""
    undeclared: list[Count]
    """Numbers of seeds with which the run had been finished before, without a declared look."""


@_known
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
