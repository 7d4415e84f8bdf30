"""The site's figure of contrasts, with its controls, in the report of a run: `python -m explainer report runs/mine`."""

from __future__ import annotations

import re
from pathlib import Path

from explainer.notebook import contrasts

PLACE = re.compile(r"(<!-- interactive -->).*?(<!-- /interactive -->)", re.S)
"""Where the laboratory's template has room for it."""


def add_to_report(folder: Path) -> Path:
    """Draws the contrasts into the folder's report.html, which stays one file that loads nothing, and returns it.

    Raises:
      FileNotFoundError: the site is not built.
      ValueError: the run is not finished, or its report is missing or too old to have a place for the figure.
    """
    report = folder / "report.html"
    shown = contrasts(folder).element()
    text = report.read_text(encoding="utf-8") if report.exists() else ""
    # The theme of the report is light; a reader who prefers dark pages would see a dark figure on it.
    light = f'<div style="color-scheme: light">{shown}</div>'
    whole, found = PLACE.subn(lambda match: f"{match[1]}{light}{match[2]}", text)
    if not found:
        state = "has no place for the figure" if text else "is missing"
        raise ValueError(f"{report} {state}; write it first: python -m experiments report {folder}")
    report.write_text(whole, encoding="utf-8")
    return report
