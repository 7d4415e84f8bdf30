"""experiments.report.exports: from scores.csv the whole analysis can be repeated; tables/ holds every number."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
from synthetic import SMALL

from experiments.analysis import bagging, stats
from experiments.analysis.comparison import RESOLUTION_PP
from experiments.config import Arm
from experiments.report import exports
from experiments.store.record import Run
from experiments.store.right import pack_right


def run_of(config, records):
    result = stats.summarize(config, records, synthetic.data())
    return Run(Path("run"), config, {}, synthetic.data(), records, result, {})


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def run():
    config = replace(SMALL, sweep=replace(SMALL.sweep, weight_decays=(0.0, 1e-4)))
    return run_of(config, synthetic.records(config))


def test_scores_have_one_line_per_network_in_order(run):
    rows = read(exports.scores(run, run.result))
    assert [*rows[0]] == [
        *("treatment", "context", "learning_rate", "weight_decay", "decay_scale_bias", "seed", "val_accuracy"),
        *("val_loss", "test_accuracy", "test_accuracy_population", "test_accuracy_batch", "diverged", "learned"),
    ]
    trained = [r for r in run.records if r["phase"] == "train"]
    assert len(rows) == len(trained) < len(run.records)
    keys = [
        (row["treatment"], float(row["learning_rate"]), float(row["weight_decay"]), int(row["seed"])) for row in rows
    ]
    assert keys == sorted(keys, key=lambda key: (["none", "after"].index(key[0]), *key[1:]))
    by_key = {(r["treatment"], r["learning_rate"], r["weight_decay"], r["seed"]): r for r in trained}
    for key, row in zip(keys, rows, strict=True):
        r = by_key[key]
        assert float(row["val_accuracy"]) == r["val_accuracy"][-1] and float(row["test_accuracy"]) == r["test_accuracy"]
        assert row["test_accuracy_batch"] == (
            "" if r["test_accuracy_batch"] is None else repr(r["test_accuracy_batch"])
        )
        assert row["diverged"] == "" and row["learned"] == "True"


def test_the_estimates_can_be_computed_from_the_scores(run):
    rows, settings = read(exports.scores(run, run.result)), {}
    for row in rows:
        point = float(row["learning_rate"]), float(row["weight_decay"])
        settings.setdefault(row["treatment"], {}).setdefault(point, []).append(row)
    arms = {}
    for treatment, points in settings.items():
        whole = [some for _, some in sorted(points.items()) if len(some) == run.config.sweep.seeds]
        validation, loss, test = (
            np.array([[scale * float(row[key]) for row in some] for some in whole]).T
            for key, scale in (("val_accuracy", 100), ("val_loss", 1), ("test_accuracy", 100))
        )
        arms[treatment] = bagging.Scores(run.config.seeds(Arm(treatment, "relu")), validation, test, loss)
    found = bagging.contrast(bagging.bag(arms), {"after": 1, "none": -1})
    expected = run.result["contrasts"][0]
    assert found.estimate == pytest.approx(expected["difference"])
    assert found.se == pytest.approx(expected["intervals"][0]["se"])


def test_a_network_that_is_no_better_than_chance_did_not_learn():
    records = synthetic.records(SMALL, probe_seeds=0)
    right = np.arange(synthetic.TEST) < synthetic.TEST // 10
    records[0] |= {"test_accuracy": 0.1, "diverged": 17, "right": pack_right(right)}
    run = run_of(SMALL, records)
    lost = [row for row in read(exports.scores(run, run.result)) if row["learned"] == "False"]
    assert [(row["seed"], row["diverged"]) for row in lost] == [(str(records[0]["seed"]), "17")]
    assert exports.RESOLUTION_PP == RESOLUTION_PP


def test_the_csv_of_contrasts_has_every_interval_weight_and_end(run):
    (row,) = run.result["contrasts"]
    row = row | {"at_end": [{"arm": "after/relu", "share": 0.25}]}
    texts = exports.tables(run.result | {"contrasts": [row]}, {})
    (cells,) = read(texts["tables/contrasts.csv"])
    for key in ("difference", "se", "df", "p", "adjusted_p", "tost_p", "margin_pp", "alpha"):
        assert float(cells[key]) == row[key]
    for found, name in zip(row["intervals"], ("new_seeds", "new_data"), strict=True):
        ends = [float(cells[f"for_{name}_ci_{end}"]) for end in ("low", "high")]
        assert ends == found["ci"] and cells[f"for_{name}_finding"] == found["finding"]
    assert cells["weights"] == "after/relu: 1, none/relu: -1" and cells["at_end"] == "after/relu: 0.25"
    assert cells["sentence"] == row["sentence"]


def test_the_csv_of_settings_has_the_validation_means_of_every_setting(run):
    rows = read(exports.tables(run.result, {})["tables/settings.csv"])
    points = [point for arm in run.result["arms"] for point in arm["settings"]]
    assert len(rows) == len(points)
    for row, point in zip(rows, points, strict=True):
        assert all(float(row[key]) == point[key] for key in ("learning_rate", "weight_decay", "mean", "share", "seeds"))


def test_tables_without_rows_have_no_file(run):
    texts = exports.tables(run.result, {})
    assert "tables/shares.csv" not in texts and "tables/published.csv" in texts
    assert read(texts["tables/power.csv"])[0]["contrast"] == "relu: after - none"
