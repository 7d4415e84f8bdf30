"""The report is a function of the run folder alone: it trains nothing, imports no jax, and can be redrawn at any time.

Writes report.html (one file, opens offline), report.md, summary.csv and figures/, and prints the answer in a terminal.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.nodes
from markupsafe import Markup, escape
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from experiments.config import ConfigError, to_json
from experiments.formats import number, p_text, signed
from experiments.record import Run, read

ORDER = {
    "none": "linear → activation",
    "before": "linear → norm → activation",
    "after": "linear → activation → norm",
    "both": "linear → norm → activation → norm",
    "pre_linear": "norm → linear → activation",
}
NOTHING = "n/a"
FLAG = re.compile(r"(--[\w.-]+ \S+)")


class Table(NamedTuple):
    """Cells as text, and how many of the leading columns name the row (the others are numbers)."""

    header: list[str]
    rows: list[list[str]]
    names: int = 1


def write(folder: Path) -> list[Path]:
    """Draws the report of a finished run and returns the files, report.html first.

    Raises:
      ConfigError: `folder` is no run folder, or the run is not finished.
    """
    from experiments import figures, plotting  # here, so that the terminal answer needs no matplotlib

    run = read(folder)
    result = _finished(run)
    drawings = figures.draw(run.config, result, run.records, run.data)
    target = run.folder / "figures"
    target.mkdir(exist_ok=True)
    images = [plotting.save(drawing, target) for drawing in drawings]
    context = _context(run, result) | {
        "figures": [
            {"title": d.title, "caption": d.caption, "png": png.name, "src": _data_uri(svg)}
            for d, (svg, png) in zip(drawings, images, strict=True)
        ]
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["flags"] = _flags
    written = [run.folder / name for name in ("report.html", "report.md", "summary.csv")]
    for path in written[:2]:
        text = environment.get_template(f"{path.name}.j2").render(context)
        path.write_text(text, encoding="utf-8")
    written[2].write_text(_csv(result), encoding="utf-8")
    return [*written, *(path for pair in images for path in pair)]


def print_answer(console: Console, run: Run) -> None:
    """Prints question, arms, answer and warnings; made for 80 columns, and for pipes.

    Raises:
      ConfigError: the run is not finished.
    """
    result = _finished(run)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ARM_COLUMNS:
        words = name in ("activation", "placement", "edge")
        table.add_column(name, justify="left" if words else "right", no_wrap=True)
    previous = None
    for arm in result["arms"]:
        if previous not in (None, arm["activation"]):
            table.add_section()
        previous = arm["activation"]
        table.add_row(*(_plain(console, cell) for cell in _arm_cells(arm)))
    _say(console, run.config.question or f"Results of {run.config.name}", style="bold")
    console.print(table)
    for title, rows in _answers(result):
        _say(console, title, style="bold")
        for row in rows:
            _say(console, row["sentence"], indent=2)
    for warning in result["warnings"]:
        _say(console, f"warning: {warning}", style="yellow")


ARM_COLUMNS = ["activation", "placement", "test accuracy (%)", "sd", "n", "rate", "edge"]


def _arm_cells(arm: dict[str, Any]) -> list[str]:
    mean, sd = number(arm["mean"]), number(arm["sd"])
    return [
        arm["activation"],
        arm["placement"],
        mean,
        sd,
        str(arm["n"]),
        f"{arm['learning_rate']:g}",
        arm["edge"] or "",
    ]


def _say(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    """One paragraph: wrapped for a reader, on one line for a pipe, where the next program wants it whole."""
    line = Text(_plain(console, text), style=style)
    if console.is_terminal:
        console.print(Padding(line, (0, 0, 0, indent)))
    else:
        console.print(Text(" " * indent) + line, soft_wrap=True)


def _plain(console: Console, text: str) -> str:
    """`text` with what the console's encoding cannot write replaced."""
    encoding = console.encoding
    if not "±".encode(encoding, "ignore"):
        text = text.replace("±", "+/-")
    return text.encode(encoding, "replace").decode(encoding)


def _finished(run: Run) -> dict[str, Any]:
    if run.result is None:
        sweep, arms = run.config.sweep, len(run.config.arms)
        wanted = arms * (len(sweep.learning_rates) * sweep.tuning_seeds + sweep.evaluation_seeds)
        raise ConfigError(
            f"{run.folder} is not finished: {len(run.records)} of {wanted} trainings are there; "
            "go on with: python -m experiments run CONFIG"
        )
    return run.result


def _answers(result: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The comparisons, grouped by the pair of placements that they compare."""
    pairs = dict.fromkeys((row["a"], row["b"]) for row in result["comparisons"])
    for a, b in pairs:
        yield f"{a} - {b}", [row for row in result["comparisons"] if (row["a"], row["b"]) == (a, b)]


def _context(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    config = run.config
    level = f"{100 * (1 - config.analysis.alpha):g}%"
    answers = [
        {"title": title, "rows": [row | {"lead": row["sentence"].removesuffix(row["verdict"])} for row in rows]}
        for title, rows in _answers(result)
    ]
    return {
        "config": config,
        "question": config.question or f"Results of {config.name}",
        "answers": answers,
        "warnings": result["warnings"],
        "level": level,
        "data": run.data,
        "arms": _arms_table(result, level),
        "comparisons": _comparisons_table(result, level),
        "tuning": _tuning_table(result),
        "orders": Table(["placement", "order within a hidden layer"], [[p, ORDER[p]] for p in config.placements], 2),
        "setup": Table(["setting", "value"], [[k, v] for k, v in _flat(to_json(config))], 2),
        "provenance": Table(["fact", "value"], _provenance(run), 2),
    }


def _arms_table(result: dict[str, Any], level: str) -> Table:
    header = [*ARM_COLUMNS[:4], f"{level} interval of the mean", *ARM_COLUMNS[4:], "test loss", "diverged"]
    rows = []
    for arm in result["arms"]:
        cells = _arm_cells(arm)
        loss = NOTHING if arm["test_loss"] is None else number(arm["test_loss"], 3)
        rows.append([*cells[:4], _interval(arm["ci"]), *cells[4:], loss, str(arm["diverged"])])
    return Table(header, rows, 2)


def _comparisons_table(result: dict[str, Any], level: str) -> Table:
    header = [
        "activation",
        "a - b",
        "difference (pp)",
        f"{level} CI, paired t",
        "p, paired t",
        "p, Holm",
        "p, sign flips",
        f"{level} CI, bootstrap BCa",
        f"{level} CI, Welch",
        "sd of differences",
        "correlation",
        "n",
        "p, TOST",
    ]
    rows = [
        [
            row["activation"],
            f"{row['a']} - {row['b']}",
            signed(row["difference"]),
            NOTHING if row["no_spread"] else _interval(row["ci"]),
            *(p_text(row[key]).removeprefix("p ").removeprefix("= ") for key in ("p", "holm_p", "permutation_p")),
            NOTHING if row["no_spread"] or row["bootstrap_ci"] is None else _interval(row["bootstrap_ci"]),
            _interval(row["welch_ci"]),
            number(row["sd"]),
            NOTHING if row["correlation"] is None else signed(row["correlation"]),
            str(row["n"]),
            p_text(row["tost_p"]).removeprefix("p ").removeprefix("= "),
        ]
        for row in result["comparisons"]
    ]
    return Table(header, rows, 2)


def _tuning_table(result: dict[str, Any]) -> Table:
    """Mean final validation accuracy per rate; the chosen one in brackets, x where a seed diverged."""
    rates = [point["learning_rate"] for point in result["arms"][0]["tuning"]]
    rows = []
    for arm in result["arms"]:
        cells = []
        for point in arm["tuning"]:
            cell = number(point["mean"], 1) + (" x" if point["diverged"] else "")
            cells.append(f"[{cell}]" if point["learning_rate"] == arm["learning_rate"] else cell)
        rows.append([arm["activation"], arm["placement"], *cells])
    return Table(["activation", "placement", *(f"{rate:g}" for rate in rates)], rows, 2)


def _provenance(run: Run) -> list[list[str]]:
    env = run.env
    seconds = sum(record.get("seconds") or 0.0 for record in run.records)
    facts = {
        "code": _code(env),
        "device": env.get("device"),
        "cores": env.get("cores"),
        "platform": env.get("platform"),
        "started": env.get("date"),
        "wall time": _duration(env["wall_seconds"]) if env.get("wall_seconds") is not None else None,
        "trainings": f"{len(run.records)}, {_duration(seconds)} of training in all",
        "versions": ", ".join(f"{name} {version}" for name, version in (env.get("versions") or {}).items() if version),
    }
    facts |= {
        f"resumed ({k})": f"{later.get('date')}, {later.get('device')}, {_code(later)}"
        for k, later in enumerate(env.get("resumed") or [], start=1)
    }
    return [[name, str(fact)] for name, fact in facts.items() if fact not in (None, "")]


def _code(env: dict[str, Any]) -> str:
    if not env.get("commit"):
        return "not under version control: these numbers cannot be traced to a commit"
    return f"commit {env['commit']}{', with uncommitted changes' if env.get('dirty') else ''}"


def _csv(result: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = ["placement", "activation", "learning_rate", "edge", "n", "mean", "sd", "test_loss", "diverged"]
    writer.writerow([*keys[:7], "ci_low", "ci_high", *keys[7:]])
    for arm in result["arms"]:
        cells = ["" if arm[key] is None else arm[key] for key in keys]
        writer.writerow([*cells[:7], *arm["ci"], *cells[7:]])
    return text.getvalue()


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by the name that the command line and the messages give them."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            pairs = all(isinstance(item, list) for item in value)
            yield prefix + key, ", ".join(" - ".join(item) if pairs else str(item) for item in value)
        else:
            yield prefix + key, str(value)


@jinja2.pass_eval_context
def _flags(context: jinja2.nodes.EvalContext, text: str) -> str:
    """Command-line flags as code, so that they are neither broken across lines nor turned into dashes."""
    if context.autoescape:
        return Markup(FLAG.sub(r"<code>\1</code>", str(escape(text))))
    return FLAG.sub(r"`\1`", text)


def _interval(ci: list[float]) -> str:
    return f"[{number(ci[0])}, {number(ci[1])}]"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _data_uri(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode("ascii")
