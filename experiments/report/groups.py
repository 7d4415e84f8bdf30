"""The contrasts of a run in the order in which a report shows them, and what was found about each in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from experiments.config import Arm, Config
from experiments.formatting import join, number, signed

Row = Mapping[str, Any]
"""A ContrastRow of result.json."""
Kind = Literal["declared", "pair", "exploration", "same_arm"]


class Group(NamedTuple):
    """Contrasts that stand under one heading."""

    title: str
    kind: Kind
    rows: list[Row]
    labels: list[str]
    """What tells the rows of this group apart: their contexts below a pair of treatments, elsewhere their names."""


def grouped(config: Config, result: Mapping[str, Any]) -> list[Group]:
    """Primary contrasts first: those declared, then pair by pair; then explorations, then A/A tests."""
    declared = {contrast.name for contrast in config.analysis.contrasts}
    found: dict[tuple[Kind, str], list[tuple[Row, str]]] = {}
    for row in result["contrasts"]:
        a, b = (" and ".join(dict.fromkeys(arm.treatment for arm in arms)) for arms in sides(config, row))
        kind: Kind = "pair"
        title, label = f"{a} - {b}", _context(config, row) or row["name"]
        if row["same_arm"]:
            kind, title = "same_arm", f"A/A test: {title}"
        elif not row["primary"]:
            kind, title, label = "exploration", "Explorations", row["name"]
        elif row["name"] in declared or row["kind"] != "simple":
            kind, title, label = "declared", "Declared contrasts", row["name"]
        found.setdefault((kind, title), []).append((row, label))
    order: tuple[Kind, ...] = ("declared", "pair", "exploration", "same_arm")
    return [
        Group(title, kind, [row for row, _ in rows], [label for _, label in rows])
        for wanted in order
        for (kind, title), rows in found.items()
        if kind == wanted
    ]


def primary(result: Mapping[str, Any]) -> list[Row]:
    """The family over which p values are adjusted."""
    return [row for row in result["contrasts"] if row["primary"] and not row["same_arm"]]


def sides(config: Config, row: Row) -> tuple[list[Arm], list[Arm]]:
    """The arms with positive and those with negative weights."""
    arms = {str(arm): arm for arm in config.arms}
    up, down = ([arms[name] for name, w in row["weights"].items() if w * sign > 0] for sign in (1, -1))
    return up, down


def better(config: Config, row: Row) -> str | None:
    """The treatment that is shown to be better; None for other findings, explorations, and contrasts of contexts."""
    shown = row["primary"] and row["finding"].startswith("different")
    if not shown or row["kind"] != "simple" or not _context(config, row):
        return None
    up, down = sides(config, row)
    return (up if row["difference"] > 0 else down)[0].treatment


def in_short(config: Config, row: Row) -> str:
    """What was found, in a few words: `after is better`, `equivalent within ±1 pp`, `undecided`.

    Where the interval for new seeds alone shows something else than that for new data, too, both are said.
    """
    by_seeds, said = (_said(config, row, finding) for finding in (row["intervals"][0]["finding"], row["finding"]))
    if by_seeds != said:
        said = f"new seeds: {by_seeds}; new data: {said}"
    if row["at_end"] and not row["same_arm"]:
        held = row["finding"] == "worse_at_end_of_grid" and said == "undecided"  # a difference, but for these arms
        said += f"{': ' if held else ', with '}{_at_end(config, row)}"
    if row["caution"]:
        said += "; not all trainings learned"
    return said if row["primary"] or row["same_arm"] else f"exploration: {said}"


def decided(finding: str) -> bool:
    """Whether a finding says anything: a difference, equivalence, or that an A/A test covers 0."""
    return finding not in ("inconclusive", "worse_at_end_of_grid", "same_arm_differs")


def confidence(result: Mapping[str, Any], alphas: int = 1) -> str:
    """The confidence of the run's intervals, `95%`; with `alphas=2` that of the intervals of equivalence, `90%`."""
    return f"{100 * (1 - alphas * result['look']['alpha']):.4g}%"


def lead(row: Row) -> str:
    """The sentence of a contrast without its verdict, which ends it."""
    return row["sentence"].removesuffix(row["verdict"])


def estimate(row: Row) -> str:
    """`+0.63 [0.20, 1.06]`, in pp."""
    return signed(row["difference"]) + ("" if row["exact"] else f" {interval(row['ci'])}")


def interval(ci: list[float], digits: int = 2) -> str:
    return f"[{number(ci[0], digits)}, {number(ci[1], digits)}]"


def _said(config: Config, row: Row, finding: str) -> str:
    margin, interaction = f"±{row['margin_pp']:g} pp", row["kind"] == "interaction"
    says = next(q.says for q in config.contrasts if q.name == row["name"])[0 if row["difference"] > 0 else 1]
    return {
        "different": says,
        "different_within_margin": f"{says}, but within {margin}",
        "equivalent": f"no interaction beyond {margin}" if interaction else f"equivalent within {margin}",
        "inconclusive": "undecided",
        "exactly_equal": "exactly equal",
        "worse_at_end_of_grid": "undecided",
        "same_arm_agrees": "covers 0, as it should",
        "same_arm_differs": "does not cover 0, but should",
    }[finding]


def _at_end(config: Config, row: Row) -> str:
    arms = {str(arm): arm for arm in config.arms}
    sign = 1 if row["difference"] > 0 else -1
    names = [end["arm"] for end in row["at_end"]]
    if row["finding"] == "worse_at_end_of_grid":  # those that may be better than shown, so that it may not hold
        names = [name for name in names if row["weights"][name] * sign < 0]
    if _context(config, row):
        names = [arms[name].treatment for name in names]
    return f"{join(names)} at the end of {'its grid' if len(names) == 1 else 'their grids'}"


def _context(config: Config, row: Row) -> str | None:
    """The context of a contrast within one; None if it has arms of several."""
    contexts = {arm.context for arms in sides(config, row) for arm in arms}
    return contexts.pop() if len(contexts) == 1 else None
