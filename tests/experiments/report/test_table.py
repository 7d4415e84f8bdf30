"""experiments.report.table: the contents of a table survive Markdown, LaTeX and CSV."""

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import synthetic

from experiments.analysis import stats
from experiments.config import AnalysisConfig
from experiments.report.table import LATEX, Table, csv_text, escape_latex, latex, markdown

HOSTILE = 'a_b & 50% of {x} ~ ^2 \\ #1 $3 <u> | "q" ±1 → -0.5'


def test_picked_columns_keep_the_order_and_the_names_of_the_table():
    table = Table(["a", "b", "c", "d"], [["1", "2", "3", "4"]], names=2)
    assert table.pick(["d", "b", "zzz"]) == Table(["b", "d"], [["2", "4"]], names=1)


def test_markdown_cells_can_hold_bars_and_line_breaks():
    lines = markdown(Table(["x|y", "n"], [["a | b\nc", "1"]])).splitlines()
    assert lines == [r"| x\|y | n |", "| --- | ---: |", r"| a \| b c | 1 |"]


def test_latex_prints_special_characters_as_they_are():
    assert escape_latex("50% of a_b & c") == r"50\% of a\_b \& c"
    assert escape_latex("-0.26") == "$-$0.26" and escape_latex("[-0.3, -0.1]") == "{[}$-$0.3, $-$0.1]"
    assert escape_latex("after - before") == "after $-$ before"
    assert escape_latex("pre-linear 2015-03") == "pre-linear 2015-03"  # hyphens that are not minus signs
    assert escape_latex("±1 pp") == r"$\pm$1 pp" and escape_latex("< 0.001") == "$<$ 0.001"
    escaped = escape_latex(HOSTILE)
    bare = re.sub(r"\\[&%$#_{}]|\\[a-z]+(\{\})?|\$[<>]\$", "", escaped, flags=re.IGNORECASE)
    assert not set(bare) & set('&%#_~^\\<>|"±→') and bare.count("$") % 2 == 0 and bare.count("{") == bare.count("}")


def test_a_latex_table_has_the_rules_of_booktabs_and_as_many_cells_in_every_row():
    text = latex(Table(["name", "x", "y"], [[HOSTILE, "1", "2"], ["[b]", "-3", "*"]]))
    assert re.findall(r"\\(\w+rule)", text) == ["toprule", "midrule", "bottomrule"]
    assert r"\begin{tabular}{@{}lrr@{}}" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [2, 2, 2]
    assert not re.search(r"\\\\\s*[\[*]", text)  # otherwise LaTeX reads the bracket as an argument of \\


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_latex_compiles(tmp_path):
    table = Table(["name", *LATEX], [[HOSTILE, *LATEX]])
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}{latex(table)}\\end{{document}}\n", encoding="utf-8")
    done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_csv_holds_every_number_in_full_and_an_empty_cell_where_there_is_none():
    config = replace(synthetic.CONFIG, analysis=AnalysisConfig(resamples=99))
    result = stats.summarize(config, synthetic.records(config, probe_seeds=0))
    rows = list(csv.DictReader(io.StringIO(csv_text(result["comparisons"]))))
    for row, cells in zip(result["comparisons"], rows, strict=True):
        for key in ("difference", "sd", "p", "holm_p", "tost_p", "margin_pp"):
            assert float(cells[key]) == row[key]
        assert [float(cells["ci_low"]), float(cells["ci_high"])] == row["ci"]
        assert float(cells["power_detectable"]) == row["power"]["detectable"]
        assert cells["sentence"] == row["sentence"]
    arms = list(csv.DictReader(io.StringIO(csv_text(result["arms"]))))
    assert arms[0]["treatment"] == "none" and arms[0]["test_accuracy_batch_mean"] == ""
    assert np.isclose(float(arms[1]["test_accuracy_batch_mean"]), result["arms"][1]["test_accuracy_batch"]["mean"])
    assert not any(name in arms[0] for name in ("values", "seeds", "grid", "tuning", "test_accuracy_batch"))
