"""Turns the records of a run into its result: the tuned point of each arm, and statistics of its evaluation trainings.

Pure functions of the config and the records. Accuracies are in percent. `tuning` chooses the point of each arm,
`comparison` compares two arms, and `verdict` says what may be concluded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from experiments.analysis import replication
from experiments.analysis.caveats import warnings
from experiments.analysis.comparison import DIGITS, RESOLUTION_PP, Comparison, compare, holm
from experiments.analysis.power import power
from experiments.analysis.tuning import Choice, Point, Record, choose, diverged, look_up
from experiments.analysis.verdict import Contrast, finding, sentence, verdict
from experiments.config import Arm, Config, ConfigError
from experiments.vocabulary import Metric

METRICS = get_args(Metric)


def summarize(config: Config, records: Iterable[Record]) -> dict[str, Any]:
    """The result of a run, ready for JSON: metric, arms, comparisons, published, warnings. Accuracies are in percent.

    The order of the records does not matter.

    Raises:
      ConfigError: a record is missing, appears twice, or lacks the metric.
    """
    records = list(records)
    choices, analysis = choose(config, records), config.analysis
    points = {arm: Point(*choices[arm][:3]) for arm in config.arms}
    seeds = {arm: config.seeds(arm)[1] for arm in config.arms}
    found = look_up(records, "evaluate", [(arm, points[arm], seed) for arm in config.arms for seed in seeds[arm]])
    runs = {arm: [found[arm, points[arm], seed] for seed in seeds[arm]] for arm in config.arms}
    accuracy = {arm: compared(analysis.metric, arm, runs[arm]) for arm in config.arms}

    def compared_in(context: str, a: str, b: str) -> Comparison:
        arm_a, arm_b = Arm(a, context), Arm(b, context)
        return compare(
            accuracy[arm_a],
            accuracy[arm_b],
            margin_pp=analysis.margin_pp,
            alpha=analysis.alpha,
            resamples=analysis.resamples,
            paired=seeds[arm_a] == seeds[arm_b],
        )

    contexts = list(dict.fromkeys(arm.context for arm in config.arms))
    contrasts: list[Contrast] = []
    for a, b in config.contrasts:
        comparisons = [compared_in(context, a, b) for context in contexts]
        adjusted, same = holm([c.p for c in comparisons]), same_arm(config, a, b)
        contrasts += [
            Contrast(context, a, b, comparison, p, len(contexts), analysis.margin_pp, analysis.alpha, same)
            for context, comparison, p in zip(contexts, comparisons, adjusted, strict=True)
        ]
    published = [
        replication.row(row, compared_in(row.context, row.a, row.b), margin_pp=analysis.margin_pp, alpha=analysis.alpha)
        for row in analysis.published
    ]
    return {
        "metric": analysis.metric,
        "arms": [
            _arm_row(arm, choices[arm], seeds[arm], runs[arm], accuracy[arm], analysis.alpha) for arm in config.arms
        ],
        "comparisons": [
            _comparison_row(contrast) | {"by_statistics": _by_statistics(config, contrast, runs)}
            for contrast in contrasts
        ],
        "published": published,
        "warnings": warnings(config, choices, runs, contrasts),
    }


def same_arm(config: Config, a: str, b: str) -> bool:
    """Whether a - b is an A/A test: both treatments have equal settings in every context and disjoint seeds."""
    contexts = dict.fromkeys(arm.context for arm in config.arms)
    pairs = [(Arm(a, context), Arm(b, context)) for context in contexts]
    return all(
        config.setup(x) == config.setup(y) and not set(sum(config.seeds(x), ())) & set(sum(config.seeds(y), ()))
        for x, y in pairs
    )


def compared(metric: str, arm: Arm, runs: Sequence[Record]) -> NDArray[np.float64]:
    """The accuracies of an arm in the chosen metric, [n], percent.

    A network without norms has no statistics that could differ, so the test accuracy stands in for every metric.

    Raises:
      ConfigError: some records have the metric and others lack it.
    """
    values = [run.get(metric) for run in runs]
    if all(run.get(name) is None for run in runs for name in METRICS[1:]):
        values = [run["test_accuracy"] for run in runs]
    missing = [run["seed"] for run, value in zip(runs, values, strict=True) if value is None]
    if missing:
        raise ConfigError(
            f"analysis.metric is {metric!r}, which the training of {arm} with seed {missing[0]} lacks; choose another, "
            "such as 'test_accuracy'"
        )
    return 100 * np.array(values, np.float64)


def _arm_row(
    arm: Arm, choice: Choice, seeds: Sequence[int], runs: list[Record], accuracy: NDArray[np.float64], alpha: float
) -> dict[str, Any]:
    losses = [run["test_loss"] for run in runs]
    values = {metric: [run.get(metric) for run in runs] for metric in METRICS}
    return {
        "treatment": arm.treatment,
        "context": arm.context,
        "learning_rate": choice.learning_rate,
        "weight_decay": choice.weight_decay,
        "decay_scale_bias": choice.decay_scale_bias,
        "edge": choice.edge,
        "weight_decay_edge": choice.weight_decay_edge,
        "max_learning_rate": choice.max_learning_rate,
        "max_stable_rate": choice.max_stable_rate,
        "tuning": choice.curve,
        "grid": choice.grid,
        "n": accuracy.size,
        **_spread(accuracy, alpha),
        **{
            metric: None if None in found else _spread(100 * np.array(found, np.float64), alpha)
            for metric, found in values.items()
        },
        "test_loss": None if None in losses else float(np.mean(losses)),
        "seeds": list(seeds),
        "diverged": diverged(runs),
        "diverged_at": [run["diverged"] for run in runs],
        "validation_curve": _curve(runs),
        "end": [_end(run["probes"]) for run in runs if run.get("probes")],
    }


def _curve(runs: Sequence[Record]) -> dict[str, list[float]]:
    """Mean and sample standard deviation over evaluation seeds of validation accuracy, percent, after each epoch."""
    accuracy = 100 * np.array([run["val_accuracy"] for run in runs], np.float64)
    return {
        "steps": list(runs[0]["steps"]),
        "mean": accuracy.mean(0).round(DIGITS).tolist(),
        "sd": accuracy.std(0, ddof=1).round(DIGITS).tolist(),
    }


def _end(probes: dict[str, Any]) -> dict[str, Any]:
    """Curvature and mean-logit gradients after the last step of one seed; None for probes that were off."""
    return {key: probes.get(key) for key in ("eigenvalues", "eigenvalue_residuals", "mean_logit")}


def _by_statistics(config: Config, contrast: Contrast, runs: Mapping[Arm, Sequence[Record]]) -> list[dict[str, Any]]:
    """The difference a - b with each kind of statistics at test, and its change from the difference with running ones.

    The change separates what comes from evaluation from what comes from training. Empty for unpaired arms.
    """
    a, b = (runs[Arm(treatment, contrast.context)] for treatment in (contrast.a, contrast.b))
    found = {
        metric: 100 * np.array([(x[metric], y[metric]) for x, y in zip(a, b, strict=True)], np.float64)
        for metric in METRICS
        if all(run.get(metric) is not None for run in (*a, *b))
    }
    if not contrast.comparison.paired or len(found) < 2:
        return []
    rows, running = [], found[METRICS[0]]
    for metric, values in found.items():
        difference = values[:, 0] - values[:, 1]
        change = difference - (running[:, 0] - running[:, 1])
        rows.append(
            {
                "metric": metric,
                **_interval_of(difference, config.analysis.alpha),
                "change": None if metric == METRICS[0] else _interval_of(change, config.analysis.alpha),
            }
        )
    return rows


def _interval_of(values: NDArray[np.float64], alpha: float) -> dict[str, Any]:
    spread = _spread(values, alpha)
    return {"difference": spread["mean"], "ci": spread["ci"]}


def _spread(accuracy: NDArray[np.float64], alpha: float) -> dict[str, Any]:
    """Mean, sample standard deviation, t interval of the mean, and the values."""
    n, mean, constant = accuracy.size, float(accuracy.mean()), np.ptp(accuracy) < RESOLUTION_PP
    sd = 0.0 if constant else float(accuracy.std(ddof=1))
    low, high = (mean, mean) if constant else scipy.stats.t.interval(1 - alpha, n - 1, mean, sd / np.sqrt(n))
    return {"mean": mean, "sd": sd, "ci": [float(low), float(high)], "values": accuracy.tolist()}


def _comparison_row(contrast: Contrast) -> dict[str, Any]:
    row = contrast._asdict() | contrast.comparison._asdict()
    del row["comparison"]
    allowed = power(contrast.comparison, margin_pp=contrast.margin_pp, alpha=contrast.alpha)
    row |= {"power": allowed._asdict()}
    row |= {"finding": finding(contrast), "verdict": verdict(contrast), "sentence": sentence(contrast)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}
