"""A run is a folder with its config, its environment, one record per training, and finally the result.

    config.json     the resolved config, defaults included
    env.json        provenance: commit, versions, device, processor
    data.json       statistics of the data before and after standardization
    arms.json       parameters and multiply-adds of every arm's network
    engine.json     how steps and seeds run on this device, and the measurements that decided it
    metrics.jsonl   one JSON object per epoch of every training, written while it runs (experiments.store.writers)
    records.jsonl   one JSON object per training with its checksum, appended when it ends
    stalled.txt     the stack of each thread, if the run made no progress for long (experiments.store.watchdog)
    result.json     the summary; written last and atomically, so its presence means "finished"

The files of the report are written afterwards, `LAST_OF_REPORT` after all others, so that it marks a whole report.

This module is what other rooms use; `opening` opens a folder to write to it, `reading` reads one, and `files` reads and
writes single files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.store.files import checked_line
from experiments.store.files import finite as finite
from experiments.store.files import read_json as read_json
from experiments.store.files import write_files as write_files
from experiments.store.files import write_json as write_json
from experiments.store.opening import being_written as being_written
from experiments.store.opening import opened as opened
from experiments.store.opening import refuse_another as refuse_another
from experiments.store.opening import undeclared as undeclared
from experiments.store.reading import Run as Run
from experiments.store.reading import read as read
from experiments.store.reading import read_config as read_config

LAST_OF_REPORT = "report.md"


def append(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    """Appends one line per training to records.jsonl, and waits until the lines are on the disk."""
    with open(folder / "records.jsonl", "a", encoding="utf-8") as file:
        for record in records:
            file.write(checked_line(record))
        file.flush()
        os.fsync(file.fileno())


def checkpoints(folder: Path) -> Path:
    """The folder of the checkpoints from which trainings resume."""
    return folder / "checkpoints"


def delete_checkpoints(path: Path) -> None:
    """Deletes the checkpoints in `path`, of trainings whose records are written."""
    shutil.rmtree(path, ignore_errors=True)


def finish(folder: Path, result: dict[str, Any]) -> None:
    """Deletes the checkpoints, which are no longer needed, and writes result.json, which marks the run as finished."""
    delete_checkpoints(checkpoints(folder))
    (folder / LAST_OF_REPORT).unlink(missing_ok=True)  # it would be that of an earlier result, until it is drawn again
    write_json(folder / "result.json", result)
