"""What a run shows of itself in a notebook, as HTML: the answer, the warnings, contrasts and arms, and one figure."""

from __future__ import annotations

from markupsafe import Markup

from experiments.report import tables, tables_of_arms
from experiments.report.groups import grouped
from experiments.report.overview import state
from experiments.report.pages import facts, templates
from experiments.report.pictures import first
from experiments.store.record import Run

MORE = "Data frames: .contrasts, .arms, .scores and the others in .tables. Figures: .figures. The text: .answer."


def shown(run: Run, unfinished: str) -> str:
    """The run as HTML.

    Args:
      run: finished or not.
      unfinished: what is said of a run that is not finished.
    """
    config, result = run.config, run.result
    about = {
        "config": config,
        "data": run.data,
        "result": result,
        "question": config.question or config.name,
        "state": state(run),
        "folder": run.folder,
        "more": MORE if result else "",
        "unfinished": unfinished,
    }
    if result:
        judged = [row for group in grouped(config, result) if group.kind != "exploration" for row in group.rows]
        about |= facts(run, result) | {
            "contrasts": tables.contrasts(config, result, judged),
            "arms": tables_of_arms.arms_in_short(config, result),
            "figure": Markup(figure._repr_html_()) if (figure := first(run)) else "",
        }
    return templates().get_template("results.html.j2").render(about)
