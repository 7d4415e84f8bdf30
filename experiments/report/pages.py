"""Writes the report: report.html, report.md, the tables and the figures."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import jinja2
import jinja2.nodes
from markupsafe import Markup, escape

from experiments.config import ConfigError
from experiments.formatting import duration, join
from experiments.report import exports, settings, tables, tables_of_arms
from experiments.report.answer import explorations, finished_result
from experiments.report.groups import confidence, grouped, lead, primary
from experiments.report.table import Table, csv_text, escape_markdown, markdown
from experiments.store.record import LAST_OF_REPORT, Run, read, write_files

PRINTED = ("contrasts", "explorations", "power", "published", "by_statistics", "arms", "learned", "shares", "race")
"""Tables that are written as Markdown and LaTeX, too, for papers."""
FLAG = re.compile(r"(--[\w.-]+(?: \d[\w.+-]*)+)")


def write(folder: Path) -> list[Path]:
    """Draws the report of a finished run and returns the files, report.html first.

    Raises:
      ConfigError: `folder` is not a run folder, or the run is not finished or was published, without its records.
    """
    # Imported here because `print_answer` must not load matplotlib.
    from experiments.report import figures, plotting

    run = read(folder)
    result = finished_result(run)
    if not run.records:
        raise ConfigError(
            f"{folder} has no records.jsonl, from which figures are drawn: a published folder has its report already, "
            "in report.md; to draw another one, give the run folder that it was published from"
        )
    drawings = figures.draw(run.config, result, run.records, run.data)
    images = [plotting.render(drawing) for drawing in drawings]
    shown = [
        {"title": d.title, "caption": d.caption, "png": f"{d.name}.png", "src": _data_uri(saved["svg"])}
        for d, saved in zip(drawings, images, strict=True)
    ]
    made = all_tables(run, result)
    first = int(bool(drawings) and drawings[0].name == "differences")
    context = facts(run, result) | {"tables": made, "first": shown[:first], "figures": shown[first:]}
    environment = templates()
    contexts = {"report.html": context, "report.md": _literal(context)}
    texts = {name: environment.get_template(f"{name}.j2").render(of) for name, of in contexts.items()}
    texts |= {"summary.csv": csv_text(result["arms"]), "scores.csv": exports.scores(run, result)}
    texts |= exports.tables(result, {name: made[name] for name in PRINTED})
    files = {name: text.encode() for name, text in texts.items()}
    for drawing, saved in zip(drawings, images, strict=True):
        files |= {f"figures/{drawing.name}.{ending}": content for ending, content in saved.items()}
    last = {LAST_OF_REPORT: files.pop(LAST_OF_REPORT)}
    return write_files(run.folder, files | last)


def all_tables(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    """All tables of the report, by name; those of rates and decays are a list."""
    from experiments.report import figures
    from experiments.report.figures.probed import first_seen

    pairs = figures.compared(run.config, result, run.records, run.data) if run.records else {}
    classes = figures.by_class(pairs, run.data.get("test_labels") or [], result["look"]["alpha"])
    return _tables(run, result) | {
        "speed": tables_of_arms.speed(first_seen(result, run.data)),
        "by_class": tables.by_class(classes, {context: pair.name for context, pair in pairs.items()}, result),
    }


def templates() -> jinja2.Environment:
    """The templates, with their filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"flags": _flags, "markdown": markdown, "rich": _rich}
    environment.filters["join_words"] = lambda words: join([str(word) for word in words])
    environment.filters["rates"] = lambda rates: join([f"{rate:g}" for rate in rates])
    return environment


def _literal(value: Any) -> Any:
    """The value with all text escaped for Markdown, but that of tables, which `markdown` escapes, and of the config."""
    if isinstance(value, str):
        return escape_markdown(value)
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, list) else value


def _tables(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    """All tables but those of what the figures compute; the shares of rates and decays are a list of tables."""
    config, groups = run.config, grouped(run.config, result)
    explored = [row for group in groups if group.kind == "exploration" for row in group.rows]
    judged = [row for group in groups if group.kind != "exploration" for row in group.rows]
    return {
        "contrasts": tables.contrasts(config, result, judged),
        "explorations": tables.contrasts(config, result, explored),
        "power": tables.power(result),
        "published": tables.published(result),
        "by_statistics": tables.by_statistics(result),
        "shares": tables.shares(result),
        "arms": tables_of_arms.arms(config, result, run.arms),
        "rates": tables_of_arms.rates(config, result),
        "race": tables_of_arms.race(result),
        "learned": tables_of_arms.learned(result),
        "divergence": tables_of_arms.divergence(result),
        "sharpness": tables_of_arms.sharpness(result),
        "orders": settings.orders(config),
        "setup": settings.setup(config),
        "provenance": Table(["fact", "value"], _provenance(run), 2),
    }


def facts(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    """What the templates say of a run, besides tables and figures."""
    config, groups, rows = run.config, grouped(run.config, result), result["contrasts"]
    answers = [
        {
            "title": explorations(group) if group.kind == "exploration" else group.title,
            "kind": group.kind,
            "rows": [{**row, "lead": lead(row)} for row in group.rows],
        }
        for group in groups
    ]
    return {
        "config": config,
        "result": result,
        "question": config.question or f"Results of {config.name}",
        "answers": answers,
        "published": [row | {"lead": row["sentence"].split(f": {row['word']}: ")[0]} for row in result["published"]],
        "notes": settings.parameter_notes(config, run.arms),
        "data": run.data,
        "differences": settings.differences(config),
        "level": confidence(result),
        "equivalence_level": confidence(result, 2),
        "family": len(primary(result)),
        "speaks": {found["speaks_of"] for row in rows for found in row["intervals"]},
        "statistics": tables.STATISTICS[result["metric"]],
    }


def _provenance(run: Run) -> list[list[str]]:
    env = run.env
    seconds = sum(record.get("seconds") or 0.0 for record in run.records)
    probed = sum(record["phase"] == "probe" for record in run.records)
    again = f", and {probed} of them once more with probes" if probed else ""
    facts = {
        "code": _code(env),
        "device": env.get("device"),
        "processor": env.get("processor"),
        "cores": env.get("cores"),
        "XLA_FLAGS": env.get("xla_flags"),
        "platform": env.get("platform"),
        "started": env.get("date"),
        "wall time": duration(env["wall_seconds"]) if env.get("wall_seconds") is not None else None,
        "trainings": f"{len(run.records) - probed}{again}; {duration(seconds)} of training in all",
        "versions": ", ".join(f"{name} {version}" for name, version in (env.get("versions") or {}).items() if version),
    }
    facts |= {
        f"resumed ({k})": f"{later.get('date')}, {later.get('device')}, {_code(later)}"
        for k, later in enumerate(env.get("resumed") or [], start=1)
    }
    facts |= {
        f"more seeds ({k})": f"{more['date']}, {'finished' if more['finished'] else 'begun'} with {more['seeds']}"
        for k, more in enumerate(env.get("extended") or [], start=1)
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


def _rich(text: str) -> Markup:
    """HTML of one paragraph of methods.j2, which has **bold** and `code`."""
    escaped = str(escape(text.strip()))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escaped)))


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")
