"""Where batch norms go wrong: `python -m benchmarks correctness`.

Every row of `defects.py` is measured on every installed library of `adapters.py` (`pip install -e '.[peers]'` installs
all). Prints the table, and writes it as JSON and as Markdown. The exit status is 1 if jbn is wrong in a row that it
claims to get right.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.adapters import PEERS
from benchmarks.correctness.defects import ROWS, Row
from benchmarks.output import RESULTS, write_json
from benchmarks.peers import NoSuchOption, Peer

Status = Literal["right", "wrong", "raises", "cost", "no such option", "not installed"]
MARK = {"right": "✓", "wrong": "✗", "raises": "✗", "cost": "", "no such option": "–", "not installed": ""}
COLOUR = {
    "right": "green",
    "wrong": "red",
    "raises": "red",
    "cost": "none",
    "no such option": "dim",
    "not installed": "dim",
}


@dataclass(frozen=True)
class Cell:
    """One library in one row.

    Attributes:
      status: the verdict.
      value: what was measured, in the row's unit; None where nothing was.
      note: the reason or the error's message, if there is one.
      words: the cell's text, without the mark.
    """

    status: Status
    value: float | None = None
    note: str = ""
    words: str = ""

    @property
    def text(self) -> str:
        return f"{MARK[self.status]} {self.words}".strip()


def measure(row: Row, peer: Peer) -> Cell:
    """Runs one measurement; an error that the library raises is a result, too."""
    if not peer.installed():
        return Cell("not installed", note="not installed")
    try:
        measured = row.measure(peer)
    except NoSuchOption as reason:
        return Cell("no such option", note=str(reason))
    except Exception as error:
        name = type(error).__name__
        return Cell("raises", note=f"{name}: {' '.join(str(error).split())[:300]}", words=f"raises {name}")
    value, note = measured if isinstance(measured, tuple) else (measured, "")
    # NaN <= limit is false, so NaN is wrong.
    status: Status = "cost" if row.cost else "right" if value <= row.limit else "wrong"
    return Cell(status, value, note, row.words.get(value) or number(value))


def number(value: float) -> str:
    """Two digits; further ones depend on the machine."""
    if math.isnan(value):
        return "NaN"
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def measure_all(rows: Iterable[Row], peers: Sequence[Peer]) -> dict[str, dict[str, Cell]]:
    """Row name to peer name to cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inputs with NaN, and deprecations in the libraries
        return {row.name: {peer.name: measure(row, peer) for peer in peers} for row in rows}


def versions(peers: Iterable[Peer]) -> dict[str, str]:
    packages = dict.fromkeys(["jbn", "jax", "numpy", *(peer.package for peer in peers if peer.installed())])
    return {package: importlib.metadata.version(package) for package in packages}


def as_json(cells: dict[str, dict[str, Cell]], peers: Sequence[Peer]) -> dict[str, Any]:
    def entry(cell: Cell) -> dict[str, Any]:
        # JSON has no NaN.
        finite = cell.value is None or math.isfinite(cell.value)
        found = {"status": cell.status, "value": cell.value if finite else str(cell.value)}
        return found | ({"note": cell.note} if cell.note else {})

    def line(row: Row) -> dict[str, Any]:
        head = {"name": row.name, "group": row.group, "what": row.what, "unit": row.unit, "limit": row.limit}
        return head | {"cells": {peer: entry(cell) for peer, cell in cells[row.name].items()}}

    return {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "versions": versions(peers),
        "rows": [line(ROWS[name]) for name in cells],
    }


def as_markdown(cells: dict[str, dict[str, Cell]], peers: Sequence[Peer]) -> str:
    heads = ["what is measured", "unit", "right up to", *(peer.name for peer in peers)]
    lines = [
        "<!-- written by python -m benchmarks correctness -->",
        "| " + " | ".join(heads) + " |",
        "|:--|:--|--:|" + ":--|" * len(peers),
    ]
    group = ""
    for name, by_peer in cells.items():
        row = ROWS[name]
        if row.group != group:
            group = row.group
            lines.append(f"| **{group}** |" + " |" * (len(heads) - 1))
        texts = [row.what, row.unit, limit(row), *(cell.text for cell in by_peer.values())]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", *legend(peers)]) + "\n"


def limit(row: Row) -> str:
    return "" if row.cost else row.words.get(row.limit) or number(row.limit)


def legend(peers: Sequence[Peer]) -> list[str]:
    found = ", ".join(f"{package} {version}" for package, version in versions(peers).items())
    missing = [peer.name for peer in peers if not peer.installed()]
    return [
        "✓ right, ✗ wrong or raises, – no such option; costs have none. Input is float32 with epsilon 1e-5 where "
        "the row says nothing else; truth is float64 NumPy. Libraries run with their defaults, but for: two-pass is "
        "`use_fast_variance=False`; equinox is `mode='batch'`; bfloat16 is `dtype` in Flax, the input's dtype in jbn, "
        "Haiku, Equinox and torch, and `mixed_bfloat16` in Keras.",
        "",
        f"{found}; {jax.devices()[0].device_kind} (torch on the CPU). "
        + (f"Not installed: {', '.join(missing)}. " if missing else "")
        + "Reasons and error messages are in the JSON beside this table.",
    ]


def as_table(cells: dict[str, dict[str, Cell]], peers: Sequence[Peer]) -> Table:
    table = Table(
        title="Batch norms against float64", caption="\n".join(legend(peers)), caption_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("what is measured", max_width=44)
    table.add_column("right\nup to", justify="right")
    for peer in peers:
        table.add_column(peer.name, max_width=11, overflow="fold")
    group = ""
    for name, by_peer in cells.items():
        row = ROWS[name]
        if row.group != group:
            group = row.group
            table.add_section()
            table.add_row(f"[bold]{group}[/bold]")
        texts = [f"[{COLOUR[cell.status]}]{cell.text}[/]" for cell in by_peer.values()]
        table.add_row(f"{row.what} [dim]({row.unit})[/dim]", limit(row), *texts)
    return table


def broken(cells: dict[str, dict[str, Cell]]) -> list[str]:
    """Rows in which jbn raises, or is beyond the limit."""
    jbn = [(ROWS[name], by_peer["jbn"]) for name, by_peer in cells.items() if "jbn" in by_peer]
    return [
        row.name
        for row, cell in jbn
        if cell.status == "raises" or (cell.value is not None and not cell.value <= row.limit)
    ]


def run(options: argparse.Namespace) -> int:
    names = [peer.name for peer in PEERS]
    for option, given, known in (("rows", options.rows, list(ROWS)), ("peers", options.peers, names)):
        if unknown := [name for name in given or () if name not in known]:
            print(f"error: --{option} {', '.join(unknown)}: choose from {', '.join(known)}", file=sys.stderr)
            return 2
    peers = [peer for peer in PEERS if options.peers is None or peer.name in options.peers]
    rows = [row for row in ROWS.values() if options.rows is None or row.name in options.rows]
    progress, out = Console(stderr=True), options.out or RESULTS / "correctness.json"
    cells = measure_all(track(rows, "measuring", console=progress, transient=True), peers)

    write_json(as_json(cells, peers), out, ensure_ascii=False)
    markdown = as_markdown(cells, peers)
    out.with_suffix(".md").write_text(markdown, encoding="utf-8")
    if options.markdown:
        print(markdown, end="")
    else:
        console = Console()
        # A narrower table would break numbers over lines.
        Console(width=max(console.width, 160)).print(as_table(cells, peers))

    if wrong := broken(cells):
        progress.print(f"jbn is wrong in: {', '.join(wrong)}")
        return 1
    return 0
