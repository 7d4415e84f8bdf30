"""The contrasts of a run, answered: by intervals for new seeds, and by wider ones for new data, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.analysis.bagging import Estimate, bag
from experiments.analysis.bagging import contrast as estimated
from experiments.analysis.family import Judged, SpeaksOf, judge, parts, single_level
from experiments.analysis.new_data import by_example, for_new_examples, for_new_examples_of_splits
from experiments.analysis.scores import METRICS, Trained, right, scores
from experiments.analysis.search import Search
from experiments.config import Config, Question


class Answer(NamedTuple):
    """One contrast, by what its interval speaks of."""

    widest: Judged
    """What the verdict rests on."""
    by_seeds: Judged

    @property
    def all(self) -> list[Judged]:
        return [self.by_seeds] if self.widest is self.by_seeds else [self.by_seeds, self.widest]


def judged(config: Config, found: Search, trained: Trained, data: Mapping[str, Any], alpha: float) -> list[Answer]:
    """Every contrast of the run, judged as one family by each of the intervals that the data allow."""
    questions = config.contrasts
    seeds = [estimated(found.bagged, q.weights, alpha=alpha) for q in questions]
    wider = _for_new_data(config, found, trained, data, questions, seeds, alpha)
    level = single_level(parts(found.bagged, questions), alpha)

    def family(estimates: list[Estimate], speaks_of: SpeaksOf) -> list[Judged]:
        return judge(
            questions,
            estimates,
            margin_pp=config.analysis.margin_pp,
            alpha=alpha,
            single_level=level,
            speaks_of=speaks_of,
            end_shares=found.end_shares,
        )

    narrow = family(seeds, "new seeds and splits" if config.data.split_each_seed else "new seeds")
    wide = family(wider, "new data, too")
    # Of an A/A test, the interval for new seeds is the one that is tested: both arms have the same examples.
    return [Answer(n if n.contrast.same_arm else w, n) for n, w in zip(narrow, wide, strict=True)]


def _for_new_data(
    config: Config,
    found: Search,
    trained: Trained,
    data: Mapping[str, Any],
    questions: Sequence[Question],
    seeds: Sequence[Estimate],
    alpha: float,
) -> list[Estimate]:
    """The estimates with intervals for new examples, too."""
    if config.data.split_each_seed:
        every = data["train"] + data["validation"] + data["test"]
        return [
            for_new_examples_of_splits(e, all_examples=every, test_examples=data["test"], alpha=alpha) for e in seeds
        ]
    bits = {arm: right(trained, arm, found.settings[arm], found.scores[arm].seeds, data["test"]) for arm in config.arms}
    values = by_example(found.bagged, found.scores, bits)
    return [for_new_examples(found.bagged, values, q.weights, alpha=alpha) for q in questions]


def by_statistics(config: Config, found: Search, trained: Trained, alpha: float) -> dict[str, list[dict[str, Any]]]:
    """Each simple contrast with each kind of statistics at test, and its change from running ones, by name.

    The change separates what comes from evaluation from what comes from training. Choices and bags are the same, since
    they read validation data, so the change is a contrast like any other. Empty without norms, or for unpaired arms.
    """
    every = {}
    for arm in config.arms:
        record = trained[arm, found.chosen(arm), found.scores[arm].seeds[0]]
        for metric in METRICS:
            if record.get(metric) is not None:
                seeds = found.scores[arm].seeds
                every[metric, arm] = scores(trained, arm, found.settings[arm], seeds, metric)
    bagged, rows = bag(every), {}
    for question in config.contrasts:
        paired = len({found.scores[arm].seeds for arm in question.weights}) == 1
        kinds = [metric for metric in METRICS if all((metric, arm) in every for arm in question.weights)]
        if question.kind != "simple" or not paired or len(kinds) < 2:
            continue
        running = {(METRICS[0], arm): w for arm, w in question.weights.items()}
        rows[question.name] = []
        for metric in kinds:
            weights = {(metric, arm): w for arm, w in question.weights.items()}
            change = None
            if metric != METRICS[0]:
                change = _interval_of(estimated(bagged, weights | {key: -w for key, w in running.items()}, alpha=alpha))
            difference = _interval_of(estimated(bagged, weights, alpha=alpha))
            rows[question.name].append({"metric": metric, **difference, "change": change})
    return rows


def _interval_of(estimate: Estimate) -> dict[str, Any]:
    return {"difference": estimate.estimate, "ci": list(estimate.ci)}
