"""What became of the verdicts of the former procedure, which docs/former_verdicts.json keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.formatting import signed
from experiments.quoting import words
from experiments.quoting.runs import Runs, result_of
from experiments.quoting.tables import FOLDER, Link, markdown
from experiments.store.record import Run

Former = dict[str, Any]
"""A former contrast: folder, context, a, b, n, difference, ci, finding, verdict, and what was said of a published one."""
WORDS = {"reproduced": "shown equal", "reproduced in sign only": "not reproduced", "not reproduced": "not reproduced"}
"""The word of today that claims what a former verdict about a published difference did."""


class Change(NamedTuple):
    """A former contrast, the same one now, and what became of its verdict."""

    former: Former
    now: dict[str, Any]
    became: str
    published: str
    """What became of the word about the published difference; empty where there is none, or where it stands."""

    @property
    def stands(self) -> bool:
        return self.became == "stands" and not self.published


def counts(runs: Runs, link: Link, former: Sequence[Former]) -> str:
    """How many verdicts stand, and those that do not, by name."""
    found = [change for name, run in runs.items() if run for change in changes(run, _of(former, name))]
    moved = [change for change in found if not change.stands]
    said = []
    if awaited := len(former) - len(found):
        said.append(f"{awaited} of {len(former)} verdicts are awaited: their runs have not been made again yet.")
    if found:
        said.append(f"Of the {len(found)} that were asked again, {len(found) - len(moved)} stand.")
    if moved:
        said.append("These do not:")
    lines = [_named(change, link) for change in moved]
    return "\n".join([" ".join(said), *([""] if lines else []), *lines])


def table(runs: Runs, link: Link, former: Sequence[Former]) -> str:
    """Every former contrast against the same one now, run by run."""
    parts = []
    for name in dict.fromkeys(row["folder"] for row in former):
        run, rows = runs.get(name), _of(former, name)
        if run is None:
            cells = [[_contrast(row), _formerly(row), "awaited", ""] for row in rows]
        else:
            cells = [
                [_contrast(c.former), _formerly(c.former), _now(run, c.now), "; ".join(filter(None, c[2:]))]
                for c in changes(run, rows)
            ]
        title = f"### [{name}]({link(f'{FOLDER}/{name}/report.md')})"
        parts.append(f"{title}\n\n{markdown(['contrast', 'formerly', 'now', 'the verdict'], cells)}")
    return "\n\n".join(parts)


def changes(run: Run, former: Sequence[Former]) -> list[Change]:
    """What became of each of the former contrasts of a run.

    Raises:
      ValueError: the run does not ask one of them any more.
    """
    found = []
    for row in former:
        arms = {f"{row['a']}/{row['context']}": 1.0, f"{row['b']}/{row['context']}": -1.0}
        now = [contrast for contrast in result_of(run)["contrasts"] if contrast["weights"] == arms]
        if not now:
            raise ValueError(f"{run.folder} does not ask {_contrast(row)!r}, which docs/former_verdicts.json has")
        before = _claims(row["finding"], row["difference"])
        by = {of["speaks_of"]: _became(before, _claims(of["finding"], of["difference"])) for of in now[0]["intervals"]}
        became = set(by.values())
        said = became.pop() if len(became) == 1 else "; ".join(f"for {about}: {word}" for about, word in by.items())
        found.append(Change(row, now[0], said, _published(row, run, now[0])))
    return found


def _of(former: Sequence[Former], name: str) -> list[Former]:
    return [row for row in former if row["folder"] == name]


def _claims(finding: str, difference: float) -> frozenset[str]:
    """What a finding claims; nothing where it is undecided."""
    side = "above 0" if difference > 0 else "below 0"
    return frozenset(
        {
            "different": {side},
            "different_within_margin": {side, "within the margin"},
            "equivalent": {"within the margin"},
            "exactly_equal": {"within the margin", "equal"},
            "same_arm_agrees": {"covers 0"},
            "same_arm_differs": {"excludes 0"},
        }.get(finding, set())
    )


def _became(before: frozenset[str], now: frozenset[str]) -> str:
    """A word for two sets of claims."""
    if before == now:
        return "stands"
    if before < now:
        return "says more"
    if now < before:
        return "fell" if not now else "says less"
    return "changed"


def _published(row: Former, run: Run, now: dict[str, Any]) -> str:
    if "published" not in row:
        return ""
    word = "; ".join(judged["word"] for judged in words.judged(run, now["name"])) or "not compared"
    return "" if WORDS[row["published_verdict"]] == word else f"published: {row['published_verdict']} → {word}"


def _contrast(row: Former) -> str:
    return f"{row['context']}: {row['a']} - {row['b']}"


def _formerly(row: Former) -> str:
    other = f"; published {signed(row['published'])}: {row['published_verdict']}" if "published" in row else ""
    return f"{signed(row['difference'])} {words.interval(row)}, n = {row['n']}: {row['verdict']}{other}"


def _now(run: Run, now: dict[str, Any]) -> str:
    other = "".join(f"; published: {row['word']}" for row in words.judged(run, now["name"]))
    return f"{words.difference(now)}, n = {now['n']}: {words.verdict(now)}{other}"


def _named(change: Change, link: Link) -> str:
    row, said = change.former, "; ".join(filter(None, (change.became, change.published)))
    report = link(f"{FOLDER}/{row['folder']}/report.md")
    formerly, now = row["verdict"], words.verdict(change.now)
    return f"* [{row['folder']}]({report}), {_contrast(row)}: {said}. Formerly: {formerly}. Now: {now}."
