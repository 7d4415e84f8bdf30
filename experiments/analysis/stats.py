"""The result of a run, from its records: arms, contrasts, published differences, and what a reader must know first.

Pure functions of the config, the records and the description of the data (data.json). Everything is a contrast of arms
over the same bags (`experiments.analysis.bagging`), judged as one family (`experiments.analysis.family`). Accuracies
are in percent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.analysis import arms as of_arms
from experiments.analysis import findings
from experiments.analysis.answers import Answer, by_statistics, judged
from experiments.analysis.caveats import warnings
from experiments.analysis.comparison import holm
from experiments.analysis.family import Judged
from experiments.analysis.learned import Learned, caution, compare_shares, shares_sentence
from experiments.analysis.looks import Look
from experiments.analysis.power import power
from experiments.analysis.published_differences import Judgement, judge_published, published_sentence
from experiments.analysis.scores import Record, by_key
from experiments.analysis.search import Search, search
from experiments.config import Arm, Config, Question


def summarize(
    config: Config,
    records: Iterable[Record],
    data: Mapping[str, Any],
    look: Look | None = None,
    undeclared: Sequence[int] = (),
) -> dict[str, Any]:
    """The result of a run, ready for JSON (`experiments.store.result.Result`).

    The order of the records does not matter.

    Args:
      config: of the run.
      records: the lines of records.jsonl.
      data: data.json: numbers of examples, whether each seed has its own split, classes of the test examples.
      look: how many seeds there are, and the level at which they are judged; None for all seeds, at analysis.alpha.
      undeclared: numbers of seeds with which the run had been finished before more were added.

    Raises:
      ConfigError: a training is missing, appears twice, or lacks the metric.
    """
    records = list(records)
    look = look or Look(config.sweep.seeds, config.analysis.alpha)
    found, trained = search(config, records, look.seeds), by_key(records)
    answers = judged(config, found, trained, data, look.alpha)
    learned = {arm: of_arms.learned_of(config, found, trained, arm, data, look.alpha) for arm in config.arms}
    published = judge_published(config.analysis.published, [answer.widest for answer in answers], alpha=look.alpha)
    statistics = by_statistics(config, found, trained, look.alpha)
    return {
        "metric": config.analysis.metric,
        "look": {
            "seeds": look.seeds,
            "planned": list(config.sweep.looks or (config.sweep.seeds,)),
            "alpha": look.alpha,
            "undeclared": list(undeclared),
        },
        "learning_rates": list(found.rates),
        "added_rates": [rate for rate in found.rates if rate not in config.sweep.learning_rates],
        "arms": [of_arms.row(config, found, trained, records, arm, learned[arm], look.alpha) for arm in config.arms],
        "contrasts": [_contrast_row(found, answer, learned, statistics) for answer in answers],
        "published": [_published_row(judgement) for judgement in published],
        "shares": _share_rows(found, config.contrasts, learned, look.alpha),
        "race": [of_arms.race_row(found, trained, arm) for arm in config.arms],
        "warnings": warnings(config, found, trained, answers, learned, data, look, undeclared),
    }


def _contrast_row(
    found: Search, answer: Answer, learned: Mapping[Arm, Learned], statistics: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    judged, question = answer.widest, answer.widest.contrast
    by_seeds = _parts(found, question)
    paired = len(by_seeds) == 1
    values = by_seeds[0] if paired else np.array([])
    # Of unpaired arms, half of the summed variances, since two arms of this sd have a difference of twice its square.
    variance = sum(v.var(ddof=1) for v in by_seeds) / (1 if paired else 2)
    sd = 0.0 if answer.by_seeds.estimate.exact else float(np.sqrt(variance))
    return {
        "name": question.name,
        "kind": question.kind,
        "primary": question.primary,
        "same_arm": question.same_arm,
        "weights": {str(arm): w for arm, w in question.weights.items()},
        "margin_pp": judged.margin_pp,
        "alpha": judged.alpha,
        "family": judged.family,
        "n": judged.estimate.n,
        "paired": paired,
        "exact": judged.estimate.exact,
        "values": values.tolist(),
        **_inference(judged),
        "intervals": [_inference(j) for j in answer.all],
        "at_end": [{"arm": str(arm), "share": share} for arm, share in judged.at_end],
        "caution": caution({str(arm): learned[arm] for arm in question.weights}),
        "power": power(judged.estimate.n, sd, margin_pp=judged.margin_pp, alpha=judged.alpha, paired=paired)._asdict(),
        "verdict": findings.verdicts(judged, answer.by_seeds),
        "sentence": findings.sentence(judged, answer.by_seeds),
        "by_statistics": statistics.get(question.name, []),
    }


def _parts(found: Search, question: Question) -> list[NDArray[np.float64]]:
    """Each seed's part in a contrast `[seeds]`, for each set of seeds that its arms have."""
    parts: dict[tuple[int, ...], Any] = {}
    for arm, weight in question.weights.items():
        bagged = found.bagged.arms[arm]
        parts[bagged.seeds] = parts.get(bagged.seeds, 0.0) + weight * bagged.values
    return list(parts.values())


def _inference(judged: Judged) -> dict[str, Any]:
    estimate = judged.estimate
    return {
        "speaks_of": judged.speaks_of,
        "difference": estimate.estimate,
        "se": estimate.se,
        "df": estimate.df,
        "ci": list(estimate.ci),
        "p": estimate.p,
        "adjusted_p": judged.adjusted_p,
        "tost_p": judged.tost_p,
        "adjusted_tost_p": judged.adjusted_tost_p,
        "simultaneous_ci": None if judged.simultaneous_ci is None else list(judged.simultaneous_ci),
        "equivalence_ci": list(judged.equivalence_ci),
        "finding": findings.finding(judged),
    }


def _published_row(judgement: Judgement) -> dict[str, Any]:
    reported, ours, gap = judgement.reported, judgement.judged, judgement.gap
    expected = judgement.prediction_interval
    return {
        "contrast": reported.contrast,
        "source": reported.source,
        "published": reported.difference,
        "published_n": reported.n,
        "published_sd": reported.sd,
        "difference": ours.estimate.estimate,
        "ci": list(ours.estimate.ci),
        "n": ours.estimate.n,
        "gap": gap.estimate,
        "gap_ci": list(gap.ci),
        "adjusted_p": judgement.adjusted_p,
        "adjusted_tost_p": judgement.adjusted_tost_p,
        "prediction_ci": None if expected is None else list(expected),
        "word": judgement.word,
        "sentence": published_sentence(judgement),
    }


def _share_rows(
    found: Search, questions: Sequence[Question], learned: Mapping[Arm, Learned], alpha: float
) -> list[dict[str, Any]]:
    """Differences in the share that learns, of the simple contrasts of which some training did not learn.

    Those of primary contrasts are one family. Those of secondary ones are explorations and are not adjusted. A/A tests
    have none: they ask nothing.
    """
    asked, compared = [], []
    for question in questions:
        if question.kind != "simple" or question.same_arm:
            continue
        a, b = sorted(question.weights, key=lambda arm: -question.weights[arm])
        if learned[a].count < learned[a].n or learned[b].count < learned[b].n:
            paired = found.scores[a].seeds == found.scores[b].seeds
            asked.append((question, a, b))
            compared.append(compare_shares(learned[a], learned[b], paired=paired))
    family = [k for k, (question, _, _) in enumerate(asked) if question.primary]
    adjusted = [of.p for of in compared]
    for k, p in zip(family, holm([adjusted[k] for k in family]) if family else [], strict=True):
        adjusted[k] = p
    rows = []
    for (question, a, b), of, p in zip(asked, compared, adjusted, strict=True):
        over = len(family) if question.primary else 1
        said = shares_sentence((str(a), str(b)), learned[a], learned[b], of, p, family=over, alpha=alpha)
        said = said if question.primary else f"{findings.EXPLORATION}{said}"
        rows.append({"contrast": question.name, **of._asdict(), "adjusted_p": p, "sentence": said})
    return rows
