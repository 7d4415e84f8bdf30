"""Types of the files in a run folder, but for result.json; `experiments.store.validation` checks what is read."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

known = with_config(ConfigDict(strict=True, extra="allow", allow_inf_nan=False))

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100 + 1e-9)]
Numbers = list[float | None]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Kind = Literal["batch", "frozen"]


@known
class Extension(TypedDict):
    """A run was given more seeds."""

    seeds: Count
    """How many it had, or was to have."""
    date: str
    finished: bool
    """Whether it had a result with them."""


@known
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


@known
class Histogram(TypedDict):
    mean: list[float]
    std: list[Amount]
    edges: list[float]
    counts: list[Count]


@known
class Moments(TypedDict):
    mean: list[float]
    std: list[Amount]


@known
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


@known
class Network(TypedDict):
    """One entry of arms.json: size and computation of one arm."""

    parameters: Count
    multiply_adds: Count
    program: NotRequired[str]
    """SHA-256 of the traced programs: initialization, training step and evaluation."""
    traced_by: NotRequired[dict[str, str | None]]
    """Versions of the tracing libraries; another version may print the same program differently."""


@known
class Engine(TypedDict):
    """One entry of engine.json: how one kind of network runs."""

    steps: Literal["scan", "loop"]
    lanes: Literal["vmap", "sequence", "spread"]
    devices: NotRequired[Annotated[int, Field(ge=1)]]
    """The lanes are spread as over so many devices; older runs lack it."""


@known
class Predictiveness(TypedDict):
    steps: list[Count]
    step_sizes: list[float]
    losses: list[Numbers]
    gradient_distances: list[Numbers]
    smoothness: Numbers


@known
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


@known
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
