"""The Markdown pages: every link leads somewhere, and every block of Python parses."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    ROOT / "experiments/published/README.md",
    ROOT / "benchmarks/NOTES.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_python_is_python(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        ast.parse(block)


def test_the_readme_can_be_read_in_two_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


def test_the_readmes_lines_of_functions_run_as_they_stand(capsys):
    block = re.search(r"```python\n(import jax, .*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block
    names: dict = {}
    exec(block[1], names)
    assert abs(float(names["m"].mean.mean()) - 1e4) < 1
    assert abs(float(names["y"].mean())) < 2e4 and names["info"].moments.count == 512
