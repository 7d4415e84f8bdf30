"""Differences that others published against those of this run, judged with three words.

    shown equal      ours - theirs lies within the margin: two one-sided t tests (Schuirmann 1987)
    not reproduced   otherwise, ours - theirs is shown to differ from 0: t test, which before adjustment says the same
                     as ours lying outside of the prediction interval around theirs
    compatible       neither: a wide interval is compatible with much, and shows nothing equal

The margin is that of the contrast. Where the source gives n and the standard deviation over trainings, its own error is
part of the judgement,

    se(ours - theirs)² = se(ours)² + sd² Σ weight² / n,

with Welch's and Satterthwaite's degrees of freedom, and theirs ± t · se is the prediction interval of Patil, Peng and
Leek: where a repeat of theirs, as precise as ours, should fall. Where the source does not give them, the published
number is taken as if it had no error, which makes both "shown equal" and "not reproduced" too easy, and the sentence
says so.

All judgements of a run are one family: Holm's method adjusts both p values over it. An interaction is judged as a
simple contrast is.

Reference:
  Patil, Peng & Leek 2016, "What should researchers expect when they replicate studies? A statistical view of
  replicability in psychological science", Perspectives on Psychological Science 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.stats

from experiments.analysis.bagging import Estimate, equivalence_p
from experiments.analysis.comparison import RESOLUTION_PP, Interval, holm
from experiments.analysis.family import Judged, interval
from experiments.analysis.findings import end_of_grid, interval_text
from experiments.config import Published
from experiments.config.errors import ConfigError, near
from experiments.formatting import number, p_text, signed

Word = Literal["shown equal", "compatible", "not reproduced"]


class Judgement(NamedTuple):
    """What became of a published difference."""

    reported: Published
    judged: Judged
    """Ours."""
    word: Word
    gap: Estimate
    """Ours - theirs, pp."""
    family: int
    """How many published differences of the run p values are adjusted over."""
    adjusted_p: float
    """That ours and theirs are equal."""
    adjusted_tost_p: float
    """That they are further apart than the margin."""
    prediction_interval: Interval | None
    """Where ours was to be expected, with probability 1 - alpha; not adjusted. None without sd."""


def judge_published(reported: Sequence[Published], judged: Sequence[Judged], *, alpha: float) -> list[Judgement]:
    """Judges all published differences of a run.

    Raises:
      ConfigError: a published difference of a contrast that the run does not have.
    """
    by_name = {j.contrast.name: j for j in judged}
    for r in reported:
        if r.contrast not in by_name:
            raise ConfigError(
                f"{r.source} is published for {r.contrast!r}, which is no contrast of the run; choose one of "
                f"{', '.join(map(repr, by_name))}{near(r.contrast, by_name)}"
            )
    if not reported:
        return []
    ours = [by_name[r.contrast] for r in reported]
    gaps = [_gap(r, j, alpha) for r, j in zip(reported, ours, strict=True)]
    p = holm([gap.p for gap in gaps])
    tost = holm([equivalence_p(gap, j.margin_pp) for gap, j in zip(gaps, ours, strict=True)])
    return [
        Judgement(
            r,
            j,
            "shown equal" if tost[k] < alpha else "not reproduced" if p[k] < alpha else "compatible",
            gaps[k],
            len(reported),
            p[k],
            tost[k],
            None if r.sd is None else _prediction_interval(r, gaps[k]),
        )
        for k, (r, j) in enumerate(zip(reported, ours, strict=True))
    ]


def published_sentence(judgement: Judgement) -> str:
    """The whole judgement, ready to be quoted."""
    reported, judged, gap = judgement.reported, judgement.judged, judgement.gap
    spread = ", its own error not known" if reported.sd is None else f", sd {number(reported.sd)}"
    expected = ""
    if judgement.prediction_interval is not None:
        low, high = judgement.prediction_interval
        expected = f", where theirs predicts [{number(low)}, {number(high)}]"
    theirs = f"published {signed(reported.difference)} pp ({reported.source}, n = {reported.n}{spread})"
    ours = f"ours {signed(judged.estimate.estimate)} pp, {interval_text(judged)}, n = {judged.estimate.n}"
    return (
        f"{reported.contrast}: {theirs}, {ours}{expected}: {judgement.word}: ours - theirs = {signed(gap.estimate)} pp"
        f"{_width(gap)}, {_reason(judgement)}{end_of_grid(judged)}"
    )


def _reason(judgement: Judgement) -> str:
    margin = f"±{judgement.judged.margin_pp:g} pp"
    over = f" after Holm over {judgement.family}" if judgement.family > 1 else ""
    p, tost = f"{p_text(judgement.adjusted_p)}{over}", f"TOST {p_text(judgement.adjusted_tost_p)}{over}"
    match judgement.word:
        case "shown equal":
            return f"within {margin} ({tost})"
        case "not reproduced":
            return f"not 0 ({p})"
        case "compatible":
            return f"neither shown to be within {margin} ({tost}) nor shown to differ from 0 ({p})"


def _width(gap: Estimate) -> str:
    return "" if gap.exact else f" [{number(gap.ci[0])}, {number(gap.ci[1])}]"


def _gap(reported: Published, judged: Judged, alpha: float) -> Estimate:
    """Ours - theirs, with the error of both."""
    ours, weights = judged.estimate, np.array(list(judged.contrast.weights.values()))
    difference = ours.estimate - reported.difference
    theirs = 0.0 if reported.sd is None else reported.sd**2 * float(weights @ weights) / reported.n
    variance = ours.se**2 + theirs
    if not variance:
        p = 1.0 if abs(difference) < RESOLUTION_PP else 2.0 ** (1 - ours.n)
        return ours._replace(estimate=difference, ci=(difference, difference), p=p)
    df = variance**2 / (ours.se**4 / ours.df + theirs**2 / (len(weights) * max(1, reported.n - 1)))
    se = float(np.sqrt(variance))
    p = float(2 * scipy.stats.t.sf(abs(difference) / se, df))
    gap = ours._replace(estimate=difference, se=se, df=df, p=p, exact=False)
    return gap._replace(ci=interval(gap, alpha))


def _prediction_interval(reported: Published, gap: Estimate) -> Interval:
    half = (gap.ci[1] - gap.ci[0]) / 2
    return reported.difference - half, reported.difference + half
