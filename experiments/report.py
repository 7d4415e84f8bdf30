"""The report is a function of the run folder alone: it trains nothing, imports no jax, and can be redrawn at any time.

Writes report.html (one file, opens offline), report.md, summary.csv (the same as tables/arms.csv), tables/ and
figures/, and prints the answer in a terminal.
"""

from __future__ import annotations

import base64
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import jinja2.nodes
from markupsafe import Markup, escape
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from experiments import ends, tables
from experiments.config import Config, ConfigError
from experiments.store.record import Run, read
from experiments.typeset import Table, csv_text, latex, markdown

FLAG = re.compile(r"(--[\w.-]+(?: \d\S*)+)")
LONG_WORD = re.compile(r"(?<!\S)(\w{4,16}_)(\w{8,})")
# Columns of the tables that are made to be printed; the others are in the report and in tables/*.csv.
PRINTED = {
    "arms": ("context", "treatment", *tables.METRIC.values(), "sd", "n", "rate", "decay", "on norms", "parameters"),
    "comparisons": ("context", "a - b", "difference (pp)", "{level} CI", "p, Holm", "p, TOST", "n"),
    "published": ("context", "a - b", "source", "published (pp)", "ours (pp)", "{level} CI", "our n", "verdict"),
}


def write(folder: Path) -> list[Path]:
    """Draws the report of a finished run and returns the files, report.html first.

    Raises:
      ConfigError: `folder` is no run folder, or the run is not finished.
    """
    # Here, so that the terminal answer needs no matplotlib.
    from experiments import figures, plotting
    from experiments.figures.probed import first_seen

    run = read(folder)
    result = _finished(run)
    drawings = figures.draw(run.config, result, run.records, run.data)
    target = run.folder / "figures"
    target.mkdir(exist_ok=True)
    images = [plotting.save(drawing, target) for drawing in drawings]
    context = _context(run, result) | {
        "figures": [
            {"title": d.title, "caption": d.caption, "png": saved.png.name, "src": _data_uri(saved.svg)}
            for d, saved in zip(drawings, images, strict=True)
        ],
        "speed": tables.speed(plotting.treatments_of(run.config)[0], first_seen(run.config, run.records, run.data)),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"flags": _flags, "markdown": markdown}
    texts = {name: environment.get_template(f"{name}.j2").render(context) for name in ("report.html", "report.md")}
    texts |= {"summary.csv": csv_text(result["arms"])} | _table_files(run, result)
    (run.folder / "tables").mkdir(exist_ok=True)
    for name, text in texts.items():
        (run.folder / name).write_text(text, encoding="utf-8")
    return [*(run.folder / name for name in texts), *(path for saved in images for path in saved)]


def print_answer(console: Console, run: Run) -> None:
    """Prints question, arms, answer and warnings; made for 80 columns, and for pipes.

    Raises:
      ConfigError: the run is not finished.
    """
    result = _finished(run)
    short = tables.arms_in_short(run.config, result)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for k, name in enumerate(short.header):
        words = k < short.names or name == "edge"
        cells = [_narrow(console, row[k]) for row in short.rows]
        longest = max(len(word) for cell in (name, *cells) for word in cell.split())
        title = name if words else "\n".join(textwrap.wrap(name, 14))
        table.add_column(
            title, justify="left" if words else "right", no_wrap=not words, min_width=longest, overflow="fold"
        )
    previous = None
    for row in short.rows:
        if previous not in (None, row[0]):
            table.add_section()
        previous = row[0]
        table.add_row(*(_plain(console, _narrow(console, cell)) for cell in row))
    _say(console, run.config.question or f"Results of {run.config.name}", style="bold")
    if not console.is_terminal:  # every row on one line, however long
        table.width = console.measure(table, options=console.options.update(width=1000)).maximum
    console.print(table, crop=console.is_terminal)
    for title, rows in _answers(result):
        _say(console, title, style="bold")
        for row in rows:
            _say(console, row["sentence"], indent=2)
    for k, row in enumerate(result["published"]):
        if k == 0:
            _say(console, "Against published differences", style="bold")
        _say(console, row["sentence"], indent=2)
    for warning in result["warnings"]:
        _say(console, f"warning: {warning}", style="yellow")
    for note in tables.parameter_notes(run.config, run.arms):
        _say(console, f"note: {note}")


def _narrow(console: Console, text: str) -> str:
    """Long names for a terminal: broken in two where they have an underscore."""
    return LONG_WORD.sub("\\1\n\\2", text) if console.is_terminal else text


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
        points = len(sweep.learning_rates) * max(1, len(sweep.weight_decays)) * max(1, len(sweep.decay_scale_bias))
        wanted = arms * (points * sweep.tuning_seeds + sweep.evaluation_seeds)
        raise ConfigError(
            f"{run.folder} is not finished: {len(run.records)} of {wanted} trainings are there; "
            "go on with: python -m experiments run CONFIG"
        )
    return run.result


def _answers(result: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The comparisons, grouped by the pair of treatments that they compare, A/A tests last."""
    rows = sorted(result["comparisons"], key=lambda row: row["same_arm"])
    for a, b in dict.fromkeys((row["a"], row["b"]) for row in rows):
        group = [row for row in rows if (row["a"], row["b"]) == (a, b)]
        yield (f"A/A test: {a} - {b}" if group[0]["same_arm"] else f"{a} - {b}"), group


def _context(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    config = run.config
    answers = [
        {"title": title, "rows": [row | {"lead": row["sentence"].removesuffix(row["verdict"])} for row in rows]}
        for title, rows in _answers(result)
    ]
    return {
        "config": config,
        "question": config.question or f"Results of {config.name}",
        "answers": answers,
        "published": [row | {"lead": row["sentence"].split(f": {row['verdict']}: ")[0]} for row in result["published"]],
        "warnings": result["warnings"],
        "notes": tables.parameter_notes(config, run.arms),
        "level": _level(config),
        "power": next((f"{100 * row['power']['power']:g}%" for row in result["comparisons"]), None),
        "metric": tables.STATISTICS[result["metric"]],
        "unpaired": any(not row["paired"] for row in [*result["comparisons"], *result["published"]]),
        "same_arms": any(row["same_arm"] for row in result["comparisons"]),
        "data": run.data,
        "tables": {
            "arms": tables.arms(config, result, run.arms),
            "comparisons": tables.comparisons(config, result),
            "published": tables.published(config, result),
            "tuning": tables.tuning(result),
            "orders": tables.orders(config),
            "setup": tables.setup(config),
            "by_statistics": ends.by_statistics(config, result),
            "divergence": ends.divergence(result),
            "sharpness": ends.sharpness(result),
            "mean_logit": ends.mean_logit(result),
            "provenance": Table(["fact", "value"], _provenance(run), 2),
        },
        "differences": tables.differences(config),
    }


def _table_files(run: Run, result: dict[str, Any]) -> dict[str, str]:
    """tables/NAME.csv with every number in full; tables/NAME.md and .tex with the columns that one would print."""
    whole = {
        "arms": tables.arms(run.config, result, run.arms),
        "comparisons": tables.comparisons(run.config, result),
        "published": tables.published(run.config, result),
    }
    texts = {}
    for name, table in whole.items():
        if table.rows:
            printed = table.pick(column.format(level=_level(run.config)) for column in PRINTED[name])
            texts[f"tables/{name}.csv"] = csv_text(result[name])
            texts[f"tables/{name}.md"] = markdown(printed)
            texts[f"tables/{name}.tex"] = latex(printed)
    return texts


def _level(config: Config) -> str:
    return f"{100 * (1 - config.analysis.alpha):g}%"


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


@jinja2.pass_eval_context
def _flags(context: jinja2.nodes.EvalContext, text: str) -> str:
    """Command-line flags as code, so that they are neither broken across lines nor turned into dashes."""
    if context.autoescape:
        return Markup(FLAG.sub(r"<code>\1</code>", str(escape(text))))
    return FLAG.sub(r"`\1`", text)


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
