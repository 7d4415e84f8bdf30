"""A sweep that stalls reports this once, with the stage under way; a slow sweep reports nothing."""

import dataclasses
import time
from functools import partial
from pathlib import Path

import pytest
from small_arms import TINY

from experiments import sweep
from experiments.store import watchdog
from experiments.store.watchdog import FACTOR, MIN_SECONDS, STACKS, Standstill, Watchdog


def spoken(advances, seconds):
    """The times at which a stall is reported, for a count that grows at `advances` and is read every second."""
    found = Standstill(0, 0.0, MIN_SECONDS)
    counts = ((now, sum(at <= now for at in advances)) for now in range(1, seconds))
    return [now for now, count in counts if found.seconds(count, float(now)) is not None]


def test_what_never_advances_is_said_once_after_the_least():
    assert MIN_SECONDS >= 120, "minutes"
    assert spoken([], 5000) == [MIN_SECONDS + 1]


def test_what_advances_slowly_is_long_only_by_its_own_measure():
    slow = 400
    steady = list(range(slow, 8001, slow))
    assert spoken(steady, 8000 + FACTOR * slow) == []
    assert spoken(steady, 8002 + FACTOR * slow) == [8001 + FACTOR * slow]


def test_each_standstill_is_said_once():
    assert spoken([1000], 1000 + 20_000) == [MIN_SECONDS + 1, 1000 + FACTOR * 1000 + 1]


def wait_for(path, words):
    until = time.monotonic() + 60
    while not path.exists() or words not in path.read_text():
        assert time.monotonic() < until, f"no {words} in {path.name}"
        time.sleep(0.01)


def test_a_folder_that_is_gone_is_said_and_the_warning_comes_all_the_same(tmp_path, capsys):
    error, moving = "", [True]
    with (
        Watchdog(tmp_path / "none", lambda: time.monotonic_ns() if moving else 0, least=0.01) as dog,
        dog.watching("first") as now,
    ):
        now("second")
        moving.clear()
        while "kill" not in error:
            error += capsys.readouterr().err
    assert "under way: second;" in error and "stalled.txt cannot be written (No such file" in error


def test_a_task_that_ends_while_the_stacks_are_written_is_named(tmp_path, capsys, monkeypatch):
    dog = Watchdog(tmp_path, lambda: 0, least=0.01)
    with dog.watching("the slow one") as now:
        monkeypatch.setattr(watchdog.faulthandler, "dump_traceback", lambda file: dog._under_way.clear())
        dog._say(1.0, 0.0)
        now("the slow one")  # so that the task can be taken out once more
    assert "under way: the slow one;" in capsys.readouterr().err


def test_a_sweep_that_stands_still_names_its_stage_and_leaves_its_stacks(tmp_path, monkeypatch, capsys):
    # Otherwise compiling, which takes longer than this limit, would lengthen it.
    monkeypatch.setattr(watchdog, "FACTOR", 0)
    monkeypatch.setattr(sweep, "Watchdog", partial(Watchdog, least=0.2))
    training = dataclasses.replace(TINY.training, epochs=1)
    config = dataclasses.replace(TINY, training=training)
    path: Path = tmp_path / "run" / STACKS

    class Enough(Exception):
        pass

    def stuck_in_here(epochs):
        path.unlink(missing_ok=True)  # from the previous call
        wait_for(path, "stuck_in_here")
        raise Enough

    with pytest.raises(Enough):
        sweep.run(config, tmp_path / "run", sweep.SILENT._replace(advance=stuck_in_here))
    warnings = capsys.readouterr().err.splitlines()
    assert all(line.startswith("warning: nothing has advanced for ") and str(path) in line for line in warnings)
    step = 1078 // TINY.training.batch_size
    last = TINY.sweep.seeds - 1
    assert f"under way: train before/tanh · rate 0.05 to 0.1 · seed 0 to {last}, after step {step};" in warnings[-1]
