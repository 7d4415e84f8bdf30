"""What became of the verdicts of the former procedure, which docs/former_verdicts.json keeps.

A row of that file is a difference a - b in a context, or, where two verdicts were compared in words, the contrast that
now asks the question, with what had been said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from experiments.formatting import signed
from experiments.quoting import words
from experiments.quoting.runs import Runs, contrast_of, result_of
from experiments.quoting.tables import FOLDER, Link, markdown
from experiments.store.record import Run

Former = dict[str, Any]
"""folder, context, a, b, n, difference, ci, finding, verdict, and published, published_verdict where there is one; or
folder, contrast, verdict."""
WORDS = {"reproduced": "shown equal", "reproduced in sign only": "not reproduced", "not reproduced": "not reproduced"}
"""The word of today that claims what a former verdict about a published difference did."""


class Change(NamedTuple):
    """A former difference, the same one now, and what became of its verdict."""

    former: Former
    now: dict[str, Any]
    verdict: str
    """What became of it: stands, fell, says less, says more, changed."""
    published: str
    """What became of the word about the published difference; empty where there is none, or where it stands."""

    @property
    def became(self) -> str:
        return "; ".join(filter(None, (self.verdict, self.published)))

    @property
    def stands(self) -> bool:
        return self.became == "stands"


def counts(runs: Runs, link: Link, former: Sequence[Former]) -> str:
    """How many verdicts stand; those that do not, by name; and what had been concluded in words."""
    asked, in_words = ([row for row in former if ("contrast" in row) is kind] for kind in (False, True))
    found = [change for name, run in runs.items() for change in changes(run, _of(asked, name))]
    moved = [change for change in found if not change.stands]
    left = [row for row in asked if missing(runs[row["folder"]], row)]
    said = []
    if left:
        said.append(f"{len(left)} of {len(asked)} are asked no more: the runs leave an arm out.")
    if found:
        said.append(f"Of the {len(found)} that were asked again, {len(found) - len(moved)} stand.")
    if moved:
        said.append("These do not:")
    parts = [" ".join(said), *(["\n".join(_moved(change, link) for change in moved)] if moved else [])]
    if in_words:
        parts.append("Conclusions that had been drawn in words, and the contrasts that ask now:")
        parts.append("\n".join(_concluded(row, runs, link) for row in in_words))
    return "\n\n".join(parts)


def table(runs: Runs, link: Link, former: Sequence[Former]) -> str:
    """Every former difference against the same one now, run by run."""
    parts = []
    for name in dict.fromkeys(row["folder"] for row in former):
        run, rows = runs[name], [row for row in _of(former, name) if "contrast" not in row]
        cells = [[_name(c.former), _formerly(c.former), _now(run, c.now), c.became] for c in changes(run, rows)]
        left = [(row, arm) for row in rows if (arm := missing(run, row))]
        cells += [[_name(row), _formerly(row), f"not asked: the run has no arm {arm}", ""] for row, arm in left]
        title = f"### [{name}]({link(f'{FOLDER}/{name}/report.md')})"
        parts.append(f"{title}\n\n{markdown(['difference', 'formerly', 'now', 'the verdict'], cells)}")
    return "\n\n".join(parts)


def changes(run: Run, former: Sequence[Former]) -> Iterator[Change]:
    """What became of each of the former differences of a run, but for those of arms that it leaves out.

    Raises:
      ValueError: the run has both arms, and does not ask for their difference.
    """
    for row in former:
        if missing(run, row):
            continue
        arms = {f"{row['a']}/{row['context']}": 1.0, f"{row['b']}/{row['context']}": -1.0}
        now = next((c for c in result_of(run)["contrasts"] if c["weights"] == arms), None)
        if now is None:
            raise ValueError(f"{run.folder} does not ask {_name(row)!r}, which docs/former_verdicts.json has")
        before = _claims(row["finding"], row["difference"])
        by = {of["speaks_of"]: _became(before, _claims(of["finding"], of["difference"])) for of in now["intervals"]}
        said = "; ".join(f"for {about}: {word}" for about, word in by.items())
        yield Change(row, now, said if len(set(by.values())) > 1 else by[now["speaks_of"]], _published(row, run, now))


def missing(run: Run, row: Former) -> str:
    """The first arm of a former difference that the run leaves out; empty if it has both."""
    arms = {f"{arm['treatment']}/{arm['context']}" for arm in result_of(run)["arms"]}
    return next(
        (arm for arm in (f"{row['a']}/{row['context']}", f"{row['b']}/{row['context']}") if arm not in arms), ""
    )


def _claims(finding: str, difference: float) -> frozenset[str]:
    """What a finding claims; nothing where it is undecided."""
    side = "above 0" if difference > 0 else "below 0"
    claims = {
        "different": {side},
        "different_within_margin": {side, "within the margin"},
        "equivalent": {"within the margin"},
        "exactly_equal": {"within the margin", "equal"},
        "same_arm_agrees": {"covers 0"},
        "same_arm_differs": {"excludes 0"},
    }
    return frozenset(claims.get(finding, set()))


def _became(before: frozenset[str], now: frozenset[str]) -> str:
    """A word for two sets of claims."""
    if before == now:
        return "stands"
    if before < now:
        return "says more"
    if now < before:
        return "says less" if now else "fell"
    return "changed"


def _published(row: Former, run: Run, now: dict[str, Any]) -> str:
    if "published" not in row:
        return ""
    word = "; ".join(judged["word"] for judged in words.judged(run, now["name"])) or "not compared"
    return "" if WORDS[row["published_verdict"]] == word else f"published: {row['published_verdict']} → {word}"


def _of(former: Sequence[Former], name: str) -> list[Former]:
    return [row for row in former if row["folder"] == name]


def _name(row: Former) -> str:
    return f"{row['context']}: {row['a']} - {row['b']}"


def _formerly(row: Former) -> str:
    other = f"; published {signed(row['published'])}: {row['published_verdict']}" if "published" in row else ""
    return f"{signed(row['difference'])} {words.interval(row)}, n = {row['n']}: {row['verdict']}{other}"


def _now(run: Run, now: dict[str, Any]) -> str:
    other = "".join(f"; published: {row['word']}" for row in words.judged(run, now["name"]))
    return f"{words.difference(now)}, n = {now['n']}: {words.verdict(now)}{other}"


def _moved(change: Change, link: Link) -> str:
    row = change.former
    formerly, now = row["verdict"], words.verdict(change.now)
    return f"* {_report(row, link)}, {_name(row)}: **{change.became}**. Formerly: {formerly}. Now: {now}."


def _concluded(row: Former, runs: Runs, link: Link) -> str:
    contrast = contrast_of(runs[row["folder"]], row["contrast"])
    now = f"{words.difference_in_words(contrast)}: {words.verdict(contrast)}"
    return f"* {_report(row, link)}, {row['contrast']}: formerly {row['verdict']}. Now: {now}."


def _report(row: Former, link: Link) -> str:
    return f"[{row['folder']}]({link(FOLDER + '/' + row['folder'] + '/report.md')})"
