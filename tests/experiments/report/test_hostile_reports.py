"""A run folder whose every text is markup: pages, figures and Markdown show it, and nothing else comes of it."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from synthetic import CONFIG, run_folder

from experiments import report
from experiments.config import AnalysisConfig, Config, Contrast, Published, vary
from experiments.store import record

EVIL = "<script>alert(1)</script>\"'&amp; <img src=x onerror=y> [a](javascript:z) ![b](http://c) `d` **e** $f$ | {g} \\"
SHORT = "<script>\"'&`*[a](b)|$x\\"
"""The same, short enough for the name of an arm, which has to fit into figures."""


def hostile(text: str, short: str) -> Config:
    """A small run in which every sentence that a config holds ends with `text`, and every name with `short`."""
    first, second, context = f"first {short}", f"second {short}", f"context {short}"
    arms = [f"{name}/{context}" for name in (first, second)]
    declared = f"contrast {short}"
    return replace(
        CONFIG,
        question=f"question {text}",
        placements=(),
        treatments=(vary(first, {"model.placement": "none"}), vary(second, {"model.placement": "after"})),
        activations=("relu",),
        contexts=(vary(context, {"model.epsilon": 1e-3}),),
        model=replace(CONFIG.model, hidden=(9, 9)),
        sweep=replace(CONFIG.sweep, learning_rate_points=3, seeds=4),
        analysis=AnalysisConfig(
            contrasts=(Contrast(declared, {arms[1]: 1, arms[0]: -1}),),
            published=(Published(declared, 1.5, f"source {text}", n=2),),
        ),
    )


def everywhere(value: Any, text: str) -> Any:
    """The value with `text` after each of its texts that is no name of something else."""
    kept = ("split", "checksum", "commit", "date")
    if isinstance(value, dict):
        return {key: item if key in kept else everywhere(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [everywhere(item, text) for item in value]
    return f"{value} {text}" if isinstance(value, str) else value


def drawn(folder: Path, text: str, short: str) -> Path:
    run_folder(folder, hostile(text, short))
    for name in ("env.json", "data.json"):
        record.write_json(folder / name, everywhere(record.read_json(folder / name, {}), text))
    result = record.read_json(folder / "result.json", {})
    result["warnings"] += [f"warning {text}", f"use --sweep.seeds 3 {text}"]
    for row in result["contrasts"]:
        row |= {"sentence": f"{row['sentence']} {text}", "caution": f"caution {text}"}
    record.write_json(folder / "result.json", result)
    report.write(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same run with text that is markup, and with a harmless word in its place."""
    root = tmp_path_factory.mktemp("hostile")
    return drawn(root / "evil", EVIL, SHORT), drawn(root / "plain", "harmless", "plain")


SHOWN = [f"{what} {EVIL}" for what in ("question", "source", "warning", "caution", "processor")]
SHOWN += [f"{what} {SHORT}" for what in ("first", "second", "context", "contrast")]


class Seen(HTMLParser):
    """Elements with the names of their attributes, targets, and text."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: set[tuple[str, ...]] = set()
        self.targets: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add((tag, *sorted(name for name, _ in attrs)))
        self.targets |= {value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")}

    def handle_data(self, data: str) -> None:
        self.text += data


def html(markdown: str) -> str:
    """As a renderer shows it that lets HTML through."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)


def test_the_page_has_the_elements_of_a_harmless_one_and_shows_the_text_as_it_is(folders):
    evil, plain = (Seen((folder / "report.html").read_text()) for folder in folders)
    assert evil.elements == plain.elements
    assert not {element for element in evil.elements if element[0] in ("script", "iframe", "object", "embed", "form")}
    assert not {name for element in evil.elements for name in element[1:] if name.startswith("on")}
    assert all(re.match(r"#\w+$|data:image/svg\+xml;base64,[\w+/=]+$", target) for target in evil.targets)
    for what in SHOWN:
        assert what in evil.text, what


def test_markdown_rendered_with_html_has_the_elements_of_a_harmless_one(folders):
    evil, plain = (Seen(html((folder / "report.md").read_text())) for folder in folders)
    assert evil.elements == plain.elements
    assert all(re.match(r"figures/\w+\.png$", target) for target in evil.targets), evil.targets
    for what in SHOWN:
        assert what in evil.text, what


def test_tables_for_papers_have_the_cells_of_harmless_ones(folders):
    evil, plain = folders
    for path in sorted((plain / "tables").glob("*.md")):
        there, here = (Seen(html((folder / "tables" / path.name).read_text())) for folder in (plain, evil))
        assert here.elements == there.elements, path.name


def test_figures_are_drawings_without_scripts_handlers_or_links(folders):
    evil, plain = folders
    files = sorted((evil / "figures").glob("*.svg"))
    page = (evil / "report.html").read_text()
    inline = [base64.b64decode(text) for text in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)]
    assert len(files) == len(inline) == len(list((plain / "figures").glob("*.svg"))) > 5
    for content in (*(file.read_bytes() for file in files), *inline):
        tags, names = set(), set()
        for element in ET.fromstring(content).iter():
            tags.add(str(element.tag).rpartition("}")[2])
            names |= {name.rpartition("}")[2] for name in element.attrib}
            links = [value for name, value in element.attrib.items() if name.endswith("href")]
            assert all(re.match(r"#[\w-]+$|data:image/png;base64,", value) for value in links)
        assert not tags & {"script", "a", "foreignObject", "iframe", "animate", "set"}, tags
        assert not {name for name in names if name.startswith("on")}
