"""Image data sets as arrays: decoded once, then memory-mapped from a cache in milliseconds.

The first start reads a set with Hugging Face `datasets`, from a mirror folder if it is there, otherwise from the hub,
and writes four .npy files and a meta.json into the cache folder. Every later start maps those files, and needs neither
the network nor `datasets`. Nothing here imports jax.

A cache is one folder, renamed into place when complete, so there is never half a one; one process at a time writes it.
Every start checks it against `fast_checksum` (3 ms for MNIST, where SHA-256 takes 75); SHA-256 is checked right after
decoding, and with `verify=True`. A cache that fails is decoded again.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.config import ConfigError

FORMAT = 1
CHECKED_BYTES = 2**31  # of larger arrays, a start reads only every k-th block
_BLOCK = 8192  # words of 8 bytes
_ROWS = 1000  # decoded at a time
_TEST_SPLITS = ("test", "validation", "valid", "val")
_GREY, _COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV")  # PIL's modes of 8 bits or less
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Images(NamedTuple):
    """An image-classification set, memory-mapped and read-only. Validation data is still in training: see `carve`."""

    train_x: np.ndarray
    """uint8 [n, height, width, channels]; greyscale has one channel."""
    train_y: np.ndarray
    """int32 [n]: the place of the class in `classes`."""
    test_x: np.ndarray
    test_y: np.ndarray
    classes: tuple[str, ...]
    """Names of the classes."""
    source: dict[str, Any]
    """Where the arrays come from, for the record of a run: name, config, columns, sizes, SHA-256 of each array, whether
    from the mirror or the hub, which files (the hub's commit), and the version of `datasets` that read them."""


class Request(NamedTuple):
    """Which set, and which of its columns; None leaves it to the set."""

    name: str
    config: str | None = None
    image: str | None = None
    label: str | None = None


KNOWN = {
    "mnist": Request("ylecun/mnist", None, "image", "label"),
    "fashion_mnist": Request("zalando-datasets/fashion_mnist", None, "image", "label"),
    "cifar10": Request("uoft-cs/cifar10", None, "img", "label"),
    "cifar100": Request("uoft-cs/cifar100", None, "img", "fine_label"),
}


def load(
    name: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    config: str | None = None,
    cache: str | Path | None = None,
    mirror: str | Path | None = None,
    verify: bool = False,
    progress: bool = True,
) -> Images:
    """The set `name`, from the cache if it is there; otherwise decoded into it, from the mirror or the hub.

    Args:
      name: mnist, fashion_mnist, cifar10, cifar100, or any set on the hub as owner/name.
      image_column: column of the images; by default the known set's own, otherwise the only one that holds images.
      label_column: column of the classes (whole numbers, names or true/false); by default likewise.
      config: configuration of the set, where it has several.
      cache: cache folder; by default `JBN_CACHE`, otherwise jbn in the user's cache folder.
      mirror: folder laid out <owner>/<name>/<config>/<split>-*.parquet, looked in before the hub; by default
        `JBN_DATA`. A set that is cached is not looked for again: to read it anew, delete its folder.
      verify: check the cache against SHA-256, not only against the faster `fast_checksum`.
      progress: progress bars on stderr, where that is a terminal.

    Returns:
      The decoded set. Transparency is dropped; grey images of a set that has colour ones, too, get three channels.

    Raises:
      ConfigError: an unknown set, config or column; fewer than two classes; no training or test split; images of mixed
        size; no room or no permission to write the cache; no network; the set is not cached and `datasets` missing.

    Example:
      images = load("cifar10")  # images.train_x.shape is (50000, 32, 32, 3), images.classes[0] is 'airplane'
      coarse = load("cifar100", label_column="coarse_label")
    """
    request = _request(name, config, image_column, label_column)
    root = cache_folder(cache)
    folder = root / "images" / _key(request)
    try:
        return _open(folder, verify)
    except _Unusable as damage:
        note = str(damage)
    if note:
        print(f"{note}; decoding {request.name} again", file=sys.stderr)
    given = mirror or os.environ.get("JBN_DATA")
    try:
        with _disk(root), _sole_writer(folder):
            with contextlib.suppress(_Unusable):
                return _open(folder, verify=True)  # another process was faster
            _build(request, folder, Path(given) if given else None, progress)
            return _open(folder, verify=True)
    except _Unusable as damage:
        raise ConfigError(
            f"{damage}, just after it was written; check the disk, or write JBN_CACHE=<another>"
        ) from None
    except ConfigError as error:
        if not note:
            raise
        raise ConfigError(f"{note}; it cannot be decoded again: {error}") from error


def carve(y: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training set without its validation part, and of that part; the classes keep their shares.

    Args:
      y: class of each example, int [n].
      fraction: share of the examples for validation, in (0, 1). Their number is `fraction` of n, rounded; each class
        gives its share of it, rounded up or down.
      seed: the same seed carves the same part, on every machine.

    Returns:
      Two arrays of int32, each ascending: every index from 0 to n - 1 is in exactly one.

    Raises:
      ConfigError: `fraction` out of range, or such that validation, or a class in training, is left empty.

    >>> train, validation = carve(np.array([0, 1, 0, 1, 0, 1, 0, 1]), 0.25, seed=0)
    >>> len(train), len(validation)
    (6, 2)
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the validation fraction is {fraction}; write a share between 0 and 1, such as 0.1")
    classes, counts = np.unique(y, return_counts=True)
    quotas = fraction * counts
    takes = np.floor(quotas).astype(int)
    by_remainder = np.argsort(takes - quotas, kind="stable")
    takes[by_remainder[: round(fraction * len(y)) - takes.sum()]] += 1
    if takes.sum() == 0 or (takes >= counts).any():
        raise ConfigError(
            f"a validation fraction of {fraction} of {len(y)} examples leaves nothing to validate on, or a class "
            "without training examples; write another share, such as 0.1"
        )
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(y), bool)
    for k, n in zip(classes, takes, strict=True):
        held_out[rng.permutation(np.flatnonzero(y == k))[:n]] = True
    return np.flatnonzero(~held_out).astype(np.int32), np.flatnonzero(held_out).astype(np.int32)


def fast_checksum(array: np.ndarray) -> str:
    """A checksum at the speed of memory: SHA-256 of the sums, modulo 2^64, of the 8-byte words of each 64 KiB block.

    It finds every change within one word, and random damage to a block with probability 1 - 2^-64; words of one block
    that change places escape. Of an array above 2 GiB it reads every k-th block, at most 2 GiB in all.
    """
    flat = array.reshape(-1).view(np.uint8)
    words = flat[: flat.size // 8 * 8].view("<u8")
    blocks = words[: words.size // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    sums = blocks[:: 1 + flat.nbytes // CHECKED_BYTES].sum(axis=1, dtype="<u8")
    return hashlib.sha256(sums.tobytes() + flat[blocks.nbytes :].tobytes()).hexdigest()


def cache_folder(cache: str | Path | None = None) -> Path:
    """`cache`, otherwise `JBN_CACHE`, otherwise jbn in the user's cache folder (`XDG_CACHE_HOME` or ~/.cache)."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache or os.environ.get("JBN_CACHE") or Path(user) / "jbn")


def _request(name: str, config: str | None, image: str | None, label: str | None) -> Request:
    by_hub_name = {known.name: known for known in KNOWN.values()}
    known = KNOWN.get(name) or by_hub_name.get(name) or Request(name)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", known.name):
        near = _near(name, KNOWN) or f"; write one of {', '.join(KNOWN)}, or a set of the hub as owner/name"
        raise ConfigError(f"no image set {name!r}{near}")
    return Request(known.name, config or known.config, image or known.image, label or known.label)


def _key(request: Request) -> str:
    digest = hashlib.sha256(json.dumps(request).encode()).hexdigest()
    return f"{request.name.replace('/', '--')}-{digest[:8]}"


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]


# The cache: <root>/images/<owner>--<name>-<digest of the request>/{train,test}_{x,y}.npy and meta.json.


class _Unusable(Exception):
    """There is no cache (no message), or it is damaged (what is wrong)."""


def _open(folder: Path, verify: bool) -> Images:
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        if meta.pop("checksum") != _digest(meta):
            raise ValueError("meta.json: wrong checksum")
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}, not {FORMAT}")
        arrays = {}
        for name, stored in meta["arrays"].items():
            file, shape = folder / f"{name}.npy", tuple(stored["shape"])
            arrays[name] = array = np.memmap(file, stored["dtype"], "r", stored["offset"], shape)
            if fast_checksum(array) != stored["fast"] or (verify and _sha256(array) != stored["sha256"]):
                raise ValueError(f"{name}.npy: wrong checksum")
        return Images(**arrays, classes=tuple(meta["classes"]), source=meta["source"])
    except PermissionError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}; write JBN_CACHE=<another folder>") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _Unusable(f"the cache {folder} is damaged ({_line(error)})" if folder.exists() else "") from None


def _build(request: Request, folder: Path, mirror: Path | None, progress: bool) -> None:
    """Decodes into a folder beside `folder`, and renames it. What a killed process left there is removed first."""
    building, old = (folder.with_name(folder.name + suffix) for suffix in (".building", ".old"))
    for leftover in (building, old):
        shutil.rmtree(leftover, ignore_errors=True)
    building.mkdir()
    try:
        meta = _decode(request, building, mirror, progress)
        (building / "meta.json").write_text(json.dumps({**meta, "checksum": _digest(meta)}, indent=1))
        if folder.exists():
            folder.rename(old)
        building.rename(folder)
    finally:
        for leftover in (building, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _write(file: Path, dtype: str, shape: Sequence[int], blocks: Iterable[np.ndarray]) -> dict[str, Any]:
    """One .npy file, block by block; not through a memory map, which answers a full disk by killing Python."""
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
    """What can go wrong in writing to the cache, in one line."""
    try:
        yield
    except OSError as error:
        advice = "make room, or write JBN_CACHE=<a folder with more>"
        advice = advice if error.errno in _FULL else "write JBN_CACHE=<a folder that you may write to>"
        raise ConfigError(f"cannot write the cache {root}: {error.strerror or error}; {advice}") from error


@contextlib.contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    try:
        import filelock  # comes with `datasets`, without which there is nothing to write
    except ImportError:
        raise ConfigError(
            f"{folder} holds no cache, and `datasets` is not installed to make one; write pip install "
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


# The source: `datasets`, reading the mirror or the hub.


def _decode(request: Request, building: Path, mirror: Path | None, progress: bool) -> dict[str, Any]:
    """Decodes a set into the folder `building`; returns what belongs into meta.json."""
    scratch = building / "datasets"
    found, origin = _read(request, mirror, scratch, progress)
    names = {"train": "train", "test": next((s for s in _TEST_SPLITS if s in found), "test")}
    for split in names.values():
        if split not in found or not len(found[split]):
            raise ConfigError(
                f"{request.name} has no {split} split, only {', '.join(found)}; write a set that has both"
            )
    splits = {part: found[split] for part, split in names.items()}
    image, label = (_column(request, splits["train"].features, kind) for kind in ("image", "label"))
    labels, classes = _labels(request, splits, label)
    pixels = _pixels(splits, image, building, progress)
    arrays = {}
    for part, y in labels.items():
        arrays[f"{part}_x"] = pixels[part]
        arrays[f"{part}_y"] = _write(building / f"{part}_y.npy", "<i4", y.shape, [y])
    shutil.rmtree(scratch, ignore_errors=True)
    source = {"name": request.name, **origin, "image_column": image, "label_column": label, "splits": names}
    source |= {part: len(y) for part, y in labels.items()}
    source |= {"shape": arrays["train_x"]["shape"][1:], "classes": len(classes)}
    source["sha256"] = {name: array["sha256"] for name, array in arrays.items()}
    return {"format": FORMAT, "source": source, "classes": classes, "arrays": arrays}


def _read(request: Request, mirror: Path | None, scratch: Path, progress: bool) -> tuple[Any, dict[str, Any]]:
    """The set as a datasets.DatasetDict, and where it came from."""
    import datasets
    import huggingface_hub

    files = _mirrored(request, mirror)
    show = progress and sys.stderr.isatty()
    shown = [m for m in (datasets.utils, huggingface_hub.utils) if not show and not m.are_progress_bars_disabled()]
    for module in shown:
        module.disable_progress_bars()
    try:
        if files:
            data_files = {split: [str(file) for file in parts] for split, parts in files.items()}
            builder = datasets.load_dataset_builder("parquet", data_files=data_files, cache_dir=str(scratch))
        else:
            # With hf://, a folder of that name in the working directory is not taken for the set.
            place = f"hf://datasets/{request.name}"
            builder = datasets.load_dataset_builder(place, request.config, cache_dir=str(scratch))
        builder.download_and_prepare()
        found = builder.as_dataset()
    except Exception as error:  # whatever a disk, a network and four libraries may raise
        raise _unreadable(request, error, mirror, bool(files)) from error
    finally:
        for module in shown:
            module.enable_progress_bars()
    if files and mirror:
        parts = [part for split in files.values() for part in split]
        read = [part.relative_to(mirror).as_posix() for part in parts]
        origin = {"config": parts[0].parent.name, "from": "mirror", "files": read}
    else:
        origin = {"config": builder.config.name, "from": "hub", "files": [builder.base_path]}  # with the commit
    return found, origin | {"datasets": datasets.__version__}


def _mirrored(request: Request, mirror: Path | None) -> dict[str, list[Path]]:
    """The mirror's parquet files by split; none if it lacks the set, or its config."""
    if mirror is None:
        return {}
    if not mirror.is_dir():
        raise ConfigError(f"the mirror {mirror} is no folder; write JBN_DATA=<folder of owner/name/config/*.parquet>")
    configs = sorted({file.parent.name for file in (mirror / request.name).glob("*/*.parquet")})
    if request.config is None and len(configs) > 1:
        raise ConfigError(f"{request.name} has the configs {', '.join(configs)}; write config={configs[0]!r}")
    config = request.config or next(iter(configs), "")
    files: dict[str, list[Path]] = {}
    for file in sorted((mirror / request.name / config).glob("*.parquet")) if config in configs else []:
        files.setdefault(file.stem.split("-")[0], []).append(file)
    for split, parts in files.items():
        whole = re.search(r"-of-0*(\d+)$", parts[0].stem)
        if whole and len(parts) != int(whole[1]):
            raise ConfigError(f"{parts[0].parent} has {len(parts)} of {whole[1]} files of {split}; copy the rest")
    return files


def _unreadable(request: Request, error: Exception, mirror: Path | None, mirrored: bool) -> ConfigError:
    from datasets import get_dataset_config_names
    from datasets.exceptions import DatasetNotFoundError

    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    if any(getattr(e, "errno", None) in _FULL for e in causes):
        return ConfigError(
            f"no room to read {request.name} ({_line(causes[-1])}); make some, or write JBN_CACHE, HF_HOME"
        )
    if mirrored:
        return ConfigError(f"cannot read {request.name} in {mirror}: {_line(causes[-1])}; copy its files again")
    if isinstance(error, DatasetNotFoundError):
        near = _near(request.name, [known.name for known in KNOWN.values()]) or "; write owner/name as the hub has it"
        return ConfigError(f"no image set {request.name!r}: {_line(error).rstrip('.')}{near}")
    if isinstance(error, ValueError):
        with contextlib.suppress(Exception):
            configs = get_dataset_config_names(f"hf://datasets/{request.name}")
            if request.config not in configs:
                near = _near(request.config or "", configs) or f"; write config={configs[0]!r}"
                return ConfigError(f"{request.name} has the configs {', '.join(configs)}{near}")
    place = f"the mirror {mirror}" if mirror else "a mirror folder, JBN_DATA"
    return ConfigError(
        f"cannot read {request.name} from the hub: {_line(error)}; check the network and run again (files that are "
        f"complete are kept), or put its parquet files into {place}"
    )


def _column(request: Request, features: Any, kind: str) -> str:
    """The column asked for; without one, the only one of its kind."""
    from datasets import ClassLabel, Image

    wanted, columns = getattr(request, kind), ", ".join(features)
    if wanted in features:
        return wanted
    if wanted is not None:
        near = _near(wanted, features) or f"; write one as {kind}_column"
        raise ConfigError(f"{request.name} has no column {wanted!r}, only {columns}{near}")
    alike = [
        name for name, feature in features.items() if isinstance(feature, Image if kind == "image" else ClassLabel)
    ]
    if len(alike) != 1:
        which = " and ".join(alike) or "none"
        raise ConfigError(
            f"of the columns {columns} of {request.name}, {which} holds {kind}s; write {kind}_column=<one>"
        )
    return alike[0]


def _labels(request: Request, splits: dict[str, Any], column: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Class numbers of each split, and the names of the classes."""
    feature = splits["train"].features[column]
    names: list[Any] = getattr(feature, "names", None) or []
    if not names and not re.match("u?int|bool|(large_)?string", str(getattr(feature, "dtype", ""))):
        raise ConfigError(f"{column!r} of {request.name} holds no classes but {feature}; write label_column=<another>")
    raw: dict[str, list[Any]] = {
        part: list(rows[column]) if column in rows.features else [None] * len(rows) for part, rows in splits.items()
    }
    values = list(range(len(names))) or sorted(set(raw["train"]) - {None})
    number = {value: k for k, value in enumerate(values)}
    for part, column_values in raw.items():
        if bad := [value for value in column_values if value not in number]:
            raise ConfigError(
                f"{len(bad)} examples of {part} of {request.name} have {bad[0]!r} in {column!r}, which is no class of "
                "its training split; write a set or a label_column with classes in both splits"
            )
    labels = {part: np.array([number[v] for v in column_values], "<i4") for part, column_values in raw.items()}
    if len(np.unique(labels["train"])) < 2:
        only = (names or values)[labels["train"][0]]
        raise ConfigError(f"{request.name} has one class only in {column!r}, {only!r}; write label_column=<another>")
    return labels, [str(name) for name in names or values]


class _Frame(NamedTuple):
    """What all images of a set share."""

    height: int
    width: int
    channels: int


class _Colour(Exception):
    """A colour image in a set that began grey."""


def _pixels(splits: dict[str, Any], column: str, building: Path, progress: bool) -> dict[str, dict[str, Any]]:
    """Writes the pixels of each split; returns what belongs into meta.json."""
    from datasets import Image

    try:
        raw = {part: rows.cast_column(column, Image(decode=False)) for part, rows in splits.items()}
        first = Image().decode_example(raw["train"][0][column])
    except Exception as error:
        raise ConfigError(
            f"column {column!r} holds no images ({_line(error)}); write image_column=<another>"
        ) from error
    frame = _Frame(first.height, first.width, 1 if first.mode in _GREY else 3)
    try:
        return _write_pixels(raw, column, frame, building, progress)
    except _Colour:
        return _write_pixels(raw, column, frame._replace(channels=3), building, progress)


def _write_pixels(
    raw: dict[str, Any], column: str, frame: _Frame, building: Path, progress: bool
) -> dict[str, dict[str, Any]]:
    from rich.console import Console
    from rich.progress import Progress

    examples = sum(len(rows) for rows in raw.values())
    needed, free = examples * int(np.prod(frame)) / 1e9, shutil.disk_usage(building).free / 1e9
    if needed > free:
        raise ConfigError(
            f"the decoded images need {needed:.2f} GB, but {building.parent} has {free:.2f} GB; make room, or write "
            "JBN_CACHE=<a folder with more>"
        )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task("decoding", total=examples)
        return {
            part: _write(
                building / f"{part}_x.npy",
                "|u1",
                (len(rows), *frame),
                _blocks(rows, column, part, frame, lambda count: bar.advance(task, count)),
            )
            for part, rows in raw.items()
        }


def _blocks(rows: Any, column: str, part: str, frame: _Frame, advance: Callable[[int], None]) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _ROWS):
        values = rows[start : start + _ROWS][column]
        yield np.stack([_image(value, f"image {start + k} of {part}", frame) for k, value in enumerate(values)])
        advance(len(values))


def _image(value: Any, place: str, frame: _Frame) -> np.ndarray:
    from datasets import Image

    if value is None:
        raise ConfigError(f"{place} is missing; repair it or take it out of the set")
    try:
        image = Image().decode_example(value)
    except Exception as error:
        raise ConfigError(f"{place} cannot be decoded ({_line(error)}); repair it or take it out of the set") from error
    if (image.height, image.width) != frame[:2]:
        raise ConfigError(
            f"{place} is {image.width} x {image.height} pixels, the first is {frame.width} x {frame.height}; write a "
            "set whose images have one size, or resize them"
        )
    if image.mode not in _GREY + _COLOUR:
        raise ConfigError(f"{place} has pixels of PIL's mode {image.mode}, not of 8 bits; convert the set first")
    if image.mode in _COLOUR and frame.channels == 1:
        raise _Colour
    return np.asarray(image.convert("L" if frame.channels == 1 else "RGB")).reshape(frame)
