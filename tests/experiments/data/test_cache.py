"""experiments.data.cache: sets are decoded once, damage is detected, and a failed write gives a one-line error."""

import hashlib
import json
import os
import resource
import shutil
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from mirrors import ARRAYS, draw, png, put, put_set, refused, spoil

from experiments.data import cache
from experiments.data.cache import cache_folder, fast_checksum, load


@pytest.mark.parametrize("change", ["bytes", "one more file", "time alone"])
def test_a_file_of_the_mirror_that_was_changed_is_read_again_and_that_is_said(mirror, capfd, change):
    train_x, *_ = put_set(mirror)
    np.testing.assert_array_equal(load("some/set").train_x, train_x)
    wanted = train_x
    path = mirror / "some/set/plain/train-00000-of-00001.parquet"
    if change == "bytes":
        wanted = draw(40, seed=7)
        put(mirror, {"image": [png(p) for p in wanted], "label": [0, 1] * 20})
    elif change == "one more file":
        path.rename(path.with_name("train-00000-of-00002.parquet"))
        put(mirror, {"image": [png(p) for p in draw(5, seed=9)], "label": [0] * 5}, part="00001-of-00002")
        wanted = np.concatenate([train_x, draw(5, seed=9)])
    else:
        os.utime(path, ns=(0, 0))
    assert capfd.readouterr().err == ""
    np.testing.assert_array_equal(load("some/set").train_x, wanted)
    assert "was decoded from other files than those in the mirror; decoding some/set again" in capfd.readouterr().err
    load("some/set")
    assert capfd.readouterr().err == "", "what is as it was is not read again"


def test_what_is_decoded_is_used_where_the_mirror_is_gone(mirror, capfd):
    train_x, *_ = put_set(mirror)
    load("some/set")
    shutil.rmtree(mirror)
    np.testing.assert_array_equal(load("some/set").train_x, train_x)
    mirror.mkdir()
    np.testing.assert_array_equal(load("some/set").train_x, train_x)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("how", ["one bit flipped", "cut short", "deleted", "empty"])
@pytest.mark.parametrize("file", ["train_x.npy", "test_y.npy", "meta.json"])
def test_a_damaged_cache_is_found_said_and_decoded_again(mirror, cache, file, how, capfd):
    drawn = put_set(mirror)
    load("some/set")
    (folder,) = cache.glob("some--set-????????")
    spoil(folder / file, how)
    found = load("some/set")
    for name, array in zip(ARRAYS, drawn, strict=True):
        np.testing.assert_array_equal(getattr(found, name), array)
    said = capfd.readouterr().err
    assert f"the cache {folder} is damaged" in said and "decoding some/set again" in said and said.count("\n") == 1
    load("some/set", verify=True)
    assert capfd.readouterr().err == ""


def test_a_damaged_cache_that_cannot_be_decoded_again_says_both(mirror, cache):
    put_set(mirror)
    load("some/set")
    spoil(next(cache.glob("*/train_x.npy")), "one bit flipped")
    shutil.rmtree(mirror / "some")
    message = refused(
        "is damaged .train_x.npy: wrong checksum.; it cannot be decoded again: cannot read some/set from the hub"
    )
    assert "check the network" in message and f"put its parquet files into the mirror {mirror}" in message


@pytest.mark.parametrize(
    ("array", "dtype"),
    [("train_x", "|O"), ("train_y", "|O"), ("test_x", "O,u1"), ("test_y", "<f4"), ("../../x", "|u1")],
)
def test_a_cache_whose_description_was_forged_is_not_opened_as_objects_or_elsewhere(mirror, cache, capfd, array, dtype):
    """An array of objects would be read as addresses of memory. The forger knows how to compute the checksum."""
    drawn = put_set(mirror)
    load("some/set")
    file = next(cache.glob("*/meta.json"))
    meta = json.loads(file.read_bytes())
    del meta["checksum"]
    meta["arrays"][array] = meta["arrays"].get(array, meta["arrays"]["train_x"]) | {"dtype": dtype}
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(meta | {"checksum": digest}))
    np.testing.assert_array_equal(load("some/set").train_x, drawn[0])
    said = capfd.readouterr().err
    assert f"the cache {file.parent} is damaged" in said and array in said and "decoding some/set again" in said


@hypothesis.given(st.integers(1, 200_000), st.data())
def test_the_fast_checksum_finds_every_change_of_a_byte(size, data):
    array = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    before = fast_checksum(array)
    assert fast_checksum(array.copy()) == before
    array[data.draw(st.integers(0, size - 1))] ^= data.draw(st.integers(1, 255))
    assert fast_checksum(array) != before


def test_verify_finds_what_the_fast_checksum_cannot(mirror, cache, monkeypatch, capfd):
    put_set(mirror, n=2000)
    load("some/set")
    file = next(cache.glob("*/train_x.npy"))
    data = np.fromfile(file, np.uint64)
    data[[100, 101]] = data[[101, 100]]  # two words are swapped
    data.tofile(file)
    load("some/set")
    assert capfd.readouterr().err == ""
    load("some/set", verify=True)
    assert "wrong checksum" in capfd.readouterr().err


def test_large_arrays_are_checked_by_every_kth_block(monkeypatch):
    array = np.zeros(40 * 65536, np.uint8)
    monkeypatch.setattr(cache, "CHECKED_BYTES", 10 * 65536)
    before, found = fast_checksum(array), 0
    for block in range(40):
        array[block * 65536 + 5] = 1
        found += fast_checksum(array) != before
        array[block * 65536 + 5] = 0
    assert found == 8  # every fifth is found


def test_the_cache_is_where_the_caller_then_jbn_cache_then_xdg_then_home_say(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder(tmp_path) == tmp_path and cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("JBN_CACHE")
    assert cache_folder() == Path("/xdg/jbn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/jbn")


def test_a_cache_that_cannot_be_written_is_refused(mirror, tmp_path):
    put_set(mirror)
    (tmp_path / "file").write_text("in the way")
    refused("cannot write the cache .*file.*; set JBN_CACHE=", "some/set", cache=tmp_path / "file")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if not os.access(closed, os.W_OK):  # root can write everywhere
        refused("cannot write the cache .*Permission denied; set JBN_CACHE=", "some/set", cache=closed)


def test_a_full_disk_is_found_before_decoding_and_a_limit_that_is_hit_on_the_way_leaves_nothing(
    mirror, cache, monkeypatch
):
    flat = np.zeros((1, 40, 40, 3), np.uint8)  # 79 bytes as PNG, 4800 decoded
    for split in ("train", "test"):
        put(mirror, {"image": [png(flat[0])] * 100, "label": [0, 1] * 50}, split)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10**5))
        refused("the decoded images need 0.00 GB, but .* has 0.00 GB; make room, or set JBN_CACHE=")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        refused("cannot write the cache .*; make room, or set JBN_CACHE=")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]
    assert len(load("some/set").train_y) == 100
