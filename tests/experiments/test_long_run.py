"""Long trainings: memory stays flat, nothing is compiled after the first epoch, and files grow as they must or not."""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT
from long_run import LANES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

STEPS_PER_EPOCH = 107
# Two hours of a usual training on two CPU cores: 45 ms a step for the nine-layer CNN of configs/cnn9_small.py, as its
# engine.json says, so 160,000 steps.
TWO_HOURS = -(-160_000 // STEPS_PER_EPOCH)


@pytest.mark.parametrize("epochs", [60, pytest.param(TWO_HOURS, marks=pytest.mark.long)])
def test_a_long_training_takes_no_more_memory_or_room_than_a_short_one_and_compiles_nothing(epochs, tmp_path):
    done = subprocess.run(
        [sys.executable, "tests/long_run.py", str(tmp_path / "run"), str(epochs)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, capture_output=True, timeout=5000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == epochs
    (record,) = {json.loads(line)["steps"][-1] for line in (tmp_path / "run" / "records.jsonl").open()}
    assert record == epochs * STEPS_PER_EPOCH

    assert rows[0]["compiled"] > 0 and rows[0]["traced"] > 0
    assert {(row["compiled"], row["traced"]) for row in rows} == {(rows[0]["compiled"], rows[0]["traced"])}

    warm = epochs // 4
    growth = max(row["memory"] for row in rows[warm:]) - rows[warm]["memory"]
    print(
        f"{growth / 2**20:.1f} MB more after {epochs} epochs than after {warm}, of {rows[warm]['memory'] / 2**20:.0f}"
    )
    assert growth < 16 * 2**20

    early, late = rows[warm]["files"], rows[-1]["files"]
    kept = {row["files"]["checkpoints"] for row in rows[warm:]}
    assert max(kept) < 2 * 40_000, "two checkpoints of 23 KB"
    for name, most in (("metrics.jsonl", 180), ("lanes_0.json", 80)):  # bytes a lane and epoch
        assert (late[name] - early[name]) / (epochs - 1 - warm) / LANES < most
    others = early.keys() - {"checkpoints", "metrics.jsonl", "lanes_0.json"}
    assert {name: early[name] for name in others} == {name: late[name] for name in others}
    assert early.keys() == late.keys()
