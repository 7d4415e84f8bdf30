"""Processes share the cache: one writes, the others wait; a killed process leaves nothing behind."""

import contextlib
import os
import pty
import shutil
import subprocess
import sys

import filelock
from loading_programs import LOAD, WITHOUT, finish, start
from mirrors import put_set, spoil

from experiments.data.cache import load


def test_a_machine_without_datasets_uses_the_cache_and_says_what_to_install_where_there_is_none(mirror):
    x, y, _, _ = put_set(mirror)
    load("some/set")
    shutil.rmtree(mirror)
    assert finish(start(WITHOUT + LOAD.format(name="some/set"))).split() == [str(x.sum()), *map(str, y)]
    error = finish(start(WITHOUT + LOAD.format(name="mnist")), status=1)
    assert "holds no cache, and `datasets` is not installed" in error and "pip install 'jbn[experiments]'" in error


def test_a_second_process_waits_for_the_first_and_takes_what_it_decoded(mirror, cache, tmp_path):
    put_set(mirror)
    load("some/set")
    (folder,) = cache.glob("some--set-????????")
    folder.rename(tmp_path / "kept")
    with filelock.FileLock(f"{folder}.lock"):
        second = start(LOAD.format(name="some/set"), JBN_DATA=str(tmp_path))  # a mirror without files to decode
        assert second.stderr is not None
        assert second.stderr.readline() == f"waiting for another process, which is decoding {folder.name}\n"
        (tmp_path / "kept").rename(folder)
    finish(second)


def test_what_a_killed_process_left_is_removed(mirror, cache):
    put_set(mirror)
    load("some/set")
    (folder,) = cache.glob("some--set-????????")
    for leftover in (f"{folder.name}.building", f"{folder.name}.old"):
        (cache / leftover / "datasets").mkdir(parents=True)
    spoil(folder / "test_x.npy", "empty")
    load("some/set")
    assert sorted(file.name for file in cache.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_on_a_terminal_there_are_progress_bars_and_none_where_they_are_unwanted(mirror, tmp_path):
    put_set(mirror, n=2000)
    code = """
import sys
from experiments.data.cache import load
load("some/set", progress=False)
print("MIDDLE", file=sys.stderr)
load("some/set", cache=sys.argv[1])
"""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "another")],
        stderr=theirs,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TERM": "xterm"},
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # as when a terminal is closed
        while piece := os.read(ours, 65536):
            seen += piece
    os.close(ours)
    assert process.wait() == 0
    before, after = seen.split(b"MIDDLE")
    assert before == b"" and b"decoding" in after
