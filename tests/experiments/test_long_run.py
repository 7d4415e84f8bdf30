"""Long trainings: memory stays flat, nothing is compiled after the first epoch, and files grow as they must or not."""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT
from killing import read_lines
from long_run import LANES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

STEPS_PER_EPOCH = 107
# Two hours of a usual training on two CPU cores: 45 ms a step for the nine-layer CNN of configs/cnn9_small.py, as its
# engine.json says, so 160,000 steps.
TWO_HOURS = -(-160_000 // STEPS_PER_EPOCH)
WARM = 8 * 2**20
"""Bytes by which memory may grow after the first quarter."""


@pytest.mark.parametrize(
    ("epochs", "every"),
    [
        (60, 1),
        pytest.param(TWO_HOURS, 0, marks=pytest.mark.long),
        pytest.param(TWO_HOURS, 1, marks=pytest.mark.long),
    ],
    ids=["short", "two hours", "two hours with checkpoints"],
)
def test_a_long_training_takes_no_more_memory_or_room_than_a_short_one_and_compiles_nothing(epochs, every, tmp_path):
    done = subprocess.run(
        [sys.executable, "tests/long_run.py", str(tmp_path / "run"), str(epochs), str(every)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, capture_output=True, timeout=5000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == epochs
    (steps,) = {record["steps"][-1] for record in read_lines(tmp_path / "run" / "records.jsonl")}
    assert steps == epochs * STEPS_PER_EPOCH

    assert rows[0]["compiled"] > 0 and rows[0]["traced"] > 0
    assert {(row["compiled"], row["traced"]) for row in rows} == {(rows[0]["compiled"], rows[0]["traced"])}

    warm = epochs // 4
    growth = max(row["memory"] for row in rows[warm:]) - rows[warm]["memory"]
    print(
        f"{growth / 2**20:.1f} MB more after {epochs} epochs than after {warm}, of {rows[warm]['memory'] / 2**20:.0f}"
    )
    assert growth < WARM

    early, late = rows[warm]["files"], rows[-1]["files"]
    assert early.keys() == late.keys()
    grows = {"metrics.jsonl": 180} | ({"lanes_0.json": 80} if every else {})  # bytes a lane and epoch
    for name, most in grows.items():
        assert (late[name] - early[name]) / (epochs - 1 - warm) / LANES < most
    assert max(row["files"].get("checkpoints", 0) for row in rows) < 80_000, "two checkpoints of 24 KB"
    others = early.keys() - {"checkpoints", *grows}
    assert {name: early[name] for name in others} == {name: late[name] for name in others}
