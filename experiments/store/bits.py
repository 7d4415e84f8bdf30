"""right.npz of a published run: which test examples its networks got right, a bit each.

    bits      uint8 [networks, bytes], as `np.packbits` packs them; the first example is the highest bit
    row       int32 [networks], the row of scores.csv that says arm, setting, seed and accuracies of each network
    examples  int32, how many bits count

With scores.csv this is what an interval for new data is computed from, so that it can be computed again. It holds the
networks of each setting that an arm was trained at with all its seeds: no other setting is chosen by a bag.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.config import Arm, ConfigError
from experiments.store.reading import Run
from experiments.store.right import unpack_right

SETTING = ("learning_rate", "weight_decay", "decay_scale_bias")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip file can hold


def right_npz(run: Run) -> bytes | None:
    """The content of right.npz; the same bytes for the same run.

    Args:
      run: a finished run with its report, which wrote scores.csv.

    Returns:
      None where each seed has a test set of its own, of which bits of the same place are of different examples.

    Raises:
      ConfigError: scores.csv cannot be read, or lacks a network; there is no data.json.
    """
    if run.config.data.split_each_seed or run.result is None:
        return None
    if not run.data:
        raise ConfigError(
            f"{run.folder} has no data.json, which says how many examples there are; restore it, or delete result.json "
            "and run again"
        )
    trained: dict[tuple[Arm, tuple[Any, ...]], dict[int, str]] = defaultdict(dict)
    for record in run.records:
        if record["phase"] == "train":
            arm = Arm(record["treatment"], record["context"])
            trained[arm, tuple(record[name] for name in SETTING)][record["seed"]] = record["right"]
    rows, found = _rows(run), []
    for (arm, setting), by_seed in trained.items():
        seeds = run.config.seeds(arm)[: run.result["look"]["seeds"]]
        if set(seeds) <= by_seed.keys():
            lacking = [seed for seed in seeds if (*arm, *setting, seed) not in rows]
            if lacking:
                raise _unfit(run, f"lacks {arm} at rate {setting[0]:g} with seed {lacking[0]}")
            found += [(rows[(*arm, *setting, seed)], by_seed[seed]) for seed in seeds]
    found.sort()
    examples = run.data["test"]
    return _npz(
        {
            "bits": np.array([np.packbits(unpack_right(text, examples)) for _, text in found]),
            "row": np.array([row for row, _ in found], np.int32),
            "examples": np.array(examples, np.int32),
        }
    )


def _rows(run: Run) -> dict[tuple[Any, ...], int]:
    """The row of each network in scores.csv, counted from 0 without the header."""
    try:
        text = (run.folder / "scores.csv").read_text(encoding="utf-8")
        return {
            (
                *(line["treatment"], line["context"], float(line["learning_rate"]), float(line["weight_decay"])),
                *(line["decay_scale_bias"] == "True", int(line["seed"])),
            ): number
            for number, line in enumerate(csv.DictReader(io.StringIO(text)))
        }
    except (ValueError, TypeError, csv.Error):
        raise _unfit(run, "does not name its networks, or is no table") from None
    except KeyError as column:
        raise _unfit(run, f"has no column {column}") from None


def _unfit(run: Run, what: str) -> ConfigError:
    again = f"python -m experiments report {run.folder}"
    return ConfigError(f"{run.folder / 'scores.csv'} {what}; draw the report again: {again}")


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """What `np.savez_compressed` writes, but without the time, so that equal arrays are equal bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            archive.writestr(entry, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return file.getvalue()
