"""The benchmark of the laboratory: all contestants end with the same weights; rows and ratios are correct."""

import json
from typing import ClassVar

import jax
import numpy as np
import pytest

from benchmarks import timing
from benchmarks.commands import main
from benchmarks.training import laboratory, trainings


def timed(*samples):
    return timing.timed(list(samples))


KINDS = [
    "flax",
    pytest.param("torch", marks=pytest.mark.skipif(not laboratory.has_torch(), reason="torch is not installed")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_loop_ends_where_a_lane_of_the_laboratory_ends(kind):
    """All contestants get the same seed, order and initial weights, so they do the same work."""
    ours = trainings.contestant("laboratory", 1, 20, 1200)
    plain = trainings.contestant(kind, 1, 20, 1200)
    before = ours.layers()
    for _ in range(2):
        ours()
        plain()
    assert len(before) == 4
    for old, a, b in zip(before, ours.layers(), plain.layers(), strict=True):
        assert np.abs(a[0] - old[0]).max() > 1e-2
        for p, q in zip(a, b, strict=True):
            np.testing.assert_allclose(p, q, atol=1e-4)


class Here:
    """Replaces a process: runs on the devices of this one."""

    asked: ClassVar[list] = []

    def __init__(self, platform, *, as_laboratory):
        self.as_laboratory = as_laboratory

    def run(self, function, *arguments):
        return function(*arguments)

    def hold(self, name, kind, seeds, steps, examples):
        self.asked.append((name, kind, seeds, self.as_laboratory))
        return "some"

    def call(self, name):
        return lambda: name

    def close(self):
        pass


def test_the_laboratory_is_measured_as_it_runs_and_the_rest_as_they_are(tmp_path, monkeypatch, capsys):
    seconds = {"flax, scan": 2.0, laboratory.SINGLE: 1.0, laboratory.SINGLE_DEVICE: 0.5, "laboratory, 16 seeds": 10.0}
    monkeypatch.setattr(laboratory, "Process", Here)
    monkeypatch.setattr(laboratory, "has_torch", lambda: True)
    monkeypatch.setattr(laboratory, "interleaved", lambda calls, n: {k: timed(seconds.get(k, 3.0)) for k in calls})
    ways = {"scan, vmap": 4.0, "loop, vmap": 2.0, "loop, sequence": None}
    measured = laboratory.autotune.Measured(laboratory.autotune.Engine("loop", "vmap"), ways)
    monkeypatch.setattr(laboratory.autotune, "choose", lambda setup, data, lanes: measured)
    monkeypatch.setattr(laboratory, "EXAMPLES", 64)
    assert main(["laboratory", "--quick", "--out", str(tmp_path / "l.json")]) == 0
    assert {name for name, _, _, as_laboratory in Here.asked if as_laboratory} == {
        laboratory.SINGLE, "laboratory, 16 seeds"
    }  # fmt: skip
    found = json.loads((tmp_path / "l.json").read_text())
    expected = {
        "torch_vs_laboratory": 3,
        "flax_vs_laboratory": 2,
        "16_seeds_vs_single": 10,
        "single_vs_single_on_1_device": 2,
        "16_seeds_vs_single_on_1_device": 20,
    }
    assert {key: row["value"] for key, row in found["summary"].items()} == pytest.approx(expected, rel=1e-4)
    assert len(found["rows"]) == 5
    for row in found["rows"]:
        assert row["milliseconds_per_step"] == pytest.approx(
            1e3 * seconds.get(row["contestant"], 3.0) / laboratory.QUICK_STEPS, rel=1e-4
        )
    assert [row["best"] for row in found["strategies"]] == 3 * ["loop, vmap"]
    assert [row["batch"] for row in found["strategies"]] == [60, 512, 128]
    assert "cnn9" in capsys.readouterr().out


def test_without_torch_its_row_is_left_out():
    rows = [
        laboratory._row(name, seeds, "", timed(1.0), 10)
        for name, seeds in (("flax, scan", 1), (laboratory.SINGLE, 1), ("laboratory, 64 seeds", 64))
    ]
    found = laboratory.summary(rows, "gpu")
    assert found["torch_vs_laboratory"]["value"] is None
    assert found["64_seeds_vs_single"] == {"value": 1, "at_most": 4}


def test_a_process_holds_a_training_with_the_devices_that_the_laboratory_makes():
    process = trainings.Process("cpu", as_laboratory=True)
    try:
        devices = process.hold("lab", "laboratory", 3, 2, 240)
        cores = process.run(jax.device_count)
        assert devices.startswith(f"{min(cores, 3)} jax device")  # at most as many as there are seeds
        assert process.call("lab")() is None
    finally:
        process.close()
