# pyright: reportMissingImports=false, reportMissingModuleSource=false
"""What the theme leaves out for those who use a keyboard or a screen reader, added to the pages once they are made."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

REACHED = 'tabindex="0" role="group" aria-label'
CHANGES = (
    # Captions of the sidebar are headings of no level.
    (re.compile(r'role="heading">'), 'role="heading" aria-level="2">'),
    # Two landmarks of a kind need names.
    (re.compile(r'<aside class="sidebar-drawer">'), '<aside class="sidebar-drawer" aria-label="All pages">'),
    (re.compile(r'<aside class="toc-drawer">'), '<aside class="toc-drawer" aria-label="On this page">'),
    # What may scroll sideways has to be reached by the keyboard.
    (re.compile(r"<pre>"), '<pre tabindex="0">'),
    (re.compile(r'<div class="(table-wrapper[^"]*)">'), rf'<div class="\1" {REACHED}="Table">'),
    (re.compile(r'<div class="(math-wrapper[^"]*)">'), rf'<div class="\1" {REACHED}="Formula">'),
    # The parameters of a long signature are a list of definitions without terms.
    (re.compile(r"<dl>(?=\n<dd><em)(.*?)</dl>", re.S), lambda found: spans(found[1])),
    (re.compile(r'(?<!</h1>)\n<div id="search-results">'), '<h1>Search</h1>\n<div id="search-results">'),
)


def spans(lines: str) -> str:
    lines = lines.replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">{lines}</span>'


def improve(app: Sphinx, exception: Exception | None) -> None:
    """Changes each page once: what is changed already matches no more."""
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = before = path.read_text()
            for pattern, better in CHANGES:
                text = pattern.sub(better, text)
            if text != before:
                path.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", improve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
