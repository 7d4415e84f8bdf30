"""experiments.report.tables: the contents of the tables."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic

from experiments import report
from experiments.analysis import stats
from experiments.config import (
    AnalysisConfig,
    Arm,
    Published,
)
from experiments.formatting import signed
from experiments.report import tables
from experiments.report.table import Table

CONFIG = replace(synthetic.CONFIG, analysis=AnalysisConfig(resamples=99, margin_pp=0.5))


def made(config):
    return stats.summarize(config, synthetic.records(config, probe_seeds=0))


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
        assert cells["max stable rate"] == "≥ 1"  # nothing diverged, so the largest stable rate is unknown
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


@pytest.fixture(scope="module")
def result():
    records = synthetic.records(synthetic.CONFIG)
    for r in records:
        if (r["phase"], r["treatment"], r["context"]) == ("evaluate", "none", "relu"):
            r["diverged"] = 10 * r["seed"] if r["seed"] % 2 else None
    return stats.summarize(synthetic.CONFIG, records)


def test_every_paired_difference_of_norms_has_a_row_for_each_kind_of_statistics(result):
    table = tables.by_statistics(synthetic.CONFIG, result)
    contexts = [c.name for c in synthetic.CONFIG.all_contexts]
    assert [row[:3] for row in table.rows] == [
        [context, "after - before", kind] for context in contexts for kind in ("running", "population", "batch")
    ]
    row = next(r for r in result["comparisons"] if (r["a"], r["b"], r["context"]) == ("after", "before", contexts[0]))
    assert table.rows[0][3] == signed(row["difference"]) and table.rows[0][5:] == ["n/a", "n/a"]
    change = row["by_statistics"][1]["change"]["difference"]
    assert table.rows[1][5] == signed(change)
    assert change == pytest.approx(row["by_statistics"][1]["difference"] - row["difference"])


def test_only_arms_that_diverged_are_listed_with_their_steps(result):
    steps = [10 * seed for seed in synthetic.CONFIG.sweep.evaluation() if seed % 2]
    (row,) = tables.divergence(result).rows
    count = f"{len(steps)} of {synthetic.CONFIG.sweep.evaluation_seeds}"
    assert row == ["relu", "none", count, *(f"{v:,.0f}" for v in (np.median(steps), min(steps), max(steps)))]


def test_the_loss_surface_is_that_of_the_probed_seeds(result):
    arm = next(a for a in result["arms"] if Arm(a["treatment"], a["context"]) == Arm("before", "tanh"))
    values = [end["eigenvalues"]["frozen"][0] for end in arm["end"]]
    row = next(r for r in tables.sharpness(result).rows if r[:2] == ["tanh", "before"])
    assert row[3:] == [f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}", str(len(values))]
    table = tables.mean_logit(result)
    line = next(r for r in table.rows if r[:2] == ["tanh", "head"])
    heads = [end["mean_logit"]["batch"]["head"] for end in arm["end"]]
    assert line[table.header.index("before, batch")] == f"{np.mean(heads):.3g}"


def test_they_stand_in_the_report_where_there_is_something_to_say(tmp_path):
    folder = synthetic.run_folder(tmp_path / "run")
    report.write(folder)
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "By the statistics at test" in text and "Sharpness" in text and "Divergence" not in text
