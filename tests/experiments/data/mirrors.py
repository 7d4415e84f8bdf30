"""Image sets in the hub's layout, for tests: random pixels, written as parquet files."""

import io

import datasets
import numpy as np
import PIL.Image
import pytest

from experiments.config import ConfigError
from experiments.data.cache import load

ARRAYS = ("train_x", "train_y", "test_x", "test_y")


def draw(n, channels=3, height=6, width=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), np.uint8)


def png(pixels):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def put(root, columns, split="train", name="some/set", config="plain", features=None, part="00000-of-00001"):
    """Writes one parquet file of a set to the mirror `root`, in the hub's layout."""
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
    """Writes a whole set of random pixels; returns (train_x, train_y, test_x, test_y) as drawn."""
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


def spoil(file, how):
    data = bytearray(file.read_bytes())
    if how == "one bit flipped":
        data[-3] ^= 1
    file.write_bytes(data[:-5] if how == "cut short" else data)
    if how == "deleted":
        file.unlink()
    if how == "empty":
        file.write_bytes(b"")
