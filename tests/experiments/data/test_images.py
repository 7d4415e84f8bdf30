"""Image sets decode to exactly their pixels, once; a damaged cache is found; what cannot be read is one line."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import datasets
import filelock
import huggingface_hub
import hypothesis
import hypothesis.strategies as st
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from experiments.config import ConfigError
from experiments.data import cache as images
from experiments.data.cache import cache_folder, carve, fast_checksum, load

ARRAYS = ("train_x", "train_y", "test_x", "test_y")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No test of this process reaches the hub, a mirror or a cache that is not its own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("JBN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JBN_DATA", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()


@pytest.fixture
def mirror(tmp_path):
    return tmp_path / "mirror"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "images"


def draw(n, channels=3, height=6, width=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), np.uint8)


def png(pixels):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def put(root, columns, split="train", name="some/set", config="plain", features=None, part="00000-of-00001"):
    """One parquet file of a set in the mirror `root`, in the layout of the hub."""
    folder = root / name / config
    folder.mkdir(parents=True, exist_ok=True)
    if features is None:
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "emu"])}
        features = datasets.Features({c: kinds.get(c) or datasets.Value("int64") for c in columns})
    elif features == "none":
        features = None
    datasets.utils.disable_progress_bars()
    try:
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-{part}.parquet")
    finally:
        datasets.utils.enable_progress_bars()


def put_set(root, channels=3, n=40, **options):
    """A whole set of random pixels; returns (train_x, train_y, test_x, test_y) as they were drawn."""
    drawn = []
    for seed, (split, size) in enumerate({"train": n, "test": n // 4}.items()):
        x, y = draw(size, channels, seed=seed), np.arange(size, dtype=np.int32) % 3
        put(root, {"image": [png(p) for p in x], "label": y.tolist()}, split, **options)
        drawn += [x, y]
    return drawn


def refused(message, *arguments, **options):
    with pytest.raises(ConfigError, match=message) as error:
        load(*(arguments or ("some/set",)), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_exactly_the_pixels_and_classes_of_the_files(mirror, channels, capfd):
    drawn = put_set(mirror, channels, n=1030)
    for found in (load("some/set"), load("some/set"), load("some/set", verify=True)):
        for name, array in zip(ARRAYS, drawn, strict=True):
            np.testing.assert_array_equal(getattr(found, name), array, strict=True)
            assert isinstance(getattr(found, name), np.memmap) and not getattr(found, name).flags.writeable
            assert found.source["sha256"][name] == hashlib.sha256(array.tobytes()).hexdigest()
        assert found.classes == ("cat", "dog", "emu")
        expected = {"name": "some/set", "config": "plain", "image_column": "image", "label_column": "label"}
        expected |= {"from": "mirror", "datasets": datasets.__version__, "splits": {"train": "train", "test": "test"}}
        expected |= {"train": 1030, "test": 257, "shape": [6, 7, channels], "classes": 3}
        expected["files"] = [f"some/set/plain/{split}-00000-of-00001.parquet" for split in ("test", "train")]
        assert {key: value for key, value in found.source.items() if key != "sha256"} == expected
        json.dumps(found.source)
    assert capfd.readouterr().err == "", "where stderr is no terminal, there is nothing to read"


def test_known_names_and_hub_names_mean_the_same_set_and_other_columns_another(mirror, cache):
    columns = {"img": [png(p) for p in draw(6)], "fine_label": [0, 1, 2] * 2, "coarse_label": [0, 1] * 3}
    features = {"img": datasets.Image(), "fine_label": datasets.Value("int8"), "coarse_label": datasets.Value("int8")}
    for split in ("train", "test"):
        put(mirror, columns, split, "uoft-cs/cifar100", features=datasets.Features(features))
    assert load("cifar100").train_y.tolist() == load("uoft-cs/cifar100").train_y.tolist() == [0, 1, 2, 0, 1, 2]
    assert load("cifar100", label_column="coarse_label").train_y.tolist() == [0, 1] * 3
    assert len(list(cache.glob("*/meta.json"))) == 2


@pytest.mark.parametrize(
    ("kind", "values", "numbers", "classes"),
    [
        ("int64", [7, 3, 7, 5], [2, 0, 2, 1], ("3", "5", "7")),
        ("string", ["b", "a", "b", "c"], [1, 0, 1, 2], ("a", "b", "c")),
        ("bool", [True, False, True, True], [1, 0, 1, 1], ("False", "True")),
    ],
)
def test_classes_may_be_numbers_names_or_truth_values(mirror, kind, values, numbers, classes):
    features = datasets.Features({"photo": datasets.Image(), "what": datasets.Value(kind)})
    for split in ("train", "test"):
        put(mirror, {"photo": [png(p) for p in draw(4)], "what": values}, split, features=features)
    found = load("some/set", label_column="what")
    assert found.train_y.tolist() == found.test_y.tolist() == numbers and found.classes == classes


def test_files_that_do_not_say_that_they_hold_images_are_read_by_column_name(mirror):
    x = draw(4)
    for split in ("train", "test"):
        put(mirror, {"pic": [png(p) for p in x], "kind": [0, 1, 1, 0]}, split, features="none")
    np.testing.assert_array_equal(load("some/set", image_column="pic", label_column="kind").train_x, x)
    refused("of the columns pic, kind of some/set, none holds images; write image_column=", "some/set")


@pytest.mark.parametrize("wrapped", [False, True], ids=["bytes", "as datasets stores them"])
@pytest.mark.parametrize("names", [False, True], ids=["numbers", "names"])
def test_the_readmes_recipe_for_ones_own_data_needs_no_datasets_to_write_it(mirror, wrapped, names):
    """Plain parquet files say nothing of images and classes, so the columns are taken by the documented names."""
    (mirror / "me/mine/default").mkdir(parents=True)
    x, y = draw(6), [0, 1, 2] * 2
    pictures = [png(pixels) if wrapped else png(pixels)["bytes"] for pixels in x]
    columns = {"image": pictures, "label": ["abc"[k] for k in y] if names else y, "more": y}
    for split in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.table(columns), mirror / f"me/mine/default/{split}-0.parquet")
    found = load("me/mine")
    np.testing.assert_array_equal(found.train_x, x)
    assert found.test_y.tolist() == y and found.classes == (tuple("abc") if names else tuple("012"))


def test_of_several_columns_of_images_the_one_of_the_documented_name_is_taken(mirror):
    features = datasets.Features({"mask": datasets.Image(), "image": datasets.Image(), "label": datasets.Value("int8")})
    for split in ("train", "test"):
        columns = {"mask": [png(p) for p in draw(3, seed=1)], "image": [png(p) for p in draw(3)], "label": [0, 1, 2]}
        put(mirror, columns, split, features=features)
    np.testing.assert_array_equal(load("some/set").train_x, draw(3))


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


def test_grey_images_in_a_set_with_colour_become_grey_rgb_wherever_they_stand(mirror):
    grey, colour = draw(2, 1), draw(2, 3)
    for k, (first, second) in enumerate([(grey, colour), (colour, grey)]):
        pictures = [png(p) for p in (*first, *second)]
        for split in ("train", "test"):
            put(mirror, {"image": pictures, "label": [0, 1, 2, 0]}, split, name=f"some/set{k}")
        expected = np.concatenate(
            [np.repeat(first, 3 // first.shape[-1], -1), np.repeat(second, 3 // second.shape[-1], -1)]
        )
        np.testing.assert_array_equal(load(f"some/set{k}").train_x, expected)


def test_a_set_without_a_test_split_is_tested_on_its_validation_split_and_one_with_both_on_test(mirror):
    put_set(mirror)
    put(mirror, {"image": [png(p) for p in draw(2, seed=9)], "label": [0, 1]}, "validation")
    assert len(load("some/set").test_y) == 10
    (mirror / "some/set/plain/test-00000-of-00001.parquet").unlink()
    shutil.rmtree(os.environ["JBN_CACHE"])
    found = load("some/set")
    assert len(found.test_y) == 2 and found.source["splits"]["test"] == "validation"


def test_two_files_of_a_split_are_read_in_order_and_one_missing_is_an_error(mirror):
    x = draw(6)
    for k in range(2):
        columns = {"image": [png(p) for p in x[3 * k : 3 * k + 3]], "label": [0, 1, 2]}
        put(mirror, columns, part=f"0000{k}-of-00002")
    put(mirror, columns, "test")
    np.testing.assert_array_equal(load("some/set").train_x, x)
    shutil.rmtree(os.environ["JBN_CACHE"])
    (mirror / "some/set/plain/train-00000-of-00002.parquet").unlink()
    refused("has 1 of 2 files of train; copy the rest")


def spoil(file, how):
    data = bytearray(file.read_bytes())
    if how == "one bit flipped":
        data[-3] ^= 1
    file.write_bytes(data[:-5] if how == "cut short" else data)
    if how == "deleted":
        file.unlink()
    if how == "empty":
        file.write_bytes(b"")


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
    data[[100, 101]] = data[[101, 100]]  # words that change places
    data.tofile(file)
    load("some/set")
    assert capfd.readouterr().err == ""
    load("some/set", verify=True)
    assert "wrong checksum" in capfd.readouterr().err


def test_large_arrays_are_checked_by_every_kth_block(monkeypatch):
    array = np.zeros(40 * 65536, np.uint8)
    monkeypatch.setattr(images, "CHECKED_BYTES", 10 * 65536)
    before, found = fast_checksum(array), 0
    for block in range(40):
        array[block * 65536 + 5] = 1
        found += fast_checksum(array) != before
        array[block * 65536 + 5] = 0
    assert found == 8  # every fifth


PICTURES = [png(p) for p in draw(4)]
SIXTEEN_BITS = png(np.ones((6, 7, 1), np.uint16))
GOOD = {"image": PICTURES, "label": [0, 1, 2, 0]}


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        (GOOD | {"label": [1] * 4}, GOOD, {}, "one class only in 'label', 'dog'; write label_column="),
        (
            GOOD | {"image": [*PICTURES[:3], png(draw(1, 3, 5, 9)[0])]},
            GOOD,
            {},
            "image 3 of train is 9 x 5 pixels, the first is 7 x 6",
        ),
        (
            GOOD,
            GOOD | {"image": [*PICTURES[:2], png(draw(1, 3, 5, 9)[0]), PICTURES[0]]},
            {},
            "image 2 of test is 9 x 5",
        ),
        (GOOD | {"image": [SIXTEEN_BITS] * 4}, GOOD, {}, "image 0 of train has pixels of PIL's mode I;16"),
        (
            GOOD | {"image": [*PICTURES[:3], {"bytes": b"\x89PNG nonsense"}]},
            GOOD,
            {},
            "image 3 of train cannot be decoded",
        ),
        (GOOD | {"image": [PICTURES[0], None, *PICTURES[:2]]}, GOOD, {}, "image 1 of train is missing"),
        (GOOD, GOOD | {"label": [-1] * 4}, {}, "4 examples of test of some/set have -1 in 'label', which is no class"),
        (GOOD, {"image": PICTURES}, {}, "cannot read some/set"),
        (GOOD, None, {}, "some/set has no test split, only train; write"),
        (GOOD, {"image": [], "label": []}, {}, "cannot read some/set in .*corresponds to no data"),
        (GOOD, GOOD, {"image_column": "imgae"}, "no column 'imgae', only image, label; did you mean 'image'?"),
        (GOOD, GOOD, {"label_column": "xyz"}, "no column 'xyz', only image, label; write one as label_column"),
        (GOOD, GOOD, {"label_column": "image"}, "'image' of some/set holds no classes but Image"),
        (GOOD, GOOD, {"image_column": "label"}, "column 'label' holds no images"),
        (GOOD | {"more": [1] * 4}, GOOD | {"more": [1] * 4}, {"label_column": "more"}, "one class only in 'more', 1"),
        (GOOD, GOOD, {"config": "plian"}, "cannot read some/set from the hub"),
    ],
)
def test_bad_sets_and_columns_are_refused_in_one_line_and_leave_nothing_behind(
    mirror, cache, train, test, options, message
):
    put(mirror, train)
    if test is not None:
        put(mirror, test, "test")
    refused(message, "some/set", **options)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]


def test_the_cache_is_where_the_caller_then_jbn_cache_then_xdg_then_home_say(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder(tmp_path) == tmp_path and cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("JBN_CACHE")
    assert cache_folder() == Path("/xdg/jbn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/jbn")


def test_unknown_names_are_refused_with_the_nearest_right_one(cache):
    refused("no image set 'cifar_10'; did you mean 'cifar10'", "cifar_10")
    refused("no image set 'xyz'; write one of mnist, fashion_mnist, cifar10, cifar100, or a set of the hub", "xyz")
    refused("no image set '../set'", "../set")
    assert not cache.exists()


def test_a_mirror_that_is_no_folder_has_two_configs_or_a_broken_file_is_refused(mirror, tmp_path):
    refused("the mirror .*nowhere is no folder; write JBN_DATA=", "mnist", mirror=tmp_path / "nowhere")
    put_set(mirror)
    spoil(mirror / "some/set/plain/train-00000-of-00001.parquet", "cut short")
    refused("cannot read some/set in .*; copy its files again")
    put_set(mirror, config="other")
    refused("some/set has the configs other, plain; write config='other'")
    assert len(load("some/set", config="other").train_y) == 40


def test_a_cache_that_cannot_be_written_is_refused(mirror, tmp_path):
    put_set(mirror)
    (tmp_path / "file").write_text("in the way")
    refused("cannot write the cache .*file.*; write JBN_CACHE=", "some/set", cache=tmp_path / "file")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if not os.access(closed, os.W_OK):  # root may write everywhere
        refused("cannot write the cache .*Permission denied; write JBN_CACHE=", "some/set", cache=closed)


def test_a_full_disk_is_found_before_decoding_and_a_limit_that_is_hit_on_the_way_leaves_nothing(
    mirror, cache, monkeypatch
):
    flat = np.zeros((1, 40, 40, 3), np.uint8)  # 79 bytes as PNG, 4800 decoded
    for split in ("train", "test"):
        put(mirror, {"image": [png(flat[0])] * 100, "label": [0, 1] * 50}, split)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10**5))
        refused("the decoded images need 0.00 GB, but .* has 0.00 GB; make room, or write JBN_CACHE=")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        refused("cannot write the cache .*; make room, or write JBN_CACHE=")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]
    assert len(load("some/set").train_y) == 100


# In other processes.

SMALL_CHUNKS = "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 1000;"  # as if the files were large
LOAD = "from experiments.data.cache import load; found = load({name!r}); print(found.train_x.sum(), *found.train_y)"
WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys(['datasets', 'pyarrow', 'PIL', 'huggingface_hub', 'filelock']));"
)


def start(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )


def finish(process, status=0):
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    return out if status == 0 else err.strip().splitlines()[-1]


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
        second = start(LOAD.format(name="some/set"), JBN_DATA=str(tmp_path))  # where there is nothing to decode
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
    with contextlib.suppress(OSError):  # how a terminal ends
        while piece := os.read(ours, 65536):
            seen += piece
    os.close(ours)
    assert process.wait() == 0
    before, after = seen.split(b"MIDDLE")
    assert before == b"" and b"decoding" in after


class Hub(http.server.ThreadingHTTPServer):
    """The part of the hub's protocol that reading one set takes. Half of the file `stall` is sent, and no more."""

    daemon_threads = True

    def __init__(self, root, name):
        super().__init__(("127.0.0.1", 0), Answer)
        self.name, self.files = name, {str(f.relative_to(root / name)): f.read_bytes() for f in root.rglob("*.parquet")}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut: set[str] = set()
        self.stall: str | None = None
        self.half_sent, self.go_on = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, tmp_path):
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "JBN_DATA": ""}

    def gets(self, file):
        return [given for method, path, given in self.requests if method == "GET" and path.endswith(file)]

    def handle_error(self, request, client_address):
        """A client that was killed."""


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        file_at, about = (f"{prefix}datasets/{self.server.name}" for prefix in ("/", "/api/"))
        if path.startswith(f"{file_at}/resolve/"):
            self.file(path.removeprefix(f"{file_at}/resolve/").partition("/")[2])
        elif path.startswith(f"{about}/tree/"):
            self.tree(path.removeprefix(f"{about}/tree/").partition("/")[2], "recursive=true" in self.path.lower())
        elif path == about or path.startswith(f"{about}/revision/"):
            self.json(
                {"id": self.server.name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in self.server.files]}
            )
        else:
            self.json({}, 404, "RepoNotFound")

    do_HEAD = do_GET

    def json(self, value, status=200, error=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")

    def tree(self, folder, recursive):
        inside = [f for f in self.server.files if f.startswith(f"{folder}/" if folder else "")]
        deep = [f for f in inside if recursive or str(Path(f).parent) == (folder or ".")]
        entries = [{"type": "file", "path": f, "size": len(self.server.files[f]), "oid": "0" * 40} for f in deep]
        folders = {f.split("/")[0] for f in inside if "/" in f} if not folder else set()
        entries += [{"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in sorted(folders)]
        self.json(*((entries, 200) if entries else ({}, 404, "EntryNotFound")))

    def file(self, name):
        if name not in self.server.files:
            return self.json({}, 404, "EntryNotFound")
        body = self.server.files[name]
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "HEAD":
            return None
        half = len(body) // 2
        if name in self.server.cut:
            self.server.cut.remove(name)
            self.wfile.write(body[:half])
            self.close_connection = True
        elif name == self.server.stall:
            self.wfile.write(body[first:half])
            self.server.half_sent.set()
            self.server.go_on.wait(60)
        else:
            self.wfile.write(body[first:])
        return None


@pytest.fixture
def hub(mirror):
    drawn = put_set(mirror, n=200)
    with Hub(mirror, "some/set") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server, drawn
        server.go_on.set()
        server.shutdown()
        thread.join()


def test_the_hub_is_read_where_the_mirror_lacks_the_set_and_a_connection_that_breaks_is_taken_up_again(
    hub, tmp_path, cache
):
    server, (x, y, _, _) = hub
    server.cut = {"plain/train-00000-of-00001.parquet"}
    (empty := tmp_path / "empty").mkdir()
    code = SMALL_CHUNKS + LOAD.format(name="some/set")
    out = finish(start(code, **server.environment(tmp_path) | {"JBN_DATA": str(empty)}))
    assert out.split() == [str(x.sum()), *map(str, y)]
    size = len(server.files["plain/train-00000-of-00001.parquet"])
    assert server.gets("train-00000-of-00001.parquet") == [None, f"bytes={size // 2 // 1000 * 1000}-"]
    source = json.loads(next(cache.glob("*/meta.json")).read_bytes())["source"]
    assert source["from"] == "hub" and source["config"] == "default"
    assert source["files"] == [f"hf://datasets/some/set@{COMMIT}"]


def test_a_download_that_was_killed_starts_again_and_leaves_nothing_in_the_cache(hub, tmp_path, cache):
    server, (x, y, _, _) = hub
    server.stall = "plain/train-00000-of-00001.parquet"
    first = start(LOAD.format(name="some/set"), **server.environment(tmp_path))
    assert server.half_sent.wait(60)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not list(cache.glob("*/meta.json"))
    server.stall = None
    server.go_on.set()
    out = finish(start(LOAD.format(name="some/set"), **server.environment(tmp_path)))
    assert out.split() == [str(x.sum()), *map(str, y)]
    (folder,) = cache.glob("some--set-????????")
    assert sorted(file.name for file in cache.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_what_the_hub_lacks_is_said_in_one_line(hub, tmp_path, cache):
    server, _ = hub
    card = "configs:" + "".join(
        f"\n- config_name: {config}\n  data_files:\n  - split: train\n    path: {config}/train-*"
        for config in ("plain", "other")
    )
    server.files["README.md"] = f"---\n{card}\n---\n".encode()
    server.files["other/train-0.parquet"] = b"no parquet at all"
    tries = [("uoft-cs/cifar-10", None), ("some/set", None), ("some/set", "plian"), ("some/set", "other")]
    tries += [("some/set", "plain")]
    code = f"""
from experiments.data.cache import ConfigError, load
for name, config in {tries!r}:
    try:
        load(name, config=config)
    except ConfigError as error:
        print(error)
"""
    unknown, which, misspelt, broken, split = finish(start(code, **server.environment(tmp_path))).splitlines()
    assert "no image set 'uoft-cs/cifar-10'" in unknown and "did you mean 'uoft-cs/cifar10'?" in unknown
    assert which == "some/set has the configs plain, other; write config='plain'"
    assert misspelt == "some/set has the configs plain, other; did you mean 'plain'?"
    assert broken.startswith("cannot read some/set from the hub: ")
    assert split == "some/set has no test split, only train; write a set that has both"
    assert {file.suffix for file in cache.iterdir()} == {".lock"}


def test_without_a_network_the_way_round_is_said_and_the_mirror_needs_none(mirror, tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    x, y, _, _ = put_set(mirror)
    patiently = "import time; time.sleep = lambda _: None;"  # what the hub's client does between tries
    code = patiently + LOAD.format(name="some/set") + ";" + LOAD.partition(";")[2].format(name="mnist")
    process = start(code, **nowhere)
    out, err = process.communicate(timeout=60)
    assert out.split() == [str(x.sum()), *map(str, y)]
    error = err.strip().splitlines()[-1]
    assert "cannot read ylecun/mnist from the hub" in error and f"parquet files into the mirror {mirror}" in error


# Validation is carved from training.


@hypothesis.given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.floats(0.05, 0.95), st.integers(0, 99))
def test_carving_splits_every_class_by_its_share_and_loses_nothing(counts, fraction, seed):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 3, counts))
    try:
        train, validation = carve(y, fraction, seed)
    except ConfigError:
        shares = fraction * np.array(counts)
        assert round(fraction * len(y)) == 0 or (np.ceil(shares) >= counts).any()
        return
    assert sorted([*train, *validation]) == list(range(len(y)))
    assert (np.diff(train) > 0).all() and (np.diff(validation) > 0).all()
    assert len(validation) == round(fraction * len(y))
    for k, count in enumerate(counts):
        assert abs((y[validation] == 3 * k).sum() - fraction * count) < 1
    for part, again in zip((train, validation), carve(y, fraction, seed), strict=True):
        np.testing.assert_array_equal(part, again, strict=True)


def test_another_seed_carves_another_part_and_every_example_has_the_same_chance():
    y = np.repeat([0, 1, 2], [30, 20, 10])
    chosen = sum(np.isin(np.arange(60), carve(y, 0.3, seed)[1]).astype(int) for seed in range(1000))
    assert np.abs(np.asarray(chosen) / 1000 - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 1000)


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (0.0, "is 0.0; write a share between 0 and 1"),
        (1, "is 1; write a share between 0 and 1"),
        (0.01, "0.01 of 8 examples leaves nothing to validate"),
        (0.9, "0.9 of 8 examples leaves nothing to validate on, or a class without"),
    ],
)
def test_a_fraction_that_leaves_a_part_empty_is_refused(fraction, message):
    with pytest.raises(ConfigError, match=message):
        carve(np.arange(8) % 2, fraction, 0)


# The real sets, where a copy is at hand.

LOCAL = os.environ.get("JBN_DATA")
local = pytest.mark.skipif(not LOCAL, reason="JBN_DATA names no folder with copies of MNIST and CIFAR-10")


def timed(*arguments, **options):
    began = time.perf_counter()
    found = load(*arguments, **options)
    return found, 1000 * (time.perf_counter() - began)


@local
def test_mnist_has_its_published_mean_and_spread_starts_fast_anywhere_and_survives_a_flipped_bit(
    cache, tmp_path, capfd
):
    found, decoding = timed("mnist", mirror=LOCAL)
    assert found.train_x.shape == (60000, 28, 28, 1) and found.test_x.shape == (10000, 28, 28, 1)
    shares, levels = np.bincount(found.train_x.ravel(), minlength=256) / found.train_x.size, np.arange(256) / 255
    mean = shares @ levels
    assert round(mean, 4) == 0.1307 and round(np.sqrt(shares @ (levels - mean) ** 2), 4) == 0.3081
    assert found.classes == tuple("0123456789")
    assert np.bincount(found.test_y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    again, starting = timed("mnist")
    code = f"""
from time import perf_counter
from experiments.data.cache import load
began = perf_counter()
found = load("mnist")
print(found.source["sha256"] == {found.source["sha256"]!r}, 1000 * (perf_counter() - began))
"""
    same, elsewhere = finish(start(WITHOUT + code, JBN_DATA=str(tmp_path / "mirror"))).split()
    assert same == "True"
    spoil(next(cache.glob("*/train_x.npy")), "one bit flipped")
    repaired, _ = timed("mnist", mirror=LOCAL, verify=True)
    assert "train_x.npy: wrong checksum" in capfd.readouterr().err
    assert repaired.source == again.source == found.source
    print(f"MNIST: decoded in {decoding:.0f} ms, then {starting:.1f} ms; {float(elsewhere):.1f} ms without datasets")


@local
def test_fashion_mnist_has_its_sizes_and_classes():
    found, _ = timed("fashion_mnist", mirror=LOCAL)
    assert found.train_x.shape == (60000, 28, 28, 1) and found.classes[-1] == "Ankle boot" and len(found.classes) == 10
    assert (np.bincount(found.train_y) == 6000).all() and (np.bincount(found.test_y) == 1000).all()


@local
def test_cifar10_written_as_the_official_binary_files_has_their_checksums():
    found, decoding = timed("cifar10", mirror=LOCAL)
    _, starting = timed("cifar10")
    print(f"CIFAR-10: decoded in {decoding:.0f} ms, then {starting:.1f} ms")
    assert " ".join(found.classes) == "airplane automobile bird cat deer dog frog horse ship truck"
    official = {
        "train": [
            "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        ],
        "test": ["8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"],
    }
    for (x, y), batches in zip(
        ((found.train_x, found.train_y), (found.test_x, found.test_y)), official.values(), strict=True
    ):
        rows = np.concatenate([y[:, None].astype(np.uint8), x.transpose(0, 3, 1, 2).reshape(len(y), -1)], 1)
        assert [hashlib.sha256(batch.tobytes()).hexdigest() for batch in np.split(rows, len(batches))] == batches
