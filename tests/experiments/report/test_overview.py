"""`list` and `compare`: every run has a row, whatever its state, and what differs between two runs comes first."""

import dataclasses
import fcntl
import json
from pathlib import Path

import pytest
from published_folders import published_folder
from rich.console import Console
from simulated import peak

from experiments.config import AnalysisConfig, Config, ConfigError, DataConfig, SweepConfig
from experiments.report import listing, print_table, side_by_side
from experiments.store.record import read

CONFIG = Config(
    "first",
    activations=("relu",),
    data=DataConfig(name="mnist"),
    sweep=SweepConfig(lowest_learning_rate=2.0**-6, learning_rate_points=7, seeds=6),
)
HEIGHTS = {"none": 80, "before": 92, "after": 92}


def truth(arm, setting):
    return HEIGHTS[arm.treatment] + peak(0)(arm, setting)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    parent = tmp_path_factory.mktemp("runs")
    published_folder(parent, CONFIG, truth)
    wide = dataclasses.replace(
        CONFIG, name="second", placements=("before", "after"), analysis=AnalysisConfig(margin_pp=2)
    )
    published_folder(parent, wide, truth)
    return parent


def row(table, name):
    return next(row for row in table.rows if row[0] == name)


def test_a_finished_run_has_its_first_answer(runs):
    result = read(runs / "first").result
    assert result
    table = listing(runs)
    assert row(table, "first")[1:4] == ["finished", "6", "2026-11-30 08:28"]
    assert row(table, "first")[4].startswith("relu: after - before: ")
    assert listing(runs / "first").rows == [row(table, "first")], "a run folder itself"


def test_unfinished_and_broken_runs_are_listed_with_what_is_the_matter(runs, tmp_path):
    for name in ("stopped", "writing", "broken"):
        (tmp_path / name).mkdir()
        for file in ("config.json", "env.json"):
            (tmp_path / name / file).write_bytes((runs / "first" / file).read_bytes())
    (tmp_path / "broken" / "config.json").write_text("{")
    with open(tmp_path / "writing" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        states = {name: (state, said) for name, state, _, _, said in listing(tmp_path).rows}
    assert states["stopped"] == ("interrupted", "0 trainings so far; the same command goes on from there")
    assert states["writing"][0] == "being trained"
    assert states["broken"][0] == "cannot be read" and "config.json" in states["broken"][1]
    assert {state for _, state, *_ in listing(tmp_path).rows} == {"interrupted", "cannot be read"}, "the lock is gone"


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run folder; give a folder of runs"):
        listing(tmp_path)


def test_a_name_that_no_folder_can_have_is_refused():
    with pytest.raises(ConfigError, match=r"^x+ cannot be read \(File name too long\); give another folder of runs"):
        listing(Path(300 * "x"))


def test_two_runs_side_by_side_differ_in_exactly_what_was_changed(runs):
    first, second = read(runs / "first"), read(runs / "second")
    found = side_by_side(first, second)
    assert next(iter(found)) == "Configs differ in"
    fields = {name: values for name, *values in found["Configs differ in"].rows}
    assert fields == {
        "name": ["first", "second"],
        "placements": ["['none', 'before', 'after']", "['before', 'after']"],
        "analysis.margin_pp": ["1.0", "2.0"],
    }
    assert found["Made by"].rows == []
    contrasts = {name: values for name, *values in found["Contrasts, percentage points"].rows}
    assert contrasts["relu: before - none"][1] == "" and "before is better" in contrasts["relu: before - none"][0]
    for run, said in zip((first, second), contrasts["relu: after - before"], strict=True):
        assert run.result
        wanted = next(c for c in run.result["contrasts"] if c["name"] == "relu: after - before")
        assert said.startswith(f"{wanted['difference']:+.2f} [")
    assert [name for name, *_ in found["Arms, percent"].rows] == ["none/relu", "before/relu", "after/relu"]


def test_of_an_unfinished_run_only_config_and_origin_are_compared(runs, tmp_path):
    for file in ("config.json", "env.json"):
        (tmp_path / file).write_bytes((runs / "first" / file).read_bytes())
    environment = json.loads((tmp_path / "env.json").read_text()) | {"device": "gpu x 1"}
    (tmp_path / "env.json").write_text(json.dumps(environment))
    found = side_by_side(read(runs / "first"), read(tmp_path))
    assert list(found) == ["Configs differ in", "Made by"]
    assert found["Made by"].rows == [["device", "cpu x 2", "gpu x 1"]]


def test_in_a_pipe_each_row_is_one_line_and_an_empty_table_says_so(runs, capsys):
    print_table(Console(), listing(runs))
    lines = capsys.readouterr().out.splitlines()
    assert sum("finished" in line and "after - before" in line for line in lines) == 2
    print_table(Console(), side_by_side(read(runs / "first"), read(runs / "first"))["Configs differ in"])
    assert capsys.readouterr().out.strip() == "none"
