"""A run folder recovers from a kill at any line of the store."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


@pytest.mark.parametrize("every", [90, pytest.param(1, marks=pytest.mark.long)])
def test_a_folder_is_made_whole_by_the_same_command_wherever_the_process_was_killed(every, tmp_path):
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests/experiments/store")))
    done = subprocess.run(
        [sys.executable, "tests/every_line.py", str(tmp_path), str(every)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" 0 did not recover\n")
