"""The benchmark of a large sweep follows the laboratory's own plan, and its paper part adds up."""

import json

import pytest

from benchmarks.commands import parse, run
from benchmarks.sweep_size import COMPILING, SECONDS, Own, seconds_on


def test_the_plan_is_followed_to_its_end_and_every_part_is_timed(tmp_path, capsys):
    out = tmp_path / "sweep.json"
    assert run(parse(["sweep", "--trainings", "300", "--out", str(out)])) == 0
    found = json.loads(out.read_text())
    assert found["arms"] == 21 and found["seeds"] == 3 and sum(found["rounds"]) == found["trainings"] == 21 * 10 * 3
    assert found["bytes_of_records"] > 500 * found["trainings"]
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert "630 trainings of 21 arms" in capsys.readouterr().out


def test_a_round_ends_with_its_last_training():
    own = Own(1.0, 2.0, 3.0, 4.0)
    assert seconds_on(1, [5, 3], 2, own) == 8 * SECONDS + 2 * COMPILING + 10
    assert seconds_on(4, [5, 3], 2, own) == (2 + 1) * SECONDS + COMPILING + 10
    assert seconds_on(512, [5, 3], 2, own) == pytest.approx(2 * SECONDS + COMPILING + 10)
