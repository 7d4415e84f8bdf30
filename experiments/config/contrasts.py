"""Which questions a run asks of its arms: contrasts, by themselves for each pair of treatments, or declared by weights.

A contrast is Σ weight · arm, with weights that sum to 0, in percentage points (pp). There are three kinds:

    simple       arm - arm                            after - before in relu
    mean         an average of such differences       after - before, averaged over relu and tanh
    interaction  a difference of two differences      (after - before in relu) - (after - before in tanh)

"Is the difference larger here than there?" is an interaction. Two verdicts, one for each context, do not answer it: one
p below 0.05 and another above it say nothing about the difference between the two.

Positive weights sum to 1 in a simple contrast and in a mean, and to 2 in an interaction, so that a contrast is always
the pp that its name says. No contrast has p values here; `experiments.analysis.family` judges them together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

from experiments.config.analysis import Contrast
from experiments.config.errors import ConfigError, near
from experiments.config.setup import Arm
from experiments.formatting import join

Kind = Literal["simple", "interaction", "mean"]
POSITIVE_SUM: dict[Kind, float] = {"simple": 1.0, "mean": 1.0, "interaction": 2.0}
TOLERANCE = 1e-9  # of sums of weights: thirds are not exact


class Question(NamedTuple):
    """A contrast of arms that the run trains."""

    name: str
    """Such as "relu: after - before"."""
    kind: Kind
    """A difference of two arms, an average of such differences, or a difference of two."""
    weights: Mapping[Arm, float]
    """They sum to 0; the contrast is the sum of weight times accuracy, in percentage points."""
    says: tuple[str, str]
    """What a positive and what a negative value says: ("after is better", "before is better")."""
    primary: bool = True
    """Whether it belongs to the family over which p values are adjusted."""
    margin_pp: float | None = None
    """None for the margin of the run."""
    same_arm: bool = False
    """An A/A test: both arms are set alike and differ in their seeds alone, so any difference found is a false one."""


def questions(
    arms: Sequence[Arm],
    pairs: Iterable[tuple[str, str]],
    declared: Iterable[Contrast] = (),
    *,
    same_arms: Collection[tuple[str, str]] = (),
) -> list[Question]:
    """All contrasts of a run: those declared, then the simple ones of each pair, then the interactions of each pair.

    A declared contrast takes the place of one that would come by itself and asks the same (with its sign turned, too):
    its name, its margin, and whether it is primary, hold. Interactions that come by themselves are secondary: there are
    many, and a family of all of them would hide the differences that the run was made for.

    Args:
      arms: what the run trains.
      pairs: treatments (a, b), compared as a - b in each context that has both.
      declared: further contrasts.
      same_arms: pairs of treatments that are set alike and differ in their seeds alone. Contrasts of such a pair are
        A/A tests, declared or not, and have no interactions.

    Raises:
      ConfigError: a contrast that cannot be read; the message says what to write.
    """
    alike = {frozenset(pair) for pair in same_arms}
    first = [_read(d, arms, alike) for d in declared]
    _refuse_duplicates(first)
    by_themselves = _of_pairs(arms, dict.fromkeys(pairs), alike)
    asked = {key for contrast in first for key in _both_ways(contrast)}
    rest = [contrast for contrast in by_themselves if not asked & _both_ways(contrast)]
    for contrast in rest:
        if contrast.name in {c.name for c in first}:
            raise ConfigError(
                f"a declared contrast has the name {contrast.name!r}, which another contrast of the run has by itself; "
                "choose another name"
            )
    return first + rest


def _of_pairs(
    arms: Sequence[Arm], pairs: Iterable[tuple[str, str]], same_arms: Collection[frozenset[str]]
) -> list[Question]:
    simple, interactions = [], []
    for a, b in pairs:
        of_a, of_b = ([arm.context for arm in arms if arm.treatment == treatment] for treatment in (a, b))
        shared = [context for context in of_a if context in of_b]
        same = frozenset((a, b)) in same_arms
        for context in shared:
            weights = {Arm(a, context): 1.0, Arm(b, context): -1.0}
            simple.append(Question(f"{context}: {a} - {b}", "simple", weights, _says_simple(weights), same_arm=same))
        for one, other in combinations([] if same else shared, 2):
            weights = {Arm(a, one): 1.0, Arm(b, one): -1.0, Arm(a, other): -1.0, Arm(b, other): 1.0}
            says = (
                f"{a} - {b} is larger in {one} than in {other}",
                f"{a} - {b} is larger in {other} than in {one}",
            )
            name = f"({a} - {b} in {one}) - (the same in {other})"
            interactions.append(Question(name, "interaction", weights, says, primary=False))
    return simple + interactions


def _read(declared: Contrast, arms: Sequence[Arm], same_arms: Collection[frozenset[str]]) -> Question:
    name, by_name = declared.name, {str(arm): arm for arm in arms}
    about = f"contrast {name!r}"
    weights_of = dict(declared.weights)
    for key in weights_of:
        if key not in by_name:
            known = list(by_name)
            raise ConfigError(
                f"{about} has a weight for {key!r}, which is no arm of the run; write treatment/context, one of "
                f"{', '.join(known)}{near(key, known)}"
            )
    weights = {by_name[key]: float(weight) for key, weight in weights_of.items() if weight}
    total = sum(weights.values())
    if not weights:
        raise ConfigError(
            f'{about} has no weight that is not 0; write, for example, {{"{next(iter(by_name))}": 1, ...}}'
        )
    if not abs(total) <= TOLERANCE:  # NaN, too
        raise ConfigError(
            f"the weights of {about} sum to {total:g}; they must sum to 0, since a contrast compares arms: what is "
            "added for some is taken off for others, such as 1 and -1"
        )
    if declared.margin_pp is not None and not declared.margin_pp > 0:
        raise ConfigError(f"{about} has margin_pp {declared.margin_pp:g}; choose one above 0, or None for the run's")
    kind = _kind(about, weights)
    treatments, contexts = ({getattr(arm, of) for arm in weights} for of in ("treatment", "context"))
    same = kind == "simple" and len(contexts) == 1 and frozenset(treatments) in same_arms
    return Question(name, kind, weights, _says(name, kind, weights), declared.primary, declared.margin_pp, same)


def _kind(about: str, weights: Mapping[Arm, float]) -> Kind:
    positive = sum(weight for weight in weights.values() if weight > 0)
    if abs(positive - POSITIVE_SUM["interaction"]) <= TOLERANCE and len(weights) > 2:
        return "interaction"
    if abs(positive - POSITIVE_SUM["mean"]) <= TOLERANCE:
        return "simple" if len(weights) == 2 else "mean"
    raise ConfigError(
        f"the positive weights of {about} sum to {positive:g}; they must sum to 1 where averages of arms are compared "
        "(1 and -1; for two contexts 0.5, 0.5, -0.5, -0.5), and to 2 in a difference of differences (1, -1, -1, 1): "
        "otherwise its pp and its margin are not those of a difference of accuracies"
    )


def _says(name: str, kind: Kind, weights: Mapping[Arm, float]) -> tuple[str, str]:
    if kind == "simple":
        return _says_simple(weights)
    up, down = ({arm.treatment for arm, w in weights.items() if w * sign > 0} for sign in (1, -1))
    by_context: dict[str, float] = {}
    for arm, w in weights.items():
        by_context[arm.context] = by_context.get(arm.context, 0.0) + w
    within = all(abs(w) <= TOLERANCE for w in by_context.values())  # otherwise contexts are compared, too
    if kind == "mean" and within and len(up) == len(down) == 1 and up != down:
        over = f"on average over {join(list(dict.fromkeys(arm.context for arm in weights)))}"
        return f"{up.pop()} is better {over}", f"{down.pop()} is better {over}"
    return f"{name} is above 0", f"{name} is below 0"


def _says_simple(weights: Mapping[Arm, float]) -> tuple[str, str]:
    """Names an arm by what sets it apart from the other."""
    a, b = sorted(weights, key=lambda arm: -weights[arm])
    if a.context == b.context:
        return f"{a.treatment} is better", f"{b.treatment} is better"
    return f"{a} is better", f"{b} is better"


def _both_ways(contrast: Question) -> set[frozenset[tuple[Arm, float]]]:
    """The weights, and the same with their signs turned."""
    return {frozenset((arm, sign * round(w, 9)) for arm, w in contrast.weights.items()) for sign in (1, -1)}


def _refuse_duplicates(declared: Sequence[Question]) -> None:
    for one, other in combinations(declared, 2):
        if one.name == other.name:
            raise ConfigError(f"two contrasts have the name {one.name!r}; use each name once")
        if _both_ways(one) & _both_ways(other):
            raise ConfigError(
                f"contrasts {one.name!r} and {other.name!r} have the same weights, but for their sign, so they ask the "
                "same; keep one of them"
            )
