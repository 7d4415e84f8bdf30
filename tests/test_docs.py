"""The Markdown pages: links lead somewhere, blocks of Python parse, and what is quoted of a run is what it says."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

from experiments.quoting import docstrings, pages
from experiments.quoting.runs import read_published

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("docs/handbook/**/*.md"),
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


def test_make_quote_has_nothing_to_write():
    differ = [path for path, text in pages.written_anew(read_published()).items() if path.read_text() != text]
    assert differ == [], "run make quote"


# What only a run can say: an interval, a p value, a verdict.
FROM_A_RUN = re.compile(
    r"\[[-+]?\d+\.\d+, [-+]?\d+\.\d+\]|TOST p|\bp [<=>] 0?\.\d|equivalent within|better by [\d.]+ pp|no detectable"
)


def committed_configs():
    """A config of one's own, which git does not know, need not say what the committed ones do."""
    done = subprocess.run(["git", "ls-files", "configs"], cwd=ROOT, capture_output=True, text=True)
    known = set(done.stdout.split()) if done.returncode == 0 else None
    return [p for p in sorted(ROOT.glob("configs/*.py")) if known is None or str(p.relative_to(ROOT)) in known]


CONFIGS = committed_configs()


def test_a_number_of_a_run_that_stands_in_prose_is_found():
    for text in ("-0.12 [-0.42, 0.19]", "after is better by 2.81 pp", "(TOST p < 0.001)", "p = 0.039 of six contrasts"):
        assert FROM_A_RUN.search(text), text
    for text in (
        "so after - before = +1.97 pp, from -0.27 to 4.21",
        "No arm is called better",
        "97, 96, 94%",
        "[0, 1]",
    ):
        assert not FROM_A_RUN.search(text), text


QUOTING = [*(ROOT / page for page in pages.PAGES), *ROOT.glob("docs/handbook/**/*.md")]


@pytest.mark.parametrize("path", [*dict.fromkeys(QUOTING), *CONFIGS], ids=lambda path: path.name)
def test_what_a_run_says_stands_only_where_it_is_quoted(path):
    text = path.read_text()
    if path.suffix == ".py":
        prose = docstrings.BLOCK.sub("", text)
    else:
        prose = re.sub(r"^```.*?^```$", "", pages.BLOCK.sub("", text), flags=re.M | re.S)
    assert FROM_A_RUN.findall(prose) == []


def test_a_config_with_a_result_says_so_and_one_without_says_that():
    published = {path.parent.name for path in ROOT.glob("experiments/published/*/result.json")}
    for path in CONFIGS:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        claims = "no result is claimed" in " ".join(text.split())
        assert ("\nResult (" in text) is (path.stem in published), path
        assert claims is (path.stem not in published | {"smoke"}), path


def test_what_changed_repeats_the_numbers_of_the_calibration():
    bank = json.loads((ROOT / "benchmarks/results/calibration.json").read_text())
    procedures = {row["procedure"]: row for row in bank["procedures"]}
    rows = re.findall(
        r"^\| (?:former: |now: )?(\d+ seeds.*?) \| (\d+) \| (.*?) \| (.*?) \| (.*?)% \|$", _what_changed(), re.M
    )
    assert len(rows) == 4
    for name, trainings, *columns in rows:
        found = procedures[name]
        contrasts = [found["contrasts"][f"after - before, {a}"] for a in ("relu", "tanh", "sigmoid")]
        assert float(trainings) == round(found["trainings"])
        for column, key, digits in zip(columns, ("sd", "se", "covers_own_mean"), (2, 2, 0), strict=True):
            assert column == ", ".join(f"{contrast[key]:.{digits}f}" for contrast in contrasts), (name, key)


def _what_changed():
    return (ROOT / "docs/what-changed.md").read_text()


def test_the_laboratorys_example_is_a_config_whose_interaction_comes_first():
    block = re.search(r"```python\n(# configs/mine.py\n.*?)```", (ROOT / "docs/laboratory.md").read_text(), re.S)
    assert block
    names: dict = {}
    exec(block[1], names)
    first, *others = names["CONFIG"].contrasts
    assert (first.kind, first.primary, others[0].name) == ("interaction", True, "narrow: after - before")
    assert [c.kind for c in others] == ["simple"] * 4 + ["interaction"], "the declared one is not asked twice"
