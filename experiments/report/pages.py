"""Writes the report: report.html, report.md, the tables and the figures."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import jinja2
import jinja2.nodes
from markupsafe import Markup, escape

from experiments.config import Config
from experiments.report import settings, tables
from experiments.report.answer import finished_result, grouped
from experiments.report.table import Table, csv_text, latex, markdown
from experiments.store.record import Run, read, write_files

FLAG = re.compile(r"(--[\w.-]+(?: \d\S*)+)")

# Columns of tables/*.md and *.tex, which are meant for papers; report.md and tables/*.csv have all columns.
PRINTED = {
    "arms": ("context", "treatment", *tables.METRIC.values(), "sd", "n", "rate", "decay", "on norms", "parameters"),
    "comparisons": ("context", "a - b", "difference (pp)", "{level} CI", "p, Holm", "p, TOST", "n"),
    "published": ("context", "a - b", "source", "published (pp)", "ours (pp)", "{level} CI", "our n", "verdict"),
}


def write(folder: Path) -> list[Path]:
    """Draws the report of a finished run and returns the files, report.html first.

    Raises:
      ConfigError: `folder` is not a run folder, or the run is not finished.
    """
    # Imported here because `print_answer` must not load matplotlib.
    from experiments.report import figures, plotting
    from experiments.report.figures.probed import first_seen

    run = read(folder)
    result = finished_result(run)
    drawings = figures.draw(run.config, result, run.records, run.data)
    images = [plotting.render(drawing) for drawing in drawings]
    context = _context(run, result) | {
        "figures": [
            {"title": d.title, "caption": d.caption, "png": f"{d.name}.png", "src": _data_uri(saved["svg"])}
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
    files = {name: text.encode() for name, text in texts.items()}
    for drawing, saved in zip(drawings, images, strict=True):
        files |= {f"figures/{drawing.name}.{ending}": content for ending, content in saved.items()}
    return write_files(run.folder, files)


def _context(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    config = run.config
    answers = [
        {"title": title, "rows": [row | {"lead": row["sentence"].removesuffix(row["verdict"])} for row in rows]}
        for title, rows in grouped(result)
    ]
    return {
        "config": config,
        "question": config.question or f"Results of {config.name}",
        "answers": answers,
        "published": [row | {"lead": row["sentence"].split(f": {row['verdict']}: ")[0]} for row in result["published"]],
        "warnings": result["warnings"],
        "notes": settings.parameter_notes(config, run.arms),
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
            "orders": settings.orders(config),
            "setup": settings.setup(config),
            "by_statistics": tables.by_statistics(config, result),
            "divergence": tables.divergence(result),
            "sharpness": tables.sharpness(result),
            "mean_logit": tables.mean_logit(result),
            "provenance": Table(["fact", "value"], _provenance(run), 2),
        },
        "differences": settings.differences(config),
    }


def _table_files(run: Run, result: dict[str, Any]) -> dict[str, str]:
    """tables/NAME.csv with all columns, numbers unrounded; tables/NAME.md and .tex with the columns of `PRINTED`."""
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
    """Marks command-line flags as code, so that renderers neither break them across lines nor turn -- into a dash."""
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


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")
