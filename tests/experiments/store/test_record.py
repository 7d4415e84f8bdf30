"""A run folder keeps its results: it is repaired, refused or continued, never overwritten."""

import dataclasses
import errno
import fcntl
import json
import os
import threading

import pytest
from folders import training

from experiments.config import Arm, Config, ConfigError
from experiments.store import record

CONFIG = Config(name="x")
TRAINED = training(Arm("none", "relu"), 0.25, 0.0, 0) | {"val_loss": [0.5, 0.25]}
ROWS = [
    TRAINED | {"seed": 0, "val_loss": [0.5, float("nan")]},
    TRAINED | {"seed": 1, "val_loss": [0.25, float("inf")]},
]
ARMS = {"none/relu": {"parameters": 1410, "multiply_adds": 1400, "program": "a", "traced_by": {"jax": "0.10.2"}}}


def open_and_close(folder, config=CONFIG, device="cpu x 2"):
    with record.opened(folder, config, device) as (run, notes):
        return run, notes


def test_a_new_folder_holds_the_config_and_where_it_ran_and_reads_back(tmp_path):
    run, notes = open_and_close(tmp_path / "deep" / "run")
    assert notes == []
    assert run.config == CONFIG
    assert run.records == [] and run.result is None
    assert run.env["device"] == "cpu x 2"
    assert run.env["versions"]["jax"] is not None
    assert record.read(run.folder) == run


def test_records_survive_and_what_json_cannot_say_is_null(tmp_path):
    open_and_close(tmp_path / "run")
    record.append(tmp_path / "run", ROWS[:1])
    record.append(tmp_path / "run", ROWS[1:])
    assert record.read(tmp_path / "run").records == [
        TRAINED | {"seed": 0, "val_loss": [0.5, None]},
        TRAINED | {"seed": 1, "val_loss": [0.25, None]},
    ]


@pytest.mark.parametrize(
    "tail", ['{"seed": 2, "val_lo', '{"seed": 2}', "\x00\x00\x00"], ids=["half", "unended", "zeros"]
)
def test_a_half_written_record_is_cut_off_and_said_and_the_others_kept(tmp_path, tail):
    open_and_close(tmp_path / "run")
    record.append(tmp_path / "run", ROWS)
    path = tmp_path / "run" / "records.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + tail.encode())
    assert len(record.read(tmp_path / "run").records) == 2
    assert path.read_bytes() == whole + tail.encode(), "reading must not write"

    run, notes = open_and_close(tmp_path / "run")
    assert len(run.records) == 2
    assert path.read_bytes() == whole
    assert len(notes) == 1 and "cut off a half-written record" in notes[0] and "2 before it are kept" in notes[0]


def test_damage_in_the_middle_is_refused_not_dropped(tmp_path):
    open_and_close(tmp_path / "run")
    path = tmp_path / "run" / "records.jsonl"
    lines = [json.dumps(TRAINED), "rubbish", json.dumps(TRAINED | {"seed": 1})]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match="line 2 of 3 is no JSON; delete that line"):
        record.read(tmp_path / "run")
    assert path.read_text() == "\n".join(lines) + "\n"


def test_a_folder_of_another_config_is_refused_naming_the_first_difference(tmp_path):
    open_and_close(tmp_path / "run")
    other = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, epochs=7))
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(ConfigError, match=r"another config \(training.epochs is 20 there and 7 here\).* --out"):
        open_and_close(tmp_path / "run", other)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("my life's work")
    with pytest.raises(ConfigError, match="holds other files and no run"):
        open_and_close(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "my life's work"


@pytest.mark.parametrize("left", ["env.json.tmp", "env.json", "config.json.tmp"])
def test_what_a_process_left_that_was_killed_before_the_config_was_written_is_no_strangers_folder(tmp_path, left):
    (tmp_path / left).write_text("{")
    run, notes = open_and_close(tmp_path)
    assert (run.config, notes) == (CONFIG, []) and run.env["device"] == "cpu x 2"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written .* --out FOLDER"):
        open_and_close(tmp_path / "file" / "run")


def test_two_writers_are_refused_and_the_folder_is_free_again_afterwards(tmp_path):
    named = rf"another process \({os.getpid()} on .+\) is writing to .*run; wait for it, or choose another --out$"
    with record.opened(tmp_path / "run", CONFIG, "cpu"), pytest.raises(ConfigError, match=named):
        open_and_close(tmp_path / "run")
    (tmp_path / "run" / ".lock").write_text("1 on a machine that was switched off\n")
    assert open_and_close(tmp_path / "run")[0].config == CONFIG


def test_a_writer_waits_for_one_who_only_looks_whether_the_folder_is_being_written(tmp_path):
    open_and_close(tmp_path / "run")
    with open(tmp_path / "run" / ".lock") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.2, fcntl.flock, (looking.fileno(), fcntl.LOCK_UN)).start()
        assert open_and_close(tmp_path / "run")[0].config == CONFIG


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(ConfigError, match=r".lock cannot be locked \(No locks available\); choose another --out"):
        open_and_close(tmp_path / "run")


def test_going_on_under_another_device_is_said_and_kept(tmp_path):
    open_and_close(tmp_path / "run", device="cpu x 2")
    run, notes = open_and_close(tmp_path / "run", device="gpu x 1")
    assert "another device" in notes[0]
    assert run.env["device"] == "cpu x 2"
    assert [env["device"] for env in run.env["resumed"]] == ["gpu x 1"]


def test_json_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    record.write_json(path, {"accuracy": 97.5})

    def crash(*_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        record.write_json(path, {"accuracy": 1.0})
    assert json.loads(path.read_text()) == {"accuracy": 97.5}


def test_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is no run folder .* give a folder such as runs/"):
        record.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"parameters": 8706}, "the network of none/relu is not that of .*: it has 8,706 parameters, and 1,410 there"),
        ({"multiply_adds": 2800}, "it has 2,800 multiply-adds, and 1,400 there"),
        ({"program": "b"}, "the network of none/relu does not compute what that of .* does.* 1,410 parameters"),
        ({"program": "b", "traced_by": {"jax": "0.12.0"}}, None),
    ],
    ids=["same", "parameters", "multiply-adds", "program", "another jax"],
)
def test_another_network_than_that_of_the_folder_is_refused(tmp_path, change, words):
    run = open_and_close(tmp_path / "run")[0]._replace(arms=ARMS, data={"checksum": "c"})
    arms = {"none/relu": ARMS["none/relu"] | change}
    if words is None:
        record.refuse_another(run, {"name": "digits", "checksum": "c"}, arms)
        return
    with pytest.raises(ConfigError, match=words) as refused:
        record.refuse_another(run, {"name": "digits", "checksum": "c"}, arms)
    assert "choose another folder with --out FOLDER, or delete" in str(refused.value)


def test_other_data_than_those_of_the_folder_are_refused(tmp_path):
    run = open_and_close(tmp_path / "run")[0]._replace(data={"checksum": "c"})
    with pytest.raises(ConfigError, match=r"me/mine holds other data than those that .* was trained on"):
        record.refuse_another(run, {"name": "me/mine", "checksum": "d"}, {})


def test_a_bit_that_is_flipped_in_a_record_is_found_or_changes_nothing(tmp_path):
    open_and_close(tmp_path / "run")
    record.append(tmp_path / "run", ROWS)
    path = tmp_path / "run" / "records.jsonl"
    whole, there = path.read_bytes(), record.read(tmp_path / "run").records
    first = whole.index(b"\n")
    silent = []
    for place in range(0, 8 * first, 7):  # of every seven, so that each bit of a byte has its turn
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = record.read(tmp_path / "run").records
        except ConfigError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert found[1:] == there[1:] and found[0].items() >= there[0].items()
            silent.append(place // 8)
    assert len(silent) < 64 and min(silent) > whole.index(b"crc32") - 4, "only the name of the checksum may differ"


def test_a_record_that_was_edited_is_named_and_deleting_its_line_is_enough(tmp_path):
    open_and_close(tmp_path / "run")
    record.append(tmp_path / "run", ROWS)
    path = tmp_path / "run" / "records.jsonl"
    first, second = path.read_text().splitlines(keepends=True)
    path.write_text(first + second.replace("0.25", "0.26"))
    with pytest.raises(ConfigError, match=r"line 2 of 2 differs from its checksum, .*; delete that line"):
        record.read(tmp_path / "run")
    path.write_text(first)
    assert [found["seed"] for found in record.read(tmp_path / "run").records] == [0]


def test_records_of_older_versions_have_no_checksum_and_are_read(tmp_path):
    open_and_close(tmp_path / "run")
    (tmp_path / "run" / "records.jsonl").write_text(json.dumps(TRAINED) + "\n")
    record.append(tmp_path / "run", [TRAINED | {"seed": 1}])
    assert [found["seed"] for found in record.read(tmp_path / "run").records] == [0, 1]
