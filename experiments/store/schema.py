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
Edge = Literal["lowest", "highest"] | None
Kind = Literal["batch", "frozen"]


@_known
class Environment(TypedDict):
    """env.json: the provenance of the numbers."""

    commit: str | None
    dirty: bool | None
    date: str
    device: str
    cores: Count
    platform: str
    versions: dict[str, str | None]
    wall_seconds: NotRequired[Amount]
    resumed: NotRequired[list[Environment]]


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
    train: Count
    validation: Count
    test: Count
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
    """One line of records.jsonl; only trainings of the phase "evaluate" have test metrics."""

    phase: Literal["tune", "evaluate"]
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
    test_loss: NotRequired[float | None]
    test_accuracy: NotRequired[Share | None]
    test_loss_population: NotRequired[float | None]
    test_accuracy_population: NotRequired[Share | None]
    test_loss_batch: NotRequired[float | None]
    test_accuracy_batch: NotRequired[Share | None]
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
    mean: Percent
    sd: Amount
    ci: Pair
    values: Annotated[list[Percent], Field(min_length=2)]


@_known
class Point(TypedDict):
    """One point of the grid over which an arm was tuned."""

    learning_rate: Positive
    mean: Percent
    sd: Amount | None
    values: Annotated[list[Percent], Field(min_length=1)]
    loss: float | None
    diverged: Count


@_known
class GridPoint(Point):
    weight_decay: Amount
    decay_scale_bias: bool


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
class ArmRow(Spread):
    treatment: str
    context: str
    learning_rate: Positive
    weight_decay: Amount
    decay_scale_bias: bool
    edge: Edge
    weight_decay_edge: Edge
    max_learning_rate: Positive | None
    max_stable_rate: Positive | None
    tuning: list[Point]
    grid: list[GridPoint]
    n: Count
    test_accuracy: Spread | None
    test_accuracy_population: Spread | None
    test_accuracy_batch: Spread | None
    test_loss: float | None
    seeds: list[Count]
    diverged: Count
    diverged_at: list[Count | None]
    validation_curve: Curve
    end: list[End]


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
class ComparisonRow(Difference):
    context: str
    a: str
    b: str
    sd: Amount
    n: Count
    paired: bool
    no_spread: bool
    same_arm: bool
    p: Share
    holm_p: Share
    tost_p: Share
    permutation_p: Share
    welch_ci: Pair
    bootstrap_ci: Pair | None
    correlation: float | None
    power: Power
    verdict: str
    sentence: str
    by_statistics: list[ByStatistics]


@_known
class PublishedRow(Difference):
    context: str
    a: str
    b: str
    published: float
    published_n: Count
    source: str
    n: Count
    paired: bool
    no_spread: bool
    sign: str | None
    size: str | None
    verdict: str
    sentence: str


@_known
class Result(TypedDict):
    """result.json: the summary."""

    metric: Metric
    arms: list[ArmRow]
    comparisons: list[ComparisonRow]
    published: list[PublishedRow]
    warnings: list[str]
