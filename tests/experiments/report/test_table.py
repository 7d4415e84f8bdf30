"""experiments.report.table: the contents of a table survive Markdown, LaTeX and CSV."""

import csv
import io
import re
import shutil
import subprocess

import pytest

from experiments.report.table import LATEX, Table, csv_text, escape_latex, latex, markdown

HOSTILE = 'a_b & 50% of {x} ~ ^2 \\ #1 $3 <u> | "q" ±1 → -0.5'


def test_columns_of_numbers_without_any_number_can_be_left_out():
    table = Table(["a", "b", "c", "d"], [["-", "-", "3", "-"], ["-", "-", "-", "-"]], names=1, words=1)
    assert table.numbers == [False, True, True, False]
    assert table.without("-") == Table(["a", "c", "d"], [["-", "3", "-"], ["-", "-", "-"]], names=1, words=1)


def test_names_and_words_are_aligned_to_the_left_and_numbers_to_the_right():
    table = Table(["a", "b", "c"], [["x", "1", "why"]], words=1)
    assert markdown(table).splitlines()[1] == "| --- | ---: | --- |"
    assert r"\begin{tabular}{@{}lrl@{}}" in latex(table)


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
    rows = [
        {"a": 1 / 3, "ci": [0.1, 2.0], "power": {"n": 3, "seen": None}, "values": [1, 2], "spread": None},
        {"a": 1e-9, "ci": [-1.0, 1.0], "power": {"n": None, "seen": 0.5}, "values": [], "spread": {"mean": 7.0}},
    ]
    first, second = csv.DictReader(io.StringIO(csv_text(rows)))
    assert float(first["a"]) == 1 / 3 and [float(second["ci_low"]), float(second["ci_high"])] == [-1, 1]
    assert (first["power_n"], first["power_seen"], first["spread_mean"]) == ("3", "", "")
    assert second["spread_mean"] == "7.0" and not {"values", "spread"} & set(second)
