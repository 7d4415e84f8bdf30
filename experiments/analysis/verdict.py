"""Says in words what a comparison shows. A large p alone never counts as evidence of no difference."""

from __future__ import annotations

from typing import Literal, NamedTuple

from experiments.analysis.comparison import RESOLUTION_PP, Comparison
from experiments.formatting import number, p_text, signed

Finding = Literal[
    "different", "different_within_margin", "equivalent", "inconclusive", "same_arm_agrees", "same_arm_differs"
]


class Contrast(NamedTuple):
    """A named comparison with its p value adjusted over its family of contexts."""

    context: str
    a: str
    b: str
    comparison: Comparison
    holm_p: float
    """`comparison.p` after Holm's (1979) correction over the family."""
    family: int
    """The number of contexts in which the same pair (a, b) is compared."""
    margin_pp: float
    alpha: float
    same_arm: bool = False
    """Whether this is an A/A test: a and b differ only in their seeds, so any difference found is false."""


def finding(contrast: Contrast) -> Finding:
    """The conclusion from the t test and TOST together; for an A/A test, from whether the interval covers 0."""
    if contrast.same_arm:
        low, high = contrast.comparison.ci
        return "same_arm_agrees" if low <= RESOLUTION_PP and high >= -RESOLUTION_PP else "same_arm_differs"
    equivalent = contrast.comparison.tost_p < contrast.alpha
    if contrast.holm_p < contrast.alpha:
        return "different_within_margin" if equivalent else "different"
    return "equivalent" if equivalent else "inconclusive"


def verdict(contrast: Contrast) -> str:
    """`finding` in words."""
    c, margin = contrast.comparison, f"±{contrast.margin_pp:g} pp"
    better = f"{contrast.a if c.difference > 0 else contrast.b} is better by {abs(c.difference):.2f} pp"
    tost = f"TOST {p_text(c.tost_p)}"
    same = f"the same arm twice, with disjoint seeds: difference {signed(c.difference)} pp, interval covers 0"
    match finding(contrast):
        case "different":
            return better
        case "different_within_margin":
            return f"{better}, detected yet within the margin of {margin} ({tost})"
        case "equivalent":
            return f"equivalent within {margin} ({tost})"
        case "inconclusive":
            return f"no detectable difference; equivalence at {margin} not shown ({tost})"
        case "same_arm_agrees":
            return f"{same}: yes"
        case "same_arm_differs":
            return f"{same}: no"


def sentence(contrast: Contrast) -> str:
    """The whole result of one comparison, ready to be quoted."""
    c = contrast.comparison
    adjusted = f" after Holm over {contrast.family}" if contrast.family > 1 else ""
    return (
        f"{contrast.context}: {contrast.a} - {contrast.b} = {signed(c.difference)} pp, "
        f"{interval_text(c, contrast.alpha)}, {_test(c)} {p_text(contrast.holm_p)}{adjusted}, "
        f"n = {c.n}{'' if c.paired else ' an arm'}: {verdict(contrast)}"
    )


def interval_text(c: Comparison, alpha: float) -> str:
    """`95% CI [0.70, 2.46]`, or why there is no interval."""
    if c.no_spread:
        return f"all {c.n} differences equal, so no interval" if c.paired else "both arms constant, so no interval"
    how = "" if c.paired else " (Welch: other seeds, so not paired)"
    return f"{100 * (1 - alpha):g}% CI [{number(c.ci[0])}, {number(c.ci[1])}]{how}"


def _test(c: Comparison) -> str:
    if c.no_spread:
        return "sign-flip" if c.paired else "permutation"
    return "paired" if c.paired else "unpaired"
