"""notebooks/laboratory.ipynb runs from top to bottom, as plain Python and, where Jupyter is installed, in a kernel."""

import ast
import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT

NOTEBOOK = ROOT / "notebooks/laboratory.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
# What IPython does with a cell: it runs all of it, and shows the value of a last line that is an expression.
PLAIN = """
import ast, json, sys
names = {"__name__": "__main__"}
for source in json.load(sys.stdin):
    *body, last = ast.parse(source).body
    is_value = isinstance(last, ast.Expr)
    exec(compile(ast.Module(body if is_value else [*body, last], []), "cell", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if is_value else None
    if value is not None:
        print("shows", type(value).__name__, len(getattr(value, "_repr_html_", value.__repr__)()))
"""


def sources():
    return ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_the_notebook_is_committed_without_outputs():
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS if cell["cell_type"] == "code")


def test_every_link_of_the_notebook_leads_somewhere():
    text = "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert links and [link for link in links if not (NOTEBOOK.parent / link).exists()] == []


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PLAIN],
        input=json.dumps(sources()),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    shown = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("shows ")]
    wanted = [source for source in sources() if isinstance(ast.parse(source).body[-1], ast.Expr)]
    assert len(shown) == len([source for source in wanted if "print(" not in source.splitlines()[-1]])
    assert shown[0] == "Results" and {"DataFrame", "Picture"} <= set(shown)
    assert "warning: this run has only 4 seeds" in done.stdout and "best rate:" in done.stdout
    assert (tmp_path / "runs/notebook/report.html").is_file()


def test_in_a_kernel_the_progress_is_one_line_that_changes(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: make site-test")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: make site-test")
    read = nbformat.read(NOTEBOOK, as_version=4)
    run = next(k for k, cell in enumerate(read.cells) if "experiments.run(CONFIG)" in cell.source)
    read.cells = read.cells[: run + 1]
    read.cells[0] = nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {str(ROOT)!r})")
    done = nbclient.NotebookClient(read, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    progress, shown = done.cells[-1].outputs
    assert progress["data"]["text/plain"].endswith("s: finished")
    assert "jbn-results" in shown["data"]["text/html"]
