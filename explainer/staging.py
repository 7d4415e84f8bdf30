"""Copies the pages of docs/, and all files of the repository that they link to, to one folder that Sphinx reads.

Sphinx reads nothing outside of its source folder, but our pages link to reports, tables and configs all over the
repository, and these links must also work where the repository is browsed. So docs/ becomes the root of a folder, every
other file keeps its path in it, and the links between the two are written anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

LINK = re.compile(r"(\]\()(?!https?:|#|mailto:|/)([^)#\s]+)")
TITLE = re.compile(r"^# ", re.M)


def stage(root: Path, to: Path) -> None:
    """Writes only what changed, so that Sphinx reads only that again; removes what is no longer linked to."""
    waiting = [path for path in (root / "docs").rglob("*") if path.is_file() and path.suffix != ".py"]
    staged: set[Path] = set()
    while waiting:
        path = waiting.pop()
        target = to / place(path, root)
        if target in staged:
            continue
        staged.add(target)
        content = path.read_bytes()
        if path.suffix == ".md":
            text = content.decode()
            waiting += [linked for match in LINK.finditer(text) if (linked := leads_to(match[2], path)).is_file()]
            content = rewritten(text, path, root).encode()
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for path in to.rglob("*"):
        if path.is_file() and path not in staged:
            path.unlink()


def rewritten(text: str, page: Path, root: Path) -> str:
    """A page with links between staged pages; one that has no title, such as a table alone, gets its name as title."""
    title = "" if TITLE.search(text) else f"# {page.stem.replace('_', ' ').capitalize()}\n\n"
    return title + LINK.sub(lambda match: match[1] + moved(match[2], page, root), text)


def place(path: Path, root: Path) -> Path:
    """Where a file of the repository stands among the staged pages."""
    path = path.relative_to(root)
    return path.relative_to("docs") if path.is_relative_to("docs") else path


def leads_to(link: str, page: Path) -> Path:
    """The file or folder that a link of a page names."""
    return Path(os.path.normpath(page.parent / link))


def moved(link: str, page: Path, root: Path) -> str:
    """The same link between the staged pages."""
    target = leads_to(link, page)
    if not target.exists():
        return link
    return os.path.relpath(place(target, root), place(page, root).parent)
