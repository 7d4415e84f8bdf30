# pyright: reportMissingImports=false, reportMissingModuleSource=false
"""Sphinx: `{scene}` shows a scene, `{value}` cites a number of its data; in the story no result may be typed in.

```{scene} ravine
```
... takes {value}`ravine.steps_raw` steps, or with a format: {value}`ravine.share:.1%`
"""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

HERE = Path(__file__).parent
BUILT = HERE / "_build"
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@cache
def data_of(scene: str) -> dict[str, Any]:
    """The data file of a scene; empty if it has none."""
    path = BUILT / "data" / f"{scene}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def value(text: str) -> tuple[str, str]:
    """What `scene.key` or `scene.key:format` reads, and where it comes from."""
    name, _, form = text.partition(":")
    scene, *keys = name.split(".")
    found: Any = data_of(scene)
    try:
        for key in keys:
            found = found[int(key)] if isinstance(found, list) else found[key]
    except (KeyError, IndexError, TypeError, ValueError):
        raise ExtensionError(f"{{value}}`{text}`: the data of {scene} has no {'.'.join(keys)}") from None
    if not isinstance(found, dict) or "value" not in found:
        raise ExtensionError(f"{{value}}`{text}` is no Value; explainer/data/{scene}.py makes it one")
    number = format(found["value"], form or (",.0f" if float(found["value"]).is_integer() else ".3g"))
    number = re.sub(r"e([-+]\d+)", lambda e: "·10" + str(int(e[1])).translate(RAISED), number)
    unit = found.get("unit", "")
    parts = [f"n = {found['n']}" if found.get("n", 1) > 1 else "", f"sd {found['sd']:.2g}" if "sd" in found else ""]
    parts += [f"seeds {found['seed']}" if "seed" in found else "", found.get("config", "")]
    said = number.replace("-", "\N{MINUS SIGN}") + ("" if not unit else unit if unit == "%" else f" {unit}")
    return said, "; ".join(part for part in parts if part)


def value_role(name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = None):
    """`{value}`: the number, with its origin as a hint."""
    said, origin = value(text)
    html = f'<span class="bn-value" title="{escape(origin)}">{escape(said)}</span>'
    return [nodes.raw("", html, format="html")], []


class SceneDirective(Directive):
    """`{scene} NAME`: the figure (its default without script), the code behind it, the origin of its numbers.

    `{scene} NAME VARIANT` shows another default, and the figure alone.
    """

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        scene, *variant = self.arguments
        env = self.state.document.settings.env
        for path in (HERE / f"data/{scene}.py", HERE / f"programs/{scene}.py", HERE / f"src/scenes/{scene}.ts"):
            env.note_dependency(str(path))
        default = BUILT / "defaults" / f"{'-'.join(self.arguments)}.html"
        if not default.exists():
            raise self.error(f"{default.name} is not built from {HERE.name}/src/scenes: no scene, or no variant of it")
        tag = f"bn-{scene.replace('_', '-')}"
        up = "../" * env.docname.count("/")
        attribute = f' variant="{variant[0]}"' if variant else ""
        html = f'<{tag} class="bn-scene"{attribute}>{default.read_text()}</{tag}>\n'
        html += f'<script defer src="{up}_static/scenes/{scene}.js"></script>'
        found: list[nodes.Node] = [nodes.raw("", html, format="html")]
        if variant:
            return found
        programs = HERE / f"programs/{scene}.py"
        if programs.exists():
            code = nodes.literal_block("", programs.read_text(), language="python")
            found += [*details("The lines of jbn behind this figure", code)]
        if data_of(scene):
            found += [*details("Where the numbers come from", nodes.paragraph("", self.origin(scene)))]
        return found

    def origin(self, scene: str) -> str:
        """In one paragraph: what made the data."""
        made = data_of(scene)["provenance"]
        versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        said = data_of(scene).get("source", "")
        by = f"Made by explainer/data/{scene}.py ({made['command']}) at commit {made['commit']} with {versions}."
        return f"{said} {by}".strip()


def details(summary: str, content: nodes.Node) -> list[nodes.Node]:
    """Folded content."""
    return [
        nodes.raw("", f'<details class="bn-numbers"><summary>{escape(summary)}</summary>', format="html"),
        content,
        nodes.raw("", "</details>", format="html"),
    ]


# What is no prose: code, roles, addresses, directives' options. Years are no results.
NO_PROSE = re.compile(r"```.*?```|\{\w+\}`[^`]*`|`[^`]*`|\]\([^)]*\)|<[^>]*>|^---\n.*?^---|\$[^$]*\$", re.S | re.M)
RESULT = re.compile(r"(?<![\w.])(?!(?:19|20)\d\d\b)(?:\d+\.\d+|\d{3,}|\d+(?:\.\d+)?\s?(?:%|pp\b|percent|times\b))")


def literal_results(source: str) -> list[str]:
    """Results that are typed into the prose of a page of the story, instead of cited from data."""
    return RESULT.findall(NO_PROSE.sub(" ", source))


def refuse_literals(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname.startswith("story/") and (found := literal_results(source[0])):
        raise ExtensionError(
            f"docs/{docname}.md types in {', '.join(found)}; cite results as {{value}}`scene.key` from explainer/data"
        )


def copy_scripts(app: Sphinx, exception: Exception | None) -> None:
    """The scenes' scripts and style beside the pages."""
    if exception is None and app.builder.format == "html":
        static = Path(app.outdir) / "_static"
        shutil.copytree(BUILT / "scenes", static / "scenes", dirs_exist_ok=True)
        shutil.copy(HERE / "src/style.css", static / "scenes.css")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("value", value_role)
    app.add_directive("scene", SceneDirective)
    app.add_css_file("scenes.css")
    app.connect("source-read", refuse_literals)
    app.connect("build-finished", copy_scripts)
    return {"parallel_read_safe": True}
