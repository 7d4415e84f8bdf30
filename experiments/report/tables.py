"""Tables of the contrasts: turns result.json into cells of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.config import Config
from experiments.formatting import number, p_text, signed
from experiments.report.groups import Row, confidence, in_short, interval, primary
from experiments.report.table import Table

if TYPE_CHECKING:  # the figures import matplotlib, which a terminal need not wait for
    from experiments.report.figures.by_class import OfClass

NOTHING = "n/a"
STATISTICS = {"test_accuracy": "running", "test_accuracy_population": "population", "test_accuracy_batch": "batch"}


def contrasts(config: Config, result: Mapping[str, Any], rows: Sequence[Row]) -> Table:
    """Some rows of "contrasts", each with its widest interval. Columns without any number are left out."""
    speaks = {row["speaks_of"] for row in rows}
    one, adjusted = len(speaks) == 1, any(row["family"] > 1 for row in rows)
    header = ["contrast", "difference (pp)", f"{confidence(result)} CI{f' for {speaks.pop()}' if one else ''}"]
    header += ["simultaneous CI", *(("p, Holm", "p of TOST, Holm") if adjusted else ("p", "p of TOST")), "n", "finding"]
    cells = [
        [
            row["name"],
            signed(row["difference"]),
            NOTHING if row["exact"] else interval(row["ci"]) + ("" if one else f" for {row['speaks_of']}"),
            NOTHING if row["simultaneous_ci"] is None or row["family"] == 1 else interval(row["simultaneous_ci"]),
            *(_p(row["adjusted_p"]), NOTHING if row["same_arm"] else _p(row["adjusted_tost_p"])),
            str(row["n"]) + ("" if row["paired"] else " an arm"),
            in_short(config, row).removeprefix("exploration: "),
        ]
        for row in rows
    ]
    return Table(header, cells, 1, 1).without(NOTHING)


def published(result: Mapping[str, Any]) -> Table:
    ci = f"{confidence(result)} CI"
    header = ["contrast", "source", "published (pp)", f"ours (pp), {ci}", f"ours - theirs (pp), {ci}", "judgement"]
    rows = [
        [
            *(row["contrast"], row["source"], _theirs(row)),
            f"{signed(row['difference'])} {interval(row['ci'])}",
            f"{signed(row['gap'])} {interval(row['gap_ci'])}",
            row["word"],
        ]
        for row in result["published"]
    ]
    return Table(header, rows, 2, 1)


def power(result: Mapping[str, Any]) -> Table:
    """What the run could see of its primary contrasts, and how many seeds it would take to see their margins."""
    rows = primary(result)
    share = next((f"{100 * row['power']['power']:g}%" for row in rows), "")
    header = ["contrast", "n", f"seen with {share} power (pp)", "margin (pp)", "n to see the margin"]
    header += ["n to show equivalence"]
    cells = []
    for row in rows:
        found, seen = row["power"], row["power"]["detectable"]
        counts = [_count(found[key], seen) for key in ("n_to_detect", "n_to_show_equivalence")]
        margin = f"±{row['margin_pp']:g}"
        cells.append([row["name"], str(row["n"]), NOTHING if seen is None else number(seen), margin, *counts])
    return Table(header, cells, 1)


def by_statistics(result: Mapping[str, Any]) -> Table:
    """Each primary difference with running, population and batch statistics at test, and its change from running."""
    rows = [
        [
            *(row["name"], STATISTICS[entry["metric"]], signed(entry["difference"]), interval(entry["ci"])),
            *(
                (signed(entry["change"]["difference"]), interval(entry["change"]["ci"]))
                if entry["change"]
                else (NOTHING, NOTHING)
            ),
        ]
        for row in primary(result)
        for entry in row["by_statistics"]
    ]
    ci = f"{confidence(result)} CI"
    return Table(["contrast", "statistics", "difference (pp)", ci, "change (pp)", f"{ci} of it"], rows, 2)


def shares(result: Mapping[str, Any]) -> Table:
    """Differences in the share of trainings that learn."""
    rows = [
        [row["contrast"], f"{signed(100 * row['difference'], 0)}", _p(row["p"]), _p(row["adjusted_p"]), row["test"]]
        for row in result["shares"]
    ]
    return Table(["contrast", "difference of the shares (pp)", "p", "p, Holm", "test"], rows, 1, 1)


def by_class(found: Mapping[str, Sequence[OfClass]], names: Mapping[str, str], result: Mapping[str, Any]) -> Table:
    """The differences within each class; `names` has the contrast of each context."""
    rows = [
        [names[context], f"{row.label}", f"{row.examples:,}", signed(row.difference), interval(list(row.ci)),
         _p(row.adjusted_p)]
        for context, some in found.items()
        for row in some
    ]  # fmt: skip
    header = [
        "contrast",
        "class",
        "test examples",
        "difference (pp)",
        f"{confidence(result)} CI for new seeds",
        "p, Holm",
    ]
    return Table(header, rows, 2)


def _theirs(row: Mapping[str, Any]) -> str:
    """`+0.65 (n = 5, sd 0.30)`."""
    sd = "" if row["published_sd"] is None else f", sd {number(row['published_sd'])}"
    return f"{signed(row['published'])} (n = {row['published_n']}{sd})"


def _count(n: int | None, detectable: float | None) -> str:
    return f"{n:,}" if n is not None else NOTHING if detectable is None else "too many"


def _p(p: float) -> str:
    return p_text(p).removeprefix("p ").removeprefix("= ")
