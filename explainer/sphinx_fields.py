# pyright: reportMissingImports=false, reportMissingModuleSource=false
"""`{fields} module.Type`: the fields of a TypedDict, such as a row of result.json, with types and explanations."""

from __future__ import annotations

import importlib
import re
import typing
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.typing import stringify_annotation


def fields(path: str) -> Iterator[tuple[str, str, str]]:
    """Name, type and explanation of each field, those of base classes first."""
    module, _, name = path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    said = ModuleAnalyzer.for_module(module).find_attr_docs()
    known = {field: " ".join(lines).strip() for (of, field), lines in said.items() if of in family(kind)}
    for field, of in typing.get_type_hints(kind).items():
        yield field, re.sub(r"~?[\w.]+\.", "", stringify_annotation(of, "smart")), known.get(field, "")


def family(kind: Any) -> set[str]:
    """The names of a type and of those that it extends."""
    bases = getattr(kind, "__orig_bases__", ())
    return {kind.__name__}.union(*(family(base) for base in bases if isinstance(base, type)))


class Fields(Directive):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        lines = [f"- **`{name}`** (`{of}`): {said}" for name, of, said in fields(self.arguments[0])]
        parsed = nodes.container()
        self.state.nested_parse(StringList(lines), self.content_offset, parsed)
        return parsed.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("fields", Fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
