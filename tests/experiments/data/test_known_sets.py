"""MNIST, Fashion-MNIST and CIFAR-10, if copies are available, are what their authors published."""

import hashlib
import os
import time

import numpy as np
import pytest
from loading_programs import WITHOUT, finish, start
from mirrors import spoil

from experiments.data.cache import load

# The real sets, if a copy is available.

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
