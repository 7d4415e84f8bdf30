"""Reads and decodes image data sets with Hugging Face `datasets`, from a mirror folder or the hub.

Functions import `datasets` themselves, because reading decoded arrays (`experiments.data.cache`) does not need it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.config import ConfigError
from experiments.config.errors import near

_ROWS = 1000  # examples that are decoded at a time
_TEST_SPLITS = ("test", "validation", "valid", "val")
_GREY, _COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV")  # PIL's modes of 8 bits or less
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Writes one array into a file, in blocks along its first axis; returns its entry in meta.json.
Write = Callable[[Path, str, Sequence[int], Iterable[np.ndarray]], dict[str, Any]]


class Request(NamedTuple):
    """A set and its subset and columns; None leaves the choice to `decode`."""

    name: str
    subset: str | None = None
    image: str | None = None
    label: str | None = None


KNOWN = {
    "mnist": Request("ylecun/mnist", None, "image", "label"),
    "fashion_mnist": Request("zalando-datasets/fashion_mnist", None, "image", "label"),
    "cifar10": Request("uoft-cs/cifar10", None, "img", "label"),
    "cifar100": Request("uoft-cs/cifar100", None, "img", "fine_label"),
}


def line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]


def decode(request: Request, building: Path, mirror: Path | None, progress: bool, write: Write) -> dict[str, Any]:
    """Decodes a set into the folder `building`, array by array through `write`; returns the content of meta.json."""
    scratch = building / "datasets"
    found, origin = _read(request, mirror, scratch, progress)
    names = {"train": "train", "test": next((s for s in _TEST_SPLITS if s in found), "test")}
    for split in names.values():
        if split not in found or not len(found[split]):
            raise ConfigError(
                f"{request.name} has no {split} split, only {', '.join(found)}; choose a set that has both"
            )
    splits = {part: found[split] for part, split in names.items()}
    image, label = (_column(request, splits["train"].features, kind) for kind in ("image", "label"))
    labels, classes = _labels(request, splits, label)
    pixels = _pixels(splits, image, building, progress, write)
    arrays = {}
    for part, y in labels.items():
        arrays[f"{part}_x"] = pixels[part]
        arrays[f"{part}_y"] = write(building / f"{part}_y.npy", "<i4", y.shape, [y])
    shutil.rmtree(scratch, ignore_errors=True)
    source = {"name": request.name, **origin, "image_column": image, "label_column": label, "splits": names}
    source |= {part: len(y) for part, y in labels.items()}
    source |= {"shape": arrays["train_x"]["shape"][1:], "classes": len(classes)}
    source["sha256"] = {name: array["sha256"] for name, array in arrays.items()}
    return {"source": source, "classes": classes, "arrays": arrays}


def _read(request: Request, mirror: Path | None, scratch: Path, progress: bool) -> tuple[Any, dict[str, Any]]:
    """The set as a datasets.DatasetDict, and its provenance."""
    import datasets
    import huggingface_hub

    files = mirrored(request, mirror)
    show = progress and sys.stderr.isatty()
    shown = [m for m in (datasets.utils, huggingface_hub.utils) if not show and not m.are_progress_bars_disabled()]
    for module in shown:
        module.disable_progress_bars()
    try:
        if files:
            data_files = {split: [str(file) for file in parts] for split, parts in files.items()}
            builder = datasets.load_dataset_builder("parquet", data_files=data_files, cache_dir=str(scratch))
        else:
            # Without hf://, datasets would prefer a folder of that name in the working directory.
            place = f"hf://datasets/{request.name}"
            builder = datasets.load_dataset_builder(place, request.subset, cache_dir=str(scratch))
            for file in sorted({file for part in (builder.config.data_files or {}).values() for file in part}):
                _download(request, file)
        builder.download_and_prepare()
        found = builder.as_dataset()
    except ConfigError:
        raise
    except Exception as error:  # the disk, the network and four libraries may raise anything
        raise _unreadable(request, error, mirror, bool(files)) from error
    finally:
        for module in shown:
            module.enable_progress_bars()
    if files and mirror:
        parts = [part for split in files.values() for part in split]
        read = [part.relative_to(mirror).as_posix() for part in parts]
        origin = {"config": parts[0].parent.name, "from": "mirror", "files": read}
    else:
        origin = {
            "config": builder.config.name,
            "from": "hub",
            "files": [builder.base_path],
        }  # its base_path contains the commit
    return found, origin | {"datasets": datasets.__version__}


def _download(request: Request, url: str) -> None:
    """Downloads a file, hf://datasets/owner/name@commit/path, and compares it with the checksum that the hub lists.

    `datasets` finds it where this leaves it. The checksum is SHA-256 of a large file, or the blob's of git of a small
    one; neither the hub's client nor `datasets` compares them.

    Raises:
      ConfigError: the file is another one; it is deleted.
    """
    from huggingface_hub import HfFileSystem, hf_hub_download

    hub = HfFileSystem()
    place: Any = hub.resolve_path(url)
    listed = hub.info(url)
    file = Path(hf_hub_download(place.repo_id, place.path_in_repo, repo_type="dataset", revision=place.revision))
    digest, stated = hashlib.sha1(b"blob %d\0" % file.stat().st_size), listed["blob_id"]
    if listed.get("lfs"):
        digest, stated = hashlib.sha256(), listed["lfs"]["sha256"]
    with file.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    if digest.hexdigest() != stated:
        for path in (file.resolve(), file):
            path.unlink(missing_ok=True)
        raise ConfigError(
            f"{place.path_in_repo} of {request.name} differs from its checksum on the hub, and was deleted; run again, "
            "and if it happens again, check the disk and the network"
        )


def mirrored(request: Request, mirror: Path | None) -> dict[str, list[Path]]:
    """The mirror's parquet files by split; empty if the mirror lacks the set or its subset."""
    if mirror is None:
        return {}
    if not mirror.is_dir():
        raise ConfigError(f"the mirror {mirror} is no folder; set JBN_DATA=<folder of owner/name/subset/*.parquet>")
    subsets = sorted({file.parent.name for file in (mirror / request.name).glob("*/*.parquet")})
    if request.subset is None and len(subsets) > 1:
        raise ConfigError(f"{request.name} has the subsets {', '.join(subsets)}; set subset={subsets[0]!r}")
    subset = request.subset or next(iter(subsets), "")
    files: dict[str, list[Path]] = {}
    for file in sorted((mirror / request.name / subset).glob("*.parquet")) if subset in subsets else []:
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
    if any(getattr(e, "errno", None) in FULL for e in causes):
        return ConfigError(f"no room to read {request.name} ({line(causes[-1])}); make some, or set JBN_CACHE, HF_HOME")
    if mirrored:
        return ConfigError(f"cannot read {request.name} in {mirror}: {line(causes[-1])}; copy its files again")
    if isinstance(error, DatasetNotFoundError):
        hint = near(request.name, [known.name for known in KNOWN.values()]) or "; give owner/name as the hub has it"
        return ConfigError(f"no image set {request.name!r}: {line(error).rstrip('.')}{hint}")
    if isinstance(error, ValueError):
        with contextlib.suppress(Exception):
            subsets = get_dataset_config_names(f"hf://datasets/{request.name}")
            if request.subset not in subsets:
                hint = near(request.subset or "", subsets) or f"; set subset={subsets[0]!r}"
                return ConfigError(f"{request.name} has the subsets {', '.join(subsets)}{hint}")
    place = f"the mirror {mirror}" if mirror else "a mirror folder, JBN_DATA"
    return ConfigError(
        f"cannot read {request.name} from the hub: {line(error)}; check the network and run again (files that are "
        f"complete are kept), or put its parquet files into {place}"
    )


def _column(request: Request, features: Any, kind: str) -> str:
    """The requested column; by default the only column of its kind, or else the column named `image` or `label`."""
    from datasets import ClassLabel, Image

    wanted, columns = getattr(request, kind), ", ".join(features)
    if wanted in features:
        return wanted
    if wanted is not None:
        hint = near(wanted, features) or f"; set {kind}_column to one of them"
        raise ConfigError(f"{request.name} has no column {wanted!r}, only {columns}{hint}")
    candidates = [
        name for name, feature in features.items() if isinstance(feature, Image if kind == "image" else ClassLabel)
    ]
    if len(candidates) != 1 and kind in features:
        return kind
    if len(candidates) != 1:
        which = " and ".join(candidates) or "none"
        raise ConfigError(f"of the columns {columns} of {request.name}, {which} holds {kind}s; set {kind}_column=<one>")
    return candidates[0]


def _labels(request: Request, splits: dict[str, Any], column: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Class numbers of each split, and the names of the classes."""
    feature = splits["train"].features[column]
    names: list[Any] = getattr(feature, "names", None) or []
    if not names and not re.match("u?int|bool|(large_)?string", str(getattr(feature, "dtype", ""))):
        raise ConfigError(f"{column!r} of {request.name} holds no classes but {feature}; set label_column=<another>")
    raw: dict[str, list[Any]] = {
        part: list(rows[column]) if column in rows.features else [None] * len(rows) for part, rows in splits.items()
    }
    values = list(range(len(names))) or sorted(set(raw["train"]) - {None})
    number = {value: k for k, value in enumerate(values)}
    for part, column_values in raw.items():
        if bad := [value for value in column_values if value not in number]:
            raise ConfigError(
                f"{len(bad)} examples of {part} of {request.name} have {bad[0]!r} in {column!r}, which is no class of "
                "its training split; choose a set or a label_column with classes in both splits"
            )
    labels = {part: np.array([number[v] for v in column_values], "<i4") for part, column_values in raw.items()}
    if len(np.unique(labels["train"])) < 2:
        only = (names or values)[labels["train"][0]]
        raise ConfigError(f"{request.name} has one class only in {column!r}, {only!r}; set label_column=<another>")
    return labels, [str(name) for name in names or values]


class _Frame(NamedTuple):
    """The size that all images of a set share."""

    height: int
    width: int
    channels: int


class _Colour(Exception):
    """Raised for a colour image in a set whose first image is grey."""


def _pixels(
    splits: dict[str, Any], column: str, building: Path, progress: bool, write: Write
) -> dict[str, dict[str, Any]]:
    """Writes the pixels of each split; returns their entries in meta.json."""
    from datasets import Image

    try:
        raw = {part: rows.cast_column(column, Image(decode=False)) for part, rows in splits.items()}
        first = Image().decode_example(raw["train"][0][column])
    except Exception as error:
        raise ConfigError(f"column {column!r} holds no images ({line(error)}); set image_column=<another>") from error
    frame = _Frame(first.height, first.width, 1 if first.mode in _GREY else 3)
    try:
        return _write_pixels(raw, column, frame, building, progress, write)
    except _Colour:
        return _write_pixels(raw, column, frame._replace(channels=3), building, progress, write)


def _write_pixels(
    raw: dict[str, Any], column: str, frame: _Frame, building: Path, progress: bool, write: Write
) -> dict[str, dict[str, Any]]:
    from rich.console import Console
    from rich.progress import Progress

    examples = sum(len(rows) for rows in raw.values())
    needed, free = examples * int(np.prod(frame)) / 1e9, shutil.disk_usage(building).free / 1e9
    if needed > free:
        raise ConfigError(
            f"the decoded images need {needed:.2f} GB, but {building.parent} has {free:.2f} GB; make room, or set "
            "JBN_CACHE=<a folder with more>"
        )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task("decoding", total=examples)
        return {
            part: write(
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
        raise ConfigError(f"{place} cannot be decoded ({line(error)}); repair it or take it out of the set") from error
    if (image.height, image.width) != frame[:2]:
        raise ConfigError(
            f"{place} is {image.width} x {image.height} pixels, the first is {frame.width} x {frame.height}; choose a "
            "set whose images have one size, or resize them"
        )
    if image.mode not in _GREY + _COLOUR:
        raise ConfigError(f"{place} has pixels of PIL's mode {image.mode}, not of 8 bits; convert the set first")
    if image.mode in _COLOUR and frame.channels == 1:
        raise _Colour
    return np.asarray(image.convert("L" if frame.channels == 1 else "RGB")).reshape(frame)
