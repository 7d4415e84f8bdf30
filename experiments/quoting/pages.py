"""Finds the blocks that are quoted, in pages and in configs, and replaces them.

In a page, a block stands between two comments; the first names it, and the runs that it is about:

    <!-- make quote: placements digits_placement -->
    <!-- end of quote -->
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from experiments.quoting import changes, docstrings, measured, tables
from experiments.quoting.runs import ROOT, Runs

PAGES = (
    "README.md",
    "experiments/published/README.md",
    "docs/laboratory.md",
    "docs/what-changed.md",
    "docs/handbook/placement.md",
    "docs/handbook/recipes/tiny-batches.md",
    "docs/handbook/recipes/test-time.md",
    "docs/handbook/recipes/averaged-weights.md",
)
FORMER = "docs/former_verdicts.json"
BLOCK = re.compile(r"(<!-- make quote: ([\w ]+) -->\n).*?(<!-- end of quote -->\n)", re.S)
OPENING = re.compile(r"<!-- make quote\b")
Block = Callable[..., str]


def written_anew(runs: Runs, root: Path = ROOT) -> dict[Path, str]:
    """The text that every page and every config of a published run should have.

    Raises:
      ValueError: a page or a config lacks a block, or names one that there is not.
    """
    former = json.loads((root / FORMER).read_text(encoding="utf-8"))
    texts = {}
    for page in PAGES:
        texts[root / page] = quoted((root / page).read_text(encoding="utf-8"), page, runs, former)
    for name, run in runs.items():
        path = root / "configs" / f"{name}.py"
        try:
            texts[path] = docstrings.replaced(path.read_text(encoding="utf-8"), run)
        except ValueError as error:
            raise ValueError(f"configs/{name}.py {error}") from None
    return texts


def quoted(text: str, page: str, runs: Runs, former: Sequence[changes.Former] = ()) -> str:
    """The text of a page with every block written anew.

    Args:
      text: of the page.
      page: its path from the root of the checkout, for links.
      runs: published runs.
      former: the verdicts of the former procedure.

    Raises:
      ValueError: a comment names no block, or an unknown one, or a run that is not published; or no comment ends it.
    """
    blocks: dict[str, Block] = {
        "figure": tables.figure,
        "placements": tables.placements,
        "contrasts": tables.contrasts,
        "questions": tables.questions,
        "ran": tables.ran,
        "engines": tables.engines,
        "changes": partial(changes.table, former=former),
        "counts": partial(changes.counts, former=former),
        "adaptation": measured.adaptation,
        "averages": measured.averages,
    }

    def link(path: str) -> str:
        return os.path.relpath(path, Path(page).parent).replace(os.sep, "/")

    def write(found: re.Match[str]) -> str:
        opening, (name, *names), closing = found[1], found[2].split(), found[3]
        unknown = [n for n in names if n not in runs]
        if name not in blocks or unknown:
            what = f"block {name!r}; choose one of {', '.join(blocks)}"
            if name in blocks:
                what = f"published run {unknown[0]!r}; choose one of {', '.join(runs)}"
            raise ValueError(f"{page} quotes {found[2]!r}, but there is no {what}")
        return f"{opening}\n{blocks[name](runs, link, *names)}\n\n{closing}"

    if len(OPENING.findall(text)) != len(BLOCK.findall(text)):
        raise ValueError(
            f"{page} has {len(OPENING.findall(text))} comments that begin a quote, of which {len(BLOCK.findall(text))} "
            "are complete; write <!-- make quote: BLOCK RUN --> and, below it, <!-- end of quote -->, each on its line"
        )
    return BLOCK.sub(write, text)


def write(runs: Runs, root: Path = ROOT) -> list[Path]:
    """Writes what differs, and returns these files."""
    changed = []
    for path, text in written_anew(runs, root).items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed
