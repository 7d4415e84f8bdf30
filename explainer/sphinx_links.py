# pyright: reportMissingImports=false, reportMissingModuleSource=false
"""Code in backticks that is a name of the reference becomes a link to it, on every page."""

from __future__ import annotations

from collections.abc import Mapping

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode


def named(text: str, known: Mapping[str, object]) -> str | None:
    """The documented name that the code is, such as `jbn.fold` or `jbn.fold()`; no other code is a link."""
    name = text.removesuffix("()")
    return name if "." in name and name in known else None


def link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    objects = app.env.domaindata["py"]["objects"]
    for code in list(doctree.findall(nodes.literal)):
        name = named(code.astext(), objects)
        inside = code.parent
        while inside is not None and not isinstance(inside, nodes.reference):
            inside = inside.parent
        if name is None or inside is not None:
            continue
        found = objects[name]
        if found.docname != docname:
            code.replace_self(make_refnode(app.builder, docname, found.docname, found.node_id, code.deepcopy(), name))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
