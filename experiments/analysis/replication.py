"""Judges whether this run reproduces differences that others published.

A published difference d is judged in sign and in size, by our interval and by the margin m that was declared before the
run. The rule ignores the error of the published number, which is rarely known.

|d| > m, a difference was reported:

    sign    reproduced       the interval lies on the side of d, without 0
            not reproduced   it lies on the other side, 0 at most at its end
            undecided        otherwise
    size    reproduced       the interval reaches to within m of d, and the sign is reproduced
            not reproduced   it does not reach to within m of d
            undecided        otherwise
    verdict not reproduced   ours is equivalent to 0 within ±m (TOST), whatever its sign; or the interval excludes
                             every difference of the sign of d that is beyond m
            as the sign      otherwise; "reproduced in sign only" where the size is not reproduced

|d| <= m, no difference was reported: there is no sign to reproduce.

    verdict reproduced       ours is equivalent to 0 within ±m (TOST)
            not reproduced   the interval lies beyond ±m altogether
            undecided        otherwise
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from experiments.analysis.comparison import Comparison
from experiments.analysis.verdict import interval_text
from experiments.config import Published
from experiments.formatting import number, p_text, signed

Answer = Literal["reproduced", "not reproduced", "undecided"]
Verdict = Literal["reproduced", "reproduced in sign only", "not reproduced", "undecided"]


class Judgement(NamedTuple):
    """Whether this run reproduces a published difference, and why."""

    verdict: Verdict
    sign: Answer | None
    """None if the source reported no difference, |d| <= m."""
    size: Answer | None
    reason: str


def judge(difference: float, c: Comparison, *, margin_pp: float, alpha: float) -> Judgement:
    """Applies the rule above to a published difference, in pp."""
    equivalent = c.tost_p < alpha
    tost, margin = f"TOST {p_text(c.tost_p)}", f"±{margin_pp:g} pp"
    low, high = c.ci
    if abs(difference) <= margin_pp:
        if equivalent:
            return Judgement("reproduced", None, None, f"ours, too, is equivalent to 0 within {margin} ({tost})")
        if low > margin_pp or high < -margin_pp:
            return Judgement("not reproduced", None, None, f"our interval lies beyond {margin} altogether")
        return Judgement("undecided", None, None, f"our interval reaches beyond {margin} and into it")

    near, far = (low, high) if difference > 0 else (-high, -low)  # mirrored if d < 0, so that d counts as positive
    gap = max(near - abs(difference), abs(difference) - far, 0.0)
    sized = gap <= margin_pp
    than = "smaller" if far < abs(difference) else "larger"
    apart = f"ours is {than} than the published by {number(gap)} pp at least"
    sign: Answer = "reproduced" if near > 0 else "not reproduced" if far <= 0 else "undecided"
    size: Answer = "not reproduced" if not sized else "reproduced" if near > 0 else "undecided"
    if equivalent:
        reason = f"ours is equivalent to 0 within {margin} ({tost}), the published difference is beyond that"
        return Judgement("not reproduced", sign, size, reason)
    if sign == "not reproduced":
        return Judgement("not reproduced", sign, size, "our interval lies on the other side of 0")
    if sign == "undecided" and far < margin_pp:
        reason = f"our interval excludes a difference of this sign beyond {margin_pp:g} pp; {apart}"
        return Judgement("not reproduced", sign, size, reason)
    if sign == "undecided":
        reason = f"our interval covers 0, without equivalence within {margin} ({tost})"
        return Judgement("undecided", sign, size, reason if sized else f"{reason}; {apart}")
    if not sized:
        return Judgement("reproduced in sign only", sign, size, f"same sign; {apart}")
    reason = f"our interval lies on the same side of 0 and reaches to within {margin_pp:g} pp of the published"
    return Judgement("reproduced", sign, size, reason)


def row(published: Published, c: Comparison, *, margin_pp: float, alpha: float) -> dict[str, Any]:
    """One entry of "published" in result.json."""
    judged = judge(published.difference, c, margin_pp=margin_pp, alpha=alpha)
    return {
        "context": published.context,
        "a": published.a,
        "b": published.b,
        "published": published.difference,
        "published_n": published.n,
        "source": published.source,
        "difference": c.difference,
        "ci": list(c.ci),
        "paired": c.paired,
        "no_spread": c.no_spread,
        "n": c.n,
        "tost_p": c.tost_p,
        **judged._asdict(),
        "sentence": (
            f"{published.context}: {published.a} - {published.b}: published {signed(published.difference)} pp "
            f"({published.source}, n = {published.n}), ours {signed(c.difference)} pp, {interval_text(c, alpha)}, "
            f"n = {c.n}: {judged.verdict}: {judged.reason}"
        ),
    }
