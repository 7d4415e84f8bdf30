"""experiments.tables and experiments.typeset: what is in the tables, and that it survives Markdown, LaTeX and CSV."""

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import synthetic

from experiments import tables
from experiments.analysis import stats
from experiments.config import (
    AnalysisConfig,
    Arm,
    DataConfig,
    ModelConfig,
    ProbesConfig,
    Published,
    to_json,
    vary,
)
from experiments.networks import UNITS
from experiments.typeset import LATEX, Table, csv_text, escape_latex, latex, markdown
from jbn.placement import Placement

CONFIG = replace(synthetic.CONFIG, analysis=AnalysisConfig(resamples=99, margin_pp=0.5))
HOSTILE = 'a_b & 50% of {x} ~ ^2 \\ #1 $3 <u> | "q" ±1 → -0.5'


def made(config):
    return stats.summarize(config, synthetic.records(config, probe_seeds=0))


# Laws.


def test_the_orders_are_those_of_the_library():
    assert {unit: tuple(order.split(" → ")) for unit, order in tables.UNIT_ORDER.items()} == dict(UNITS)
    assert set(tables.ORDER) == set(get_args(Placement))
    for placement, order in tables.ORDER.items():
        steps = order.split(" → ")
        assert steps.count("linear") == steps.count("activation") == 1
        assert steps.count("norm") == synthetic.NORMS.get(placement, 1)
    assert tables.ORDER["before"].index("norm") < tables.ORDER["before"].index("activation")
    assert tables.ORDER["after"].index("norm") > tables.ORDER["after"].index("activation")


def test_only_orders_that_occur_are_listed():
    assert [row[0] for row in tables.orders(CONFIG).rows] == ["none", "before", "after"]
    model = ModelConfig(network="resnet", depth=8)
    units = replace(CONFIG, placements=(), units=("original", "full_preactivation"), model=model)
    assert tables.orders(units).rows == [
        ["original", "residual unit", "layer → norm → activation → layer → norm → add → activation"],
        ["full_preactivation", "residual unit", "norm → activation → layer → norm → activation → layer → add"],
    ]
    same = replace(CONFIG, placements=("before",), treatments=(vary("wide", {"model.width": 2.0}),))
    assert [row[0] for row in tables.orders(same).rows] == ["before"]


def test_the_differences_of_treatments_and_of_contexts_have_a_table_each():
    config = replace(
        CONFIG,
        placements=("before",),
        treatments=(
            vary("final", {"model.placement": "after", "model.final_norm": True}),
            vary("again", {"model.placement": "before"}, first_seed=100),
        ),
        contexts=(vary("short", {"training.epochs": 5}), vary("long", {"training.epochs": 50})),
    )
    found = tables.differences(config)
    assert found["treatment"].header == ["treatment", "model.placement", "model.final_norm", "seeds"]
    assert found["treatment"].rows == [
        ["before", "before", "no", "0 to 7"],
        ["final", "after", "yes", "0 to 7"],
        ["again", "before", "no", "100 to 107"],
    ]  # fmt: skip
    assert found["context"].header == ["context", "model.activation", "training.epochs"]
    assert found["context"].rows[:3] == [
        ["relu, short", "relu", "5"], ["relu, long", "relu", "50"], ["tanh, short", "tanh", "5"]
    ]  # fmt: skip
    alone = replace(CONFIG, placements=("before",), activations=("relu",))
    assert tables.differences(alone) == {}


def test_every_field_of_the_configs_differences_is_a_column_of_one_table():
    config = replace(CONFIG, treatments=(vary("x", {"model.width": 2.0, "optimizer.nesterov": True}),))
    shown = {column for table in tables.differences(config).values() for column in table.header[1:]}
    assert shown == set(config.differences())


def test_the_table_of_arms_has_what_occurs_and_no_more():
    plain = tables.arms(CONFIG, made(CONFIG), {})
    assert not {"decay", "on norms", "parameters", "multiply-adds"} & set(plain.header)
    assert {"population (%)", "batch (%)", "max stable rate"} <= set(plain.header)
    sweep = replace(CONFIG.sweep, weight_decays=(0.0, 1e-4), decay_scale_bias=(False, True))
    tuned = replace(CONFIG, sweep=sweep, activations=("relu",))
    result, counts = made(tuned), synthetic.arms(tuned)
    table = tables.arms(tuned, result, counts)
    for row, arm in zip(table.rows, result["arms"], strict=True):
        cells = dict(zip(table.header, row, strict=True))
        assert (cells["context"], cells["treatment"]) == (arm["context"], arm["treatment"])
        assert (cells["decay"], cells["on norms"]) == (f"{arm['weight_decay']:g}", "no")
        parameters = counts[str(Arm(arm["treatment"], "relu"))]["parameters"]
        assert cells["parameters"] == f"{parameters:,}"
        batch = arm["test_accuracy_batch"]
        assert cells["batch (%)"] == ("n/a" if batch is None else f"{batch['mean']:.2f}")
        assert cells["max stable rate"] == "≥ 1"  # nothing diverged: it is not known how far one could go
    other = replace(CONFIG, analysis=replace(CONFIG.analysis, metric="test_accuracy_population"))
    header = tables.arms(other, made(other), {}).header
    assert header[2] == "test accuracy, population statistics (%)" and "running (%)" in header


def test_the_power_of_every_comparison_is_in_its_table():
    result = made(CONFIG)
    table = tables.comparisons(CONFIG, result)
    assert table.header[-3:] == ["seen with 80% power (pp)", "n to see 0.5 pp", "n to show ±0.5 pp"]
    for row, cells in zip(result["comparisons"], table.rows, strict=True):
        power = row["power"]
        assert cells[-3:] == [
            f"{power['detectable']:.2f}",
            str(power["n_to_detect"]),
            str(power["n_to_show_equivalence"]),
        ]


def test_the_tuning_table_brackets_one_point_of_each_arm_and_marks_those_that_diverged():
    config = replace(CONFIG, activations=("relu",), sweep=replace(CONFIG.sweep, weight_decays=(0.0, 1e-4)))
    records = synthetic.records(config, probe_seeds=0)
    first = next(r for r in records if r["learning_rate"] == 1 and r["weight_decay"] == 1e-4)
    first["diverged"] = 0
    result = stats.summarize(config, records)
    table = tables.tuning(result)
    assert table.header == ["context", "treatment", "decay", "0.0625", "0.125", "0.25", "0.5", "1"]
    assert len(table.rows) == 6 and table.names == 3
    for arm in result["arms"]:
        chosen = [(row[2], table.header[k]) for row in table.rows for k, cell in enumerate(row)
                  if cell.startswith("[") and row[1] == arm["treatment"]]  # fmt: skip
        assert chosen == [(f"{arm['weight_decay']:g}", f"{arm['learning_rate']:g}")]
    assert [(row[1], row[2]) for row in table.rows if any(" x" in cell for cell in row)] == [("none", "0.0001")]


def test_parameters_that_differ_within_a_context_are_noted_once_for_contexts_alike():
    counts = {str(arm): {"parameters": 100 if arm.treatment == "none" else 120} for arm in CONFIG.arms}
    assert tables.parameter_notes(CONFIG, counts) == [
        "relu, tanh and sigmoid: 100 parameters: none",
        "relu, tanh and sigmoid: 120 parameters: before and after",
    ]
    counts[str(Arm("after", "tanh"))]["parameters"] = 130
    assert [note.split(":")[0] for note in tables.parameter_notes(CONFIG, counts)] == [
        *["relu and sigmoid"] * 2,
        *["tanh"] * 3,
    ]
    assert tables.parameter_notes(CONFIG, {}) == []
    assert tables.parameter_notes(CONFIG, {str(arm): {"parameters": 7} for arm in CONFIG.arms}) == []


def test_the_published_table_says_sign_size_and_verdict():
    entry = Published("after", "none", "relu", 9.0, "A | B", n=3)
    config = replace(CONFIG, analysis=replace(CONFIG.analysis, published=(entry,)))
    table = tables.published(config, made(config))
    cells = dict(zip(table.header, table.rows[0], strict=True))
    assert (cells["published (pp)"], cells["their n"], cells["our n"]) == ("+9.00", "3", "6")
    assert (cells["sign"], cells["size"], cells["verdict"]) == (
        "reproduced",
        "not reproduced",
        "reproduced in sign only",
    )


def test_the_table_of_speed_has_a_cell_for_every_treatment():
    found = {"relu": (97, {"none": 1200, "after": 30}), "tanh": (81, {"before": 7})}
    assert tables.speed(["none", "before", "after"], found) == Table(
        ["context", "accuracy (%)", "none", "before", "after"],
        [["relu", "97", "1,200", "n/a", "30"], ["tanh", "81", "n/a", "7", "n/a"]],
    )


def shown(config):
    return dict(tables.setup(config).rows)


def test_the_setup_lists_what_can_have_an_effect_and_no_more():
    plain = shown(CONFIG)
    assert {"model.hidden", "model.norm", "optimizer.schedule", "data.test_fraction", "probes.examples"} <= set(plain)
    idle = {"model.init_std", "model.r_max", "model.groups", "model.unit", "optimizer.growth", "optimizer.milestones"}
    set_by_arms = {"model.placement", "model.activation"}
    assert not (idle | set_by_arms | {"units", "writers", "training.keep_checkpoints"}) & set(plain)
    cnn = shown(replace(CONFIG, model=ModelConfig(network="vgg16"), data=DataConfig(name="cifar10")))
    assert "model.pooling" in cnn and not {"model.hidden", "data.test_fraction"} & set(cnn)
    renorm = (vary("renorm", {"model.norm": "batch_renorm"}), vary("normal", {"model.init": "normal"}))
    assert {"model.r_max", "model.init_std"} <= set(shown(replace(CONFIG, treatments=renorm)))
    rates = tuple(vary(s, {"optimizer.schedule": s}) for s in ("constant", "step"))
    in_contexts = shown(replace(CONFIG, contexts=rates))
    assert "optimizer.schedule" not in in_contexts and "optimizer.milestones" in in_contexts
    tuned = shown(replace(CONFIG, sweep=replace(CONFIG.sweep, weight_decays=(0.0, 1e-4))))
    assert "optimizer.weight_decay" not in tuned and tuned["sweep.weight_decays"] == "0, 0.0001"
    assert "probes.examples" not in shown(replace(CONFIG, probes=ProbesConfig(seeds=0)))


def test_what_the_setup_leaves_out_or_lists_is_a_field_of_the_config():
    fields = {path for path, _ in tables._flat(to_json(CONFIG))}
    assert {path for path in tables.USED if not path.endswith("*")} <= fields


def test_numbers_of_the_setup_are_short():
    entry = Published("after", "none", "relu", 98.70 - 99.35, "A", n=3)
    config = replace(CONFIG, analysis=replace(CONFIG.analysis, published=(entry,)))
    assert "difference=-0.65," in shown(config)["analysis.published"]


# Typesetting.


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
    assert escape_latex("pre-linear 2015-03") == "pre-linear 2015-03"  # hyphens that are no minus signs
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
    assert not re.search(r"\\\\\s*[\[*]", text)  # or LaTeX takes the bracket for an argument of \\


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_latex_compiles(tmp_path):
    table = Table(["name", *LATEX], [[HOSTILE, *LATEX]])
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}{latex(table)}\\end{{document}}\n", encoding="utf-8")
    done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_csv_holds_every_number_in_full_and_an_empty_cell_where_there_is_none():
    result = made(CONFIG)
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
