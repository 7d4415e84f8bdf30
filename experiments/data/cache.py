"""Image data sets as arrays: decoded once, then memory-mapped from a cache in milliseconds.

The first start reads a set with Hugging Face `datasets`, from a mirror folder that has it or else from the hub, and
writes four .npy files and a meta.json into the cache folder. Every later start maps these files, and needs neither the
network nor `datasets`. Nothing here imports jax.

The cache of a set is one folder, which is renamed into place when it is complete, so no process sees half of it. One
process at a time writes it. Every start checks it against `fast_checksum` (3 ms for MNIST; SHA-256 takes 75); SHA-256
is checked right after decoding, and with `verify=True`. A set is decoded again if its cache fails the check, or if
its files in the mirror have changed in size or time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.config import ConfigError
from experiments.config.errors import near
from experiments.data.hub import FULL, KNOWN, Request, decode, line, mirrored

FORMAT = 1
DTYPES = {"train_x": "|u1", "train_y": "<i4", "test_x": "|u1", "test_y": "<i4"}
CHECKED_BYTES = 2**31  # for larger arrays, a start reads only every k-th block
_BLOCK = 8192  # words of 8 bytes


class Images(NamedTuple):
    """An image-classification set, memory-mapped and read-only. Validation data is still part of the training data."""

    train_x: np.ndarray
    """uint8 [n, height, width, channels]; greyscale has one channel."""
    train_y: np.ndarray
    """int32 [n]: index of the class in `classes`."""
    test_x: np.ndarray
    test_y: np.ndarray
    classes: tuple[str, ...]
    """Names of the classes."""
    source: dict[str, Any]
    """Provenance of the arrays: name, config, columns, sizes, SHA-256 of each array, mirror or hub, files (or the hub's
    commit), and the version of `datasets` that read them."""


def load(
    name: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    subset: str | None = None,
    cache: str | Path | None = None,
    mirror: str | Path | None = None,
    verify: bool = False,
    progress: bool = True,
) -> Images:
    """Loads the set `name` from the cache; if it is not there, first decodes it from the mirror or the hub.

    Args:
      name: mnist, fashion_mnist, cifar10, cifar100, or any set on the hub as owner/name.
      image_column: column of the images; the default is that of a known set, or the only column with images.
      label_column: column of the classes (whole numbers, names or booleans); the default is found likewise.
      subset: the subset to use; needed if the set has several.
      cache: cache folder; by default `JBN_CACHE`, otherwise jbn in the user's cache folder.
      mirror: folder with files <owner>/<name>/<subset>/<split>-*.parquet, which precedes the hub; by default
        `JBN_DATA`. If size or time of its files have changed since the cache was decoded, they are decoded again. A
        set of the hub is not checked for changes; to read it again, delete its folder in the cache.
      verify: whether to check the cache against SHA-256, too, not only against the faster `fast_checksum`.
      progress: whether to show progress bars on stderr if it is a terminal.

    Returns:
      The decoded set. Transparency is dropped. If a set has both grey and colour images, all get three channels.

    Raises:
      ConfigError: the set, subset or column is unknown; there are fewer than two classes, or no training or test split;
        images differ in size; the cache cannot be written; or the set is not cached and cannot be read, because there
        is no network or `datasets` is not installed.

    Example:
      images = load("cifar10")  # images.train_x.shape is (50000, 32, 32, 3), images.classes[0] is 'airplane'
      coarse = load("cifar100", label_column="coarse_label")
    """
    request = _request(name, subset, image_column, label_column)
    root = cache_folder(cache)
    folder = root / "images" / _key(request)
    given = mirror or os.environ.get("JBN_DATA")
    place = Path(given) if given else None
    files = _stamps(request, place)
    try:
        return _open(folder, files, verify)
    except _Unusable as damage:
        note = str(damage)
    if note:
        print(f"{note}; decoding {request.name} again", file=sys.stderr)
    try:
        with _disk(root), _sole_writer(folder):
            with contextlib.suppress(_Unusable):
                return _open(folder, files, verify=True)  # another process has decoded it meanwhile
            _build(request, folder, place, files, progress)
            return _open(folder, files, verify=True)
    except _Unusable as damage:
        raise ConfigError(f"{damage}, just after it was written; check the disk, or set JBN_CACHE=<another>") from None
    except ConfigError as error:
        if not note:
            raise
        raise ConfigError(f"{note}; it cannot be decoded again: {error}") from error


def fast_checksum(array: np.ndarray) -> str:
    """A checksum at the speed of memory: SHA-256 of the sums, modulo 2^64, of the 8-byte words of each 64 KiB block.

    It detects every change within one word, and random damage to a block with probability 1 - 2^-64, but not words that
    trade places within a block. For an array above 2 GiB it reads only every k-th block, at most 2 GiB in all.
    """
    flat = array.reshape(-1).view(np.uint8)
    words = flat[: flat.size // 8 * 8].view("<u8")
    blocks = words[: words.size // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    sums = blocks[:: 1 + flat.nbytes // CHECKED_BYTES].sum(axis=1, dtype="<u8")
    return hashlib.sha256(sums.tobytes() + flat[blocks.nbytes :].tobytes()).hexdigest()


def cache_folder(cache: str | Path | None = None) -> Path:
    """The argument, or `JBN_CACHE`, or jbn in the user's cache folder (`XDG_CACHE_HOME` or ~/.cache)."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache or os.environ.get("JBN_CACHE") or Path(user) / "jbn")


def _request(name: str, subset: str | None, image: str | None, label: str | None) -> Request:
    by_hub_name = {known.name: known for known in KNOWN.values()}
    known = KNOWN.get(name) or by_hub_name.get(name) or Request(name)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", known.name):
        hint = near(name, KNOWN) or f"; choose one of {', '.join(KNOWN)}, or a set of the hub as owner/name"
        raise ConfigError(f"no image set {name!r}{hint}")
    return Request(known.name, subset or known.subset, image or known.image, label or known.label)


def _key(request: Request) -> str:
    digest = hashlib.sha256(json.dumps(request).encode()).hexdigest()
    return f"{request.name.replace('/', '--')}-{digest[:8]}"


# The cache: <root>/images/<owner>--<name>-<digest of the request>/{train,test}_{x,y}.npy and meta.json.


Stamps = dict[str, list[int]]
"""For each path, the size in bytes and the time of the last change in nanoseconds."""


def _stamps(request: Request, mirror: Path | None) -> Stamps:
    """The stamps of a set's files in the mirror; empty if the mirror lacks the set."""
    if mirror is None or not mirror.is_dir():
        return {}
    parts = [part for split in mirrored(request, mirror).values() for part in split]
    return {part.relative_to(mirror).as_posix(): [part.stat().st_size, part.stat().st_mtime_ns] for part in parts}


class _Unusable(Exception):
    """The cache is missing (empty message), damaged, or was decoded from other files (the message says which)."""


def _open(folder: Path, files: Stamps, verify: bool) -> Images:
    """Opens the cache, and checks that it is intact and was decoded from `files` if there are any."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        if meta.pop("checksum") != _digest(meta):
            raise ValueError("meta.json: wrong checksum")
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}, not {FORMAT}")
        if files and meta.get("files") != files:
            raise _Unusable(f"the cache {folder} was decoded from other files than those in the mirror")
        arrays = {}
        for name, stored in meta["arrays"].items():
            if stored["dtype"] != DTYPES[name]:  # above all no objects: they would be read as addresses of memory
                raise ValueError(f"{name}.npy: dtype {stored['dtype']}, not {DTYPES[name]}")
            file, shape = folder / f"{name}.npy", tuple(stored["shape"])
            arrays[name] = array = np.memmap(file, stored["dtype"], "r", stored["offset"], shape)
            if fast_checksum(array) != stored["fast"] or (verify and _sha256(array) != stored["sha256"]):
                raise ValueError(f"{name}.npy: wrong checksum")
        return Images(**arrays, classes=tuple(meta["classes"]), source=meta["source"])
    except PermissionError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}; set JBN_CACHE=<another folder>") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _Unusable(f"the cache {folder} is damaged ({line(error)})" if folder.exists() else "") from None


def _build(request: Request, folder: Path, mirror: Path | None, files: Stamps, progress: bool) -> None:
    """Decodes into a temporary folder and renames it to `folder`; first removes leftovers of a killed process."""
    building, old = (folder.with_name(folder.name + suffix) for suffix in (".building", ".old"))
    for leftover in (building, old):
        shutil.rmtree(leftover, ignore_errors=True)
    building.mkdir()
    try:
        meta = {"format": FORMAT, "files": files, **decode(request, building, mirror, progress, _write)}
        (building / "meta.json").write_text(json.dumps({**meta, "checksum": _digest(meta)}, indent=1))
        if folder.exists():
            folder.rename(old)
        building.rename(folder)
    finally:
        for leftover in (building, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _write(file: Path, dtype: str, shape: Sequence[int], blocks: Iterable[np.ndarray]) -> dict[str, Any]:
    """Writes one .npy file block by block. A memory map would not do: with one, a full disk kills Python."""
    digest = hashlib.sha256()
    with file.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": tuple(shape)})
        offset = out.tell()
        for block in blocks:
            out.write(block.data)
            digest.update(block.data)
    fast = fast_checksum(np.memmap(file, dtype, "r", offset, tuple(shape)))
    return {"dtype": dtype, "shape": list(shape), "offset": offset, "sha256": digest.hexdigest(), "fast": fast}


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.data).hexdigest()


@contextlib.contextmanager
def _disk(root: Path) -> Iterator[None]:
    """Turns an OSError while writing to the cache into a one-line ConfigError."""
    try:
        yield
    except OSError as error:
        advice = "make room, or set JBN_CACHE=<a folder with more>"
        advice = advice if error.errno in FULL else "set JBN_CACHE=<a folder that you may write to>"
        raise ConfigError(f"cannot write the cache {root}: {error.strerror or error}; {advice}") from error


@contextlib.contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    try:
        import filelock  # comes with `datasets`, which decoding needs anyway
    except ImportError:
        raise ConfigError(
            f"{folder} holds no cache, and `datasets` is not installed to make one; run pip install "
            "'jbn[experiments]', or copy that folder from a machine that has it"
        ) from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"waiting for another process, which is decoding {folder.name}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
