"""Writers pass on the metrics, in order, whether the run ends or is killed; and send nothing to anybody else."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from experiments.config import ConfigError
from experiments.store import writers
from experiments.store.writers import JsonLines, TensorBoard, Writers, open_writers

CALLS = [
    ("tune/before", 0, {"train_loss": 2.5, "val_loss": 1 / 3}),
    ("tune/after", 0, {"train_loss": math.nan}),
    ("tune/before", 22, {"train_loss": math.inf, "val_loss": -math.inf}),
    ("tune/after", 44, {"train_loss": -0.0}),
]


def write(writer):
    for call in CALLS:
        writer.scalars(*call)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


# JSON lines


def test_every_call_is_a_line_at_once_and_what_json_cannot_say_is_null(tmp_path):
    with open_writers([], tmp_path / "deep" / "run", "digits") as writer:
        for number, call in enumerate(CALLS, start=1):
            writer.scalars(*call)
            assert len(lines(tmp_path / "deep" / "run")) == number, "a reader must not wait for the end"
        writer.scalars("numpy", 45, {"loss": np.float32(0.5), "count": np.int32(3)})  # type: ignore[dict-item]
    assert lines(tmp_path / "deep" / "run") == [
        {"run": "tune/before", "step": 0, "train_loss": 2.5, "val_loss": 1 / 3},
        {"run": "tune/after", "step": 0, "train_loss": None},
        {"run": "tune/before", "step": 22, "train_loss": None, "val_loss": None},
        {"run": "tune/after", "step": 44, "train_loss": 0.0},
        {"run": "numpy", "step": 45, "loss": 0.5, "count": 3.0},
    ]


def test_a_half_written_line_is_cut_off_and_said_and_the_others_are_added_to(tmp_path):
    with open_writers([], tmp_path, "digits") as writer:
        write(writer)
        assert writer.notes == []
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"run": "tune/bef')
    with open_writers([], tmp_path, "digits") as writer:
        assert len(writer.notes) == 1 and "cut off a half-written record (17 bytes); the 4 before" in writer.notes[0]
        writer.scalars("tune/before", 66, {"train_loss": 1.5})
    assert path.read_bytes() == whole + b'{"run": "tune/before", "step": 66, "train_loss": 1.5}\n'


def test_what_an_interrupted_training_tells_again_is_not_written_twice(tmp_path):
    pytest.importorskip("tensorboardX", reason="an extra: pip install 'jbn[writers]'")
    told = [(f"tune/{name}", step, {"loss": step / 4}) for step in range(5) for name in ("before", "after")]
    for end in (3, 6, 6, 10):  # each attempt starts over and gets further
        with open_writers(["tensorboard"], tmp_path, "digits") as writer:
            for call in told[:end]:
                writer.scalars(*call)
    assert lines(tmp_path) == [{"run": run, "step": step} | values for run, step, values in told]
    for name in ("before", "after"):
        found = events(tmp_path / "tensorboard" / "tune" / name)
        assert found == [(step, "loss", step / 4) for step in range(5)]


def test_a_line_of_metrics_that_is_none_is_refused_with_its_number(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"run": "a", "step": 0, "loss": null}\n{"run": "a"}\n')
    with pytest.raises(ConfigError, match="line 2 of 2 does not say the step, from 0 up; delete that line"):
        open_writers([], tmp_path, "digits").__enter__()


def test_a_metric_cannot_take_the_place_of_run_or_step(tmp_path):
    with open_writers([], tmp_path, "digits") as writer, pytest.raises(ValueError, match="a metric is called 'step'"):
        writer.scalars("a", 0, {"step": 1.0})
    assert lines(tmp_path) == []


def test_threads_share_a_writer_and_no_line_is_lost_or_torn(tmp_path):
    with open_writers([], tmp_path, "digits") as writer:

        def train(run):
            for step in range(200):
                writer.scalars(run, step, {"loss": 1.0})

        threads = [threading.Thread(target=train, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name in "abcd":
        assert [line["step"] for line in lines(tmp_path) if line["run"] == name] == list(range(200))


# Several at once


def test_an_unknown_writer_is_refused_naming_the_nearest_before_anything_is_written(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"'tensorbord' is unknown; choose one of .*did you mean 'tensorboard'"),
        open_writers(["tensorbord"], tmp_path / "run", "digits"),
    ):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_said_with_what_to_write(tmp_path, monkeypatch, name, package):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # monkeypatch restores it afterwards
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with (
        pytest.raises(ConfigError) as error,
        open_writers([name], tmp_path, "digits"),
    ):
        pass
    assert str(error.value) == f"writer {name!r} needs the package {package}: pip install 'jbn[writers]'"


def test_all_are_closed_although_the_training_or_a_writer_fails(tmp_path, monkeypatch):
    closed = []

    class Failing:
        def scalars(self, run, step, values):
            raise OSError("disk full")

        def close(self):
            closed.append("failing")
            raise OSError("disk full")

    class Closing(Failing):
        def close(self):
            closed.append("closing")

    with pytest.raises(OSError, match="disk full"):
        Writers([Closing(), Failing(), Closing()]).close()
    assert sorted(closed) == ["closing", "closing", "failing"]

    closed.clear()
    monkeypatch.setitem(writers.KNOWN, "closing", lambda folder, project: Closing())
    with pytest.raises(KeyError), open_writers(["closing", "jsonl", "closing"], tmp_path, "digits"):
        raise KeyError("training")
    assert closed == ["closing"]


def test_a_writer_that_is_not_asked_for_is_not_imported(tmp_path):
    code = f"""
        import sys
        from pathlib import Path
        from experiments.store.writers import open_writers
        with open_writers([], Path({str(tmp_path)!r}), "digits") as writer:
            writer.scalars("a", 0, {{"loss": 1.0}})
        print([name for name in ("jax", "wandb", "tensorboardX") if name in sys.modules])
    """
    assert python(code).stdout == "[]\n"


def python(code, **environment):
    """Runs `code` in a separate process, where warnings are errors and output at exit is captured, too."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done


# TensorBoard


def events(folder):
    """(step, tag, value) of every event in the files of one run, each record's checksum verified."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:  # TFRecord: length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", content[:8])
            record, content = content[: 16 + length], content[16 + length :]
            assert struct.unpack("<I", record[8:12])[0] == masked_crc32c(record[:8])
            assert struct.unpack("<I", record[-4:])[0] == masked_crc32c(record[12:-4])
            event = Event.FromString(record[12:-4])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def test_tensorboard_has_a_folder_per_run_with_its_events_in_order(tmp_path, capfd):
    pytest.importorskip("tensorboardX", reason="an extra: pip install 'jbn[writers]'")
    with open_writers(["tensorboard"], tmp_path, "digits") as writer:
        write(writer)
        during = {run: events(tmp_path / "tensorboard" / run) for run in ("tune/before", "tune/after")}
    for run, found in during.items():
        wanted = [(step, name, value) for r, step, values in CALLS if r == run for name, value in values.items()]
        assert [event[:2] for event in found] == [event[:2] for event in wanted]
        # Event files hold float32.
        assert all(same(a[2], float(np.float32(b[2]))) for a, b in zip(found, wanted, strict=True))
        after = events(tmp_path / "tensorboard" / run)
        assert len(after) == len(found), "all was on the disk before the end"
    assert len(lines(tmp_path)) == len(CALLS)
    assert capfd.readouterr() == ("", "")


def test_a_run_that_goes_on_keeps_the_events_it_had(tmp_path):
    pytest.importorskip("tensorboardX", reason="an extra: pip install 'jbn[writers]'")
    for step in range(3):  # all within one second, by which tensorboardX names its files
        writer = TensorBoard(tmp_path)
        writer.scalars("a", step, {"loss": float(step)})
        writer.close()
    assert events(tmp_path / "a") == [(step, "loss", step) for step in range(3)]


@pytest.mark.parametrize("run", ["../elsewhere", "/elsewhere", ""])
def test_a_run_cannot_leave_the_folder(tmp_path, run):
    pytest.importorskip("tensorboardX", reason="an extra: pip install 'jbn[writers]'")
    with pytest.raises(ValueError, match="use one that names a folder below"):
        TensorBoard(tmp_path / "t").scalars(run, 0, {"loss": 1.0})


# Weights & Biases


def wandb_records(path):
    """The records of a .wandb file: LevelDB's log format after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    found, record, at = [], b"", 7
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:  # the end of a block, too short for a header
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            found.append(Record.FromString(record))
            record = b""
    return found


# In a separate process: if wandb reports to its makers, it does so when the process ends.
SENT = """
    import atexit
    import socket
    from pathlib import Path

    tried = []

    def refuse(*arguments, **_):
        tried.append(arguments)
        raise OSError("no network in this test")

    connect = socket.socket.connect
    socket.getaddrinfo = refuse
    socket.socket.connect = lambda self, to: connect(self, to) if self.family == socket.AF_UNIX else refuse(to)

    from experiments.store.writers import open_writers
    from calls import CALLS

    with open_writers(["wandb"], Path(FOLDER) / "run1", "digits/placement") as writer:
        for call in CALLS:
            writer.scalars(*call)

    atexit._run_exitfuncs()
    assert tried == [], tried
"""


@pytest.mark.skipif(sys.platform == "win32", reason="wandb talks to its own process by TCP there")
def test_wandb_offline_keeps_every_run_of_a_group_says_nothing_and_reaches_nobody(tmp_path):
    pytest.importorskip("wandb", reason="an extra: pip install 'jbn[writers]'")
    (tmp_path / "calls.py").write_text(f"from math import inf, nan\nCALLS = {CALLS!r}\n")
    code = SENT.replace("FOLDER", repr(str(tmp_path)))
    assert python(code, PYTHONPATH=str(tmp_path), WANDB_CACHE_DIR=str(tmp_path / "cache")).stdout == ""

    found = {}
    for path in (tmp_path / "run1" / "wandb").glob("offline-run-*/run-*.wandb"):
        records = wandb_records(path)
        (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
        assert (run.project, run.run_group) == ("digits-placement", "run1")
        assert any(r.WhichOneof("record_type") == "exit" for r in records), "the run must be finished"
        rows = [r.history for r in records if r.WhichOneof("record_type") == "history"]
        found[run.display_name] = [
            (
                row.step.num,
                {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in row.item
                    if not (item.key or item.nested_key[0]).startswith("_")
                },
            )
            for row in rows
        ]
    assert found.keys() == {"tune/before", "tune/after"}
    for name, rows in found.items():
        wanted = [(step, values) for run, step, values in CALLS if run == name]
        assert [step for step, _ in rows] == [step for step, _ in wanted]
        for (_, row), (_, values) in zip(rows, wanted, strict=True):
            assert row.keys() == values.keys()
            assert all(same(float(row[key]), values[key]) for key in values), (row, values)


# Written up to the third step and killed, then from the start up to the fifth and stopped, then to the end.
AGAIN = """
    import os, signal
    from pathlib import Path
    from experiments.store.writers import open_writers

    for end in ENDS:
        with open_writers(["wandb"], Path(FOLDER), "digits") as writer:
            for step in range(end):
                for run in ("a", "b"):
                    writer.scalars(run, step, {"loss": step / 4})
            if end == 3:
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="wandb talks to its own process by TCP there")
def test_a_training_that_was_killed_and_stopped_is_one_run_of_wandb_with_every_line_once(tmp_path):
    pytest.importorskip("wandb", reason="an extra: pip install 'jbn[writers]'")
    code = textwrap.dedent(AGAIN).replace("FOLDER", repr(str(tmp_path / "run1")))
    environment = os.environ | {"WANDB_CACHE_DIR": str(tmp_path / "cache")}
    killed = subprocess.run([sys.executable, "-c", code.replace("ENDS", "[3]")], env=environment, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    python(code.replace("ENDS", "[3 + 2, 8]"), WANDB_CACHE_DIR=str(tmp_path / "cache"))

    found: dict[str, list] = {}
    for path in (tmp_path / "run1" / "wandb").glob("offline-run-*/run-*.wandb"):
        records = wandb_records(path)
        (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
        assert path.stem == f"run-{run.run_id}"
        rows = [r.history for r in records if r.WhichOneof("record_type") == "history"]
        found.setdefault(run.display_name, []).append([row.step.num for row in rows])
    assert found == {"a": [list(range(8))], "b": [list(range(8))]}, "one folder each, whose id is in its name"


def test_json_lines_alone_can_be_used_without_the_others(tmp_path):
    writer = JsonLines(tmp_path / "a" / "m.jsonl")
    writer.scalars("r", 1, {"x": 2.0})
    writer.close()
    assert (tmp_path / "a" / "m.jsonl").read_text() == '{"run": "r", "step": 1, "x": 2.0}\n'
