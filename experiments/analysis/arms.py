"""What a result says of each arm: its accuracy, the settings that were searched, and how many trainings learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from experiments.analysis.bagging import contrast
from experiments.analysis.comparison import DIGITS, RESOLUTION_PP
from experiments.analysis.learned import Learned, chance_limit, learned
from experiments.analysis.scores import METRICS, Record, Setting, Trained, measured
from experiments.analysis.search import Search
from experiments.config import Arm, Config


def row(
    config: Config, found: Search, trained: Trained, records: Iterable[Record], arm: Arm, of: Learned, alpha: float
) -> dict[str, Any]:
    """One entry of "arms" (`experiments.store.result.ArmRow`)."""
    bagged, chosen = found.bagged.arms[arm], found.chosen(arm)
    runs = _runs(found, trained, arm)
    estimate = contrast(found.bagged, {arm: 1.0}, alpha=alpha)
    accuracy = 100 * np.array([measured(run, config.analysis.metric) for run in runs])
    losses = [run["test_loss"] for run in runs]
    settings = [_setting_row(found, trained, arm, k) for k in range(len(found.settings[arm]))]
    spread = _spread(accuracy, alpha)
    return {
        "treatment": arm.treatment,
        "context": arm.context,
        "n": len(runs),
        "seeds": list(bagged.seeds),
        "estimate": estimate.estimate,
        "se": estimate.se,
        "ci": list(estimate.ci),
        **chosen._asdict(),
        "share": float(bagged.shares[bagged.most_chosen]),
        "at_end": found.end_shares[arm],
        "settings": settings,
        "learned": {
            "count": of.count,
            "n": of.n,
            "ci": list(of.ci),
            "limit": of.limit,
            "accuracy": of.accuracy,
        },
        "mean": spread["mean"],
        "sd": spread["sd"],
        "values": spread["values"],
        **{metric: _by_metric(metric, runs, alpha) for metric in METRICS},
        "test_loss": None if None in losses else float(np.mean(losses)),
        "diverged": diverged(runs),
        "diverged_at": [run["diverged"] for run in runs],
        "validation_curve": _curve(runs),
        **_stability(chosen, settings),
        "end": [
            _end(record["probes"])
            for record in records
            if record["phase"] == "probe"
            and Arm(record["treatment"], record["context"]) == arm
            and Setting(*(record[field] for field in Setting._fields)) == chosen  # fewer seeds may have chosen another
            and record["probes"]
        ],
    }


def race_row(found: Search, trained: Trained, arm: Arm) -> dict[str, Any]:
    """One entry of "race": how the arm was searched."""
    seeds = found.scores[arm].seeds
    dropped = [s for s in found.settings[arm] if not all((arm, s, seed) in trained for seed in seeds)]
    return {
        "treatment": arm.treatment,
        "context": arm.context,
        "first_seeds": found.first_seeds,
        "tried": list(found.rates),
        "dropped": [str(setting) for setting in dropped],
    }


def learned_of(
    config: Config, found: Search, trained: Trained, arm: Arm, data: Mapping[str, Any], alpha: float
) -> Learned:
    """How many trainings of the arm learned, at its most chosen setting; all, where chance cannot be told."""
    accuracy = [100 * measured(run, config.analysis.metric) for run in _runs(found, trained, arm)]
    examples, majority = chance(data)
    if not knows_chance(data):
        everyone = learned(np.full(len(accuracy), 100.0), examples=10**6, majority_share=0.5, alpha=alpha)
        mean = float(np.mean(accuracy))
        return everyone._replace(limit=0.0, accuracy=mean, plain_mean=mean)
    return learned(accuracy, examples=examples, majority_share=majority, alpha=alpha)


def knows_chance(data: Mapping[str, Any]) -> bool:
    """Whether the test set is large enough to tell a network that learned from one that guesses."""
    try:
        chance_limit(*chance(data))
    except ValueError:
        return False
    return True


def chance(data: Mapping[str, Any]) -> tuple[int, float]:
    """The number of test examples, and the share of the largest class among them."""
    classes = data["test_classes"]
    return sum(classes), max(classes) / sum(classes)


def diverged(runs: Iterable[Record]) -> int:
    """The number of trainings that diverged; `diverged` of a record is the step at which it did (maybe 0), or None."""
    return sum(run["diverged"] is not None for run in runs)


def _runs(found: Search, trained: Trained, arm: Arm) -> list[Record]:
    return [trained[arm, found.chosen(arm), seed] for seed in found.scores[arm].seeds]


def _setting_row(found: Search, trained: Trained, arm: Arm, k: int) -> dict[str, Any]:
    setting = found.settings[arm][k]
    runs = [run for seed in found.scores[arm].seeds if (run := trained.get((arm, setting, seed)))]
    values = [100 * run["val_accuracy"][-1] for run in runs]
    losses = [run["val_loss"][-1] for run in runs]
    return {
        **setting._asdict(),
        "seeds": len(runs),
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": values,
        "loss": None if None in losses or not np.isfinite(losses).all() else float(np.mean(losses)),
        "diverged": diverged(runs),
        "share": float(found.bagged.arms[arm].shares[k]),
    }


def _stability(chosen: Setting, settings: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    curve = [s for s in settings if (s["weight_decay"], s["decay_scale_bias"]) == chosen[1:]]
    best = next(s["mean"] for s in curve if s["learning_rate"] == chosen.learning_rate)
    stable = next((k for k, s in enumerate(curve) if s["diverged"]), len(curve))
    return {
        "max_learning_rate": max(s["learning_rate"] for s in curve if s["mean"] >= best / 2),
        "max_stable_rate": curve[stable - 1]["learning_rate"] if stable else None,
    }


def _by_metric(metric: str, runs: Sequence[Record], alpha: float) -> dict[str, Any] | None:
    values = [run.get(metric) for run in runs]
    return None if None in values else _spread(100 * np.array(values, np.float64), alpha)


def _spread(accuracy: NDArray[np.float64], alpha: float) -> dict[str, Any]:
    """Mean, sample standard deviation, Student's interval of the mean, and the values."""
    n, mean, constant = accuracy.size, float(accuracy.mean()), np.ptp(accuracy) < RESOLUTION_PP
    sd = 0.0 if constant else float(accuracy.std(ddof=1))
    low, high = (mean, mean) if constant else scipy.stats.t.interval(1 - alpha, n - 1, mean, sd / np.sqrt(n))
    return {"mean": mean, "sd": sd, "ci": [float(low), float(high)], "values": accuracy.tolist()}


def _curve(runs: Sequence[Record]) -> dict[str, list[float]]:
    """Mean and sample standard deviation over seeds of validation accuracy, percent, after each epoch."""
    accuracy = 100 * np.array([run["val_accuracy"] for run in runs], np.float64)
    return {
        "steps": list(runs[0]["steps"]),
        "mean": accuracy.mean(0).round(DIGITS).tolist(),
        "sd": accuracy.std(0, ddof=1).round(DIGITS).tolist(),
    }


def _end(probes: dict[str, Any]) -> dict[str, Any]:
    """Curvature and mean-logit gradients after the last step of one seed; None for probes that were off."""
    return {key: probes.get(key) for key in ("eigenvalues", "eigenvalue_residuals", "mean_logit")}
