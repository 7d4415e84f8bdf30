"""What may be said about a contrast, in words.

An absent difference is never concluded from a large p alone, and no arm is called better while the worse one sits at an
end of its grid: its best setting may lie beyond, and there it may be the better one.
"""

from __future__ import annotations

from typing import Literal

from experiments.analysis.comparison import RESOLUTION_PP, Interval
from experiments.analysis.family import Judged
from experiments.config import Arm
from experiments.formatting import join, number, p_text, signed

Finding = Literal[
    "different",
    "different_within_margin",
    "equivalent",
    "inconclusive",
    "exactly_equal",
    "worse_at_end_of_grid",
    "same_arm_agrees",
    "same_arm_differs",
]

EXPLORATION = "exploration: "
UNDECIDED: frozenset[Finding] = frozenset({"inconclusive", "worse_at_end_of_grid"})
"""Findings that show nothing."""


def finding(judged: Judged) -> Finding:
    """What the two tests say together, after adjustment; of an A/A test, whether the interval covers 0.

    A difference is not found where an arm at the end of its grid would, if it were better than shown, make it smaller.
    """
    estimate = judged.estimate
    if judged.contrast.same_arm:
        low, high = estimate.ci
        return "same_arm_agrees" if low <= RESOLUTION_PP and high >= -RESOLUTION_PP else "same_arm_differs"
    if estimate.exact and abs(estimate.estimate) < RESOLUTION_PP:
        return "exactly_equal"
    equivalent = judged.adjusted_tost_p < judged.alpha
    if judged.adjusted_p < judged.alpha:
        if _underrated(judged):
            return "worse_at_end_of_grid"
        return "different_within_margin" if equivalent else "different"
    return "equivalent" if equivalent else "inconclusive"


def verdict(judged: Judged) -> str:
    """`finding` in words; a secondary contrast is said to be an exploration."""
    estimate, margin = judged.estimate, f"±{judged.margin_pp:g} pp"
    interaction = judged.contrast.kind == "interaction"
    what = "interaction" if interaction else "difference"
    says = f"{_says(judged)} by {number(abs(estimate.estimate))} pp"
    tost = f"TOST {p_text(judged.adjusted_tost_p)}{' after Holm' if judged.family > 1 else ''}"
    match finding(judged):
        case "different":
            said = says
        case "different_within_margin":
            said = f"{says}, detected yet within the margin of {margin} ({tost})"
        case "equivalent":
            said = f"no interaction beyond {margin} ({tost})" if interaction else f"equivalent within {margin} ({tost})"
        case "inconclusive" if estimate.exact:
            said = f"{says} with every seed, but {estimate.n} seeds are too few to show it"
        case "inconclusive":
            said = f"no detectable {what}; equivalence at {margin} not shown ({tost})"
        case "exactly_equal":
            said = f"no {what} at all: neither seed nor bag makes one"
        case "worse_at_end_of_grid":
            return _explored(
                judged, f"undecided: {says} at the settings tried, but {_at_end(judged, _underrated(judged))}"
            )
        case "same_arm_agrees" | "same_arm_differs" as found:
            covers = "covers 0, as it should" if found == "same_arm_agrees" else "does not cover 0, but should"
            return f"the same arm twice, with disjoint seeds: its interval {covers}"
    return _explored(judged, said + end_of_grid(judged))


def verdicts(widest: Judged, by_seeds: Judged) -> str:
    """The verdict that the widest interval allows; where that for new seeds shows something else, both."""
    found = {finding(widest), finding(by_seeds)}
    if len(found) == 1 or found <= UNDECIDED:
        return verdict(widest)
    both = [f"for {j.speaks_of}: {verdict(j).removeprefix(EXPLORATION)}" for j in (by_seeds, widest)]
    return _explored(widest, "; ".join(both))


def sentence(widest: Judged, by_seeds: Judged | None = None) -> str:
    """The whole result of a contrast, ready to be quoted.

    Args:
      widest: by the widest interval that the run has.
      by_seeds: by that for new seeds, if it is another one.
    """
    by_seeds = by_seeds or widest
    estimate, contrast = widest.estimate, widest.contrast
    test = "sign-flip" if estimate.exact else "t test"
    adjusted = f" after Holm over {widest.family}" if widest.family > 1 else ""
    if not (contrast.primary or contrast.same_arm):
        adjusted = " (not adjusted)"
    rests = ""
    if finding(widest) in ("equivalent", "different_within_margin") and not estimate.exact:
        rests = f"; {_interval(widest.equivalence_ci, 2 * widest.alpha)}"
    return (
        f"{contrast.name} = {signed(estimate.estimate)} pp, {interval_text(widest, by_seeds)}; {test} "
        f"{p_text(widest.adjusted_p)}{adjusted}{rests}; n = {estimate.n}: {verdicts(widest, by_seeds)}"
    )


def interval_text(widest: Judged, by_seeds: Judged | None = None) -> str:
    """`95% CI [0.70, 2.46] for new seeds, [0.51, 2.65] for new data, too`, or that there is none."""
    if widest.estimate.exact:
        return "moved by neither seed nor bag, so no interval"
    text = f"{_interval(widest.estimate.ci, widest.alpha)} for {widest.speaks_of}"
    if by_seeds is None or by_seeds is widest:
        return text
    if by_seeds.estimate.exact:
        return f"moved by neither seed nor bag, {text}"
    wide = f"[{number(widest.estimate.ci[0])}, {number(widest.estimate.ci[1])}] for {widest.speaks_of}"
    return f"{_interval(by_seeds.estimate.ci, by_seeds.alpha)} for {by_seeds.speaks_of}, {wide}"


def end_of_grid(judged: Judged) -> str:
    """A clause about the arms that sit at an end of their grid; empty where none does."""
    arms = tuple(arm for arm, _ in judged.at_end)
    return f"; {_at_end(judged, arms)}" if arms else ""


def _interval(ci: Interval, alpha: float) -> str:
    return f"{100 * (1 - alpha):g}% CI [{number(ci[0])}, {number(ci[1])}]"


def _says(judged: Judged) -> str:
    return judged.contrast.says[0 if judged.estimate.estimate > 0 else 1]


def _underrated(judged: Judged) -> tuple[Arm, ...]:
    """Arms at an end of their grid that, if they were better than shown, would make the difference smaller."""
    sign = 1 if judged.estimate.estimate > 0 else -1
    return tuple(arm for arm, _ in judged.at_end if judged.contrast.weights[arm] * sign < 0)


def _at_end(judged: Judged, arms: tuple[Arm, ...]) -> str:
    """Which arms of the contrast may be better than shown; how many of their bags say so is in the warnings."""
    weights = judged.contrast.weights
    one_context = len({arm.context for arm in weights}) == 1
    names = join([arm.treatment if one_context else str(arm) for arm in arms])
    if len(arms) == len(weights):
        names = f"all {len(arms)} arms" if len(arms) > 2 else f"both {names}"
    if len(arms) == 1:
        return f"{names} sits at an end of its grid and may be better than shown"
    return f"{names} sit at an end of their grids and may be better than shown"


def _explored(judged: Judged, said: str) -> str:
    return said if judged.contrast.primary else f"{EXPLORATION}{said}"
