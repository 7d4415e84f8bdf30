# pyright: reportMissingImports=false, reportMissingModuleSource=false
"""A flowchart of mermaid as a table: mermaid draws by a large script, and a table can be read aloud."""

from __future__ import annotations

import re
from itertools import pairwise

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

BOX = re.compile(r'(\w+)(?:\["(.+?)"\])?')


def arrows(lines: list[str]) -> dict[str, list[str]]:
    """For each box, by its label, the labels of the boxes that its arrows lead to."""
    labels: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    group = ""
    for line in (line.strip() for line in lines):
        if line.startswith("subgraph "):
            group = line.split()[1]
            labels[group] = group
        elif line == "end":
            group = ""
        elif " --> " in line:
            steps = [[BOX.fullmatch(box) for box in step.split(" & ")] for step in line.split(" --> ")]
            for name, label in (box.groups() for step in steps for box in step if box):
                if label or name not in labels:
                    labels[name] = f"{group}: {label or name}" if group else label or name
            for here, there in pairwise(steps):
                for box in here:
                    found.setdefault(box[1] if box else "", []).extend(other[1] for other in there if other)
    return {labels[box]: [labels[other] for other in others] for box, others in found.items()}


class Flowchart(Directive):
    has_content = True

    def run(self) -> list[nodes.Node]:
        rows = [f"| {box} | {'; '.join(others)} |" for box, others in arrows(list(self.content)).items()]
        table = ["| from | arrows to |", "|:--|:--|", *(row.replace("_", "\\_") for row in rows)]
        parsed = nodes.container()
        self.state.nested_parse(StringList(table), self.content_offset, parsed)
        return parsed.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("mermaid", Flowchart)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
