"""`run --dry-run`: what it says of a run is what the run then does, and it does nothing itself."""

import dataclasses
import re

import pytest
from helpers import ROOT

from experiments.__main__ import main
from experiments.config import Config, SweepConfig, load
from experiments.forecast import networks
from experiments.quoting import words
from experiments.quoting.runs import read_published
from experiments.store.record import read

SMOKE = ROOT / "configs/smoke.py"


def test_published_runs_trained_as_many_networks_as_was_foreseen():
    found = {}
    for name, run in read_published().items():
        ranges = [networks(run.config, arm) for arm in run.config.arms]
        least, most = (sum(of) for of in zip(*ranges, strict=True))
        found[name] = least <= words.networks(run) <= most
        assert least < most
    assert found and all(found.values()), found


def test_without_a_race_and_a_growing_grid_the_number_is_known():
    sweep = SweepConfig(
        learning_rate_points=5, learning_rate_extension=0, seeds=4, race=False, weight_decays=(0.0, 1e-4)
    )
    config = Config("x", sweep=sweep)
    assert networks(config, config.arms[0]) == (5 * 2 * 4, 5 * 2 * 4)
    raced = dataclasses.replace(config, sweep=dataclasses.replace(sweep, race=True, seeds=12))
    assert networks(raced, config.arms[0]) == (3 * 10 + 9 * 3, 120)
    looks = dataclasses.replace(config, sweep=dataclasses.replace(sweep, seeds=8, looks=(2, 8)))
    assert networks(looks, config.arms[0]) == (20, 80)


def test_a_dry_run_tells_of_the_run_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(SMOKE), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    least, most = map(int, re.search(r"trains (\d+) to (\d+) networks", text).groups())  # type: ignore[union-attr]
    config = load(SMOKE)
    assert "1,078 training, 269 validation and 450 test" in text and "ms a step and network" in text
    assert [str(arm) for arm in config.arms if f"  {arm}: " not in text] == []
    assert main(["run", str(SMOKE), "--out", "mine"]) == 0
    run = read(tmp_path / "mine")
    assert least <= words.networks(run) <= most


@pytest.mark.parametrize(
    "wrong", [["--training.batch-size", "5000"], ["--data.name", "mnist", "--model.network", "mlp"]]
)
def test_what_a_run_would_refuse_a_dry_run_refuses(wrong, capsys, monkeypatch, tmp_path):
    for name in ("JBN_DATA", "JBN_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["run", str(SMOKE), "--dry-run", *wrong]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1
