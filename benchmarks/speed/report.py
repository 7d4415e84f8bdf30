"""The benchmark's result as a table for the terminal, a Markdown table, and one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from rich.console import Console
from rich.table import Table

from benchmarks.speed.cases import SUMMED
from benchmarks.speed.contestants import TORCH
from experiments.report.plotting import STYLE

Row = dict[str, Any]
HEAD = ("input", "MB", "mode", "jbn, ms", "/ flax linen", "/ best JAX", "/ torch", "/ limit")
KEYS = ("vs_linen", "vs_best_jax", "vs_torch", "vs_limit")
MARKERS = {
    "jbn": ("#D55E00", "D"),
    "flax linen": ("#0072B2", "o"),
    "flax nnx": ("#56B4E9", "s"),
    "haiku": ("#009E73", "^"),
    "equinox": ("#CC79A7", "v"),
    "torch, better layout": ("#000000", "x"),
}


def write(result: dict[str, Any], out: Path) -> None:
    """The Markdown table and the figure, beside the JSON."""
    out.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    with matplotlib.rc_context(STYLE):
        drawn = figure(result)
        drawn.savefig(out.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
        drawn.savefig(out.with_suffix(".png"), dpi=150, metadata={"Software": None})


def show(result: dict[str, Any], console: Console) -> None:
    wide = Console(width=max(console.width, 118))
    table = Table(*HEAD, title=f"{result['device']}: jbn's time, and its ratio to others (below 1: jbn is faster)")
    for line in lines(result["rows"]):
        table.add_row(*line)
    wide.print(table)
    short = Table("geometric mean", *(h.strip("/ ") for h in HEAD[4:]), "worst / best JAX", title="summary")
    for name, mode in SUMMED.items():
        found = result["summary"][name]
        short.add_row(mode, *(_ratio(found[key]) for key in KEYS), _ratio(found["worst_vs_best_jax"]))
    wide.print(short)
    for row in result["synchronized"]:
        wide.print(
            f"synchronized over {row['devices']}: {row['library']} {row['milliseconds']:.2f} ms, "
            f"{row['collectives']} collectives"
        )


def markdown(result: dict[str, Any]) -> str:
    """Summary, costs, and every row."""
    parts = [
        f"<!-- written by python -m benchmarks speed -->\n{result['device']}, {result['date']}; "
        + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        + ". Time of jbn over that of others, medians of interleaved rounds; below 1, jbn is faster.\n",
        _table(
            ("geometric mean", *(h.strip("/ ") for h in HEAD[4:]), "multiply-add", "worst / best JAX"),
            [
                (mode, *(_ratio(result["summary"][name][k]) for k in (*KEYS, "vs_multiply_add", "worst_vs_best_jax")))
                for name, mode in SUMMED.items()
            ],
        ),
        "Batch norm and ReLU on 128 x 32 x 32 x 16 float32: what is kept for the backward pass and the compiled step's "
        "temporary memory, times the input; seconds to compile; collectives of a synchronized step.\n",
        _table(
            ("library", "kept", "temporary", "compile, s", "synchronized, ms", "collectives"),
            [_costs(row, result["synchronized"]) for row in result["costs"]],
        ),
        _table(HEAD, lines(result["rows"])),
    ]
    return "\n".join(parts)


def lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    found = []
    for row in rows:
        name = f"{row['network']} {' x '.join(map(str, row['shape']))} {row['dtype']}"
        name += "" if row["option"] == "plain" else f" {row['option']}"
        size, ours = f"{row['megabytes']:.1f}", f"{row['milliseconds']['jbn']:.3f}"
        found.append((name, size, row["mode"], ours, *(_ratio(row[key]) for key in KEYS)))
    return found


def figure(result: dict[str, Any]) -> Figure:
    """A panel for each mode and dtype: every library's time over the limit, input by input."""
    plain = [row for row in result["rows"] if row["option"] == "plain"]
    modes = list(SUMMED.values())
    dtypes = sorted({row["dtype"] for row in plain}, reverse=True)
    heights = [len({tuple(r["shape"]) for r in plain if r["dtype"] == d}) for d in dtypes]
    drawn = Figure(figsize=(10.5, 1.6 + 0.27 * sum(heights)), layout="constrained")
    axes = drawn.subplots(len(dtypes), len(modes), sharex=True, squeeze=False, height_ratios=heights)
    for i, dtype in enumerate(dtypes):
        for j, mode in enumerate(modes):
            rows = [row for row in plain if (row["dtype"], row["mode"]) == (dtype, mode)]
            rows.sort(key=lambda row: row["megabytes"])
            _panel(axes[i][j], rows, first=j == 0)
            axes[i][j].set_title(f"{mode}, {dtype}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    for ax in axes[-1]:
        ax.set_xlabel("time / limit of the memory")
    return drawn


def _panel(ax: Any, rows: Sequence[Row], *, first: bool) -> None:
    for name, (colour, marker) in MARKERS.items():
        points = [(_time(row, name), y, row) for y, row in enumerate(rows)]
        points = [(t / row["limit_milliseconds"], y) for t, y, row in points if t is not None]
        if points:
            big = name == "jbn"
            options = {} if marker == "x" else {"markeredgecolor": "white", "markeredgewidth": 0.4}
            ax.plot(
                *zip(*points, strict=True), marker, color=colour, label=name, ms=7 if big else 5,
                zorder=4 if big else 3, **options,
            )  # fmt: skip
    ax.axvline(1, color="#555555", lw=1, zorder=1)
    ax.set_xscale("log")
    ax.set_xlim(0.3, 80)
    ax.xaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10, 20, 50]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_yticks(range(len(rows)))
    ax.set_yticklabels([" x ".join(map(str, row["shape"])) for row in rows] if first else [""] * len(rows))
    ax.set_ylim(-0.7, len(rows) - 0.3)


def _time(row: Row, name: str) -> float | None:
    names = TORCH if name == "torch, better layout" else (name,)
    return min((row["milliseconds"][n] for n in names if n in row["milliseconds"]), default=None)


def _costs(row: Row, synchronized: Sequence[Row]) -> tuple[str, ...]:
    step = next((s for s in synchronized if s["library"] == row["library"]), None)
    return (
        row["library"],
        f"{row['kept_over_input']:.2f}",
        *(f"{row[k]:.2f}" if row.get(k) is not None else "–" for k in ("temporary_over_input", "compile_seconds")),
        *((f"{step['milliseconds']:.2f}", str(step["collectives"])) if step else ("–", "–")),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = [":--", *("--:" for _ in head[1:])]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, marks, *rows))


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
